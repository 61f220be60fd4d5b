//! What fails, how it is told, and that nothing is left of it.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use drover_build_local::SandboxMode;
use drover_core::{NarHash, NarSize, PathInfo, StoreDir};
use drover_store::{
    Adoption, BuildFailure, BuildLog, BuildOutcome, BuildWishes, Builder as _, Keeper as _,
    LogEvent, SilentLog, Store as _, StoreError,
};
use rstest::rstest;

use crate::bench::{Bench, Heard, Whose, names, request};

/// Returns the kind of a failure, and its words.
fn told(failure: &BuildFailure) -> (&'static str, &str) {
    match failure {
        BuildFailure::Failed { message } => ("failed", message),
        BuildFailure::Killed { message } => ("killed", message),
        BuildFailure::TimedOut { message } => ("timed out", message),
        BuildFailure::LogLimit { message } => ("log limit", message),
        BuildFailure::HashMismatch { message } => ("hash mismatch", message),
        BuildFailure::NotDeterministic { message } => ("not deterministic", message),
        BuildFailure::Machine { message, .. } => ("machine", message),
        BuildFailure::Refused { message } => ("refused", message),
    }
}

#[rstest]
#[case::exit_code("exits", "failed", "failed with exit code 3")]
#[case::signal("signalled", "failed", "failed with exit code 134")]
#[case::no_output("absent", "failed", "failed to produce output path for output 'out'")]
#[case::no_program("noProgram", "failed", "executing '/no/such/builder': No such file")]
#[case::hash(
    "wrongHash",
    "hash mismatch",
    "specified: sha256-LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=\n     got:    sha256-"
)]
#[case::not_flat("notFlat", "failed", "should be a non-executable regular file")]
#[case::cycle("cycle", "failed", "cycle detected in build of")]
#[case::reference(
    "disallowed",
    "failed",
    "is not allowed to refer to the following paths:\n  /nix/store/"
)]
#[case::requisite("disallowedDeep", "failed", "is not allowed to refer to the following paths:")]
#[case::fifo("fifo", "failed", "out-out/f")]
#[case::writable("writable", "failed", "suspicious ownership or permission on")]
#[case::recursive_nix("recursiveNix", "machine", "'recursive-nix' is not supported")]
#[case::system("otherSystem", "machine", "a 'riscv64-linux' is required to build it")]
#[case::builtin("builtin", "machine", "drover has no 'builtin:unknown' yet")]
#[case::no_chroot("noChroot", "failed", "has '__noChroot' set, but that's not allowed")]
#[tokio::test]
async fn a_failure_is_told_in_words(
    #[case] attribute: &str,
    #[case] kind: &str,
    #[case] words: &str,
) {
    let bench = Bench::new();
    let (failure, heard) = bench.fail(attribute).await;
    let (found, said) = told(&failure);
    assert_eq!(found, kind, "{failure:#?} {:#?}", heard.lines());
    assert!(said.contains(words), "{said}");
    bench.assert_sound();
}

/// The log of a failed build is where Nix looks for it.
#[tokio::test]
async fn a_failed_build_leaves_its_log() {
    let bench = Bench::new();
    let (_, heard) = bench.fail("exits").await;
    assert_eq!(heard.lines(), ["before"]);
    assert_eq!(heard.events().first(), Some(&LogEvent::Started));
    let drv = bench.instantiate(Whose::Ours, "exits");
    let shown = format!("/nix/store/{}", drv.base_name());
    assert_eq!(bench.nix_ok(Whose::Ours, "nix-store", &["--read-log", &shown]), "before");
}

/// Where logs can't be kept, builds go on, however much they say.
#[rstest]
#[case::long("longLog")]
#[case::short("plain")]
#[tokio::test]
async fn a_log_that_cannot_be_kept_fails_no_build(#[case] attribute: &str) {
    let bench = Bench::new();
    let drv = bench.instantiate(Whose::Ours, attribute);
    let logs = bench.path("ours/nix/var/log/nix/drvs");
    std::fs::create_dir_all(logs.parent().unwrap()).unwrap();
    std::fs::write(&logs, "no folder").unwrap();
    let (outcome, heard) = bench.realise(&drv).await;
    assert!(matches!(outcome, BuildOutcome::Built(_)), "{outcome:#?}");
    let told = |event: &LogEvent| matches!(event, LogEvent::Message(text) if text.contains("can't be kept"));
    assert_eq!(heard.events().iter().filter(|event| told(event)).count(), 1);
    bench.assert_sound();
}

#[tokio::test]
async fn a_build_that_takes_too_long_is_ended() {
    let limit = Some(Duration::from_secs(1));
    let bench = Bench::with(|settings| settings.timeout = limit);
    let (failure, heard) = bench.fail("sleeps").await;
    let (kind, said) = told(&failure);
    assert_eq!(kind, "timed out");
    assert!(said.ends_with("timed out after 1 seconds"), "{said}");
    assert_eq!(heard.lines(), ["begin"]);
    bench.assert_sound();
}

#[tokio::test]
async fn a_build_that_is_silent_for_too_long_is_ended() {
    let limit = Some(Duration::from_secs(1));
    let bench = Bench::with(|settings| settings.max_silent_time = limit);
    let (failure, _) = bench.fail("sleeps").await;
    let (kind, said) = told(&failure);
    assert_eq!(kind, "timed out");
    assert!(said.ends_with("timed out after 1 seconds of silence"), "{said}");
}

#[tokio::test]
async fn a_build_that_says_too_much_is_ended() {
    let bench = Bench::with(|settings| settings.max_log_size = Some(100_000));
    let (failure, _) = bench.fail("talks").await;
    let (kind, said) = told(&failure);
    assert_eq!(kind, "log limit");
    assert!(said.contains("killed after writing more than 100000 bytes of log output"), "{said}");
    bench.assert_sound();
}

/// T29: whoever drops the queue has the build killed, with all that it has started.
#[tokio::test]
async fn a_build_that_nobody_wants_is_killed() {
    let bench = Bench::new();
    let drv = bench.instantiate(Whose::Ours, "sleeps");
    bench.succeed("plain").await;
    let lane = bench.builder.machine().open_lane().await.unwrap();
    let heard = Arc::new(Heard::default());
    let log = Arc::clone(&heard) as Arc<dyn BuildLog>;
    let outcome = lane.build(request(&drv, BuildWishes::default()), log);
    while heard.lines().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(lane);
    assert!(matches!(outcome.await, Err(StoreError::LaneEnded { .. })));
    bench.builder.ended().await;
    bench.assert_sound();
}

/// Whenever a build is cancelled, also while it's being started: when that is said to be done, nothing
/// of it runs that could outlive the lock on its user.
#[tokio::test]
async fn what_is_cancelled_while_it_starts_is_gone() {
    let mark = format!("--cancelled-while-it-starts-{}", std::process::id());
    let argument = mark.clone().into();
    let bench = Bench::with(|settings| settings.launcher.arguments = vec![argument]);
    bench.succeed("plain").await;
    let drv = bench.instantiate(Whose::Ours, "sleeps");
    let machine = bench.builder.machine();
    for pause in 0..40 {
        let lane = machine.open_lane().await.unwrap();
        let outcome = lane.build(request(&drv, BuildWishes::default()), Arc::new(SilentLog));
        tokio::time::sleep(Duration::from_micros(250 * pause)).await;
        drop(lane);
        assert!(matches!(outcome.await, Err(StoreError::LaneEnded { .. })));
        bench.builder.ended().await;
        // the launcher itself, of which supervisors are forked
        assert_eq!(processes(&mark), 1, "after {pause}");
    }
    bench.assert_sound();
}

/// An output whose path is only known when it's built may be somebody else's for as long as he likes:
/// who doesn't want it any more doesn't wait for that.
#[tokio::test]
async fn a_build_whose_output_is_locked_by_others_can_be_cancelled() {
    let bench = Bench::new();
    let drv = bench.instantiate(Whose::Stock, "floatingFlat");
    assert_eq!(drv, bench.instantiate(Whose::Ours, "floatingFlat"));
    let shown = bench.store.store_dir().display(&drv);
    let made = bench.nix_ok(Whose::Stock, "nix-store", &["-r", &shown]);
    let path = StoreDir::default().parse(&made).unwrap();
    let theirs = bench.store.new_session().lock_outputs(BTreeSet::from([path])).await.unwrap();
    let lane = bench.builder.machine().open_lane().await.unwrap();
    let heard = Arc::new(Heard::default());
    let log = Arc::clone(&heard) as Arc<dyn BuildLog>;
    let mut outcome = lane.build(request(&drv, BuildWishes::default()), log);
    // until it's past its process, and a moment that it doesn't need
    while !names(&bench.path("ours/nix/var/log/nix/drvs"))
        .iter()
        .any(|name| drv.base_name().starts_with(name.as_str()))
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let moment = Duration::from_millis(200);
    assert!(tokio::time::timeout(moment, &mut outcome).await.is_err());
    drop(lane);
    tokio::time::timeout(Duration::from_secs(60), bench.builder.ended()).await.unwrap();
    drop(theirs);
    bench.assert_sound();
}

/// Returns how many processes there are with this argument.
fn processes(argument: &str) -> usize {
    let own = |entry: std::io::Result<std::fs::DirEntry>| {
        let line = std::fs::read(entry.ok()?.path().join("cmdline")).ok()?;
        let mut arguments = line.split(|byte| *byte == 0);
        arguments.any(|found| found == argument.as_bytes()).then_some(())
    };
    std::fs::read_dir("/proc").unwrap().filter_map(own).count()
}

/// What a build leaves running is gone when it has ended, and the build goes well all the same.
#[tokio::test]
async fn what_a_build_leaves_running_is_killed() {
    let bench = Bench::new();
    bench.succeed("forks").await;
    bench.assert_sound();
}

/// Whether it failed by itself or its outputs were refused, its folder can be looked into afterwards.
#[rstest]
#[case::by_itself("exits")]
#[case::refused_outputs("disallowed")]
#[case::other_contents("wrongHash")]
#[tokio::test]
async fn the_folder_of_a_failed_build_is_kept_on_request(#[case] attribute: &str) {
    let bench = Bench::new();
    let drv = bench.instantiate(Whose::Ours, attribute);
    bench.succeed("depAlone").await;
    let wishes = BuildWishes { keep_failed: true, ..BuildWishes::default() };
    let (outcome, heard) = bench.build(&drv, wishes).await;
    assert!(matches!(outcome, BuildOutcome::Failed(_)));
    let note = heard.events().into_iter().find_map(|event| match event {
        LogEvent::Message(note) => {
            note.strip_prefix("note: keeping build directory '").map(str::to_owned)
        }
        _ => None,
    });
    let folder = PathBuf::from(note.unwrap().trim_end_matches('\''));
    for folder in [folder.as_path(), folder.parent().unwrap()] {
        let mode = std::fs::metadata(folder).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o755, "{folder:?}");
    }
}

/// A bug of this program's is told as a failure, once; nobody waits for ever, or tries again.
#[tokio::test]
async fn a_panic_is_a_failure_in_words() {
    struct Panics;
    impl BuildLog for Panics {
        fn event(&self, event: LogEvent) {
            assert!(!matches!(event, LogEvent::Line(_)), "a log that has a bug");
        }
    }
    let bench = Bench::new();
    let drv = bench.instantiate(Whose::Ours, "exits");
    let lane = bench.builder.machine().open_lane().await.unwrap();
    let outcome = lane.build(request(&drv, BuildWishes::default()), Arc::new(Panics)).await;
    let BuildOutcome::Failed(failure) = outcome.unwrap() else { panic!("it went well") };
    let (kind, said) = told(&failure);
    assert_eq!(kind, "failed");
    assert!(said.contains("because it has a bug: a log that has a bug"), "{said}");
    // the queue goes on
    let other = bench.instantiate(Whose::Ours, "plain");
    let outcome = lane.build(request(&other, BuildWishes::default()), Arc::new(SilentLog)).await;
    assert!(matches!(outcome.unwrap(), BuildOutcome::Built(_)));
}

/// T26: a build of which one output was valid fails, and that output is still there.
#[rstest]
#[case::shut_in(SandboxMode::Always)]
#[tokio::test]
async fn a_failing_build_takes_nothing_away(#[case] sandbox: SandboxMode) {
    let bench = Bench::with(|settings| settings.sandbox = sandbox);
    let drv = bench.instantiate(Whose::Ours, "someOutputs");
    let shown = format!("/nix/store/{}", drv.base_name());
    let dev = bench.nix_ok(Whose::Ours, "nix-store", &["-q", "--binding", "dev", &shown]);
    let real = bench.path("ours").join(dev.trim_start_matches('/'));
    std::fs::write(&real, "precious").unwrap();
    let path = StoreDir::default().parse(&dev).unwrap();
    let info = PathInfo {
        path,
        deriver: None,
        nar_hash: NarHash([0; 32]),
        nar_size: NarSize(0),
        references: BTreeSet::new(),
        registration_time: 0,
        ultimate: false,
        signatures: BTreeSet::new(),
        content_address: None,
    };
    bench.store.register_validity(vec![info], Adoption::Measured).await.unwrap();
    let (failure, _) = bench.fail("someOutputs").await;
    assert_eq!(told(&failure).0, "failed");
    assert_eq!(std::fs::read_to_string(&real).unwrap(), "precious");
    bench.assert_sound();
    assert!(!names(&bench.path("ours/nix/store")).iter().any(|name| name.ends_with("-outputs")));
}
