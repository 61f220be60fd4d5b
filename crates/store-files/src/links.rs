//! Hard links in the place of files with equal contents.
//!
//! Every file that was linked also has a name in `.links` in the store directory: the SHA-256 of its
//! NAR in Nix's base 32, by which the next one with the same contents finds it. Symbolic links are
//! linked too; a file that is executable has another NAR than one that isn't.
//!
//! Follows `src/libstore/optimise-store.cc` and the end of `collectGarbage` (`gc.cc`) of Nix.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, Stat};
use rustix::io::Errno;

use crate::handle::{self, Listing};
use crate::{FileName, FilesError, TreePath};

/// The directory of links in a store directory.
const LINKS: &str = ".links";

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Names that were removed, of files that are nowhere else.
    pub removed: u64,
    /// What these files took on the disk.
    pub disk: u64,
    /// What linking saves now, in bytes; negative if the directory of links takes more.
    pub saving: i64,
}

/// The directory of links of a store.
#[derive(Debug)]
pub struct Links {
    pub(crate) store: OwnedFd,
    pub(crate) dir: OwnedFd,
    /// Files that are known to be linked.
    pub(crate) known: HashSet<u64>,
}

impl Links {
    /// Opens the directory of links of a store, and makes it if it isn't there.
    ///
    /// # Errors
    ///
    /// What the system refused.
    pub fn open(store: BorrowedFd<'_>) -> Result<Links, FilesError> {
        let failed = |errno| FilesError::io("open", links_path(), errno);
        match rustix::fs::mkdirat(store, LINKS, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(FilesError::io("make", links_path(), errno)),
        }
        let name: FileName = LINKS.parse()?;
        let dir = handle::open_dir(store, name.as_c_str()).map_err(failed)?;
        let store = rustix::io::fcntl_dupfd_cloexec(store, 0).map_err(failed)?;
        Ok(Links { store, dir, known: HashSet::new() })
    }

    /// Reads which files are linked, so that they are passed over without being hashed: worth it
    /// before many trees are optimised. Takes 16 bytes or so per link.
    ///
    /// # Errors
    ///
    /// What the system refused.
    pub fn load(&mut self) -> Result<(), FilesError> {
        let dir = self.reopen()?;
        let known = &mut self.known;
        handle::for_each_entry(dir.as_fd(), |entry| {
            known.insert(entry.inode);
            Listing::More
        })
        .map_err(|errno| FilesError::io("list", links_path(), errno))
    }

    /// Removes the names of files that are nowhere else in the store any more.
    ///
    /// Only the garbage collector does this, as nobody else keeps others from linking to them.
    ///
    /// # Errors
    ///
    /// What the system refused.
    pub fn sweep(&self) -> Result<Swept, FilesError> {
        let dir = self.reopen()?;
        let mut swept = Swept::default();
        let (mut actual, mut unshared) = (0_u64, 0_u64);
        let mut failed = None;
        handle::for_each_entry(dir.as_fd(), |entry| {
            match self.sweep_entry(&entry.name, &mut swept) {
                Ok(Some(stat)) => {
                    let (size, links) = (handle::size(&stat), handle::links(&stat));
                    actual = actual.saturating_add(size);
                    unshared =
                        unshared.saturating_add(size.saturating_mul(links.saturating_sub(1)));
                    Listing::More
                }
                Ok(None) => Listing::More,
                Err(errno) => {
                    failed = Some(FilesError::io("sweep", link_path(&entry.name), errno));
                    Listing::Enough
                }
            }
        })
        .map_err(|errno| FilesError::io("list", links_path(), errno))?;
        let overhead = rustix::fs::fstat(&dir)
            .map_err(|errno| FilesError::io("look at", links_path(), errno))?;
        let taken = actual.saturating_add(handle::disk_size(&overhead));
        swept.saving = i64::try_from(i128::from(unshared) - i128::from(taken)).unwrap_or(i64::MAX);
        failed.map_or(Ok(swept), Err)
    }

    /// Removes a link that is the only name of its file; returns the state of one that isn't.
    fn sweep_entry(&self, name: &FileName, swept: &mut Swept) -> Result<Option<Stat>, Errno> {
        let stat = match handle::status(self.dir.as_fd(), name.as_c_str()) {
            Err(Errno::NOENT) => return Ok(None),
            stat => stat?,
        };
        if handle::links(&stat) != 1 {
            return Ok(Some(stat));
        }
        match rustix::fs::unlinkat(&self.dir, name.as_c_str(), AtFlags::empty()) {
            // whoever found it corrupted has removed it
            Err(Errno::NOENT) => return Ok(None),
            removed => removed?,
        }
        swept.removed += 1;
        swept.disk += handle::disk_size(&stat);
        Ok(None)
    }

    /// Opens the directory once more, to be read from its beginning.
    fn reopen(&self) -> Result<OwnedFd, FilesError> {
        handle::open_dir(self.store.as_fd(), LINKS.parse::<FileName>()?.as_c_str())
            .map_err(|errno| FilesError::io("open", links_path(), errno))
    }
}

fn links_path() -> TreePath {
    TreePath::of([LINKS.as_bytes()])
}

pub(crate) fn link_path(name: &FileName) -> TreePath {
    TreePath::of([LINKS.as_bytes(), name.as_bytes()])
}
