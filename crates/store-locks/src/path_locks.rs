//! Locks on store paths: `<path>.lock` beside the path, as `PathLocks` in Nix.
//!
//! Who puts something at a store path, or takes it away and is not a garbage collector, holds its
//! lock, and looks again whether the path is valid once it does.

use std::collections::{BTreeSet, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};

use drover_core::StorePath;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::flock::{self, Locked, Sharing};
use crate::real_store::StoreId;
use crate::wait::Waiting;
use crate::{LockError, RealStore, Wait};

/// Locks on some paths of a store. Dropping them gives them back, and deletes their files.
///
/// Take all that are needed at once: they are taken in their order, so that nobody waits in a
/// circle. Who holds some may take others with [`PathLocks::try_acquire`] only.
#[derive(Debug)]
pub struct PathLocks {
    held: Vec<Held>,
}

/// What came of a try to take locks.
#[derive(Debug)]
pub enum Tried {
    /// All are held.
    Held(PathLocks),
    /// Somebody else has this one; none is held.
    Busy(StorePath),
}

impl Tried {
    /// Returns the locks if they are held.
    pub fn held(self) -> Option<PathLocks> {
        match self {
            Tried::Held(locks) => Some(locks),
            Tried::Busy(_) => None,
        }
    }
}

impl PathLocks {
    /// Takes the locks of `paths` if all are free, none otherwise.
    ///
    /// # Errors
    ///
    /// A lock file can't be made or opened.
    pub fn try_acquire(
        store: &Arc<RealStore>,
        paths: &BTreeSet<StorePath>,
    ) -> Result<Tried, LockError> {
        let mut held = Vec::with_capacity(paths.len());
        for path in paths {
            let lock = match Turn::take(store.id(), path) {
                Some(turn) => Held::take_or_return(store, path, turn)?.ok(),
                None => None,
            };
            match lock {
                Some(lock) => held.push(lock),
                None => return Ok(Tried::Busy(path.clone())),
            }
        }
        Ok(Tried::Held(PathLocks { held }))
    }

    /// Waits until it has the locks of all `paths`.
    ///
    /// # Errors
    ///
    /// A lock file can't be made or opened, or the wait ended; none is held then.
    pub fn acquire(
        store: &Arc<RealStore>,
        paths: &BTreeSet<StorePath>,
        wait: Wait<'_>,
    ) -> Result<PathLocks, LockError> {
        let mut held = Vec::with_capacity(paths.len());
        for path in paths {
            let real = store.path().join(path.base_name());
            let what = format!("waiting for lock on '{}'", real.display());
            let mut waiting = wait.begin(&what);
            let mut turn = Turn::wait(store.id(), path, &mut waiting)?;
            held.push(loop {
                match Held::take_or_return(store, path, turn)? {
                    Ok(lock) => break lock,
                    Err(again) => turn = again,
                }
                waiting.sleep()?;
            });
        }
        Ok(PathLocks { held })
    }

    /// Returns how many locks these are.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

/// One lock that is held.
#[derive(Debug)]
struct Held {
    store: Arc<RealStore>,
    file_name: String,
    // Given back before the turn, as fields are dropped in their order.
    file: Locked,
    _turn: Turn,
}

impl Held {
    /// Takes the lock, or returns the turn if another process has it.
    fn take_or_return(
        store: &Arc<RealStore>,
        path: &StorePath,
        turn: Turn,
    ) -> Result<Result<Held, Turn>, LockError> {
        let file_name = format!("{}.lock", path.base_name());
        loop {
            let file = open_in(store, &file_name, OFlags::CREATE)
                .map_err(|errno| failed("open lock file", store, &file_name, errno))?;
            let file = Locked::new(file);
            let locked = flock::try_lock(file.as_fd(), Sharing::Exclusive)
                .map_err(|errno| failed("lock", store, &file_name, errno))?;
            if !locked {
                return Ok(Err(turn));
            }
            let stale = flock::is_stale(file.as_fd())
                .map_err(|errno| failed("look at lock file", store, &file_name, errno))?;
            if !stale {
                return Ok(Ok(Held { store: store.clone(), file_name, file, _turn: turn }));
            }
            forget_leftover(store, &file_name, &file)?;
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        delete(&self.store, &self.file_name, &self.file);
    }
}

/// Deletes a marked lock file that still has its name, as a crash can leave it; Nix would try it for
/// ever.
fn forget_leftover(store: &RealStore, file_name: &str, file: &Locked) -> Result<(), LockError> {
    match names(store, file_name, file).and_then(|named| match named {
        Named::This => rustix::fs::unlinkat(store, file_name, AtFlags::empty()),
        Named::Other => Ok(()),
    }) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(failed("delete lock file", store, file_name, errno)),
    }
}

/// Takes the name of a locked file away and tells those who wait for it.
///
/// That the name goes is tidiness, so it may fail. It is another file's if a garbage collector took
/// ours away. A mark on a file that keeps its name would stop everyone else.
fn delete(store: &RealStore, file_name: &str, file: &Locked) {
    let gone = match names(store, file_name, file) {
        Ok(Named::This) => rustix::fs::unlinkat(store, file_name, AtFlags::empty()).is_ok(),
        Ok(Named::Other) => true,
        Err(_) => false,
    };
    if gone {
        flock::mark_stale(file.as_fd());
    }
}

/// What a name stands for.
enum Named {
    /// The file that is asked about.
    This,
    /// Another file, or none.
    Other,
}

fn names(store: &RealStore, file_name: &str, file: &Locked) -> Result<Named, Errno> {
    let ours = rustix::fs::fstat(file)?;
    match rustix::fs::statat(store, file_name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(named) if (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino) => Ok(Named::This),
        Ok(_) | Err(Errno::NOENT) => Ok(Named::Other),
        Err(errno) => Err(errno),
    }
}

fn open_in(store: &RealStore, file_name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    rustix::fs::openat(store, file_name, flags, Mode::RUSR | Mode::WUSR)
}

fn failed(action: &'static str, store: &RealStore, file_name: &str, errno: Errno) -> LockError {
    LockError::io(action, &store.path().join(file_name), errno)
}

/// What became of a lock file that nobody should need any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StaleLock {
    /// It is gone.
    Deleted,
    /// Somebody holds it.
    InUse,
}

impl StaleLock {
    /// Whether somebody holds the lock file called `file_name`.
    ///
    /// # Errors
    ///
    /// It can't be opened.
    pub fn is_held(store: &RealStore, file_name: &str) -> Result<bool, LockError> {
        match open_in(store, file_name, OFlags::empty()) {
            Ok(file) => {
                let file = Locked::new(file);
                flock::try_lock(file.as_fd(), Sharing::Exclusive)
                    .map(|free| !free)
                    .map_err(|errno| failed("lock", store, file_name, errno))
            }
            Err(Errno::NOENT | Errno::LOOP | Errno::ISDIR | Errno::NXIO) => Ok(false),
            Err(errno) => Err(failed("open lock file", store, file_name, errno)),
        }
    }

    /// Deletes the lock file called `file_name` unless somebody holds it, as a garbage collector
    /// does.
    ///
    /// # Errors
    ///
    /// It can't be opened or deleted.
    pub fn delete(store: &RealStore, file_name: &str) -> Result<StaleLock, LockError> {
        let failed = |action, errno| failed(action, store, file_name, errno);
        let file = match open_in(store, file_name, OFlags::empty()) {
            Ok(file) => Locked::new(file),
            Err(Errno::NOENT) => return Ok(StaleLock::Deleted),
            Err(errno) => return Err(failed("open lock file", errno)),
        };
        let free = flock::try_lock(file.as_fd(), Sharing::Exclusive)
            .map_err(|errno| failed("lock", errno))?;
        if !free {
            return Ok(StaleLock::InUse);
        }
        match rustix::fs::unlinkat(store, file_name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed("delete lock file", errno)),
        }
        flock::mark_stale(file.as_fd());
        Ok(StaleLock::Deleted)
    }
}

/// The paths that this process has locked, or tries to lock.
///
/// `flock` would do between its sessions as well; here the next one learns at once that it is its
/// turn, and only one of them looks at the file again and again.
static TURNS: LazyLock<(Mutex<Turns>, Condvar)> = LazyLock::new(Default::default);

type Turns = HashSet<(StoreId, StorePath)>;

/// A path's turn in this process.
#[derive(Debug)]
struct Turn((StoreId, StorePath));

impl Turn {
    fn taken() -> MutexGuard<'static, Turns> {
        TURNS.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(store: StoreId, path: &StorePath) -> Option<Turn> {
        let key = (store, path.clone());
        let new = Turn::taken().insert(key.clone());
        new.then(|| Turn(key))
    }

    fn wait(
        store: StoreId,
        path: &StorePath,
        waiting: &mut Waiting<'_>,
    ) -> Result<Turn, LockError> {
        let key = (store, path.clone());
        loop {
            let pause = {
                let mut taken = Turn::taken();
                if taken.insert(key.clone()) {
                    return Ok(Turn(key));
                }
                drop(taken);
                // Whoever is told of the wait may take locks of its own.
                waiting.pause()?
            };
            let taken = Turn::taken();
            if taken.contains(&key) {
                drop(TURNS.1.wait_timeout(taken, pause));
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        Turn::taken().remove(&self.0);
        TURNS.1.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::{Child, Command, Stdio};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::{Delay, Verdict};

    fn silent(_: Delay<'_>) -> Verdict {
        Verdict::Wait
    }

    fn up_to(limit: Duration) -> Wait<'static> {
        Wait::up_to(limit, &silent)
    }

    fn path(digit: char) -> StorePath {
        StorePath::from_base_name(&format!("{}-x", digit.to_string().repeat(32))).unwrap()
    }

    fn paths(digits: &str) -> BTreeSet<StorePath> {
        digits.chars().map(path).collect()
    }

    fn store(dir: &Path) -> Arc<RealStore> {
        Arc::new(RealStore::open(dir).unwrap())
    }

    fn files(dir: &Path) -> Vec<String> {
        let names = std::fs::read_dir(dir).unwrap();
        let mut names: Vec<String> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn lock_file(dir: &Path, digit: char) -> std::path::PathBuf {
        dir.join(format!("{}.lock", path(digit)))
    }

    /// A process that holds a lock file's lock until it is killed.
    fn holder(file: &Path) -> Child {
        let mut child = Command::new("flock")
            .args(["--no-fork", file.to_str().unwrap(), "sh", "-c", "echo held; exec sleep 60"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0; 5];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut said).unwrap();
        child
    }

    #[test]
    fn all_or_none_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let ab = PathLocks::try_acquire(&store, &paths("ab")).unwrap().held().unwrap();
        assert_eq!(ab.len(), 2);
        assert!(PathLocks::try_acquire(&store, &paths("bc")).unwrap().held().is_none());
        let c = PathLocks::try_acquire(&store, &paths("c")).unwrap().held();
        assert!(c.is_some(), "what was not had is free");
        drop((ab, c));
        assert_eq!(files(dir.path()), Vec::<String>::new());
    }

    /// The same directory by another path is the same store.
    #[test]
    fn two_sessions_of_one_process_exclude_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let held = PathLocks::try_acquire(&store(dir.path()), &paths("a")).unwrap().held().unwrap();
        let other = store(&dir.path().join("."));
        let error = PathLocks::acquire(&other, &paths("a"), up_to(Duration::from_millis(50)));
        assert!(matches!(error, Err(LockError::TimedOut { .. })));
        drop(held);
        PathLocks::acquire(&other, &paths("a"), up_to(Duration::from_secs(5))).unwrap();
    }

    #[test]
    fn the_lock_of_another_process_ends_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let mut child = holder(&lock_file(dir.path(), 'a'));
        assert!(PathLocks::try_acquire(&store, &paths("a")).unwrap().held().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        PathLocks::acquire(&store, &paths("a"), up_to(Duration::from_secs(5))).unwrap();
    }

    /// What `deleteLockFile` of Nix leaves to those who wait: an unlinked file with a mark.
    #[test]
    fn a_lock_file_that_was_deleted_meanwhile_is_opened_anew() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let file = lock_file(dir.path(), 'a');
        let mut child = holder(&file);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                PathLocks::acquire(&store, &paths("a"), up_to(Duration::from_secs(20))).unwrap()
            });
            let old = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
            std::thread::sleep(Duration::from_millis(100));
            std::fs::remove_file(&file).unwrap();
            std::io::Write::write_all(&mut &old, b"d").unwrap();
            child.kill().unwrap();
            child.wait().unwrap();
            let held = waiter.join().unwrap();
            assert_eq!(std::fs::metadata(&file).unwrap().len(), 0, "a new file, by the old name");
            drop(held);
        });
    }

    /// A crash between the two steps of a deletion, in either order.
    #[rstest::rstest]
    #[case::marked_but_named("d")]
    #[case::neither("")]
    fn a_lock_file_that_a_crash_left_is_in_nobodys_way(#[case] contents: &str) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(lock_file(dir.path(), 'a'), contents).unwrap();
        let held = PathLocks::try_acquire(&store(dir.path()), &paths("a")).unwrap().held();
        assert!(held.is_some());
    }

    #[test]
    fn a_collector_deletes_a_free_lock_file_and_leaves_one_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let held = PathLocks::try_acquire(&store, &paths("a")).unwrap().held().unwrap();
        std::fs::write(lock_file(dir.path(), 'b'), "").unwrap();
        let name = |digit| format!("{}.lock", path(digit));
        assert_eq!(
            ['a', 'b', 'c'].map(|digit| StaleLock::is_held(&store, &name(digit)).unwrap()),
            [true, false, false]
        );
        assert_eq!(StaleLock::delete(&store, &name('a')).unwrap(), StaleLock::InUse);
        assert_eq!(StaleLock::delete(&store, &name('b')).unwrap(), StaleLock::Deleted);
        assert_eq!(StaleLock::delete(&store, &name('c')).unwrap(), StaleLock::Deleted);
        assert_eq!(files(dir.path()), [name('a')]);
        drop(held);
    }

    /// T07: many that want overlapping sets, named in any order, and one at a time in each path.
    #[test]
    fn many_want_the_same_paths() {
        let dir = tempfile::tempdir().unwrap();
        let inside: Vec<AtomicUsize> = (0..3).map(|_| AtomicUsize::new(0)).collect();
        std::thread::scope(|scope| {
            for number in 0..32_usize {
                let (inside, dir) = (&inside, dir.path());
                scope.spawn(move || {
                    let store = store(dir);
                    let mine = [number % 3, (number / 3) % 3];
                    let digits: String = mine.iter().map(|at| ['a', 'b', 'c'][*at]).collect();
                    for _ in 0..20 {
                        let wait = up_to(Duration::from_secs(60));
                        let held = PathLocks::acquire(&store, &paths(&digits), wait).unwrap();
                        let mine: BTreeSet<usize> = mine.into();
                        for at in &mine {
                            assert_eq!(inside[*at].fetch_add(1, Ordering::SeqCst), 0);
                        }
                        for at in &mine {
                            inside[*at].fetch_sub(1, Ordering::SeqCst);
                        }
                        drop(held);
                    }
                });
            }
        });
        assert_eq!(files(dir.path()), Vec::<String>::new());
    }
}
