//! Lock files: opened, locked, and deleted so that who waits for them learns of it.
//!
//! An `flock` belongs to an open file, so two sessions of one process exclude each other just as two
//! processes do. A deleted lock file is one that is longer than nothing (`deleteLockFile` in Nix's
//! `src/libstore/unix/pathlocks.cc`).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::LockError;
use crate::wait::Wait;

/// How a lock is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// With others that share it.
    Shared,
    /// With nobody.
    Exclusive,
}

/// Opens a lock file, and makes it where it isn't there.
pub(crate) fn open(path: &Path) -> Result<OwnedFd, LockError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|errno| LockError::io("open lock file", path, errno))
}

/// Locks if that's possible at once.
pub(crate) fn try_lock(file: BorrowedFd<'_>, sharing: Sharing) -> Result<bool, Errno> {
    let operation = match sharing {
        Sharing::Shared => FlockOperation::NonBlockingLockShared,
        Sharing::Exclusive => FlockOperation::NonBlockingLockExclusive,
    };
    loop {
        match rustix::fs::flock(file, operation) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Waits until it has the lock.
pub(crate) fn lock(
    file: BorrowedFd<'_>,
    path: &Path,
    sharing: Sharing,
    wait: Wait<'_>,
    what: &str,
) -> Result<(), LockError> {
    let mut waiting = wait.begin(what);
    while !try_lock(file, sharing).map_err(|errno| LockError::io("lock", path, errno))? {
        waiting.sleep()?;
    }
    Ok(())
}

/// Gives a lock back at once, whatever children have inherited of it between `fork` and `exec`.
///
/// Nothing can be done if that fails; the lock ends with the last descriptor then.
pub(crate) fn unlock(file: BorrowedFd<'_>) {
    rustix::fs::flock(file, FlockOperation::Unlock).ok();
}

/// Whether a locked file was deleted before it was locked, so that the lock is worth nothing.
///
/// The mark is missing if its writer was killed in between, so a file without a name is one too.
pub(crate) fn is_stale(file: BorrowedFd<'_>) -> Result<bool, Errno> {
    let stat = rustix::fs::fstat(file)?;
    Ok(stat.st_size != 0 || stat.st_nlink == 0)
}

/// Marks a lock file whose name is gone as deleted.
///
/// A disk that is full takes no byte; a longer file without one is a mark as well.
pub(crate) fn mark_stale(file: BorrowedFd<'_>) {
    let written = rustix::io::pwrite(file, b"d", 0);
    if !matches!(written, Ok(1)) {
        rustix::fs::ftruncate(file, 1).ok();
    }
}

/// An open file that is locked; dropping it gives the lock back.
#[derive(Debug)]
pub(crate) struct Locked(OwnedFd);

impl Locked {
    /// Takes a file that is locked already.
    pub(crate) fn new(file: OwnedFd) -> Locked {
        Locked(file)
    }
}

impl AsFd for Locked {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        unlock(self.0.as_fd());
    }
}
