//! The daemon of drover that stands before a store, so that all builds on a machine for that store
//! go through its one scheduler, whoever asks for them.
//!
//! Such a daemon holds a lock on a file in the store's state directory, which says where it listens.
//! Whoever can have the lock knows that there is none, whatever the file says: it needs no tidying
//! after a kill.

use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use fs_err::File;
use fs_err::os::unix::fs::OpenOptionsExt as _;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Bytes of a socket's path and what stands behind it; the system takes fewer.
const MAX_PATH: u64 = 4096;

/// What stands in the file's second line, where the daemon knows what drover says to it beside the protocol.
const WORDS: &[u8] = b"\nintroductions\n";

fn file(state: &Path) -> PathBuf {
    state.join("drover-daemon")
}

/// Says that a daemon stands before a store, until this is dropped.
#[derive(Debug)]
pub(crate) struct Standing {
    _lock: File,
}

impl Standing {
    /// Says that the daemon that listens at `socket` stands before the store with this state
    /// directory; nothing where another one stands there already.
    ///
    /// # Errors
    ///
    /// The file can't be written.
    pub(crate) fn announce(state: &Path, socket: &Path) -> io::Result<Option<Standing>> {
        let mut options = fs_err::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o644);
        let mut lock = options.open(file(state))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Ok(None),
            locked => locked?,
        }
        lock.set_len(0)?;
        lock.write_all(&[socket.as_os_str().as_bytes(), WORDS].concat())?;
        Ok(Some(Standing { _lock: lock }))
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
    let lock = File::open(file(state)).ok()?;
    match flock(&lock, FlockOperation::NonBlockingLockShared) {
        Err(Errno::WOULDBLOCK) => {}
        _ => return None,
    }
    let mut socket = Vec::new();
    lock.take(MAX_PATH).read_to_end(&mut socket).ok()?;
    // one of an earlier release has the path only, and knows no introductions
    let end = socket.len().checked_sub(WORDS.len()).filter(|end| socket.get(*end..) == Some(WORDS));
    socket.truncate(end.unwrap_or(socket.len()));
    let socket = PathBuf::from(std::ffi::OsString::from_vec(socket));
    let knows = end.map_or(Introductions::Unknown, |_| Introductions::Known);
    socket.is_absolute().then_some(Found { socket, introductions: knows })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_is_found_as_long_as_it_stands() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(daemon_of(state.path()), None);
        let standing = Standing::announce(state.path(), Path::new("/run/a/longer/socket")).unwrap();
        assert!(standing.is_some());
        assert_eq!(daemon_of(state.path()), Some(PathBuf::from("/run/a/longer/socket")));
        // there is one already
        assert!(Standing::announce(state.path(), Path::new("/run/b")).unwrap().is_none());
        drop(standing);
        assert_eq!(daemon_of(state.path()), None);
        let standing = Standing::announce(state.path(), Path::new("/run/b")).unwrap();
        assert_eq!(daemon_of(state.path()), Some(PathBuf::from("/run/b")));
        drop(standing);
    }
}
