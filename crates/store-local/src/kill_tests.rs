//! The program is killed at each step of an import, and the next one finds a sound store.

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

fn store(home: &Path) -> LocalStore {
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

#[tokio::test]
async fn a_kill_at_any_step_leaves_a_sound_store() {
    for point in [
        Point::BeforeLock,
        Point::AfterLock,
        Point::AfterRename,
        Point::BeforeTransaction,
        Point::AfterCommit,
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let home = folder.path().canonicalize().expect("a path");
        let status = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "kill_tests::adds_paths"])
            .env(HOME, &home)
            .env("STORE_LOCAL_FAILPOINT", format!("{point:?}"))
            .env("RUST_BACKTRACE", "0")
            .output()
            .expect("a process")
            .status;
        assert!(!status.success(), "{point:?} was not reached");

        let store = store(&home);
        let expected: BTreeSet<_> = match point {
            Point::AfterCommit => paths().iter().map(|(info, _)| info.path.clone()).collect(),
            _ => BTreeSet::new(),
        };
        assert_eq!(store.all_valid().await.expect("all"), expected, "{point:?}");
        // Takes the locks in any case, and so shows that nobody has them.
        let paths_again = Given::boxed(paths());
        let added = store.add_paths(paths_again, SignatureCheck::Skip, WhenValid::Replace);
        added.await.expect("imported");
        let found = store.verify(VerifyDepth::Contents, Repair::No).await.expect("verified");
        assert!(!found.errors_left, "{point:?}: {found:?}");

        // What lies around is gone after the next collection, what is held isn't.
        let collection = Collection {
            action: CollectAction::DeleteDead,
            liveness: Liveness::Respect,
            paths: BTreeSet::new(),
            max_freed: None,
        };
        store.collect(collection).await.expect("collected");
        let entries = std::fs::read_dir(home.join("store")).expect("the store");
        let mut names: Vec<_> = entries.map(|entry| entry.expect("an entry").file_name()).collect();
        names.retain(|name| name != ".links");
        names.sort();
        let mut kept: Vec<_> =
            paths().iter().map(|(info, _)| info.path.base_name().into()).collect();
        kept.sort();
        assert_eq!(names, kept as Vec<std::ffi::OsString>, "{point:?}");
    }
}
