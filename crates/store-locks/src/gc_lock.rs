//! The GC lock: had alone by a garbage collector, shared for a moment by who adds a root.
//!
//! `<state>/gc.lock`, as `openGCLock` and its users in Nix's `src/libstore/gc.cc` and
//! `local-store.cc`.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use crate::flock::{self, Locked, Sharing};
use crate::{LockError, Wait, socket};

pub(crate) fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("gc.lock")
}

/// The GC lock, had alone: this is the only garbage collector.
///
/// Begin a [`RootsServer`](crate::RootsServer) at once, as whoever adds a root from now on waits for
/// its socket.
#[derive(Debug)]
pub struct GcLock {
    _file: Locked,
}

/// The GC lock, shared: no garbage collector runs while it is held.
#[derive(Debug)]
pub struct SharedGcLock {
    _file: Locked,
}

impl GcLock {
    /// What Nix says when it waits for the lock, be it to share it.
    pub const WAITING: &str = "waiting for the big garbage collector lock...";

    /// Waits until no other garbage collector runs and nobody keeps them off.
    ///
    /// # Errors
    ///
    /// A file can't be made or opened, or the wait ended.
    pub fn acquire(state_dir: &Path, wait: Wait<'_>) -> Result<GcLock, LockError> {
        socket::ensure(state_dir)?;
        let path = path(state_dir);
        let file = Locked::new(flock::open(&path)?);
        flock::lock(file.as_fd(), &path, Sharing::Exclusive, wait, GcLock::WAITING)?;
        Ok(GcLock { _file: file })
    }

    /// Takes the lock if no other garbage collector runs and nobody keeps them off.
    ///
    /// # Errors
    ///
    /// A file can't be made or opened.
    pub fn try_acquire(state_dir: &Path) -> Result<Option<GcLock>, LockError> {
        socket::ensure(state_dir)?;
        Ok(try_lock(state_dir, Sharing::Exclusive)?.map(|file| GcLock { _file: file }))
    }
}

impl SharedGcLock {
    /// Waits until no garbage collector runs, and keeps them off.
    ///
    /// Don't add temporary roots to others' sessions and wait for them meanwhile; sharing it once
    /// more is all right.
    ///
    /// # Errors
    ///
    /// The file can't be made or opened, or the wait ended.
    pub fn acquire(state_dir: &Path, wait: Wait<'_>) -> Result<SharedGcLock, LockError> {
        let path = path(state_dir);
        let file = Locked::new(flock::open(&path)?);
        flock::lock(file.as_fd(), &path, Sharing::Shared, wait, GcLock::WAITING)?;
        Ok(SharedGcLock { _file: file })
    }

    /// Takes the lock if no garbage collector runs.
    ///
    /// # Errors
    ///
    /// The file can't be made or opened.
    pub fn try_acquire(state_dir: &Path) -> Result<Option<SharedGcLock>, LockError> {
        Ok(try_lock(state_dir, Sharing::Shared)?.map(|file| SharedGcLock { _file: file }))
    }
}

fn try_lock(state_dir: &Path, sharing: Sharing) -> Result<Option<Locked>, LockError> {
    let path = path(state_dir);
    let file = Locked::new(flock::open(&path)?);
    let had = flock::try_lock(file.as_fd(), sharing)
        .map_err(|errno| LockError::io("lock", &path, errno))?;
    Ok(had.then_some(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_collector_or_many_who_keep_it_off() {
        let state = tempfile::tempdir().unwrap();
        let alone = GcLock::try_acquire(state.path()).unwrap();
        assert!(alone.is_some());
        assert!(GcLock::try_acquire(state.path()).unwrap().is_none());
        assert!(SharedGcLock::try_acquire(state.path()).unwrap().is_none());
        drop(alone);
        let [one, two] = [1, 2].map(|_| SharedGcLock::try_acquire(state.path()).unwrap());
        assert!(one.is_some() && two.is_some());
        assert!(GcLock::try_acquire(state.path()).unwrap().is_none());
        drop((one, two));
        assert!(GcLock::try_acquire(state.path()).unwrap().is_some());
    }
}
