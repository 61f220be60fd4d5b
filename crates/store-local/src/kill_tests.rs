//! T03: the program is killed at each step of an import, of the registration of what a build has made and of a
//! collection, and the next one finds a sound store. (Canonical form is not a step of its own, as files are made in
//! it; the middle of a transaction is in `store-db`.)

use std::collections::BTreeSet;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use drover_core::{DrvOutput, Hash, HashAlgorithm, PathInfo, Realisation, StorePath};
use drover_store::contract::{Given, flat_file};
use drover_store::{
    CollectAction, Collection, Keeper, Liveness, Repair, SignatureCheck, Store, VerifyDepth,
    WhenValid,
};
use drover_store_files::{FileName, IGNORED_ATTRIBUTES, Owners, Tree, canonicalise};

use crate::failpoint::{Point, reach};
use crate::{Access, Layout, LocalOptions, LocalStore, Product};

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

/// What a build has made: three outputs, one of which refers to the others, and what is in them.
fn outputs() -> [(PathInfo, Vec<u8>); 3] {
    let contents = [vec![1; 100_000], b"dev".to_vec(), b"doc".to_vec()];
    let [out, dev, doc] = contents;
    let (mut dev_info, _) = flat_file("made-dev", &dev, &[]);
    let (mut doc_info, _) = flat_file("made-doc", &doc, &[]);
    let (mut out_info, _) = flat_file("made", &out, &[&dev_info, &doc_info]);
    for info in [&mut dev_info, &mut doc_info, &mut out_info] {
        info.ultimate = true;
    }
    [(out_info, out), (dev_info, dev), (doc_info, doc)]
}

fn output_paths() -> BTreeSet<StorePath> {
    outputs().iter().map(|(info, _)| info.path.clone()).collect()
}

/// What one of them is said to have become.
fn became() -> Realisation {
    let hash = Hash::of(HashAlgorithm::Sha256, b"derivation");
    let id = DrvOutput { hash, output: "out".parse().expect("a name") };
    let [(info, _), ..] = outputs();
    Realisation { id, out_path: info.path, signatures: BTreeSet::new() }
}

/// Does what a builder does of its outputs.
async fn register(store: &LocalStore) {
    let locks = store.lock_outputs(output_paths()).await.expect("locked");
    let workshop = store.workshop().await.expect("a folder");
    let folder = PathBuf::from(format!("/proc/self/fd/{}", workshop.folder().as_raw_fd()));
    let make = |(info, contents): (PathInfo, Vec<u8>)| {
        let entry = format!("out-{}", info.path.name());
        std::fs::write(folder.join(&entry), contents).expect("written");
        let name = FileName::new(entry.as_bytes()).expect("a name");
        let tree = Tree { dir: workshop.folder(), name: &name };
        canonicalise(&[tree], &Owners::Anybody, &IGNORED_ATTRIBUTES).expect("canonical");
        Product { info, entry }
    };
    let products = outputs().into_iter().map(make).collect();
    reach(Point::AfterUnpack);
    let locked = store.lock_products(locks, products).await.expect("locked");
    let became = vec![became()];
    let registering = store.register_outputs(&workshop, locked, became, WhenValid::Keep);
    registering.await.expect("registered");
}

/// Makes what was built valid: alone, or as the process that a test has killed.
#[tokio::test]
async fn registers_outputs() {
    let own = tempfile::tempdir().expect("a folder");
    let home = std::env::var_os(HOME).map_or_else(|| own.path().to_owned(), PathBuf::from);
    let store = store(&home.canonicalize().expect("a path"));
    register(&store).await;
    assert_eq!(store.all_valid().await.expect("all"), output_paths());
    assert_eq!(store.realisation(&became().id).await.expect("asked"), Some(became()));
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

/// Adds paths again, and checks the store.
async fn retry_and_check(home: &Path, point: Point) {
    let store = store(home);
    // Takes the locks in any case, and so shows that nobody has them.
    let paths_again = Given::boxed(paths());
    let added = store.add_paths(paths_again, SignatureCheck::Skip, WhenValid::Replace);
    added.await.expect("imported");
    let expected = paths().iter().map(|(info, _)| info.path.clone()).collect();
    check(home, store, expected, point).await;
}

/// Checks that exactly these paths are there, which are held, that they are sound, and that nothing lies around
/// after the next collection.
async fn check(home: &Path, store: LocalStore, expected: BTreeSet<StorePath>, point: Point) {
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
        expected.iter().map(|path| path.base_name().into()).collect();
    assert_eq!(names(&home.join("store")), kept, "{point:?}");
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

/// Stock Nix finds nothing wrong with a store.
fn stock_finds_it_sound(home: &Path, point: Point) {
    let checked = Command::new("nix-store")
        .args(["--verify", "--check-contents"])
        .env("NIX_REMOTE", "local")
        .env("NIX_STORE_DIR", home.join("store"))
        .env("NIX_STATE_DIR", home.join("state"))
        .env("NIX_LOG_DIR", home.join("log"))
        .env("NIX_CONF_DIR", home.join("conf"))
        .env("NIX_CONFIG", "build-users-group =")
        .output()
        .expect("nix-store (Debian: apt install nix-bin)");
    let said = String::from_utf8_lossy(&checked.stderr);
    let is_sound = checked.status.success()
        && !["modified", "disappeared"].iter().any(|word| said.contains(word));
    assert!(is_sound, "{point:?}: {said}");
}

/// No output is there without the others, nor what it is said to be.
#[rstest::rstest]
#[case(Point::AfterLock)]
#[case(Point::AfterUnpack)]
#[case(Point::AfterRoot)]
#[case(Point::AfterRename)]
#[case(Point::BeforeTransaction)]
#[case(Point::AfterCommit)]
#[case(Point::AfterClearing)]
#[tokio::test]
async fn killed_while_registering(#[case] point: Point) {
    let folder = tempfile::tempdir().expect("a folder");
    let home = folder.path().canonicalize().expect("a path");
    kill("kill_tests::registers_outputs", &home, point);
    let expected = match point {
        Point::AfterCommit | Point::AfterClearing => (output_paths(), Some(became())),
        _ => (BTreeSet::new(), None),
    };
    let store = store(&home);
    let became = store.realisation(&became().id).await.expect("asked");
    assert_eq!((store.all_valid().await.expect("all"), became), expected, "{point:?}");
    let found = store.verify(VerifyDepth::Contents, Repair::No).await.expect("verified");
    assert!(!found.errors_left, "{point:?}: {found:?}");
    stock_finds_it_sound(&home, point);
    // takes the locks, and so shows that nobody has them
    register(&store).await;
    stock_finds_it_sound(&home, point);
    check(&home, store, output_paths(), point).await;
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
