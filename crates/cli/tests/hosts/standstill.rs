//! Builders on which a single server process stands still, while its machine and all others go on.

use drover_testkit::{Host, Suite};

use crate::failures::{LONG, script_drv};
use crate::floating::DELETE;
use crate::{LIMIT, Lab, assert_code, builders, stderr, stdout};

/// Options with which nobody is very patient.
const IMPATIENT: [&str; 3] = ["--option", "connect-timeout", "5"];

/// Has the one server stand still of which `which` gives the number from a list of all of them, as soon as
/// there is one.
fn stop(host: &Host, which: &str) {
    let script = format!(
        "for i in $(seq 1000); do
           all=$(pgrep -f '^nix-daemon --stdio' || :); pid=$({which})
           [ -z \"$pid\" ] || {{ kill -STOP $pid; exit 0; }}
           sleep 0.1
         done; exit 1"
    );
    host.sh(&script).unwrap();
}

/// A build that gives no word could go on for ever. Where the user bounds that, his bound holds for
/// a server that can't keep it, too, and then it's the machine that failed.
#[test]
fn a_build_whose_server_stands_still_ends_with_the_users_bound() {
    let lab = Lab::new("still", Suite::Forky, Suite::Forky);
    let drv = script_drv(&lab.client, "slow", "sleep 8; echo done > $out", "");
    for bound in ["--max-silent-time", "--timeout"] {
        let machines = builders("ssh-ng", &["b1", "b2"], 1);
        let mut line = vec!["drover", "build", "--no-link", "-j0", "--print-out-paths"];
        line.extend(["--builders", &machines, bound, "16"]);
        line.extend(IMPATIENT);
        line.push(&drv);
        let mut build = lab.client.spawn(&line).unwrap();
        build.wait_for("building slow on b", LIMIT).unwrap();
        // whichever was up first
        let (name, other, builder, host) = match build.stderr().contains("building slow on b1") {
            true => ("b1", "b2", &lab.b1, &lab.b2),
            false => ("b2", "b1", &lab.b2, &lab.b1),
        };
        let builds =
            "for p in $all; do [ -z \"$(cat /proc/$p/task/*/children)\" ] || echo $p; done";
        stop(builder, builds);
        let built = build.wait(LONG).unwrap();
        assert_code(&built, 0);
        let said = stderr(&built);
        let is_down = format!("{name} is down: ");
        assert!(said.contains(&is_down) && said.contains("has said nothing for"), "{said}");
        assert!(said.contains(&format!("built slow on {other}")), "{said}");
        let out = stdout(&built);
        for host in [&lab.client, host] {
            host.sh(&format!("{DELETE} delete {out}")).unwrap();
        }
        builder.sh(&format!("pkill -KILL -f '^nix-daemon --stdio'; sleep 1; nix-store --delete {out} >/dev/null 2>&1 || true")).unwrap();
    }
}

/// A path that stops half way is fetched from nobody: what made it is built elsewhere.
#[test]
fn a_transfer_whose_server_stands_still_is_given_up() {
    let lab = Lab::new("stuck", Suite::Forky, Suite::Forky);
    // a single one: what it were made of would come ahead, and that costs nobody anything
    let script = "busybox head -c 60000000 /dev/urandom > $out";
    let drv = script_drv(&lab.client, "big", script, "");
    let machines = builders("ssh-ng", &["b1", "b2"], 1);
    for host in [&lab.b1, &lab.b2] {
        host.throttle(50_000).unwrap();
    }
    let mut line = vec!["drover", "build", "--no-link", "-j0", "--print-out-paths"];
    line.extend(["--builders", &machines]);
    line.extend(IMPATIENT);
    line.push(&drv);
    let mut build = lab.client.spawn(&line).unwrap();
    build.wait_for("built big on ", LIMIT).unwrap();
    let (name, builder) = match build.stderr().contains("built big on b1") {
        true => ("b1", &lab.b1),
        false => ("b2", &lab.b2),
    };
    // the one that writes more and more sends it, which takes a while on this link; the one that has built it
    // has read and written as much before, also by what it has run
    let writes = "for p in $all; do
            now=$(sed -n 's/wchar: //p' /proc/$p/io) && [ -n \"$now\" ] || continue
            [ -e /tmp/first-$p ] || echo $now >/tmp/first-$p
            [ $((now - $(cat /tmp/first-$p))) -lt 1000000 ] || echo $p
        done";
    stop(builder, writes);
    let built = build.wait(2 * LONG).unwrap();
    assert_code(&built, 0);
    let said = stderr(&built);
    assert!(
        said.contains(&format!("{name} is down: ")) && said.contains("has said nothing for"),
        "{said}"
    );
    let out = stdout(&built);
    lab.client.sh(&format!("nix-store --verify-path $(nix-store -qR {out})")).unwrap();
}
