//! Machines and stores to which few connections may be open (`max-connections`).

use drover_testkit::Suite;
use rstest::rstest;

use crate::{Lab, assert_code, builders, stderr, stdout};

/// A program that serves a connection and holds one of BOUND locks while it lives.
///
/// A connection that was cancelled in the middle of something is replaced, so one that finds all
/// locks held waits for an earlier one to end; it is one too many only when none does.
const COUNTING: &str = r#"#!/bin/sh
for n in $(seq BOUND); do
    exec 9> /w/lock-$n
    flock -n 9 && exec PROGRAM "$@"
done
flock -w 10 9 || echo $$ >> /w/too-many
exec PROGRAM "$@"
"#;

/// A graph whose paths travel both ways, built and brought back by so many connections to each.
#[rstest]
#[case::one("ssh-ng", "nix-daemon", 1)]
#[case::two("ssh-ng", "nix-daemon", 2)]
#[case::one_serve("ssh", "nix-store", 1)]
#[case::two_serve("ssh", "nix-store", 2)]
fn few_connections_are_enough(#[case] scheme: &str, #[case] program: &str, #[case] bound: usize) {
    let lab = Lab::new("bounds", Suite::Forky, Suite::Trixie);
    let graph = [("shape", "layers"), ("n", "4"), ("d", "3"), ("k", "3"), ("size", "300000")];
    // so that the first machine hasn't built all of it before the second is up
    let graph = [&graph[..], &[("sleep", "1")]].concat();
    let drv = lab.client.instantiate(&graph).unwrap();
    for host in [&lab.b1, &lab.b2] {
        host.sh("mkdir /w").unwrap();
        let counting = COUNTING.replace("PROGRAM", program).replace("BOUND", &bound.to_string());
        host.write("/w/served", counting).unwrap();
        host.sh("chmod +x /w/served").unwrap();
    }
    let name = |host: &str| format!("{host}?max-connections={bound}&remote-program=/w/served");
    let (b1, b2) = (name("b1"), name("b2"));
    let machines = builders(scheme, &[&b1, &b2], 4);
    let options = ["--option", "store", "daemon?max-connections=1"];
    let mut line = vec!["build", "--no-link", "-j0", "--print-out-paths"];
    line.extend(options);
    line.extend(["--builders", &machines, &drv]);
    let built = lab.drover(&line);
    assert_code(&built, 0);
    let (said, out) = (stderr(&built), stdout(&built));
    assert!(said.contains(" on b1 in ") && said.contains(" on b2 in "), "{said}");
    lab.client.sh(&format!("nix-store --verify-path $(nix-store -qR {out})")).unwrap();
    for host in [&lab.b1, &lab.b2] {
        host.sh("test -e /w/lock-1 && ! test -e /w/too-many").expect(&said);
    }
}

/// What waits for its turn waits on this machine, and where it can't that is no machine's fault.
#[test]
fn no_room_for_what_waits_is_blamed_on_no_builder() {
    let lab = Lab::new("no-room", Suite::Forky, Suite::Forky);
    let script = r#"
        mkdir -p /w/small; busybox mount -t tmpfs -o size=512k tmpfs /w/small; cd /w
        head -c 3000000 /dev/urandom > big
        echo 'derivation { name = "heavy"; system = builtins.currentSystem; builder = "/bin/sh"; big = ./big;
            args = [ "-c" "echo made > $out" ]; }' > heavy.nix
        nix-instantiate heavy.nix 2>/dev/null
    "#;
    let drv = lab.client.sh(script).unwrap().trim().to_owned();
    let machines = builders("ssh-ng", &["b1?max-connections=1", "b2?max-connections=1"], 1);
    let build = |before: &str| {
        let line = format!("{before} drover build --no-link -j0 --builders '{machines}' {drv}");
        lab.client.run(&["sh", "-c", &line]).unwrap()
    };
    let built = build("TMPDIR=/w/small");
    assert_code(&built, 1);
    let said = stderr(&built);
    let expected = ["what heavy needs could not be sent\n", "/w/small", "No space left", "TMPDIR"];
    assert!(expected.iter().all(|words| said.contains(words)), "{said}");
    assert!(!said.contains("is down") && !said.contains("lost the connection"), "{said}");
    assert_code(&build(""), 0);
}
