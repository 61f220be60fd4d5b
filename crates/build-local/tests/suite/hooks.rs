//! Programs that run before and after builds.

use std::path::{Path, PathBuf};
use std::process::Command;

use drover_build_local::PostBuildHook;
use drover_store::{AfterBuild, BuildFailure, BuildOutcome, BuildWishes, FailureCause, LogEvent};
use rstest::rstest;

use crate::bench::{Bench, Heard, Whose};

/// Writes a program. Another process does: what this one has open for writing while another test forks
/// can't be executed.
pub(crate) fn program(home: &Path, text: &str) -> PathBuf {
    let program = home.join("hook");
    let write = "printf '#!/bin/sh\n%s\n' \"$1\" > \"$2\" && chmod 755 \"$2\"";
    let written = Command::new("sh").args(["-c", write, "sh", text]).arg(&program).status();
    assert!(written.unwrap().success());
    program
}

fn after(program: PathBuf) -> Option<PostBuildHook> {
    Some(PostBuildHook { program, settings: "cores = 3\n".to_owned() })
}

fn said(heard: &Heard) -> Vec<String> {
    let line = |event: LogEvent| match event {
        LogEvent::Message(text) => text.strip_prefix("post-build-hook: ").map(str::to_owned),
        _ => None,
    };
    heard.events().into_iter().filter_map(line).collect()
}

/// It runs once for each build, and each repetition, with what Nix gives it, when all is valid; as
/// this process's user.
#[tokio::test]
async fn a_hook_runs_after_builds() {
    let home = tempfile::tempdir().unwrap();
    let hook = program(
        home.path(),
        "echo $DRV_PATH; echo $OUT_PATHS; printf '%s' \"$NIX_CONFIG\"; id -u; echo to stderr >&2",
    );
    let bench = Bench::with(|settings| settings.post_build_hook = after(hook));
    let drv = bench.instantiate(Whose::Ours, "outputs");
    let (outcome, heard) = bench.realise(&drv).await;
    let BuildOutcome::Built(built) = outcome else { panic!("{outcome:#?}") };
    let mut outputs: Vec<String> = built
        .outputs
        .values()
        .map(|info| format!("/nix/store/{}", info.path.base_name()))
        .collect();
    outputs.sort();
    let shown = format!("/nix/store/{}", drv.base_name());
    let own = rustix::process::geteuid().as_raw().to_string();
    let expected = [&shown, &outputs.join(" "), "cores = 3", &own, "to stderr"].map(str::to_owned);
    assert_eq!(said(&heard), expected);
    let (_, again) = bench.build(&drv, BuildWishes::default()).await;
    assert_eq!(said(&again), Vec::<String>::new(), "nothing was built");
    let (_, checked) = bench.check(&drv, BuildWishes::default()).await;
    assert_eq!(said(&checked), expected);
}

/// The build fails for who waits for it, and what it has made is valid.
#[tokio::test]
async fn a_build_fails_with_its_hook() {
    let home = tempfile::tempdir().unwrap();
    let hook = program(home.path(), "exit 3");
    let words = format!("program \"{}\" failed with exit code 3", hook.display());
    let bench = Bench::with(|settings| settings.post_build_hook = after(hook));
    let (failure, _) = bench.fail("plain").await;
    assert_eq!(failure, BuildFailure { cause: FailureCause::Hook, message: words });
    let drv = bench.instantiate(Whose::Ours, "plain");
    let (outcome, _) = bench.build(&drv, BuildWishes::default()).await;
    assert!(matches!(outcome, BuildOutcome::Built(built) if built.already_valid));
    bench.assert_sound();
}

/// As long as it runs nobody else makes or removes what was built.
#[tokio::test]
async fn the_outputs_are_locked_while_a_hook_runs() {
    let home = tempfile::tempdir().unwrap();
    let text = "lock=$(cat $(dirname $0)/store)${OUT_PATHS#/nix/store}.lock; test -e $lock && echo there; \
                flock -n $lock true || echo held";
    let hook = program(home.path(), text);
    let bench = Bench::with(|settings| settings.post_build_hook = after(hook));
    let store = bench.path("ours/nix/store");
    std::fs::write(home.path().join("store"), store.to_str().unwrap()).unwrap();
    let drv = bench.instantiate(Whose::Ours, "plain");
    let (_, heard) = bench.realise(&drv).await;
    assert_eq!(said(&heard), ["there", "held"]);
    let left = crate::bench::names(&store);
    assert!(!left.iter().any(|name| name.ends_with(".lock")), "{left:?}");
}

/// Who waits for a build has his own hook, or none; for several with the same it runs once.
#[tokio::test]
async fn who_waits_may_have_another_hook() {
    let home = tempfile::tempdir().unwrap();
    let hook = program(home.path(), "echo usual");
    let folder = tempfile::tempdir().unwrap();
    let other = program(folder.path(), "echo other; printf '%s' \"$NIX_CONFIG\"");
    let bench = Bench::with(|settings| {
        settings.post_build_hook = after(hook.clone());
        settings.hook_settings = "cores = 3\n".to_owned();
    });
    let drv = bench.instantiate(Whose::Ours, "plain");
    bench.realise(&drv).await;
    let configured = format!("post-build-hook = {}", other.display());
    let program = |path: &Path| AfterBuild::Program(path.to_owned());
    let cases = [
        (vec![], vec!["usual"]),
        (vec![AfterBuild::Nothing], vec![]),
        (vec![program(&other)], vec!["other", "cores = 3", &configured]),
        (vec![AfterBuild::Usual, AfterBuild::Nothing, program(&hook)], vec!["usual"]),
    ];
    for (asked, expected) in cases {
        let wishes = BuildWishes { after: asked.into_iter().collect(), ..BuildWishes::default() };
        let (_, heard) = bench.check(&drv, wishes).await;
        assert_eq!(said(&heard), expected);
    }
    let wishes =
        BuildWishes { after: [program(Path::new("hook"))].into(), ..BuildWishes::default() };
    let (outcome, _) = bench.check(&drv, wishes).await;
    let BuildOutcome::Failed(BuildFailure { cause: FailureCause::Hook, message }) = outcome else {
        panic!("{outcome:#?}")
    };
    assert_eq!(message, "program \"hook\" must be named by its whole path");
}

#[tokio::test]
async fn a_failed_build_has_no_hook() {
    let home = tempfile::tempdir().unwrap();
    let bench = Bench::with(|settings| {
        settings.post_build_hook = after(program(home.path(), "echo here"));
    });
    let (_, heard) = bench.fail("exits").await;
    assert_eq!(said(&heard), Vec::<String>::new());
}

/// What it names is seen, with all that it refers to where it's the store's.
#[tokio::test]
async fn a_hook_shows_more_to_builds() {
    let home = tempfile::tempdir().unwrap();
    let answers = home.path().join("answers");
    let hook = program(
        home.path(),
        &format!("echo $# $1 >&2; test -d $2 || exit 9; cat {}", answers.display()),
    );
    let bench = Bench::with(|settings| settings.pre_build_hook = Some(hook));
    std::fs::write(&answers, "").unwrap();
    let deep = bench.succeed("deepAlone").await["out"].clone();
    let deep = format!("/nix/store/{}", deep.file_name().unwrap().to_str().unwrap());
    std::fs::write(
        &answers,
        format!("extra-sandbox-paths\n/bin/hello=/usr/bin/busybox\n/deep={deep}\n\n"),
    )
    .unwrap();
    let made = bench.succeed("seesDeep").await;
    assert_eq!(std::fs::read_to_string(&made["out"]).unwrap(), "dep\nseen\n");
    bench.assert_sound();
}

#[rstest]
#[case::status("exit 4", "failed with exit code 4")]
#[case::words("echo something", "unknown pre-build hook command 'something'")]
#[tokio::test]
async fn a_build_fails_with_the_hook_before_it(#[case] text: &str, #[case] words: &str) {
    let home = tempfile::tempdir().unwrap();
    let hook = program(home.path(), text);
    let bench = Bench::with(|settings| settings.pre_build_hook = Some(hook));
    let (failure, _) = bench.fail("plain").await;
    let BuildFailure { cause: FailureCause::Rejected, message } = failure else {
        panic!("{failure:#?}")
    };
    assert!(message.contains(words) && message.contains("-plain.drv'"), "{message}");
    bench.assert_sound();
}
