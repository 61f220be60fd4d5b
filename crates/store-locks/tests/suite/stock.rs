//! Our locks and roots against processes of stock Nix, on one store.

use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;
use std::slice::from_ref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::stock_store::{StockStore, patience};
use drover_core::StorePath;
use drover_store_locks::{
    BigLock, Claim, GcLock, PathLocks, RealStore, RootsServer, TempDir, TempRoots,
    find_temporary_roots,
};

#[test]
fn stock_collects_what_our_sessions_do_not_protect() {
    let store = StockStore::new();
    let [a, b, c] = ["a", "b", "c"].map(|name| store.add(name, name));
    let one = TempRoots::new(&store.state(), &store.dir);
    let two = TempRoots::new(&store.state(), &store.dir);
    one.add([&a], patience()).unwrap();
    two.add([&b, &a], patience()).unwrap();
    // Of a session whose process was killed.
    let dead = store.state().join("temproots/99999999-1");
    fs::write(&dead, store.dir.display(&c) + "\0").unwrap();

    store.nix(&["--gc"]);
    assert_eq!([&a, &b, &c].map(|path| store.has(path)), [true, true, false]);
    assert!(!dead.exists());

    drop(one);
    store.nix(&["--gc"]);
    assert_eq!([&a, &b].map(|path| store.has(path)), [true, true], "the other session has both");
    drop(two);
    store.nix(&["--gc"]);
    assert_eq!([&a, &b].map(|path| store.has(path)), [false, false]);
    assert_eq!(fs::read_dir(store.state().join("temproots")).unwrap().count(), 0);
}

/// The list of roots that Nix prints names our process.
#[test]
fn stock_lists_our_roots() {
    let store = StockStore::new();
    let a = store.add("a", "a");
    let roots = TempRoots::new(&store.state(), &store.dir);
    roots.add([&a], patience()).unwrap();
    let printed = store.nix(&["--gc", "--print-roots"]);
    let line = format!("{{temp:{}}} -> {}", std::process::id(), store.dir.display(&a));
    // Later versions put the link in quotes.
    assert!(printed.lines().any(|printed| printed.replace('"', "") == line), "{printed}");
    let found = find_temporary_roots(&store.state(), &store.dir).unwrap();
    assert_eq!(found, [(format!("{{temp:{}}}", std::process::id()), a)]);
}

/// The collector has its lock, and has read all roots that there were.
#[test]
fn a_root_that_is_added_while_stock_collects_is_kept() {
    let store = StockStore::new();
    let [a, b, late] = ["a", "b", "late"].map(|name| store.add(name, name));
    let early = TempRoots::new(&store.state(), &store.dir);
    early.add([&a], patience()).unwrap();
    let (collector, fifo) = store.collector_that_waits();
    early.add([&late], patience()).unwrap();
    let other = TempRoots::new(&store.state(), &store.dir);
    other.add([&late, &a], patience()).unwrap();
    fs::write(&fifo, "").unwrap();
    assert!(collector.wait_with_output().unwrap().status.success());
    assert_eq!([&a, &b, &late].map(|path| store.has(path)), [true, false, true]);

    // Its socket has nobody behind it any more.
    let again = store.add("again", "again");
    early.add([&again], patience()).unwrap();
    store.nix(&["--gc"]);
    assert_eq!([&late, &again].map(|path| store.has(path)), [true, true]);
}

#[test]
fn stock_tells_our_collector_of_what_it_adds() {
    let store = StockStore::new();
    let lock = GcLock::acquire(&store.state(), patience()).unwrap();
    let server = RootsServer::start(&lock, &store.state(), &store.dir).unwrap();
    let path = store.add("a", "a");
    let other = "00000000000000000000000000000000-x".parse_path();
    let Claim::Arrived(roots) = server.claim(from_ref(&other)) else {
        panic!("stock Nix added a path without a root")
    };
    assert_eq!(&roots, from_ref(&path));
    assert!(server.is_root(&path) && !server.is_root(&other));
    assert!(matches!(server.claim(&[path]), Claim::Arrived(_)), "it is a root now");
    assert!(matches!(server.claim(&[other]), Claim::Granted(_)));
}

#[test]
fn stock_waits_while_our_collector_deletes_what_it_adds() {
    let store = StockStore::new();
    let path = store.add("a", "a");
    let lock = GcLock::acquire(&store.state(), patience()).unwrap();
    let server = RootsServer::start(&lock, &store.state(), &store.dir).unwrap();
    let Claim::Granted(deletion) = server.claim(from_ref(&path)) else { panic!() };
    let mut adder = store
        .command(&["--add", store.file("a").to_str().unwrap()])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert!(adder.try_wait().unwrap().is_none(), "it went on while its path was being deleted");
    drop(deletion);
    assert!(adder.wait().unwrap().success());
    drop(server);
    drop(lock);
}

#[test]
fn stock_waits_for_our_path_locks() {
    let store = StockStore::new();
    let path = store.add("a", "a");
    store.nix(&["--delete", &store.dir.display(&path)]);
    let real = Arc::new(RealStore::open(store.real()).unwrap());
    let held =
        PathLocks::try_acquire(&real, &BTreeSet::from([path.clone()])).unwrap().held().unwrap();
    let mut adder = store
        .command(&["--add", store.file("a").to_str().unwrap()])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert!(adder.try_wait().unwrap().is_none() && !store.has(&path));
    drop(held);
    assert!(adder.wait().unwrap().success());
    assert!(store.has(&path));
}

#[test]
fn stock_waits_for_who_changes_the_schema() {
    let store = StockStore::new();
    let db = store.state().join("db");
    let shared = BigLock::shared(&db, patience()).unwrap();
    store.add("a", "a");
    let alone = shared.upgrade(patience()).unwrap();
    let mut asker = store
        .command(&["--gc", "--print-roots"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let said = std::io::BufReader::new(asker.stderr.take().unwrap());
    let mut lines = std::io::BufRead::lines(said).map(Result::unwrap);
    assert!(lines.any(|line| line.contains("waiting for the big Nix store lock")));
    assert!(asker.try_wait().unwrap().is_none());
    drop(alone);
    let rest: Vec<String> = lines.collect();
    assert!(asker.wait().unwrap().success(), "{rest:?}");
}

#[test]
fn stock_leaves_our_temporary_directory_until_it_is_given_up() {
    let store = StockStore::new();
    let real = Arc::new(RealStore::open(store.real()).unwrap());
    let roots = TempRoots::new(&store.state(), &store.dir);
    let used = TempDir::new(&real, &roots, patience()).unwrap();
    let name = used.name().clone();
    fs::write(store.real().join(name.base_name()).join("x"), "x").unwrap();
    store.nix(&["--gc"]);
    assert!(store.real().join(name.base_name()).join("x").exists());

    drop(used);
    assert!(store.has(&name), "it is not empty");
    drop(roots);
    store.nix(&["--gc"]);
    assert!(!store.has(&name));

    let roots = TempRoots::new(&store.state(), &store.dir);
    let empty = TempDir::new(&real, &roots, patience()).unwrap();
    let name = empty.name().clone();
    drop(empty);
    assert!(!store.has(&name));
}

/// T05 with a stock collector in a loop: what our sessions have been told is safe never goes.
#[test]
fn what_is_protected_never_goes_while_stock_collects() {
    let store = StockStore::new();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for number in 0..4_u32 {
            let (store, ended) = (&store, &ended);
            scope.spawn(move || {
                let real = Arc::new(RealStore::open(store.real()).unwrap());
                let mut rounds = 0;
                while !ended.load(Ordering::SeqCst) || rounds < 10 {
                    rounds += 1;
                    let digit = (number + rounds) % 6;
                    let path = format!("{}-shared", digit.to_string().repeat(32)).parse_path();
                    let roots = TempRoots::new(&store.state(), &store.dir);
                    roots.add([&path], patience()).unwrap();
                    let only = BTreeSet::from([path.clone()]);
                    let held = PathLocks::acquire(&real, &only, patience()).unwrap();
                    let file = store.real().join(path.base_name());
                    if !file.exists() {
                        fs::write(&file, "x").unwrap();
                    }
                    drop(held);
                    for _ in 0..5 {
                        std::thread::sleep(Duration::from_millis(2));
                        assert!(file.exists(), "{path} went while it was protected");
                    }
                }
            });
        }
        let began = Instant::now();
        let mut collections = 0;
        while began.elapsed() < Duration::from_secs(5) || collections < 5 {
            store.nix(&["--gc"]);
            collections += 1;
        }
        ended.store(true, Ordering::SeqCst);
    });
    store.nix(&["--gc"]);
    let left: Vec<String> = fs::read_dir(store.real())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(left, [".links"]);
}

trait ParsePath {
    fn parse_path(&self) -> StorePath;
}

impl ParsePath for str {
    fn parse_path(&self) -> StorePath {
        StorePath::from_base_name(self).unwrap()
    }
}
