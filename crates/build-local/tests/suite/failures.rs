//! What fails, how it is told, and that nothing is left of it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use drover_build_local::{LocalSettings, Outside, OwnGroups, OwnVariables};
use drover_core::{NarHash, NarSize, PathInfo, StoreDir};
use drover_store::{
    Adoption, BuildFailure, BuildLog, BuildOutcome, BuildSettings, BuildWishes, Builder as _,
    FailureCause, Keeper as _, LogEvent, SilentLog, Store as _, StoreError,
};
use rstest::rstest;

use crate::bench::{Begun, Bench, Heard, LIMIT, Signal, Whose, names, request};

#[rstest]
#[case::exit_code("exits", FailureCause::Build, "failed with exit code 3")]
#[case::signal("signalled", FailureCause::Build, "failed with exit code 134")]
#[case::no_output(
    "absent",
    FailureCause::Rejected,
    "failed to produce output path for output 'out'"
)]
#[case::no_program("noProgram", FailureCause::Build, "executing '/no/such/builder': No such file")]
#[case::hash(
    "wrongHash",
    FailureCause::HashMismatch,
    "specified: sha256-LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=\n     got:    sha256-"
)]
#[case::not_flat("notFlat", FailureCause::Rejected, "should be a non-executable regular file")]
#[case::cycle("cycle", FailureCause::Rejected, "cycle detected in build of")]
#[case::reference(
    "disallowed",
    FailureCause::Rejected,
    "is not allowed to refer to the following paths:\n  /nix/store/"
)]
#[case::requisite(
    "disallowedDeep",
    FailureCause::Rejected,
    "is not allowed to refer to the following paths:"
)]
#[case::fifo("fifo", FailureCause::Rejected, "out-out/f")]
#[case::writable("writable", FailureCause::Rejected, "suspicious ownership or permission on")]
#[case::no_such_output(
    "wrongSpecifier",
    FailureCause::Rejected,
    "output check for 'dev' contains output name 'nobody', but this is not a valid output of this \
     derivation. (Valid outputs are [dev, out].)"
)]
#[case::closed_log("closesLog", FailureCause::Build, "failed due to signal 9 (Killed)")]
#[case::recursive_nix("recursiveNix", FailureCause::Machine, "'recursive-nix' is not supported")]
#[case::system("otherSystem", FailureCause::Machine, "a 'riscv64-linux' is required to build it")]
#[case::builtin("builtin", FailureCause::Build, "> error: unsupported builtin builder 'unknown'")]
#[case::hash_before_references(
    "wrongHashRefers",
    FailureCause::HashMismatch,
    "specified: sha256-LPJNul"
)]
#[case::references(
    "wrongHashRefersFlat",
    FailureCause::Rejected,
    "is not allowed to refer to other store paths"
)]
#[case::derivation("oddGraph", FailureCause::Rejected, "-odd-graph.drv' can't be built: ")]
#[case::no_chroot(
    "noChroot",
    FailureCause::Rejected,
    "has '__noChroot' set, but that's not allowed"
)]
#[tokio::test]
async fn a_failure_is_told_in_words(
    #[case] attribute: &str,
    #[case] cause: FailureCause,
    #[case] words: &str,
) {
    let bench = Bench::new();
    let (failure, heard) = bench.fail(attribute).await;
    let (found, said) = (failure.cause, &failure.message);
    assert_eq!(found, cause, "{failure:#?} {:#?}", heard.lines());
    assert!(said.contains(words), "{said}");
    bench.assert_sound();
}

/// Which build, which path, and how it's mended.
#[tokio::test]
async fn an_input_whose_files_are_gone_is_named() {
    let bench = Bench::new();
    let dep = bench.succeed("depAlone").await;
    std::fs::remove_file(&dep["out"]).unwrap();
    let (failure, _) = bench.fail("refers").await;
    let BuildFailure { cause, message: said } = &failure;
    assert_eq!(*cause, FailureCause::Machine);
    let path = format!("/nix/store/{}", dep["out"].file_name().unwrap().to_str().unwrap());
    for words in ["-refers.drv'", &format!("nix-store --repair-path {path}")] {
        assert!(said.contains(words), "{said}");
    }
}

/// What a fixed build has made is kept under the hash that it has, so that it needn't be made again when
/// the hash is mended, as with stock Nix; it is nothing that the derivation has made.
#[rstest]
#[case::flat("wrongHash", "mendedHash")]
#[case::recursive("wrongHashRecursive", "mendedHashRecursive")]
#[tokio::test]
async fn what_has_another_hash_is_kept_under_its_own(#[case] wrong: &str, #[case] mended: &str) {
    let bench = Bench::new();
    let (failure, _) = bench.fail(wrong).await;
    assert_eq!(failure.cause, FailureCause::HashMismatch);
    bench.assert_sound();
    let drv = bench.instantiate(Whose::Ours, mended);
    let (outcome, heard) = bench.realise(&drv).await;
    assert!(matches!(outcome, BuildOutcome::Built(built) if built.already_valid));
    assert_eq!(heard.lines(), Vec::<String>::new());
    // the other one isn't there, and a check leaves nothing
    let (failure, _) = bench.fail(wrong).await;
    assert_eq!(failure.cause, FailureCause::HashMismatch);
    bench.assert_sound();
    let drv = bench.instantiate(Whose::Stock, wrong);
    let stock =
        bench.nix(Whose::Stock, "nix-store", &["-r", &bench.store.store_dir().display(&drv)]);
    assert!(!stock.status.success(), "{stock:#?}");
    let valid = |whose| -> BTreeSet<String> {
        let paths = bench.nix_ok(whose, "nix", &["path-info", "--all"]);
        let made = paths.lines().filter(|path| {
            path.ends_with("-wrong-hash") || path.ends_with("-wrong-hash-recursive")
        });
        made.map(str::to_owned).collect()
    };
    assert_eq!(valid(Whose::Ours), valid(Whose::Stock));
    assert_eq!(valid(Whose::Ours).len(), 1);
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

#[rstest]
#[case::saying_nothing("sleeps", "begin")]
#[case::saying_very_much("floods", &"begin".repeat(4096))]
#[tokio::test]
async fn a_build_that_takes_too_long_is_ended(#[case] name: &str, #[case] first_line: &str) {
    // its first line has to come in that time
    let limit = Some(Duration::from_secs(5));
    let bench = Bench::with(|settings| settings.timeout = limit);
    let (failure, heard) = bench.fail(name).await;
    let BuildFailure { cause, message: said } = &failure;
    assert_eq!(*cause, FailureCause::TimedOut);
    assert!(said.ends_with("timed out after 5 seconds"), "{said}");
    assert_eq!(heard.lines().first().map(String::as_str), Some(first_line));
    bench.assert_sound();
}

#[tokio::test]
async fn a_build_that_is_silent_for_too_long_is_ended() {
    let limit = Some(Duration::from_secs(1));
    let bench = Bench::with(|settings| settings.max_silent_time = limit);
    let (failure, _) = bench.fail("sleeps").await;
    let BuildFailure { cause, message: said } = &failure;
    assert_eq!(*cause, FailureCause::TimedOut);
    assert!(said.ends_with("timed out after 1 seconds of silence"), "{said}");
}

#[tokio::test]
async fn a_build_that_says_too_much_is_ended() {
    let bench = Bench::with(|settings| settings.max_log_size = Some(100_000));
    let (failure, _) = bench.fail("talks").await;
    let BuildFailure { cause, message: said } = &failure;
    assert_eq!(*cause, FailureCause::LogLimit);
    assert!(said.contains("killed after writing more than 100000 bytes of log output"), "{said}");
    bench.assert_sound();
}

/// T29: whoever drops the queue has the build killed, with all that it has started.
#[rstest]
#[case::silent("sleeps")]
#[case::loud("floods")]
#[tokio::test]
async fn a_build_that_nobody_wants_is_killed(#[case] name: &str) {
    let bench = Bench::new();
    let drv = bench.instantiate(Whose::Ours, name);
    bench.succeed("plain").await;
    let Begun { lane, outcome, .. } = bench.begin(&drv).await;
    assert!(!bench.running().is_empty());
    drop(lane);
    assert!(matches!(outcome.await, Err(StoreError::LaneEnded { .. })));
    bench.builder.ended().await;
    bench.assert_sound();
}

/// The launcher, of which supervisors are forked, and one of a build that isn't known yet, with its child. That
/// one is let go where nobody asks for it in a while; then it's the launcher alone.
const AT_REST: usize = 3;

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
        // the child of the supervisor that is there for the next build may be one
        assert!(commands(&mark) <= 1, "after {pause}");
        let comes_to_rest = async {
            while !matches!(processes(&mark).len(), 1 | AT_REST) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let limit = Duration::from_secs(120);
        tokio::time::timeout(limit, comes_to_rest).await.expect("something is left");
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

/// Returns the processes with this argument, and the parent of each.
fn processes(argument: &str) -> BTreeMap<i32, i32> {
    let own = |entry: std::io::Result<std::fs::DirEntry>| {
        let folder = entry.ok()?.path();
        let line = std::fs::read(folder.join("cmdline")).ok()?;
        let mut arguments = line.split(|byte| *byte == 0);
        if !arguments.any(|found| found == argument.as_bytes()) {
            return None;
        }
        let status = std::fs::read_to_string(folder.join("status")).ok()?;
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
        let pid = folder.file_name()?.to_str()?;
        Some((pid.parse().ok()?, parent.trim().parse().ok()?))
    };
    std::fs::read_dir("/proc").unwrap().filter_map(own).collect()
}

/// Returns how many are below supervisors, which are below the launcher: what commands run in, or did.
fn commands(argument: &str) -> usize {
    let all = processes(argument);
    let is_command = |parent: &&i32| all.get(parent).is_some_and(|it| all.contains_key(it));
    all.values().filter(is_command).count()
}

/// What a build leaves running is gone when it has ended, and the build goes well all the same.
#[tokio::test]
async fn what_a_build_leaves_running_is_killed() {
    let bench = Bench::new();
    bench.succeed("forks").await;
    bench.assert_sound();
}

/// Who has closed his log has a moment to end.
#[tokio::test]
async fn a_build_may_close_its_log_at_its_end() {
    let bench = Bench::new();
    bench.succeed("closesLogAtEnd").await;
    bench.assert_sound();
}

/// As in Nix.
#[tokio::test]
async fn rules_for_outputs_that_are_none_are_passed_over() {
    let bench = Bench::new();
    bench.succeed("rulesForNobody").await;
}

/// What a build says to tools and nobody understands is told as it stands, with the reason.
#[tokio::test]
async fn messages_that_are_none_are_told() {
    let bench = Bench::new();
    let drv = bench.instantiate(Whose::Ours, "oddMessages");
    let (outcome, heard) = bench.build(&drv, BuildWishes::default()).await;
    assert!(matches!(outcome, BuildOutcome::Built(_)), "{outcome:#?}");
    assert_eq!(heard.lines(), ["@nix hello", "@nix {\"action\":null}"]);
    let messages = heard.events().into_iter().filter_map(|event| match event {
        LogEvent::Message(text) => Some(text),
        _ => None,
    });
    let messages = messages.collect::<Vec<_>>();
    let expected =
        ["bad JSON log message from the derivation builder", "Unable to handle a JSON message"];
    assert_eq!(messages.len(), 2, "{messages:?}");
    assert!(messages.iter().zip(expected).all(|(text, part)| text.contains(part)), "{messages:?}");
}

/// Who waits for a build may give it variables, where that is configured.
#[rstest]
#[case::taken(OwnVariables::Taken, "ours")]
#[case::ignored(OwnVariables::Ignored, "theirs")]
#[tokio::test]
async fn variables_of_who_waits(#[case] own: OwnVariables, #[case] expected: &str) {
    let bench = Bench::with(|settings| {
        settings.own_variables = own;
        settings.outside = Outside(Arc::new(|_| Some(b"theirs".to_vec())));
    });
    let drv = bench.instantiate(Whose::Ours, "impureVariable");
    let settings = BuildSettings {
        overrides: BTreeMap::from([("impure-env".to_owned(), "VARIABLE=ours".to_owned())]),
        ..BuildSettings::default()
    };
    let (_, heard) = bench.build(&drv, BuildWishes::of(&settings)).await;
    assert_eq!(heard.lines(), [expected]);
}

/// Where supplementary groups must be left, and nobody can, nothing is built; root can.
#[tokio::test]
async fn root_leaves_its_groups_whatever_is_configured() {
    let bench = Bench::with(|settings| settings.own_groups = OwnGroups::MustGo);
    bench.succeed("plain").await;
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
            note.strip_prefix("note: keeping build directory \"").map(str::to_owned)
        }
        _ => None,
    });
    let folder = PathBuf::from(note.unwrap().trim_end_matches('"'));
    for folder in [folder.as_path(), folder.parent().unwrap()] {
        let mode = std::fs::metadata(folder).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o755, "{folder:?}");
    }
}

/// As in Nix: what it knows of passwords may lie there.
#[tokio::test]
async fn the_folder_of_a_builder_that_is_part_of_nix_is_never_kept() {
    let bench = Bench::new();
    let drv = bench.instantiate(Whose::Ours, "failingBuiltin");
    let wishes = BuildWishes { keep_failed: true, ..BuildWishes::default() };
    let (outcome, _) = bench.build(&drv, wishes).await;
    assert!(matches!(outcome, BuildOutcome::Failed(_)), "{outcome:#?}");
    bench.assert_sound();
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
    let BuildFailure { cause, message: said } = &failure;
    assert_eq!(*cause, FailureCause::Build);
    assert!(said.contains("because it has a bug: a log that has a bug"), "{said}");
    // the queue goes on
    let other = bench.instantiate(Whose::Ours, "plain");
    let outcome = lane.build(request(&other, BuildWishes::default()), Arc::new(SilentLog)).await;
    assert!(matches!(outcome.unwrap(), BuildOutcome::Built(_)));
}

/// How a build fails of which one output is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failing {
    ByItself,
    /// Its outputs are refused.
    Refused,
    TimedOut,
    Cancelled,
    /// By itself, and it has made anew what is valid.
    Floating,
}

impl Failing {
    pub(crate) const ALL: [Failing; 5] = [
        Failing::ByItself,
        Failing::Refused,
        Failing::TimedOut,
        Failing::Cancelled,
        Failing::Floating,
    ];

    pub(crate) fn set(self, settings: &mut LocalSettings) {
        settings.timeout = (self == Failing::TimedOut).then_some(Duration::from_secs(2));
    }

    fn attribute(self) -> &'static str {
        match self {
            Failing::ByItself => "someOutputs",
            Failing::Refused => "someRefused",
            Failing::TimedOut | Failing::Cancelled => "someSleep",
            Failing::Floating => "someFloatingFail",
        }
    }
}

/// T26: a build of which one output was valid fails, and that output is still there.
#[rstest]
#[case::by_itself(Failing::ByItself)]
#[case::refused(Failing::Refused)]
#[case::timed_out(Failing::TimedOut)]
#[case::cancelled(Failing::Cancelled)]
#[case::floating(Failing::Floating)]
#[tokio::test]
async fn a_failing_build_takes_nothing_away(#[case] how: Failing) {
    let bench = Bench::with(|settings| how.set(settings));
    takes_nothing_away(&bench, how).await;
}

pub(crate) async fn takes_nothing_away(bench: &Bench, how: Failing) {
    bench.succeed("depAlone").await;
    let dev = match how {
        Failing::Floating => bench.succeed("someFloating").await["dev"].clone(),
        _ => make_precious(bench, how.attribute()).await,
    };
    let before = names(&bench.path("ours/nix/store"));
    let drv = bench.instantiate(Whose::Ours, how.attribute());
    if how == Failing::Cancelled {
        let begun = bench.begin(&drv).await;
        drop(begun);
        bench.builder.ended().await;
    } else {
        let (outcome, heard) = bench.build(&drv, BuildWishes::default()).await;
        let BuildOutcome::Failed(failure) = outcome else { panic!("{how:?}: {outcome:#?}") };
        let expected = match how {
            Failing::ByItself | Failing::Floating => FailureCause::Build,
            Failing::Refused => FailureCause::Rejected,
            Failing::TimedOut | Failing::Cancelled => FailureCause::TimedOut,
        };
        assert_eq!(failure.cause, expected, "{how:?}: {failure:#?} {:#?}", heard.lines());
    }
    assert_eq!(std::fs::read_to_string(&dev).unwrap(), "precious", "{how:?}");
    let shown = bench.store.store_dir().display(&drv);
    let left: Vec<String> = names(&bench.path("ours/nix/store"))
        .into_iter()
        .filter(|name| !before.contains(name) && !shown.ends_with(name.as_str()))
        .collect();
    assert_eq!(left, Vec::<String>::new(), "{how:?}");
    bench.assert_sound();
}

/// Has the output `dev` of a derivation be valid, and returns its real path.
pub(crate) async fn make_precious(bench: &Bench, attribute: &str) -> PathBuf {
    let drv = bench.instantiate(Whose::Ours, attribute);
    let shown = bench.store.store_dir().display(&drv);
    let dev = bench.nix_ok(Whose::Ours, "nix-store", &["-q", "--binding", "dev", &shown]);
    let path = bench.store.store_dir().parse(&dev).unwrap();
    let real = bench.store.layout().real_path(&path);
    std::fs::write(&real, "precious").unwrap();
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
    real
}

/// T04: a build that fails where the disk is full has most likely failed for that, so it's the machine that
/// failed; and builds go on when there is room again.
#[tokio::test]
async fn a_full_build_folder_is_the_machines() {
    let bench = Bench::new();
    let builds = bench.path("ours/nix/var/nix/builds");
    std::fs::create_dir_all(&builds).unwrap();
    let _small = Mounted::new(&builds, "size=2m");
    let (failure, heard) = bench.fail("fillsFolder").await;
    assert!(
        heard.lines().iter().any(|line| line.contains("No space left on device")),
        "{:#?}",
        heard.lines()
    );
    let BuildFailure { cause: FailureCause::NoRoom, message } = &failure else {
        panic!("{failure:#?}")
    };
    assert!(message.contains("caused by lack of free disk space"), "{message}");
    bench.succeed("plain").await;
    bench.assert_sound();
}

/// A file system in memory, for as long as this is there.
struct Mounted(PathBuf);

impl Mounted {
    fn new(at: &Path, options: &str) -> Mounted {
        let mut command = Command::new("mount");
        let mounted = command.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at).status();
        assert!(mounted.unwrap().success());
        Mounted(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("--lazy").arg(&self.0).status();
        unmounted.map(drop).unwrap_or_default();
    }
}

/// T07: neither of two builds that make what the other one says waits for the other one.
#[tokio::test]
async fn two_that_claim_each_others_hash() {
    let signal = Signal::new();
    let bench = Bench::with(|settings| signal.show(settings));
    let [first, second] =
        ["claimsFirst", "claimsSecond"].map(|attribute| bench.instantiate(Whose::Ours, attribute));
    let both = [bench.begin(&first).await, bench.begin(&second).await];
    // each has the lock of its own path, which is where what the other one makes would be
    signal.give();
    for Begun { outcome, heard, .. } in both {
        let outcome = tokio::time::timeout(LIMIT, outcome).await.expect("they wait for each other");
        let BuildOutcome::Failed(failure) = outcome.unwrap() else { panic!("it went well") };
        assert_eq!(failure.cause, FailureCause::HashMismatch, "{failure:#?} {:#?}", heard.lines());
    }
    bench.builder.ended().await;
    bench.assert_sound();
}
