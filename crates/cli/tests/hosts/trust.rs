//! Builders and stores that don't trust the user.

use drover_testkit::Suite;
use rstest::rstest;

use crate::{Lab, assert_code, builders, stderr};

#[rstest]
#[case::new(Suite::Forky)]
#[case::old(Suite::Bookworm)]
fn a_builder_that_distrusts_gets_the_derivations(#[case] suite: Suite) {
    let lab = Lab::new("distrust", suite, suite);
    let graph = [("shape", "chain"), ("d", "3")];
    let drv = lab.client.instantiate(&graph).unwrap();
    let machines = builders("ssh-ng", &["alice@b1"], 2);
    let built = lab.drover(&["build", "--no-link", "-j0", "--builders", &machines, &drv]);
    assert_code(&built, 0);
    lab.client.sh(&format!("nix-store --check-validity $(nix-store -q --outputs {drv})")).unwrap();
}

#[test]
fn a_local_store_that_distrusts_is_explained() {
    let lab = Lab::new("alice", Suite::Forky, Suite::Forky);
    let drv = lab.client.instantiate(&[("shape", "wide"), ("n", "2")]).unwrap();
    let machines = builders("ssh-ng", &["b1"], 2);
    let line = format!("drover build --no-link -j0 --builders '{machines}' {drv}");
    let failed = lab.client.run(&["su", "alice", "-c", &line]).unwrap();
    assert_code(&failed, 1);
    assert!(stderr(&failed).contains("trusted-users"), "{}", stderr(&failed));
}
