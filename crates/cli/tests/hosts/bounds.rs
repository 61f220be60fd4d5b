//! Machines and stores to which few connections may be open (`max-connections`).

use drover_testkit::Suite;
use rstest::rstest;

use crate::{Lab, assert_code, builders, stderr, stdout};

/// A program that serves a connection, and keeps count.
const COUNTING: &str = "#!/bin/sh\necho $$ >> /w/connections\nexec PROGRAM \"$@\"\n";

/// A graph whose paths travel both ways, built and brought back by so many connections to each.
#[rstest]
#[case::one("ssh-ng", "nix-daemon", 1)]
#[case::two("ssh-ng", "nix-daemon", 2)]
#[case::one_serve("ssh", "nix-store", 1)]
#[case::two_serve("ssh", "nix-store", 2)]
fn few_connections_are_enough(#[case] scheme: &str, #[case] program: &str, #[case] bound: usize) {
    let lab = Lab::new("bounds", Suite::Forky, Suite::Trixie);
    let graph = [("shape", "layers"), ("n", "4"), ("d", "3"), ("k", "3"), ("size", "300000")];
    let drv = lab.client.instantiate(&graph).unwrap();
    for host in [&lab.b1, &lab.b2] {
        host.sh("mkdir /w").unwrap();
        host.write("/w/served", COUNTING.replace("PROGRAM", program)).unwrap();
        host.sh("chmod +x /w/served; : > /w/connections").unwrap();
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
        let opened = host.sh("wc -l < /w/connections").unwrap();
        assert!((1..=bound).contains(&opened.trim().parse().unwrap()), "{opened}: {said}");
    }
}
