//! What goes well: the same as stock Nix makes of it.

use std::collections::BTreeSet;

use drover_store::{BuildOutcome, BuildWishes};
use rstest::rstest;

use crate::bench::{Bench, Whose};

/// Each is built by stock Nix and by drover, from the same derivation: same paths, same contents,
/// same references, same deriver.
#[rstest]
#[case::plain("plain")]
#[case::folder("folder")]
#[case::refers("refers")]
#[case::chain("chain")]
#[case::outputs("outputs")]
#[case::as_file("asFile")]
#[case::graph("graph")]
#[case::i686("i686")]
#[case::armv7("armv7")]
#[case::modes("mixedModes")]
#[case::flat("flat")]
#[case::recursive("recursive")]
#[case::floating("floating")]
#[case::floating_flat("floatingFlat")]
#[case::floating_outputs("floatingOutputs")]
#[case::allowed("allowed")]
#[case::requisites("requisites")]
#[case::large("large")]
#[tokio::test]
async fn the_same_is_built_as_by_stock_nix(#[case] attribute: &str) {
    let bench = Bench::new();
    let drv = bench.instantiate(Whose::Ours, attribute);
    assert_eq!(drv, bench.instantiate(Whose::Stock, attribute));
    let (outcome, heard) = bench.realise(&drv).await;
    let BuildOutcome::Built(built) = outcome else { panic!("{outcome:#?} {:#?}", heard.lines()) };
    assert!(!built.already_valid);
    let shown = format!("/nix/store/{}", drv.base_name());
    let made = bench.nix_ok(Whose::Stock, "nix-store", &["-r", &shown]);
    let theirs: BTreeSet<String> = made.lines().map(|line| line.to_owned()).collect();
    let ours: BTreeSet<String> = built
        .outputs
        .values()
        .map(|info| format!("/nix/store/{}", info.path.base_name()))
        .collect();
    assert_eq!(ours, theirs);
    assert_eq!(bench.known(Whose::Ours, &ours), bench.known(Whose::Stock, &theirs));
    bench.assert_sound();
    // a second time there is nothing to do
    let (again, _) = bench.build(&drv, BuildWishes::default()).await;
    assert!(matches!(again, BuildOutcome::Built(built) if built.already_valid));
}
