//! The garbage collector's socket, with clients of all kinds.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::stock_store::patience;
use drover_core::{StoreDir, StorePath};
use drover_store_locks::{
    Claim, Delay, GcLock, LockError, RootsServer, TempRoots, Verdict, Wait, find_temporary_roots,
};

struct Folder {
    folder: tempfile::TempDir,
    dir: StoreDir,
}

impl Folder {
    fn new() -> Folder {
        Folder { folder: tempfile::tempdir().unwrap(), dir: StoreDir::default() }
    }

    fn state(&self) -> &Path {
        self.folder.path()
    }

    fn socket(&self) -> PathBuf {
        self.state().join("gc-socket/socket")
    }

    fn collect(&self) -> (RootsServer, GcLock) {
        let lock = GcLock::acquire(self.state(), patience()).unwrap();
        (RootsServer::start(&lock, self.state(), &self.dir).unwrap(), lock)
    }

    fn client(&self) -> UnixStream {
        let client = UnixStream::connect(self.socket()).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        client
    }
}

fn path(number: usize) -> StorePath {
    StorePath::from_base_name(&format!("{number:032}-x")).unwrap()
}

fn answers(client: &mut UnixStream, count: usize) {
    let mut bytes = vec![0; count];
    client.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, vec![b'1'; count]);
}

#[test]
fn anybody_may_connect() {
    let folder = Folder::new();
    let (_server, _lock) = folder.collect();
    let mode = std::fs::metadata(folder.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o666);
}

/// Nix 2.8 goes on without a root where there is no socket at all.
#[test]
fn a_socket_that_refuses_is_there_before_the_lock_is_and_after() {
    let folder = Folder::new();
    let lock = GcLock::acquire(folder.state(), patience()).unwrap();
    let refused = UnixStream::connect(folder.socket()).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    let server = RootsServer::start(&lock, folder.state(), &folder.dir).unwrap();
    drop(folder.client());
    drop(server);
    let refused = UnixStream::connect(folder.socket()).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    let left = std::fs::read_dir(folder.state().join("gc-socket")).unwrap().count();
    assert_eq!(left, 1);
}

#[test]
fn whatever_an_adder_sends_costs_only_itself() {
    let folder = Folder::new();
    let (server, _lock) = folder.collect();
    let mut silent = folder.client();
    let mut half = folder.client();
    half.write_all(b"/nix/store/0000").unwrap();
    let mut endless = folder.client();
    // The server may hang up in the middle.
    endless.write_all(&vec![b'x'; 100_000]).ok();
    let mut deaf = folder.client();
    deaf.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let line = folder.dir.display(&path(1)) + "\n";
    while deaf.write_all(line.as_bytes()).is_ok() {}
    let mut garbage = folder.client();
    garbage.write_all("\nx\n/etc/passwd\n\u{fffd}\n".repeat(300).as_bytes()).unwrap();
    answers(&mut garbage, 1200);

    let mut honest = folder.client();
    honest.write_all((folder.dir.display(&path(2)) + "\n").as_bytes()).unwrap();
    answers(&mut honest, 1);
    assert!(server.is_root(&path(1)) && server.is_root(&path(2)) && !server.is_root(&path(3)));
    let mut gone = Vec::new();
    assert!(matches!(endless.read_to_end(&mut gone), Ok(0) | Err(_)), "it was hung up on");
    half.write_all(
        format!("{}\n", &folder.dir.display(&path(0))["/nix/store/0000".len()..]).as_bytes(),
    )
    .unwrap();
    answers(&mut half, 1);
    assert!(server.is_root(&path(0)));
    silent.write_all(line.as_bytes()).unwrap();
    answers(&mut silent, 1);
}

/// More than are served: those that were silent longest have to come again, and nobody is stuck.
#[test]
fn a_thousand_connections() {
    let folder = Folder::new();
    let (server, _lock) = folder.collect();
    let held: Vec<UnixStream> = (0..1000).map(|_| folder.client()).collect();
    let session = TempRoots::new(folder.state(), &folder.dir);
    session.add([&path(1)], patience()).unwrap();
    assert!(server.is_root(&path(1)));
    drop(held);
}

/// Answers to what was sent in one go come after the deletion that is in the way, in their order.
#[test]
fn roots_behind_one_whose_path_is_being_deleted() {
    let folder = Folder::new();
    let (server, _lock) = folder.collect();
    let Claim::Granted(deletion) = server.claim(&[path(2)]) else { panic!() };
    let mut client = folder.client();
    let lines: String = [1, 2, 3].map(|n| folder.dir.display(&path(n)) + "\n").concat();
    client.write_all(lines.as_bytes()).unwrap();
    answers(&mut client, 1);
    client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(client.read(&mut [0]).is_err(), "an answer came while the path was being deleted");
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    drop(deletion);
    answers(&mut client, 2);
    assert!(server.is_root(&path(3)));
}

/// The collector holds the lock and is stopped before it listens.
#[test]
fn a_wait_for_a_collector_is_told_of_and_has_an_end() {
    let folder = Folder::new();
    let _lock = GcLock::acquire(folder.state(), patience()).unwrap();
    let told = AtomicBool::new(false);
    let notice = |delay: Delay<'_>| {
        assert_eq!(delay.what, "waiting for the garbage collector to acknowledge a root");
        told.store(true, Ordering::SeqCst);
        Verdict::Wait
    };
    let session = TempRoots::new(folder.state(), &folder.dir);
    let wait = Wait::up_to(Duration::from_millis(1300), &notice);
    assert!(matches!(session.add([&path(1)], wait), Err(LockError::TimedOut { .. })));
    assert!(told.load(Ordering::SeqCst));
}

/// A collector that answers late to what was given up on: the answer isn't taken for another's.
#[test]
fn a_late_answer_is_not_taken_for_the_next_ones() {
    let folder = Folder::new();
    let (server, _lock) = folder.collect();
    let Claim::Granted(deletion) = server.claim(&[path(1), path(2)]) else { panic!() };
    let session = TempRoots::new(folder.state(), &folder.dir);
    let soon = Wait::up_to(Duration::from_millis(50), &crate::stock_store::silent);
    assert!(session.add([&path(1)], soon).is_err());
    std::thread::scope(|scope| {
        let second = scope.spawn(|| session.add([&path(2)], patience()));
        std::thread::sleep(Duration::from_millis(200));
        assert!(!second.is_finished());
        drop(deletion);
        second.join().unwrap().unwrap();
    });
    assert!(server.is_root(&path(2)));
}

/// T05, with our own collector: deletions and sessions in threads; what was acknowledged stays.
#[test]
fn no_acknowledged_root_is_deleted() {
    const PATHS: usize = 8;
    let folder = Folder::new();
    let there: Vec<AtomicBool> = (0..PATHS).map(|_| AtomicBool::new(true)).collect();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for number in 0..6 {
            let (folder, there, ended) = (&folder, &there, &ended);
            scope.spawn(move || {
                let mut round: usize = number;
                while !ended.load(Ordering::SeqCst) {
                    round = round * 5 + 3;
                    let which = round % PATHS;
                    let session = TempRoots::new(folder.state(), &folder.dir);
                    let both = [path(which), path((which + 1) % PATHS)];
                    session.add(&both, patience()).unwrap();
                    there[which].store(true, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_micros(300));
                    assert!(there[which].load(Ordering::SeqCst), "deleted while protected");
                    round %= 1000;
                }
            });
        }
        let began = Instant::now();
        let mut deleted = 0;
        while began.elapsed() < Duration::from_secs(4) {
            let (server, lock) = folder.collect();
            let mut dead: Vec<usize> = (0..PATHS).collect();
            let alive = find_temporary_roots(folder.state(), &folder.dir).unwrap();
            dead.retain(|which| !alive.iter().any(|(_, root)| *root == path(*which)));
            while let Some(which) = dead.first().copied() {
                match server.claim(&[path(which)]) {
                    Claim::Arrived(roots) => dead.retain(|which| !roots.contains(&path(*which))),
                    Claim::Granted(deletion) => {
                        there[which].store(false, Ordering::SeqCst);
                        drop(deletion);
                        deleted += 1;
                        dead.remove(0);
                    }
                }
            }
            drop(server);
            drop(lock);
        }
        ended.store(true, Ordering::SeqCst);
        assert!(0 < deleted);
    });
}

#[test]
fn a_file_of_roots_that_is_none_stops_a_collection() {
    let folder = Folder::new();
    let session = TempRoots::new(folder.state(), &folder.dir);
    session.add([&path(1)], patience()).unwrap();
    let temproots = folder.state().join("temproots");
    let file = std::fs::read_dir(&temproots).unwrap().next().unwrap().unwrap().path();
    let found = find_temporary_roots(folder.state(), &folder.dir).unwrap();
    assert_eq!(found.len(), 1);
    let mut text = std::fs::read(&file).unwrap();
    text.extend(b"/nix/store/half");
    std::fs::write(&file, &text).unwrap();
    let found = find_temporary_roots(folder.state(), &folder.dir).unwrap();
    assert_eq!(found.len(), 1, "a root that is being written counts once it is announced");
    text.push(0);
    std::fs::write(&file, &text).unwrap();
    let error = find_temporary_roots(folder.state(), &folder.dir).unwrap_err();
    assert!(matches!(error, LockError::BadRecord { .. }), "{error}");
    std::fs::write(temproots.join(".keep"), "").unwrap();
}
