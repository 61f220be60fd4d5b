//! T03: the program is killed in the middle of builds, and where their outputs become valid. The store stays sound,
//! no output is there without the others, nothing of the build runs any more, and it can be done again. (Each
//! step by itself is in `store-local`.)

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use drover_core::StorePath;
use drover_store::{
    BuildOutcome, BuildWishes, Builder as _, CollectAction, Collection, Keeper as _, Liveness,
    Repair, SilentLog, Store as _, VerifyDepth,
};
use rstest::rstest;

use crate::bench::{Bench, LIMIT, USERS, Whose, names, request, until, visitor};

const HOME: &str = "DROVER_TEST_KILLED_HOME";
const DERIVATION: &str = "DROVER_TEST_KILLED_DERIVATION";

/// Three outputs that refer to each other, and as many files that registering takes a while.
const OUTPUTS: &str = r#"
{ tools, salt, floating }:
let
  bin = builtins.path { path = tools; name = "tools"; };
  floats = { __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; };
in derivation ({
  name = "killed";
  inherit salt;
  system = builtins.currentSystem;
  builder = "${bin}/bin/sh";
  PATH = "${bin}/bin";
  outputs = [ "out" "dev" "doc" ];
  args = [ "-e" "-c" ''
    busybox mkdir $out $dev $doc
    for n in $(busybox seq 1 200); do echo $n $salt > $out/$n; echo $n $salt > $dev/$n; done
    echo $dev > $out/dev; echo $out > $out/itself; echo $salt > $doc/salt
  '' ];
} // (if floating then floats else { }))
"#;

/// When it's killed.
#[derive(Clone, Copy, Debug)]
enum When {
    /// After a part of the time that it takes, in hundredths.
    After(u32),
    /// The build has a folder.
    Folder,
    /// What it has made is being looked at.
    Taken,
    /// Something of it is in its place.
    Placed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Paths {
    Known,
    Floating,
}

/// Builds a derivation: of a store of its own, or as the process that a test kills.
#[tokio::test]
async fn builds() {
    let (Some(home), Ok(derivation)) = (std::env::var_os(HOME), std::env::var(DERIVATION)) else {
        let bench = Bench::new();
        let drv = instantiate(&bench, "alone", Paths::Known);
        let (outcome, heard) = bench.build(&drv, BuildWishes::default()).await;
        assert!(matches!(outcome, BuildOutcome::Built(_)), "{outcome:?} {:?}", heard.lines());
        return;
    };
    std::io::Write::write_all(&mut std::io::stdout(), b"begins\n").unwrap();
    let drv = StorePath::from_base_name(&derivation).unwrap();
    build_anew(Path::new(&home), &drv).await;
}

/// Builds a derivation as a process does that has just been started; returns whether it was valid already.
async fn build_anew(home: &Path, drv: &StorePath) -> bool {
    let (builder, _users) = visitor(home);
    let lane = builder.machine().open_lane().await.unwrap();
    let outcome = lane.build(request(drv, BuildWishes::default()), Arc::new(SilentLog)).await;
    drop(lane);
    builder.ended().await;
    match outcome {
        Ok(BuildOutcome::Built(built)) => built.already_valid,
        failed => panic!("{failed:?}"),
    }
}

fn instantiate(bench: &Bench, salt: &str, paths: Paths) -> StorePath {
    let file = bench.path("killed.nix");
    std::fs::write(&file, OUTPUTS).unwrap();
    let tools = bench.path("tools");
    let floating = if paths == Paths::Floating { "true" } else { "false" };
    let root = bench.path(&format!("root-{salt}"));
    let arguments =
        [file.to_str().unwrap(), "--arg", "tools", tools.to_str().unwrap(), "--argstr", "salt"];
    let more =
        [salt, "--arg", "floating", floating, "--add-root", root.to_str().unwrap(), "--indirect"];
    bench.nix_ok(Whose::Ours, "nix-instantiate", &[&arguments[..], &more].concat());
    let target = std::fs::read_link(root).unwrap();
    let name = target.file_name().unwrap().to_str().unwrap().split('!').next().unwrap();
    StorePath::from_base_name(name).unwrap()
}

/// Starts a process that builds, and returns when it begins.
fn begin(bench: &Bench, drv: &StorePath) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "killed::builds", "--nocapture"])
        .env(HOME, bench.home.path())
        .env(DERIVATION, drv.base_name())
        .env(USERS, bench.first_user().to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.ends_with("begins")), "it has ended");
    child
}

/// Waits for a moment; returns whether the process has ended before.
fn wait_for(child: &mut Child, when: impl Fn() -> bool) -> bool {
    let begun = Instant::now();
    while !when() {
        if child.try_wait().unwrap().is_some() {
            return true;
        }
        assert!(begun.elapsed() < LIMIT, "it neither ends nor gets there");
    }
    false
}

/// Returns what there is in the store's folder and in the folders there that builds use for a while.
fn in_store(bench: &Bench) -> BTreeSet<OsString> {
    let store: PathBuf = bench.path("ours/nix/store");
    names(&store).into_iter().map(OsString::from).collect()
}

/// No output is valid without the others.
async fn assert_whole(bench: &Bench, salt: &str) -> usize {
    let valid = bench.store.all_valid().await.unwrap();
    let outputs =
        valid.iter().filter(|path| path.name().starts_with("killed") && !path.is_derivation());
    let mut number = 0;
    for path in outputs {
        let known = bench.nix_ok(
            Whose::Ours,
            "nix-store",
            &["-q", "--deriver", &bench.store.store_dir().display(path)],
        );
        assert!(known.ends_with("-killed.drv"), "{known}");
        number += 1;
    }
    assert_eq!(number % 3, 0, "{salt}: {valid:?}");
    number
}

#[rstest]
#[case::known(Paths::Known)]
#[case::floating(Paths::Floating)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment(#[case] paths: Paths) {
    let bench = Bench::new();
    let first = instantiate(&bench, "first", paths);
    let begun = Instant::now();
    let mut child = begin(&bench, &first);
    assert!(child.wait().unwrap().success());
    let whole = begun.elapsed();
    let moments = (1..=5).map(|part| When::After(part * 19));
    let steps = [When::Folder, When::Taken, When::Placed];
    let mut killed = 0;
    for (at, when) in moments.chain(steps.iter().copied().cycle().take(6)).enumerate() {
        let salt = format!("{at}");
        let drv = instantiate(&bench, &salt, paths);
        let before = in_store(&bench);
        let mut child = begin(&bench, &drv);
        let ended = match when {
            When::After(part) => {
                tokio::time::sleep(whole * part / 100).await;
                child.try_wait().unwrap().is_some()
            }
            When::Folder => {
                let builds = bench.path("ours/nix/var/nix/builds");
                wait_for(&mut child, || !names(&builds).is_empty())
            }
            When::Taken => wait_for(&mut child, || is_taken(&bench, &before)),
            When::Placed => wait_for(&mut child, || is_placed(&bench, &before)),
        };
        child.kill().unwrap();
        child.wait().unwrap();
        killed += usize::from(!ended);
        until(|| bench.running().is_empty()).await;
        let number = assert_whole(&bench, &salt).await;
        let found = bench.store.verify(VerifyDepth::Contents, Repair::No).await.unwrap();
        assert!(!found.errors_left, "{when:?}: {found:?}");
        // what was registered counts, and what was not is built
        let all = 3 * (at + 2);
        let was_there = build_anew(bench.home.path(), &drv).await;
        let expected = if number == all { (all, true) } else { (all - 3, false) };
        assert_eq!((number, was_there), expected, "{when:?}");
        assert_eq!(assert_whole(&bench, &salt).await, all);
    }
    assert!(5 <= killed, "only {killed} were in time");
    // what lies around of those that were killed is gone after a collection
    let (action, liveness) = (CollectAction::DeleteDead, Liveness::Respect);
    let collection = Collection { action, liveness, paths: BTreeSet::new(), max_freed: None };
    bench.store.collect(collection).await.unwrap();
    bench.assert_sound();
}

/// Whether a folder is in the store in which what a build has made is looked at, with something in it.
fn is_taken(bench: &Bench, before: &BTreeSet<OsString>) -> bool {
    let store = bench.path("ours/nix/store");
    let new = in_store(bench).into_iter().filter(|name| !before.contains(name));
    new.into_iter().any(|name| {
        name.to_str().is_some_and(|name| name.contains("-tmp-"))
            && !names(&store.join(name)).is_empty()
    })
}

/// Whether something that a build has made is in its place.
fn is_placed(bench: &Bench, before: &BTreeSet<OsString>) -> bool {
    in_store(bench).iter().filter(|name| !before.contains(*name)).any(|name| {
        let name = name.to_str().unwrap_or_default();
        name.contains("-killed") && !name.ends_with(".lock") && !name.ends_with(".drv")
    })
}
