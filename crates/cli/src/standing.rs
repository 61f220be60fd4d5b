//! The daemon of drover that stands before a store, so that all builds on a machine for that store
//! go through its one scheduler, whoever asks for them.
//!
//! Such a daemon holds a lock on a file in the store's state directory, which says where it listens.
//! Whoever can have the lock knows that there is none, whatever the file says: it needs no tidying
//! after a kill. Who looks shares the lock for a moment, which a daemon that starts waits for; and a daemon
//! that has the lock but has said nothing yet is about to, which who looks waits for.

use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use fs_err::File;
use fs_err::os::unix::fs::OpenOptionsExt as _;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Bytes of a socket's path and what stands behind it; the system takes fewer.
const MAX_PATH: u64 = 4096;

/// How often the other side is waited for, and how long each time: both do at once what they do.
const TRIES: u32 = 500;
const MOMENT: Duration = Duration::from_millis(10);

/// What stands in the file's second line, where the daemon knows what drover says to it beside the protocol.
const WORDS: &[u8] = b"\nintroductions\n";

fn file(state: &Path) -> PathBuf {
    state.join("drover-daemon")
}

/// The place of the daemon that stands before a store, until this is dropped.
#[derive(Debug)]
pub(crate) struct Standing {
    lock: Locked,
}

impl Standing {
    /// Takes the place before the store with this state directory; nothing where another daemon has it
    /// already. Who looks for the daemon from now on waits until it says where it listens.
    ///
    /// # Errors
    ///
    /// The file can't be written, or is looked at all the time.
    pub(crate) fn take(state: &Path) -> io::Result<Option<Standing>> {
        let mut options = fs_err::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o644);
        let file = options.open(file(state))?;
        for _ in 0..TRIES {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    let lock = Locked(file);
                    lock.0.set_len(0)?;
                    return Ok(Some(Standing { lock }));
                }
                Err(Errno::WOULDBLOCK) if is_held(&file)? => return Ok(None),
                Err(Errno::WOULDBLOCK | Errno::INTR) => sleep(MOMENT),
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::Error::new(io::ErrorKind::WouldBlock, "others look for a daemon all the time"))
    }

    /// Says that the daemon listens at `socket`.
    ///
    /// # Errors
    ///
    /// The file can't be written; the place is given back.
    pub(crate) fn announce(mut self, socket: &Path) -> io::Result<Standing> {
        self.lock.0.write_all(&[socket.as_os_str().as_bytes(), WORDS].concat())?;
        Ok(self)
    }
}

/// A locked file. Its lock ends with this, whatever children have inherited of it between `fork` and
/// `exec`.
#[derive(Debug)]
struct Locked(File);

impl Drop for Locked {
    fn drop(&mut self) {
        flock(&self.0, FlockOperation::Unlock).ok();
    }
}

/// Whether a daemon has the lock, and not only some who look.
fn is_held(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => {
            flock(file, FlockOperation::Unlock)?;
            Ok(false)
        }
        Err(Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Returns where the daemon of drover listens that stands before the store with this state
/// directory, if there is one.
pub(crate) fn daemon_of(state: &Path) -> Option<PathBuf> {
    find(state).map(|found| found.socket)
}

/// Whether a daemon knows what drover says to it beside the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Introductions {
    Known,
    Unknown,
}

/// A daemon that stands before a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) socket: PathBuf,
    pub(crate) introductions: Introductions,
}

/// Returns the daemon of drover that stands before the store with this state directory, if there is one.
pub(crate) fn find(state: &Path) -> Option<Found> {
    for _ in 0..TRIES {
        let file = File::open(file(state)).ok()?;
        if !is_held(&file).ok()? {
            return None;
        }
        let mut said = Vec::new();
        file.take(MAX_PATH).read_to_end(&mut said).ok()?;
        if !said.is_empty() {
            return understood(said);
        }
        sleep(MOMENT);
    }
    None
}

fn understood(mut said: Vec<u8>) -> Option<Found> {
    // one of an earlier release has the path only, and knows no introductions
    let end = said.len().checked_sub(WORDS.len()).filter(|end| said.get(*end..) == Some(WORDS));
    said.truncate(end.unwrap_or(said.len()));
    let socket = PathBuf::from(std::ffi::OsString::from_vec(said));
    let introductions = end.map_or(Introductions::Unknown, |_| Introductions::Known);
    socket.is_absolute().then_some(Found { socket, introductions })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announced(state: &Path, socket: &str) -> Standing {
        let standing = Standing::take(state).unwrap().unwrap();
        standing.announce(Path::new(socket)).unwrap()
    }

    #[test]
    fn a_daemon_is_found_as_long_as_it_stands() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(daemon_of(state.path()), None);
        let standing = announced(state.path(), "/run/a/longer/socket");
        assert_eq!(daemon_of(state.path()), Some(PathBuf::from("/run/a/longer/socket")));
        // there is one already
        assert!(Standing::take(state.path()).unwrap().is_none());
        drop(standing);
        assert_eq!(daemon_of(state.path()), None);
        let standing = announced(state.path(), "/run/b");
        assert_eq!(daemon_of(state.path()), Some(PathBuf::from("/run/b")));
        drop(standing);
    }

    /// Neither who looks keeps a daemon from its place, nor a daemon that starts is overlooked.
    #[test]
    fn who_looks_and_who_starts_wait_for_each_other() {
        let state = tempfile::tempdir().unwrap();
        drop(Standing::take(state.path()).unwrap());
        let looking = File::open(file(state.path())).unwrap();
        flock(&looking, FlockOperation::LockShared).unwrap();
        let found = std::thread::scope(|scope| {
            scope.spawn(|| {
                sleep(10 * MOMENT);
                drop(looking);
            });
            let standing = Standing::take(state.path()).unwrap().unwrap();
            let found = scope.spawn(|| daemon_of(state.path()));
            sleep(10 * MOMENT);
            let _standing = standing.announce(Path::new("/run/a")).unwrap();
            found.join().unwrap()
        });
        assert_eq!(found, Some(PathBuf::from("/run/a")));
    }

    /// A child that is being started has all files of its parent until it has become another program.
    #[test]
    fn a_place_is_given_back_whatever_a_child_has_of_it() {
        let state = tempfile::tempdir().unwrap();
        let standing = announced(state.path(), "/run/a");
        let of_child = standing.lock.0.try_clone().unwrap();
        drop(standing);
        assert_eq!(daemon_of(state.path()), None);
        assert!(Standing::take(state.path()).unwrap().is_some());
        drop(of_child);
    }
}
