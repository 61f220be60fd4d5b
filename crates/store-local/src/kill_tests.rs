//! T03: the program is killed at each step of an import and of a collection, and the next one finds a
//! sound store. (Canonical form is not a step of its own, as files are made in it; the middle of a
//! transaction is in `store-db`.)

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use drover_core::PathInfo;
use drover_store::contract::{Given, flat_file};
use drover_store::{
    CollectAction, Collection, Keeper, Liveness, Repair, SignatureCheck, Store, VerifyDepth,
    WhenValid,
};

use crate::failpoint::Point;
use crate::{Access, Layout, LocalOptions, LocalStore};

const HOME: &str = "STORE_LOCAL_HOME";

/// A store in a folder.
pub(crate) fn store(home: &Path) -> LocalStore {
    let real = home.join("store");
    let layout = Layout {
        name: "local".to_owned(),
        store_dir: real.to_str().expect("text").parse().expect("a store directory"),
        real,
        state: home.join("state"),
        log: home.join("log"),
        access: Access::ReadWrite,
    };
    LocalStore::new(layout, LocalOptions::default())
}

fn paths() -> [(PathInfo, bytes::Bytes); 2] {
    let (a, a_nar) = flat_file("a", b"a", &[]);
    let (b, b_nar) = flat_file("b", &[7; 100_000], &[&a]);
    [(a, a_nar), (b, b_nar)]
}

/// Adds two paths: alone, or as the process that the next test has killed.
#[tokio::test]
async fn adds_paths() {
    let own = tempfile::tempdir().expect("a folder");
    let home = std::env::var_os(HOME).map_or_else(|| own.path().to_owned(), PathBuf::from);
    let store = store(&home.canonicalize().expect("a path"));
    store.import(Given::boxed(paths())).await.expect("imported");
    assert_eq!(store.all_valid().await.expect("all").len(), 2);
}

/// Collects garbage: of a store of its own, or as the process that a test has killed.
#[tokio::test]
async fn collects_garbage() {
    let own = tempfile::tempdir().expect("a folder");
    let home = std::env::var_os(HOME).map_or_else(|| own.path().to_owned(), PathBuf::from);
    let home = home.canonicalize().expect("a path");
    if home == own.path() {
        store(&home).import(Given::boxed(paths())).await.expect("imported");
    }
    let collected = store(&home).collect(everything()).await.expect("collected");
    assert_eq!(collected.names.len(), 2);
}

fn everything() -> Collection {
    Collection {
        action: CollectAction::DeleteDead,
        liveness: Liveness::Respect,
        paths: BTreeSet::new(),
        max_freed: None,
    }
}

/// Runs one of the tests above as a process that is killed at a place.
fn kill(test: &str, home: &Path, point: Point) {
    let status = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", test])
        .env(HOME, home)
        .env("STORE_LOCAL_FAILPOINT", format!("{point:?}"))
        .env("RUST_BACKTRACE", "0")
        .output()
        .expect("a process")
        .status;
    assert!(!status.success(), "{point:?} was not reached");
}

/// Checks that exactly these two paths are there, that they are sound, and that nobody holds a lock.
async fn retry_and_check(home: &Path, point: Point) {
    let store = store(home);
    // Takes the locks in any case, and so shows that nobody has them.
    let paths_again = Given::boxed(paths());
    let added = store.add_paths(paths_again, SignatureCheck::Skip, WhenValid::Replace);
    added.await.expect("imported");
    let found = store.verify(VerifyDepth::Contents, Repair::No).await.expect("verified");
    assert!(!found.errors_left, "{point:?}: {found:?}");

    // What lies around is gone after the next collection, what is held isn't.
    store.collect(everything()).await.expect("collected");
    let names = |folder: &Path| {
        let entries = std::fs::read_dir(folder).expect("a folder");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        names.filter(|name| name != ".links").collect::<BTreeSet<_>>()
    };
    let kept: BTreeSet<std::ffi::OsString> =
        paths().iter().map(|(info, _)| info.path.base_name().into()).collect();
    assert_eq!(names(&home.join("store")), kept, "{point:?}");
    let expected: BTreeSet<_> = paths().iter().map(|(info, _)| info.path.clone()).collect();
    assert_eq!(store.all_valid().await.expect("all"), expected, "{point:?}");
    drop(store);
    let roots = names(&home.join("state/temproots"));
    assert!(roots.is_empty(), "{point:?}: {roots:?}");
}

#[rstest::rstest]
#[case(Point::AfterRoot)]
#[case(Point::AfterUnpack)]
#[case(Point::AfterCheck)]
#[case(Point::BeforeLock)]
#[case(Point::AfterLock)]
#[case(Point::AfterRename)]
#[case(Point::BeforeTransaction)]
#[case(Point::AfterCommit)]
#[tokio::test]
async fn killed_while_adding(#[case] point: Point) {
    let folder = tempfile::tempdir().expect("a folder");
    let home = folder.path().canonicalize().expect("a path");
    kill("kill_tests::adds_paths", &home, point);
    let expected: BTreeSet<_> = match point {
        Point::AfterCommit => paths().iter().map(|(info, _)| info.path.clone()).collect(),
        _ => BTreeSet::new(),
    };
    assert_eq!(store(&home).all_valid().await.expect("all"), expected, "{point:?}");
    retry_and_check(&home, point).await;
}

#[rstest::rstest]
#[case(Point::CollectorInvalidated)]
#[case(Point::CollectorMoved)]
#[case(Point::CollectorDeleted)]
#[tokio::test]
async fn killed_while_collecting(#[case] point: Point) {
    let folder = tempfile::tempdir().expect("a folder");
    let home = folder.path().canonicalize().expect("a path");
    store(&home).import(Given::boxed(paths())).await.expect("imported");
    kill("kill_tests::collects_garbage", &home, point);
    let store = store(&home);
    assert_eq!(store.all_valid().await.expect("all"), BTreeSet::new(), "{point:?}");
    // What was being deleted is no way to a path that is broken.
    store.import(Given::boxed(paths())).await.expect("imported");
    let found = store.verify(VerifyDepth::Contents, Repair::No).await.expect("verified");
    assert!(!found.errors_left, "{point:?}: {found:?}");
    drop(store);
    retry_and_check(&home, point).await;
}
