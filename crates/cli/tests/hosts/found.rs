//! Outputs that builders have already.

use std::collections::BTreeSet;

use drover_testkit::{Signal, Suite};

use crate::{LIMIT, Lab, assert_code, builders, stderr};

/// Names of derivations in the lines that begin so.
fn told(said: &str, verb: &str) -> BTreeSet<String> {
    let names = said.lines().filter_map(|line| line.strip_prefix(verb)?.split(' ').nth(1));
    names.map(str::to_owned).collect()
}

/// Killed half way and started again, it builds what wasn't built.
#[test]
fn a_run_that_was_killed_goes_on() {
    let lab = Lab::new("killed", Suite::Forky, Suite::Trixie);
    let graph = [("shape", "layers"), ("n", "4"), ("d", "4"), ("k", "2"), ("sleep", "1")];
    let drv = lab.client.instantiate(&graph).unwrap();
    let machines = builders("ssh-ng", &["b1", "b2"], 2);
    let line = ["build", "--no-link", "-j0", "--builders", &machines, &drv];
    let mut build = lab.client.spawn(&[&["drover"], line.as_slice()].concat()).unwrap();
    // some of the second layer are built by then
    build.wait_for("building node-2-", LIMIT).unwrap();
    build.signal(Signal::Kill);
    let first = stderr(&build.wait(LIMIT).unwrap());
    let second = lab.drover(&line);
    assert_code(&second, 0);
    let said = stderr(&second);
    let (before, after) = (told(&first, "built"), told(&said, "built"));
    let found = told(&said, "found");
    assert!(before.len() >= 4, "{first}");
    let again: BTreeSet<_> = before.intersection(&after).collect();
    assert!(again.is_empty(), "{again:?} were built twice: {first}\n{said}");
    assert!(before.iter().all(|name| found.contains(name)), "{first}\n{said}");
    // all are there, each from one of the runs; what ran when it was killed may have been built too
    let all: BTreeSet<_> = [&before, &after, &found].into_iter().flatten().collect();
    assert_eq!(all.len(), 17, "{first}\n{said}");
    // the builders' logs say the same: what was built by then was not built again
    let logs = |host: &drover_testkit::Host| -> BTreeSet<String> {
        let files = "cd /nix/var/log/nix/drvs && ls * | grep drv | sed 's/^[a-z0-9]*-\\(.*\\)\\.drv.*/\\1/'";
        host.sh(&format!("{files} || true")).unwrap().lines().map(str::to_owned).collect()
    };
    let twice: BTreeSet<String> = logs(&lab.b1).intersection(&logs(&lab.b2)).cloned().collect();
    assert!(twice.is_disjoint(&before), "{twice:?}: {first}\n{said}");
}

/// What another client had built is taken from where it is, without its inputs.
#[test]
fn what_somebody_else_built_is_used() {
    let lab = Lab::new("others", Suite::Forky, Suite::Forky);
    let drv = lab.client.instantiate(&[("shape", "chain"), ("d", "5")]).unwrap();
    // the other client: the builder itself, by its own Nix
    let copied = "nix-store --export $(nix-store -qR DRV) > /w/graph".replace("DRV", &drv);
    lab.client.sh(&format!("mkdir -p /w; {copied}")).unwrap();
    let graph = lab.client.read("/w/graph").unwrap();
    lab.b2.write("/w/graph", graph).unwrap();
    lab.b2.sh(&format!("nix-store --import < /w/graph >/dev/null; nix-store -r {drv}")).unwrap();
    let machines = builders("ssh-ng", &["b1", "b2"], 2);
    let built = lab.drover(&["build", "--no-link", "-j0", "--builders", &machines, &drv]);
    assert_code(&built, 0);
    let said = stderr(&built);
    assert_eq!(told(&said, "found").len(), 6, "{said}");
    assert!(said.contains("\n0 builds and 6 found built in "), "{said}");
}
