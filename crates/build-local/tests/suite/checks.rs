//! Builds that are repeated, and compared with what is valid.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use drover_build_local::SandboxMode;
use drover_core::StorePath;
use drover_store::{BuildFailure, BuildOutcome, BuildWishes, FailureCause, LogEvent};
use rstest::rstest;

use crate::bench::{Bench, Heard, Whose, names};
use crate::hooks::program;

/// Builds something, and returns its derivation.
async fn built(bench: &Bench, attribute: &str) -> StorePath {
    bench.succeed(attribute).await;
    bench.instantiate(Whose::Ours, attribute)
}

fn not_deterministic(outcome: BuildOutcome) -> String {
    match outcome {
        BuildOutcome::Failed(BuildFailure { cause: FailureCause::NotDeterministic, message }) => {
            message
        }
        other => panic!("{other:#?}"),
    }
}

fn messages(heard: &Heard) -> Vec<String> {
    let message = |event| match event {
        LogEvent::Message(text) => Some(text),
        _ => None,
    };
    heard.events().into_iter().filter_map(message).collect()
}

const KEEP: BuildWishes = BuildWishes {
    cores: None,
    keep_failed: true,
    after: std::collections::BTreeSet::new(),
    optimise: None,
    variables: std::collections::BTreeMap::new(),
    logs: None,
    sandbox: drover_store::SandboxWish {
        mode: None,
        paths: None,
        extra_paths: std::collections::BTreeSet::new(),
    },
};

/// Nothing is changed by it, whatever kind of derivation it is.
#[rstest]
#[case::plain("plain")]
#[case::outputs("outputs")]
#[case::itself("refers")]
#[case::fixed("flat")]
#[case::floating("floatingOutputsSelf")]
#[tokio::test]
async fn what_is_the_same_is_told_so(#[case] attribute: &str) {
    let bench = Bench::new();
    let drv = built(&bench, attribute).await;
    let before = names(&bench.path("ours/nix/store"));
    let (outcome, heard) = bench.check(&drv, KEEP).await;
    let BuildOutcome::Built(built) = outcome else { panic!("{outcome:#?}") };
    assert!(!built.already_valid && built.took.is_some());
    assert!(heard.events().contains(&LogEvent::Started), "it was built");
    assert_eq!(names(&bench.path("ours/nix/store")), before);
    bench.assert_sound();
}

/// Where nobody is to look at it, nothing is left of it.
#[rstest]
#[case::folder("differs", "-differs")]
#[case::floating("floatingDiffers", "-floating-differs")]
#[case::one_output("oneDiffers", "-one-differs-dev")]
#[tokio::test]
async fn what_differs_is_told_by_its_path(#[case] attribute: &str, #[case] name: &str) {
    let bench = Bench::new();
    let drv = built(&bench, attribute).await;
    let before = names(&bench.path("ours/nix/store"));
    let said = not_deterministic(bench.check(&drv, BuildWishes::default()).await.0);
    let shown =
        format!("derivation '/nix/store/{}' may not be deterministic: output", drv.base_name());
    assert!(said.starts_with(&shown) && said.ends_with(&format!("{name}\" differs")), "{said}");
    assert_eq!(names(&bench.path("ours/nix/store")), before);
    bench.assert_sound();
}

#[tokio::test]
async fn what_differs_is_kept_beside_the_other_on_request() {
    let bench = Bench::new();
    let drv = built(&bench, "differs").await;
    let out = bench.succeed("differs").await["out"].clone();
    let valid = std::fs::read(out.join("x")).unwrap();
    let mut last = Vec::new();
    // the second time, what the first has kept is replaced
    for _ in 0..2 {
        let (outcome, heard) = bench.check(&drv, KEEP).await;
        let said = not_deterministic(outcome);
        let kept = PathBuf::from(format!("{}.check", out.display()));
        let expected = format!("output \"{}\" differs from \"{}\"", out.display(), kept.display());
        assert!(said.ends_with(&expected), "{said}");
        let text = std::fs::read(kept.join("x")).unwrap();
        assert_ne!(text, valid);
        assert_ne!(text, last);
        last = text;
        assert!(
            messages(&heard).iter().any(|text| text.starts_with("note: keeping build directory"))
        );
    }
    assert_eq!(std::fs::read(out.join("x")).unwrap(), valid);
}

/// It runs as the build's user, never as root; what it says is told, and that it failed.
#[rstest]
#[case::well("exit 0", None)]
#[case::badly("exit 3", Some("failed with exit code 3"))]
#[tokio::test]
async fn a_hook_shows_the_difference(#[case] end: &str, #[case] complaint: Option<&str>) {
    let hook =
        tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir().unwrap();
    let text = format!("echo $#; echo $1; echo $2; echo $3; id -u; pwd; {end}");
    let program = program(hook.path(), &text);
    let bench = Bench::with(|settings| settings.diff_hook = Some(program));
    let drv = built(&bench, "differs").await;
    let out = bench.succeed("differs").await["out"].clone();
    let (outcome, heard) = bench.check(&drv, BuildWishes::default()).await;
    let said = not_deterministic(outcome);
    assert!(said.ends_with(".check\""), "{said}");
    let told = messages(&heard);
    let lines: Vec<&str> = told[0].lines().collect();
    let valid = format!("/nix/store/{}", out.file_name().unwrap().to_str().unwrap());
    let (kept, drv) =
        (format!("{}.check", out.display()), format!("/nix/store/{}", drv.base_name()));
    assert_eq!(lines[..4], ["4", &valid, &kept, &drv]);
    assert!(lines[4].parse::<u32>().unwrap() >= 0x3800_0000, "{lines:#?}");
    assert_eq!(lines[5], "/");
    let complained =
        told.iter().any(|text| complaint.is_some_and(|complaint| text.ends_with(complaint)));
    assert_eq!(complained, complaint.is_some(), "{told:#?}");
}

/// Nothing is built where there is nothing to compare with.
#[tokio::test]
async fn what_is_not_valid_is_not_checked() {
    let bench = Bench::new();
    let drv = bench.instantiate(Whose::Ours, "plain");
    let (outcome, heard) = bench.check(&drv, BuildWishes::default()).await;
    let BuildOutcome::Failed(BuildFailure { cause: FailureCause::Build, message }) = outcome else {
        panic!("{outcome:#?}")
    };
    assert!(message.contains("are not valid, so checking is not possible"), "{message}");
    assert_eq!(heard.events(), []);
    bench.assert_sound();
}

/// What is valid stays as it is, where the build could reach it.
pub(crate) async fn without_a_sandbox() {
    let bench = Bench::in_place(|settings| settings.sandbox = SandboxMode::Never);
    for attribute in ["refers", "outputs", "floatingSelf"] {
        let drv = built(&bench, attribute).await;
        let (outcome, _) = bench.check(&drv, BuildWishes::default()).await;
        assert!(matches!(outcome, BuildOutcome::Built(_)), "{attribute}: {outcome:#?}");
    }
    for attribute in ["differs", "oneDiffers", "floatingDiffers"] {
        let drv = built(&bench, attribute).await;
        not_deterministic(bench.check(&drv, BuildWishes::default()).await.0);
    }
    bench.assert_sound();
}
