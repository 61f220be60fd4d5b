//! The directory that the files of a store really are in.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, Stat};

use crate::LockError;

/// A store's real directory, opened: what is done in it is done by names in this directory, whatever
/// its path leads to later.
#[derive(Debug)]
pub struct RealStore {
    dir: OwnedFd,
    path: PathBuf,
    id: StoreId,
}

/// Which directory it is, whatever the path that led to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct StoreId {
    device: u64,
    inode: u64,
}

impl StoreId {
    fn of(stat: &Stat) -> StoreId {
        StoreId { device: stat.st_dev, inode: stat.st_ino }
    }
}

impl RealStore {
    /// Opens the directory.
    ///
    /// # Errors
    ///
    /// It isn't there, or no directory, or may not be read.
    pub fn open(path: &Path) -> Result<RealStore, LockError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let failed = |errno| LockError::io("open store directory", path, errno);
        let dir = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
        let stat = rustix::fs::fstat(&dir).map_err(failed)?;
        let id = StoreId::of(&stat);
        Ok(RealStore { dir, path: path.to_owned(), id })
    }

    /// Returns the path it was opened by, for messages and for who needs one.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the directory is still where it was. It isn't where somebody removed the store, or
    /// removed it and made a new one.
    pub fn is_current(&self) -> bool {
        rustix::fs::stat(&self.path).is_ok_and(|stat| StoreId::of(&stat) == self.id)
    }

    pub(crate) fn id(&self) -> StoreId {
        self.id
    }
}

impl AsFd for RealStore {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}
