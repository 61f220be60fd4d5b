//! What a build sees of the machine, and which calls it may make, in both ABIs: drover beside today's Nix.
//!
//! The program that looks is the probe of `drover-sandbox`, as the builder of a derivation that both build.
//! What drover lets it find is compared with a golden file, and each difference from Nix is in another one:
//! with `DROVER_UPDATE_GOLDEN` they are written anew, to be read before they are committed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use drover_testkit::{Host, Suite};
use serde_json::Value;

use crate::Lab;
use crate::own::become_the_daemon;

const DERIVATION: &str = r#"
{ tools, probe }: derivation {
  name = "probed";
  system = builtins.currentSystem;
  builder = "${tools}/bin/sh";
  PATH = "${tools}/bin";
  args = [ "-c" "mkdir $out; ${probe} report > $out/report; ${probe} calls > $out/calls" ];
}"#;

/// The probe is a program of this system's, so it needs its libraries.
const BUILD: &str = r#"
export NIX_CONFIG='sandbox = true
extra-sandbox-paths = /lib /lib64 /usr/lib /usr/lib64?'
cd /w
for who in stock ours; do
  export NIX_REMOTE="local?root=/w/$who"
  drv=$(nix-instantiate --quiet probe.nix --arg tools /opt/graph/bb --arg probe /w/probe 2>/dev/null)
  case $who in
    stock) nix-store -r $drv > $who.out 2> $who.err ;;
    ours) drover build $drv --no-link --print-out-paths > $who.out 2> $who.err ;;
  esac || { cat $who.err; exit 1; }
done
cmp stock.out ours.out; cat ours.out
"#;

/// The probe, which lies where drover does: building all tests builds it.
fn probe() -> PathBuf {
    let probe = Path::new(env!("CARGO_BIN_EXE_drover")).with_file_name("drover-sandbox-probe");
    assert!(
        probe.exists(),
        "'{}' is missing: 'cargo build --workspace --bins' makes it",
        probe.display()
    );
    probe
}

#[test]
fn a_build_finds_what_it_finds_in_nix() {
    let lab = Lab::new("probe", Suite::Forky, Suite::Forky);
    let host = &lab.client;
    host.sh("mkdir -p /w").unwrap();
    host.write("/w/probe.nix", DERIVATION).unwrap();
    host.put(probe(), "/w/probe").unwrap();
    let out = host.sh(BUILD).unwrap();
    let [nix, drover] = ["stock", "ours"].map(|who| found(host, &format!("/w/{who}{out}")));
    assert!(drover.keys().filter(|name| name.starts_with("i386 ")).count() >= 55);
    assert!(drover.keys().filter(|name| name.starts_with("native ")).count() >= 60);

    let text = |found: &BTreeMap<String, String>| {
        found.iter().fold(String::new(), |mut text, (name, value)| {
            writeln!(text, "{name}: {value}").unwrap();
            text
        })
    };
    let mut differences = String::new();
    let names: std::collections::BTreeSet<&String> = nix.keys().chain(drover.keys()).collect();
    // what Nix ignores it has from whoever has started it
    for name in names.into_iter().filter(|name| *name != "SigIgn") {
        let of = |found: &BTreeMap<String, String>| match found.get(name) {
            Some(value) if value.is_empty() => "nothing".to_owned(),
            Some(value) => value.clone(),
            None => "absent".to_owned(),
        };
        let (theirs, ours) = (of(&nix), of(&drover));
        if theirs != ours {
            writeln!(differences, "{name}: Nix {theirs}, drover {ours}").unwrap();
        }
    }
    let golden = [("probe-drover.txt", text(&drover)), ("probe-differences.txt", differences)];
    for (file, found) in golden {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hosts/golden").join(file);
        if std::env::var_os("DROVER_UPDATE_GOLDEN").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &found).unwrap();
        }
        let expected = std::fs::read_to_string(&path).unwrap();
        // a kernel that doesn't have a call refuses it to both
        let counts = |line: &&str| {
            let call = line.split_once(": ").map(|(call, _)| call);
            call.and_then(|call| nix.get(call)).is_none_or(|result| result != "ENOSYS")
        };
        let lines = |text: &str| text.lines().filter(counts).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(lines(&found), lines(&expected), "{file}");
    }
}

const WAYS: &str = r#"
{ tools, probe, port }:
let
  run = name: script: more: derivation ({
    inherit name;
    system = builtins.currentSystem;
    builder = "${tools}/bin/sh";
    PATH = "${tools}/bin";
    args = [ "-e" "-c" "${probe} report; ${script}" ];
  } // more);
  fixed = { outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = builtins.hashString "sha256" "hello"; };
in {
  plain = run "plain" "echo > $out" { };
  remote = run "remote" "echo > $out" { };
  forwarded = run "forwarded" "printf hello > $out" fixed;
  fixed = run "fixed" "printf hello > $out" fixed;
  open = run "open" "echo > $out" { __noChroot = true; };
  fails = run "fails" "exit 1" { };
  builtin = derivation ({
    name = "builtin";
    system = "builtin";
    builder = "builtin:fetchurl";
    url = "http://127.0.0.1:${port}/never";
    urls = [ "http://127.0.0.1:${port}/never" ];
    unpack = false;
    executable = false;
  } // fixed);
}"#;

/// Has drover build an attribute, and prints what its build has said.
const RUN: &str = r#"
export NIX_REMOTE=local NIX_CONFIG="$config"
drv=$(nix-instantiate --quiet /w/ways.nix -A $attribute --arg tools /opt/graph/bb --arg probe /w/probe --argstr port "$port" 2>/dev/null)
case $attribute in
  remote) nix-store -r $drv -j0 --builders "$machine" >/w/out 2>&1 ;;
  fails) ! drover build $drv --no-link --keep-failed >/w/out 2>&1 ;;
  builtin) exec drover build $drv --no-link >/w/out 2>&1 ;;
  *) drover build $drv --no-link >/w/out 2>&1 ;;
esac || { cat /w/out >&2; exit 1; }
nix-store --read-log $drv
"#;

/// Prints what is seen of the one process that filters its calls and is one of the builds' users.
const LOOK: &str = r#"
for status in /proc/[0-9]*/status; do
  if grep -q '^Uid:.300' $status 2>/dev/null && grep -q '^Seccomp:.2' $status 2>/dev/null; then
    cat $status
    folder=${status%/status}
    # a builder that is part of drover has opened sockets and the like itself, and its output
    echo "fds:" $(for fd in $folder/fd/*; do
      case ${fd##*/}:$(readlink $fd) in
        [012]:*) echo ${fd##*/} ;;
        *:/nix/store/*-builtin) ;;
        *:/*) readlink $fd ;;
      esac
    done)
    echo "net:" $(readlink $folder/ns/net)
    exit 0
  fi
done
exit 1
"#;

/// As whom a build runs that is seen from inside or from outside.
#[derive(Clone, Copy, Debug)]
enum Who {
    /// Nobody of the machine's.
    OfItsOwn,
    /// One of the machine's users for builds.
    OfTheGroup,
}

/// T27: whichever way it's started, no build is root, or has more than it must.
#[test]
fn every_way_of_starting_a_build_takes_its_privileges() {
    let lab = Lab::new("ways", Suite::Forky, Suite::Forky);
    let Lab { client, b1, .. } = &lab;
    for host in [client, b1] {
        host.sh("mkdir -p /w").unwrap();
    }
    client.write("/w/ways.nix", WAYS).unwrap();
    client.put(probe(), "/w/probe").unwrap();
    client.put(pasta(), "/w/pasta").unwrap();
    client.sh("mkdir /dev/net; mknod -m 666 /dev/net/tun c 10 200").unwrap();
    b1.put(env!("CARGO_BIN_EXE_drover"), "/usr/local/bin/drover").unwrap();
    b1.sh(&format!(
        "drover compat install /w/names; printf 'sandbox = true\\n{SHOWN}\\n' >> /etc/nix/nix.conf"
    ))
    .unwrap();
    become_the_daemon(b1, "");
    let listener = client.listen().unwrap();
    let port = listener.local_addr().unwrap().port();
    let machine = format!(
        "ssh-ng://b1?remote-program=/w/names/nix-daemon {}-linux - 1 1",
        std::env::consts::ARCH
    );
    let script = |attribute: &str, config: &str| {
        format!(
            "config='{config}\n{SHOWN}'; attribute={attribute}; port={port}; machine='{machine}'\n{RUN}"
        )
    };
    let [here, there] = [client, b1].map(|host| host.sh("readlink /proc/self/ns/net").unwrap());
    let (shut_in, relaxed) = ("sandbox = true\npasta-path =", "sandbox = relaxed\npasta-path =");
    let with_pasta = "sandbox = true\npasta-path = /w/pasta";
    for (attribute, config, who, network) in [
        ("plain", shut_in, Who::OfItsOwn, None),
        ("forwarded", with_pasta, Who::OfItsOwn, None),
        ("fixed", shut_in, Who::OfItsOwn, Some(&here)),
        ("open", relaxed, Who::OfTheGroup, Some(&here)),
        ("fails", shut_in, Who::OfItsOwn, None),
        ("remote", shut_in, Who::OfItsOwn, None),
    ] {
        let said = client.sh(&script(attribute, config)).unwrap();
        let report: Value = serde_json::from_str(&said).unwrap_or_else(|error| {
            panic!("{attribute}: {error}: {said}");
        });
        let field = |name: &str| match name {
            "fds" => {
                let fds = report["fds"].as_object().unwrap();
                fds.keys().map(String::as_str).collect::<Vec<_>>().join(" ")
            }
            "net" => report["namespaces"]["net"].as_str().unwrap().to_owned(),
            name => report[name].as_str().unwrap().to_owned(),
        };
        assert_unprivileged(attribute, &field, who);
        match network {
            Some(network) => assert_eq!(field("net"), **network, "{attribute}"),
            None => assert!(![&here, &there].contains(&&field("net")), "{attribute}"),
        }
    }
    let building = client.spawn(&["sh", "-euc", &script("builtin", shut_in)]).unwrap();
    let _asked = listener.accept().unwrap();
    let seen = client.sh(LOOK).unwrap();
    let field = |name: &str| {
        let line = seen.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
        line.unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_unprivileged("builtin", &field, Who::OfTheGroup);
    assert_eq!(field("net"), here);
    drop(building);
}

/// What builds see of the machine: the probe is a program of this system's.
const SHOWN: &str = "extra-sandbox-paths = /lib /lib64 /usr/lib /usr/lib64?";

#[track_caller]
fn assert_unprivileged(way: &str, field: &dyn Fn(&str) -> String, who: Who) {
    let same = |id: &str| [id; 4].join(" ");
    match who {
        Who::OfItsOwn => {
            assert_eq!([field("Uid"), field("Gid")], [same("1000"), same("100")], "{way}");
        }
        Who::OfTheGroup => {
            let ids = field("Uid");
            let first = ids.split(' ').next().unwrap();
            assert!((30_001..30_100).contains(&first.parse::<u32>().unwrap()), "{way}: {ids}");
            assert_eq!([ids.clone(), field("Gid")], [same(first), same("30000")], "{way}");
        }
    }
    let rest = ["Groups", "CapEff", "NoNewPrivs", "Seccomp", "fds"].map(field);
    assert_eq!(rest, ["", "0000000000000000", "1", "2", "0 1 2"], "{way}");
}

/// This machine's program: that of a Debian needs no more than the C library.
fn pasta() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut files = std::env::split_paths(&path).map(|folder| folder.join("pasta"));
    files.find(|file| file.exists()).expect("apt install passt")
}

/// What the probe has found, a line each, without what differs from machine to machine and from build to
/// build.
fn found(host: &Host, out: &str) -> BTreeMap<String, String> {
    let read = |name: &str| -> Value {
        let bytes = host.read(&format!("{out}/{name}")).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    };
    let mut found = BTreeMap::new();
    for (call, result) in read("calls").as_object().unwrap() {
        found.insert(call.clone(), result.as_str().unwrap().to_owned());
    }
    let report = read("report");
    let outside: Value = serde_json::from_str(&host.sh("/w/probe report").unwrap()).unwrap();
    for (name, value) in report.as_object().unwrap() {
        match (name.as_str(), value) {
            // names of the build's files, the machine's own limits, and where builds are put
            ("environment" | "arguments" | "limits" | "cgroup", _) => {}
            ("uid_map" | "gid_map", _) => {
                let mut fields = value.as_str().unwrap().split(' ');
                let (inside, count) = (fields.next().unwrap(), fields.nth(1).unwrap());
                found.insert(name.clone(), format!("{inside}, {count} in all"));
            }
            ("namespaces", Value::Object(namespaces)) => {
                for (kind, inside) in namespaces {
                    let is_own = outside.pointer(&format!("/namespaces/{kind}")) != Some(inside);
                    let whose = if is_own { "its own" } else { "the machine's" };
                    found.insert(format!("namespace {kind}"), whose.to_owned());
                }
            }
            ("mounts", Value::Object(mounts)) => {
                for (at, mount) in mounts {
                    // which file systems a machine has is its own affair; of inputs one is as the other
                    let is_virtual = ["proc ", "devpts ", "tmpfs ", "sysfs ", "mqueue "];
                    let mount = mount.as_str().unwrap();
                    let kind = is_virtual.iter().any(|kind| mount.starts_with(kind));
                    let shown = match kind {
                        true => mount.to_owned(),
                        false => mount.split_once(' ').unwrap().1.to_owned(),
                    };
                    let place = match at.starts_with("/nix/store/") {
                        true => "an input".to_owned(),
                        false => at.clone(),
                    };
                    found.insert(format!("mount {place}"), shown);
                }
            }
            ("fds", Value::Object(fds)) => {
                let numbers: Vec<&str> = fds.keys().map(String::as_str).collect();
                found.insert("open files".to_owned(), numbers.join(" "));
            }
            (_, Value::Array(items)) => {
                let items: Vec<&str> = items.iter().map(|item| item.as_str().unwrap()).collect();
                found.insert(name.clone(), items.join(" "));
            }
            (_, value) => {
                found.insert(name.clone(), value.as_str().unwrap().to_owned());
            }
        }
    }
    found
}
