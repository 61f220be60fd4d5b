//! The units, run by a real systemd, with stock Nix as the client.

use drover_testkit::{Booted, Suite};

use crate::{DROVER, repository};

/// Three parts, and a whole that is made of them.
const PARTS: &str = r#"
let
  make = name: inputs: derivation {
    inherit name inputs;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    args = [ "-c" "echo $name of $inputs > $out; [ $(($$)) -lt 100 ] && echo $name is shut in" ];
  };
in
make "whole" (map (n: make "part-${toString n}" [ ]) [ 1 2 3 ])
"#;

/// Goes on until it's ended.
const SLOW: &str = r#"derivation {
  name = "slow";
  system = builtins.currentSystem;
  builder = "/bin/sh";
  args = [ "-c" "while :; do :; done" ];
}"#;

/// Nix's units, as far as drover's know of them.
const NIX_SOCKET: &str = "[Socket]\nListenStream=/nix/var/nix/daemon-socket/socket\n";
const NIX_SERVICE: &str = "[Service]\nExecStart=/usr/bin/nix-daemon\n";

/// Returns a machine with Nix and drover installed; Nix's daemon has the socket.
fn machine(name: &str) -> Booted {
    let machine = Booted::new(name, Suite::Forky).unwrap();
    machine.put(DROVER, "/usr/bin/drover").unwrap();
    for name in ["drover.socket", "drover.service", "drover-cache@.service"] {
        let unit = repository("packaging/systemd").join(name);
        machine.put(unit, &format!("/usr/lib/systemd/system/{name}")).unwrap();
    }
    machine.write("/etc/systemd/system/nix-daemon.socket", NIX_SOCKET).unwrap();
    machine.write("/etc/systemd/system/nix-daemon.service", NIX_SERVICE).unwrap();
    machine.write("/root/parts.nix", PARTS).unwrap();
    machine.sh("systemctl daemon-reload; systemctl start nix-daemon.socket").unwrap();
    machine
}

/// Returns which of the units are active.
fn active(machine: &Booted) -> String {
    let units = "nix-daemon.socket drover.socket drover.service";
    machine.sh(&format!("systemctl is-active {units} | tr '\\n' ' ' || :")).unwrap()
}

#[test]
fn drover_takes_the_socket_over_and_builds() {
    let machine = machine("service");
    machine.sh("systemctl enable --now drover.socket").unwrap();
    assert_eq!(active(&machine), "inactive active inactive ");

    // the first client starts it, and builds are shut in as ever under what the unit forbids
    let build = "NIX_REMOTE=daemon nix-build --no-out-link parts.nix 2>&1";
    let said = machine.sh(build).unwrap();
    assert!(said.contains("whole is shut in"), "{said}");
    assert_eq!(active(&machine), "inactive active active ");

    // read anew, it's the same process and goes on
    let pid = "systemctl show -P MainPID drover";
    let before = machine.sh(pid).unwrap();
    machine.sh("systemctl reload drover").unwrap();
    assert_eq!(machine.sh(pid).unwrap(), before);
    machine.sh(build).unwrap();

    // stopped with its socket still there, it comes again with the next client
    machine.sh("systemctl stop drover.service").unwrap();
    machine.sh("NIX_REMOTE=daemon nix-store -q --hash $(NIX_REMOTE=local nix-build --no-out-link parts.nix)").unwrap();
    assert_ne!(machine.sh(pid).unwrap(), before);
    let unwell = machine.sh("systemctl show -P NRestarts -P Result drover").unwrap();
    assert_eq!(unwell, "success\n0");

    // and back to Nix's
    machine.sh("systemctl start nix-daemon.socket").unwrap();
    // what still ends isn't active any more, but not inactive either
    let ended = "[ \"$(systemctl is-active drover.socket drover.service | sort -u)\" = inactive ]";
    machine.sh(&format!("until {ended}; do sleep 0.1; done")).unwrap();
    assert_eq!(active(&machine), "active inactive inactive ");
    machine.sh("NIX_REMOTE=daemon nix-store --verify --check-contents").unwrap();
}

/// With control groups, builds have theirs below that of the service, which systemd leaves to it.
#[test]
fn builds_have_control_groups_below_the_service() {
    let machine = machine("service-groups");
    machine
        .sh("printf 'use-cgroups = true\nextra-experimental-features = cgroups\n' >> /etc/nix/nix.conf
             systemctl start drover.socket")
        .unwrap();
    machine.write("/root/slow.nix", SLOW).unwrap();
    let script = r#"
        NIX_REMOTE=daemon timeout 150 nix-build --no-out-link slow.nix >/dev/null 2>&1 &
        group=/sys/fs/cgroup/system.slice/drover.service
        for try in $(seq 1200); do
          found=$(find $group -mindepth 1 -type d -name 'nix-build*' | head -n 1)
          [ -n "$found" ] && [ -n "$(cat $found/cgroup.procs $found/*/cgroup.procs 2>/dev/null)" ] && break
          sleep 0.1
        done
        kill %1
        echo "${found#"$group"/}"
        for try in $(seq 1200); do [ -d "$found" ] || exit 0; sleep 0.1; done
        echo "$found is left" >&2; exit 1
    "#;
    let found = machine.sh(script).unwrap();
    assert!(found.starts_with("nix-build"), "{found}");
}

/// What the cache's unit forbids lets drover read the store through the daemon.
#[test]
fn the_cache_can_read_under_what_its_unit_forbids() {
    let machine = machine("service-cache");
    machine.sh("systemctl start drover.socket").unwrap();
    let path = machine.sh("echo contents > file; NIX_REMOTE=daemon nix-store --add file").unwrap();
    let folder = "/etc/systemd/system/drover-cache@.service.d";
    let line = format!(
        "[Service]\nType=oneshot\nRestart=no\nExecStart=\n\
         ExecStart=/usr/bin/drover store dump --store daemon {path}\nStandardOutput=file:/run/archive\n"
    );
    machine.write(&format!("{folder}/test.conf"), &line).unwrap();
    machine
        .sh("systemctl daemon-reload
             systemctl start drover-cache@5000 || { systemctl status drover-cache@5000; exit 1; } >&2")
        .unwrap();
    let sum = |file: &str| machine.sh(&format!("{file} | sha256sum")).unwrap();
    assert_eq!(sum("cat /run/archive"), sum(&format!("nix-store --dump {path}")));
}
