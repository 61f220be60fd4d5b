//! Attacks on what a builder does with what a build leaves: T21, T22, T25 and T28 of the threat list.
//! (What a build does while it runs is attacked in `drover-sandbox`.)

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use drover_store::BuildFailure;
use rstest::rstest;

use crate::bench::{Bench, Whose};

/// T21: what a build with the network has made consists of other files than those that it had, so
/// that nobody to whom it has passed one can change it afterwards.
#[tokio::test]
async fn what_came_from_the_network_is_copied() {
    let bench = Bench::new();
    let drv = bench.instantiate(Whose::Ours, "fixedInode");
    let (_, heard) = bench.realise(&drv).await;
    let had: u64 = heard.lines()[0].trim().parse().unwrap();
    let made = bench.succeed("fixedInode").await;
    let has = std::fs::metadata(&made["out"]).unwrap().ino();
    assert_ne!(has, had);
    bench.assert_sound();
}

/// That the test above shows anything: without the network it's the file that the build has made.
#[tokio::test]
async fn what_came_from_nowhere_is_not_copied() {
    let bench = Bench::new();
    let drv = bench.instantiate(Whose::Ours, "inode");
    let (_, heard) = bench.realise(&drv).await;
    let had: u64 = heard.lines()[0].trim().parse().unwrap();
    let made = bench.succeed("inode").await;
    assert_eq!(std::fs::metadata(&made["out"]).unwrap().ino(), had);
}

/// T22: whatever a build leaves beside its outputs, and as its outputs, nothing outside is touched.
#[tokio::test]
async fn symlinks_lead_nowhere() {
    let bench = Bench::new();
    let sentinel = Path::new("/etc/hostname");
    let before = state(sentinel);
    let made = bench.succeed("plants").await;
    assert_eq!(std::fs::read_link(&made["out"]).unwrap(), sentinel);
    let made = bench.succeed("plantsFixed").await;
    assert_eq!(std::fs::read_link(made["out"].join("link")).unwrap(), sentinel);
    assert_eq!(state(sentinel), before);
    bench.assert_sound();
}

/// T25: a file that belongs to another build or to the machine can't be made an output's.
#[tokio::test]
async fn an_input_is_not_linked_into_an_output() {
    let bench = Bench::new();
    let dep = bench.succeed("depAlone").await;
    let before = state(&dep["out"]);
    let (failure, _) = bench.fail("links").await;
    assert!(matches!(failure, BuildFailure::Failed { .. }), "{failure:#?}");
    assert_eq!(state(&dep["out"]), before);
    bench.assert_sound();
}

/// What is its own may have names elsewhere, as by `cp -al`.
#[tokio::test]
async fn what_a_build_has_linked_of_its_own_is_taken() {
    let bench = Bench::new();
    let made = bench.succeed("linksOwn").await;
    for name in ["a", "b"] {
        assert_eq!(std::fs::read_to_string(made["out"].join(name)).unwrap(), "x\n");
    }
    bench.assert_sound();
}

/// T28: no output and nothing left of a build has a set-user or set-group bit.
#[rstest]
#[case::user("4755")]
#[case::group("2755")]
#[tokio::test]
async fn nothing_is_set_user(#[case] mode: &str) {
    let bench = Bench::new();
    let attribute = format!("setUser{mode}");
    let drv = bench.instantiate(Whose::Ours, &attribute);
    let (_, heard) = bench.realise(&drv).await;
    assert!(
        heard.lines().iter().any(|line| line.contains("not permitted")),
        "{:#?}",
        heard.lines()
    );
    let mut found = BTreeSet::new();
    sweep(&bench.path("ours"), &mut found);
    assert_eq!(found, BTreeSet::new());
}

fn sweep(folder: &Path, found: &mut BTreeSet<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        if metadata.permissions().mode() & 0o6000 != 0 {
            found.insert(path.clone());
        }
        if metadata.is_dir() {
            sweep(&path, found);
        }
    }
}

/// Contents, mode, owner, time and inode of a file.
fn state(path: &Path) -> (Vec<u8>, u32, u32, i64, u64) {
    let metadata = std::fs::metadata(path).unwrap();
    let contents = std::fs::read(path).unwrap();
    (contents, metadata.mode(), metadata.uid(), metadata.mtime(), metadata.ino())
}
