//! The GC lock: had alone by a garbage collector, shared for a moment by who adds a root.
//!
//! `<state>/gc.lock`, as `openGCLock` and its users in Nix's `src/libstore/gc.cc` and
//! `local-store.cc`.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use crate::flock::{self, Locked, Sharing};
use crate::{LockError, Wait, socket};

/// What Nix says of it.
const WAITING: &str = "waiting for the big garbage collector lock...";

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
    /// Waits until no other garbage collector runs and nobody keeps them off.
    ///
    /// # Errors
    ///
    /// A file can't be made or opened, or the wait ended.
    pub fn acquire(state_dir: &Path, wait: Wait<'_>) -> Result<GcLock, LockError> {
        socket::ensure(state_dir)?;
        let path = path(state_dir);
        let file = Locked::new(flock::open(&path)?);
        flock::lock(file.as_fd(), &path, Sharing::Exclusive, wait, WAITING)?;
        Ok(GcLock { _file: file })
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
        flock::lock(file.as_fd(), &path, Sharing::Shared, wait, WAITING)?;
        Ok(SharedGcLock { _file: file })
    }
}
