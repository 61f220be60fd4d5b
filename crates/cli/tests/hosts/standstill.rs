//! Builders on which a single server process stands still, while its machine and all others go on.

use drover_testkit::{Host, Suite};

use crate::failures::script_drv;
use crate::{LIMIT, Lab, assert_code, builders, stderr, stdout};

/// Options with which nobody is very patient.
const IMPATIENT: [&str; 3] = ["--option", "connect-timeout", "1"];

/// Has the one server stand still of which `which` gives the number from a list of all of them.
fn stop(host: &Host, which: &str) {
    let all = "all=$(pgrep -f '^nix-daemon --stdio')";
    host.sh(&format!("{all}; pid=$({which}); [ -n \"$pid\" ]; kill -STOP $pid")).unwrap();
}

/// A build that gives no word could go on for ever. Where the user bounds that, his bound holds for
/// a server that can't keep it, too, and then it's the machine that failed.
#[test]
fn a_build_whose_server_stands_still_ends_with_the_users_bound() {
    let lab = Lab::new("still", Suite::Forky, Suite::Forky);
    let drv = script_drv(&lab.client, "slow", "sleep 4; echo done > $out", "");
    for bound in ["--max-silent-time", "--timeout"] {
        let machines = builders("ssh-ng", &["b1", "b2"], 1);
        let mut line = vec!["drover", "build", "--no-link", "-j0", "--print-out-paths"];
        line.extend(["--builders", &machines, bound, "8"]);
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
        let built = build.wait(LIMIT).unwrap();
        assert_code(&built, 0);
        let said = stderr(&built);
        let is_down = format!("{name} is down: ");
        assert!(said.contains(&is_down) && said.contains("has said nothing for"), "{said}");
        assert!(said.contains(&format!("built slow on {other}")), "{said}");
        let out = stdout(&built);
        for host in [&lab.client, host] {
            host.sh(&format!("nix-store --delete {out} >/dev/null 2>&1")).unwrap();
        }
        builder.sh(&format!("pkill -KILL -f '^nix-daemon --stdio'; sleep 1; nix-store --delete {out} >/dev/null 2>&1 || true")).unwrap();
    }
}

/// A path that stops half way is fetched from nobody: what made it is built elsewhere.
#[test]
fn a_transfer_whose_server_stands_still_is_given_up() {
    let lab = Lab::new("stuck", Suite::Forky, Suite::Forky);
    let graph = [("shape", "wide"), ("n", "1"), ("size", "60000000")];
    let drv = lab.client.instantiate(&graph).unwrap();
    let machines = builders("ssh-ng", &["b1", "b2"], 1);
    for host in [&lab.b1, &lab.b2] {
        host.throttle(50_000).unwrap();
    }
    let mut line = vec!["drover", "build", "--no-link", "-j0", "--print-out-paths"];
    line.extend(["--builders", &machines]);
    line.extend(IMPATIENT);
    line.push(&drv);
    let mut build = lab.client.spawn(&line).unwrap();
    build.wait_for("built graph-wide on ", LIMIT).unwrap();
    let (name, builder) = match build.stderr().contains("built graph-wide on b1") {
        true => ("b1", &lab.b1),
        false => ("b2", &lab.b2),
    };
    // the one that has read megabytes sends them, which takes a while on this link
    let reads = "while :; do for p in $all; do [ $(sed -n 's/rchar: //p' /proc/$p/io) -lt 5000000 ] || \
                 { echo $p; break 2; }; done; sleep 0.05; done";
    stop(builder, reads);
    let built = build.wait(LIMIT).unwrap();
    assert_code(&built, 0);
    let said = stderr(&built);
    assert!(
        said.contains(&format!("{name} is down: ")) && said.contains("has said nothing for"),
        "{said}"
    );
    let out = stdout(&built);
    lab.client.sh(&format!("nix-store --verify-path $(nix-store -qR {out})")).unwrap();
}
