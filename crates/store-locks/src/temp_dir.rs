//! Directories in the store that no garbage collector touches while they are used.
//!
//! Nix 2.34 puts them at `tmp-<pid>-<n>` and keeps its collector off by a lock on the directory
//! (`createTempDirInStore` in `src/libstore/local-store.cc`); Nix 2.8 deletes whatever has a name
//! that is no store path. So ours are called like store paths, `<random hash part>-tmp-<pid>-<n>`,
//! and are temporary roots, which both respect; the lock is for collectors of our own.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use drover_core::{StoreName, StorePath};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::flock::{self, Sharing};
use crate::{LockError, RealStore, TempRoots, Wait};

/// A directory, mode 0700, beside store paths, that lives as long as its user.
///
/// When it is dropped it is deleted if it is empty. What a killed process leaves is garbage to the
/// next collector.
#[derive(Debug)]
pub struct TempDir {
    dir: OwnedFd,
    store: Arc<RealStore>,
    path: StorePath,
}

impl TempDir {
    /// Makes a directory that `roots` protect, with a name that nobody else has.
    ///
    /// # Errors
    ///
    /// It can't be made, or a garbage collector did not answer in time.
    pub fn new(
        store: &Arc<RealStore>,
        roots: &TempRoots,
        wait: Wait<'_>,
    ) -> Result<TempDir, LockError> {
        loop {
            let path = unused_name();
            let failed =
                |action, errno| LockError::io(action, &store.path().join(path.base_name()), errno);
            roots.add([&path], wait)?;
            match rustix::fs::mkdirat(store, path.base_name(), Mode::RWXU) {
                Ok(()) => {}
                Err(Errno::EXIST) => continue,
                Err(errno) => return Err(failed("make temporary directory", errno)),
            }
            let dir = open_dir(store, path.base_name())
                .map_err(|errno| failed("open temporary directory", errno))?;
            let locked = flock::try_lock(dir.as_fd(), Sharing::Exclusive)
                .map_err(|errno| failed("lock temporary directory", errno))?;
            if locked {
                return Ok(TempDir { dir, store: store.clone(), path });
            }
        }
    }

    /// Returns its name as that of the store path that it pretends to be.
    pub fn name(&self) -> &StorePath {
        &self.path
    }
}

impl AsFd for TempDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // What isn't empty is garbage from now on.
        rustix::fs::unlinkat(&self.store, self.path.base_name(), AtFlags::REMOVEDIR).ok();
        flock::unlock(self.dir.as_fd());
    }
}

fn open_dir(store: &RealStore, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(store, name, flags, Mode::empty())
}

fn unused_name() -> StorePath {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let mut hash = [0; 20];
    for part in hash.chunks_mut(8) {
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_u64(number);
        for (to, from) in part.iter_mut().zip(hasher.finish().to_ne_bytes()) {
            *to = from;
        }
    }
    let text = format!("tmp-{}-{number}", std::process::id());
    // Always a name; one that is shorter would do as well.
    let name = StoreName::from_str(&text).or_else(|_| StoreName::from_str("tmp"));
    name.map_or_else(|_| unused_name(), |name| StorePath::new(hash, &name))
}

/// The lock on a directory in the store that somebody may be using, for as long as it is deleted.
#[derive(Debug)]
pub struct DirLock {
    dir: OwnedFd,
}

impl DirLock {
    /// Locks the directory called `name` if nobody uses it. `None` if somebody does.
    ///
    /// # Errors
    ///
    /// It can't be opened or locked, `ENOTDIR` among the reasons.
    pub fn try_acquire(store: &RealStore, name: &str) -> Result<Option<DirLock>, LockError> {
        let failed = |action, errno| LockError::io(action, &store.path().join(name), errno);
        let dir = open_dir(store, name).map_err(|errno| failed("open directory", errno))?;
        let locked = flock::try_lock(dir.as_fd(), Sharing::Exclusive)
            .map_err(|errno| failed("lock directory", errno))?;
        Ok(locked.then_some(DirLock { dir }))
    }
}

impl AsFd for DirLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}
