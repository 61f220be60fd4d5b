//! Attacks on what a builder does with what a build leaves: T21, T22, T25 and T28 of the threat list.
//! (What a build does while it runs is attacked in `drover-sandbox`.)

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use drover_store::{BuildFailure, BuildOutcome, BuildWishes, FailureCause, Optimise};
use rstest::rstest;

use crate::bench::{Bench, Whose, names, with_probe};

/// T21: what a build that others can reach has made consists of other files than those that it had, so that
/// nobody to whom it has passed one can change it afterwards.
#[rstest]
#[case::flat("fixedInode")]
#[case::tree("treeInodes")]
#[case::impure("impureInode")]
#[case::range("rangeInode")]
#[tokio::test]
async fn what_came_from_the_network_is_copied(#[case] attribute: &str) {
    let bench = Bench::with(|settings| {
        settings.features.insert("uid-range".to_owned());
    });
    // the first of a range goes to what it is shown by its path
    let home = std::fs::Permissions::from_mode(0o711);
    std::fs::set_permissions(bench.home.path(), home).unwrap();
    is_copied(&bench, attribute).await;
    bench.assert_sound();
}

/// Builds what tells the numbers of the files that it makes, and says whether its output has others.
pub(crate) async fn is_copied(bench: &Bench, attribute: &str) {
    let drv = bench.instantiate(Whose::Ours, attribute);
    let (outcome, heard) = bench.realise(&drv).await;
    let BuildOutcome::Built(built) = outcome else { panic!("{outcome:#?} {:#?}", heard.lines()) };
    let had: BTreeSet<u64> =
        heard.lines().iter().map(|line| line.trim().parse().unwrap()).collect();
    let out = bench.store.layout().real_path(&built.outputs["out"].path);
    let mut has = BTreeSet::from([std::fs::symlink_metadata(&out).unwrap().ino()]);
    if out.is_dir() {
        let inside = std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap());
        has.extend(inside.map(|entry| entry.metadata().unwrap().ino()));
    }
    assert_eq!(has.len(), had.len());
    assert!(has.is_disjoint(&had), "{has:?} {had:?}");
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
    let outside = Outside::new(&bench);
    let made = bench.succeed("plants").await;
    assert_eq!(std::fs::read_link(&made["out"]).unwrap(), outside.sentinel);
    let made = bench.succeed("plantsFixed").await;
    assert_eq!(std::fs::read_link(made["out"].join("link")).unwrap(), Path::new(HOST_NAME));
    let made = bench.succeed("plantsFloating").await;
    assert_eq!(std::fs::read_link(made["out"].join("link")).unwrap(), outside.sentinel);
    let refers = std::fs::read_to_string(made["out"].join("x")).unwrap();
    let paths = ["out", "dev"]
        .map(|name| format!("/nix/store/{}", made[name].file_name().unwrap().to_str().unwrap()));
    assert_eq!(refers.trim(), paths.join(" "));
    outside.assert_untouched();
    bench.assert_sound();
}

/// Nor where it has planted something in the store itself, as it can that isn't shut in: that's refused.
pub(crate) async fn planted_in_the_store(bench: &Bench) {
    for attribute in ["plants", "plantsFixed", "plantsFloating"] {
        let outside = Outside::new(bench);
        let drv = bench.instantiate(Whose::Ours, attribute);
        let wishes = BuildWishes { optimise: Some(Optimise::OnImport), ..BuildWishes::default() };
        let (outcome, heard) = bench.build(&drv, wishes).await;
        outside.assert_untouched();
        let BuildOutcome::Failed(failure) = outcome else { panic!("{attribute}: {outcome:#?}") };
        // which says that it has met what was planted
        let said = failure.message;
        assert!(said.contains("exists already"), "{attribute}: {said} {:#?}", heard.lines());
    }
    bench.nix_ok(Whose::Ours, "nix-store", &["--verify", "--check-contents"]);
}

/// Nor where what a check keeps is to lie.
#[tokio::test]
async fn what_is_kept_beside_an_output_is_put_nowhere_else() {
    let bench = Bench::new();
    let made = bench.succeed("differs").await;
    let outside = Outside::new(&bench);
    let beside = format!("{}.check", made["out"].display());
    std::os::unix::fs::symlink(bench.home.path(), &beside).unwrap();
    let before = names(bench.home.path());
    let drv = bench.instantiate(Whose::Ours, "differs");
    let wishes = BuildWishes { keep_failed: true, ..BuildWishes::default() };
    let (outcome, _) = bench.check(&drv, wishes).await;
    let BuildOutcome::Failed(BuildFailure { cause: FailureCause::NotDeterministic, .. }) = outcome
    else {
        panic!("{outcome:#?}")
    };
    assert!(std::fs::symlink_metadata(&beside).unwrap().is_dir());
    assert_eq!(names(bench.home.path()), before);
    outside.assert_untouched();
}

const HOST_NAME: &str = "/etc/hostname";

/// What is outside, and how it was.
struct Outside {
    sentinel: PathBuf,
    before: [State; 2],
}

impl Outside {
    fn new(bench: &Bench) -> Outside {
        let sentinel = bench.path("sentinel");
        std::fs::write(&sentinel, "stays").unwrap();
        let before = [&sentinel, Path::new(HOST_NAME)].map(state);
        Outside { sentinel, before }
    }

    #[track_caller]
    fn assert_untouched(&self) {
        assert_eq!([&self.sentinel, Path::new(HOST_NAME)].map(state), self.before);
    }
}

/// T25: a file that belongs to another build or to the machine can't be made an output's.
#[tokio::test]
async fn an_input_is_not_linked_into_an_output() {
    let bench = Bench::new();
    let dep = bench.succeed("depAlone").await;
    let before = state(&dep["out"]);
    let (failure, _) = bench.fail("links").await;
    assert!(matches!(failure, BuildFailure { cause: FailureCause::Build, .. }), "{failure:#?}");
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

/// What a build makes in these ways no filter sees, so it's there while it runs. Whatever becomes of the build,
/// nothing of it is left.
#[rstest]
#[case::built("setIdMade", Then::Nothing)]
#[case::failed("setIdFails", Then::Nothing)]
#[case::kept("setIdFails", Then::Kept)]
#[case::checked("setIdDiffers", Then::Checked)]
#[tokio::test]
async fn what_was_set_user_from_its_beginning_is_not_left(
    #[case] attribute: &str,
    #[case] then: Then,
) {
    let bench = Bench::with(with_probe);
    let drv = bench.instantiate(Whose::Ours, attribute);
    let keep = BuildWishes { keep_failed: then != Then::Nothing, ..BuildWishes::default() };
    let (outcome, heard) = bench.build(&drv, keep.clone()).await;
    let lines = heard.lines();
    for made in ["opened 6755", "made 6755"] {
        assert_eq!(lines.iter().filter(|line| *line == made).count(), 2, "{lines:#?}");
    }
    let is_built = matches!(outcome, BuildOutcome::Built(_));
    assert_eq!(is_built, attribute != "setIdFails", "{outcome:#?} {lines:#?}");
    if then == Then::Checked {
        let (outcome, _) = bench.check(&drv, keep).await;
        let BuildOutcome::Failed(BuildFailure { cause: FailureCause::NotDeterministic, .. }) =
            outcome
        else {
            panic!("{outcome:#?}")
        };
    }
    let mut found = BTreeSet::new();
    sweep(&bench.path("ours"), &mut found);
    assert_eq!(found, BTreeSet::new());
    // that there was something to be found
    let kept = names(&bench.path("ours/nix/var/nix/builds")).len();
    assert_eq!(kept, usize::from(then != Then::Nothing));
}

/// What else is done with a build.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Nothing,
    /// Its folder is kept.
    Kept,
    /// It's built once more, and what differs and the folder are kept.
    Checked,
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
type State = (Vec<u8>, u32, u32, i64, u64);

fn state(path: &Path) -> State {
    let metadata = std::fs::metadata(path).unwrap();
    let contents = std::fs::read(path).unwrap();
    (contents, metadata.mode(), metadata.uid(), metadata.mtime(), metadata.ino())
}
