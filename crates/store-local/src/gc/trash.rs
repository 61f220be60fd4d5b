//! Where paths are moved before they are unlinked, so that nobody waits for the unlinking.
//!
//! It is called as Nix calls temporary directories, and locked like one, so that whatever a killed
//! collector leaves is garbage to the next, ours or Nix's.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use drover_store_files::{FileName, remove_tree};
use drover_store_locks::{DirLock, LockError, RealStore};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::error::GcError;

/// A directory of things that are to be unlinked.
pub(super) struct Trash<'a> {
    store: &'a RealStore,
    name: String,
    dir: DirLock,
    moved: u64,
}

/// What became of something that was to be moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is in the trash.
    Moved,
    /// It was not there.
    Absent,
    /// It could not be moved and is gone already.
    Removed {
        /// Bytes freed.
        bytes: u64,
    },
}

impl<'a> Trash<'a> {
    /// Makes the directory. No other collector runs.
    pub(super) fn new(store: &'a RealStore) -> Result<Trash<'a>, GcError> {
        for number in 0_u32.. {
            let name = format!("tmp-{}-{number}", std::process::id());
            match rustix::fs::mkdirat(store, &name, Mode::RWXU) {
                Ok(()) => {}
                Err(Errno::EXIST) => continue,
                Err(errno) => {
                    return Err(GcError::errno("make", &store.path().join(name), errno));
                }
            }
            if let Some(dir) = DirLock::try_acquire(store, &name)? {
                return Ok(Trash { store, name, dir, moved: 0 });
            }
        }
        let path = store.path().to_owned();
        Err(LockError::Stopped { what: format!("for a name in '{}'", path.display()) }.into())
    }

    /// Moves something here.
    ///
    /// Some file systems can't move directories (overlays with lower layers), and mount points
    /// can't be moved anywhere.
    pub(super) fn take(&mut self, name: &CStr) -> Result<Taken, GcError> {
        let to = self.moved.to_string();
        let rename = || rustix::fs::renameat(self.store, name, &self.dir, &to);
        let renamed = match rename() {
            // Who isn't root can move only directories that it may write to.
            Err(Errno::ACCESS) => self.permit(name).and_then(|()| rename()),
            renamed => renamed,
        };
        match renamed {
            Ok(()) => {
                self.moved += 1;
                Ok(Taken::Moved)
            }
            Err(Errno::NOENT) => Ok(Taken::Absent),
            Err(Errno::XDEV | Errno::NOSPC | Errno::DQUOT | Errno::MLINK) => {
                delete_in_place(self.store, name)
            }
            Err(errno) => {
                let path = self.store.path().join(&*name.to_string_lossy());
                Err(GcError::errno("move away", &path, errno))
            }
        }
    }

    fn permit(&self, name: &CStr) -> Result<(), Errno> {
        let dir = open_dir(self.store, name)?;
        rustix::fs::fchmod(&dir, Mode::RWXU)
    }

    /// Unlinks all that was moved here; returns the bytes freed, as Nix
    /// counts them.
    pub(super) fn empty(&mut self) -> Result<u64, GcError> {
        let mut bytes = 0;
        for number in 0..std::mem::take(&mut self.moved) {
            let name: FileName = number.to_string().parse()?;
            bytes += remove_tree(self.dir.as_fd(), &name)?.nominal;
        }
        Ok(bytes)
    }
}

/// Deletes something where it is, if there is no way to move it.
pub(super) fn delete_in_place(store: &RealStore, name: &CStr) -> Result<Taken, GcError> {
    let name = FileName::new(name.to_bytes())?;
    Ok(Taken::Removed { bytes: remove_tree(store.as_fd(), &name)?.nominal })
}

impl Drop for Trash<'_> {
    fn drop(&mut self) {
        // What is left in it is garbage to the next collector.
        rustix::fs::unlinkat(self.store, &self.name, AtFlags::REMOVEDIR).ok();
    }
}

fn open_dir(folder: impl AsFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(folder, name, flags, Mode::empty())
}
