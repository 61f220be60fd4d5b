//! Replaces files by hard links to those that have the same contents.
//!
//! Follows `LocalStore::optimisePath_` of Nix (`src/libstore/optimise-store.cc`).

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use drover_core::{NarHash, encode_base32};
use rustix::fs::{AtFlags, FileType, Mode, Stat};
use rustix::io::Errno;

use crate::handle::{self, EXECUTABLE};
use crate::links::link_path;
use crate::{FileName, FilesError, Links, TreePath, measure};

/// Directories deeper than this are left as they are; none that came from an archive is.
const DEPTH: usize = 64;

/// How a file in `.links` is compared with one that should have the same contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkCheck {
    /// By its size, if somebody uses it. One that has another is corrupt, and removed.
    Size,
    /// By its contents, for trees that were just repaired, whose old contents may be linked.
    Contents,
}

/// What linking did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Optimised {
    /// Files that were replaced by a link.
    pub files: u64,
    /// The sum of their sizes.
    pub bytes: u64,
    /// What should be looked at.
    pub findings: Vec<Finding>,
}

/// Something that isn't as it should be, but doesn't keep the rest from being linked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Finding {
    /// Somebody made a file writable, so its contents may not be what they were.
    #[error("skipping suspicious writable file {path}")]
    Writable {
        /// The file.
        path: TreePath,
    },
    /// A link had other contents than its name says. There may be more corrupt files.
    #[error("removing corrupted link {path}")]
    Corrupted {
        /// The link.
        path: TreePath,
    },
    /// The file system allows no more links to a file.
    #[error("{path} has the maximum number of links")]
    Full {
        /// The link.
        path: TreePath,
    },
    /// There was no room for another name in the directory of links.
    #[error("no space for the link {path}")]
    NoSpace {
        /// The link.
        path: TreePath,
    },
}

impl Links {
    /// Replaces what has equal contents in `name`, a valid path in the store, by links.
    ///
    /// # Errors
    ///
    /// What the system refused. What was linked until then stays so; no contents have changed.
    pub fn optimise(&mut self, name: &FileName, check: LinkCheck) -> Result<Optimised, FilesError> {
        let store = handle::keep(self.store.as_fd(), name)?;
        self.optimise_in(store.as_fd(), name, check)
    }

    /// The same for a tree in another directory of the store's file system, which may be written to.
    ///
    /// # Errors
    ///
    /// As [`Links::optimise`].
    pub fn optimise_in(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &FileName,
        check: LinkCheck,
    ) -> Result<Optimised, FilesError> {
        let mut walk =
            Walk { links: self, check, trail: Vec::new(), optimised: Optimised::default() };
        walk.visit(dir, name)?;
        Ok(walk.optimised)
    }
}

/// Whether the directory of a file may have been written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Kept,
    Touched,
}

struct Walk<'a> {
    links: &'a mut Links,
    check: LinkCheck,
    trail: Vec<FileName>,
    optimised: Optimised,
}

impl Walk<'_> {
    fn visit(&mut self, dir: BorrowedFd<'_>, name: &FileName) -> Result<Outcome, FilesError> {
        self.trail.push(name.clone());
        let stat =
            handle::status(dir, name.as_c_str()).map_err(|errno| self.io("look at", errno))?;
        let outcome = match handle::kind(&stat) {
            FileType::Directory if self.trail.len() <= DEPTH => {
                self.visit_directory(dir, name)?;
                Outcome::Kept
            }
            FileType::RegularFile | FileType::Symlink => self.link(dir, name, &stat)?,
            _ => Outcome::Kept,
        };
        self.trail.pop();
        Ok(outcome)
    }

    fn visit_directory(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &FileName,
    ) -> Result<(), FilesError> {
        let opened =
            handle::open_dir(parent, name.as_c_str()).map_err(|errno| self.io("open", errno))?;
        let mut entries = handle::list(opened.as_fd()).map_err(|errno| self.io("list", errno))?;
        // Nix leaves a directory writable only as long as it takes; so does this, but once per
        // directory and not once per file.
        let mut touched = Outcome::Kept;
        entries.retain(|entry| !self.links.known.contains(&entry.inode));
        let visited = entries.iter().try_for_each(|entry| {
            if self.visit(opened.as_fd(), &entry.name)? == Outcome::Touched {
                touched = Outcome::Touched;
            }
            Ok(())
        });
        if touched == Outcome::Touched || visited.is_err() {
            rustix::fs::fchmod(&opened, EXECUTABLE)
                .and_then(|()| handle::set_store_time(opened.as_fd()))
                .map_err(|errno| self.io("restore", errno))?;
        }
        visited
    }

    fn link(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &FileName,
        stat: &Stat,
    ) -> Result<Outcome, FilesError> {
        if handle::kind(stat) == FileType::RegularFile && stat.st_mode & 0o200 != 0 {
            self.find(Finding::Writable { path: self.path() });
            return Ok(Outcome::Kept);
        }
        if 1 < handle::links(stat) && self.links.known.contains(&stat.st_ino) {
            return Ok(Outcome::Kept);
        }
        let hash = measure(dir, name)?.hash;
        let link: FileName = encode_base32(&hash.0).parse()?;
        self.check_link(&link, stat, &hash)?;
        let links = self.links.dir.as_fd();
        let io = |errno| FilesError::io("link", link_path(&link), errno);
        let linked =
            rustix::fs::linkat(dir, name.as_c_str(), links, link.as_c_str(), AtFlags::empty());
        match linked {
            Ok(()) => {
                self.links.known.insert(stat.st_ino);
                return Ok(Outcome::Kept);
            }
            Err(Errno::EXIST) => {}
            // The directory's index is full.
            Err(Errno::NOSPC) => {
                self.find(Finding::NoSpace { path: link_path(&link) });
                return Ok(Outcome::Kept);
            }
            // It has so many names elsewhere that it gets no other.
            Err(Errno::MLINK) => {
                self.find(Finding::Full { path: self.path() });
                return Ok(Outcome::Kept);
            }
            Err(errno) => return Err(io(errno)),
        }
        let known = match handle::status(links, link.as_c_str()) {
            // A garbage collector has swept it.
            Err(Errno::NOENT) => return Ok(Outcome::Kept),
            known => known.map_err(io)?,
        };
        self.links.known.insert(known.st_ino);
        if known.st_ino == stat.st_ino {
            return Ok(Outcome::Kept);
        }
        self.replace(dir, name, &link, stat)
    }

    /// Removes a link whose contents aren't what its name says.
    fn check_link(
        &mut self,
        link: &FileName,
        stat: &Stat,
        hash: &NarHash,
    ) -> Result<(), FilesError> {
        let links = self.links.dir.as_fd();
        let io = |errno| FilesError::io("check", link_path(link), errno);
        let known = match handle::status(links, link.as_c_str()) {
            Err(Errno::NOENT) => return Ok(()),
            known => known.map_err(io)?,
        };
        let sound = known.st_size == stat.st_size
            && match self.check {
                // What nobody uses may be left by a power cut, with its size and nothing in it.
                LinkCheck::Size if 1 < handle::links(&known) => true,
                LinkCheck::Size | LinkCheck::Contents => match measure(links, link) {
                    Err(error) if error.is_missing() => return Ok(()),
                    measured => measured?.hash == *hash,
                },
            };
        if sound {
            return Ok(());
        }
        match rustix::fs::unlinkat(links, link.as_c_str(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(io(errno)),
        }
        self.find(Finding::Corrupted { path: link_path(link) });
        Ok(())
    }

    /// Puts a name of the linked file in the place of the other, at once.
    fn replace(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &FileName,
        link: &FileName,
        stat: &Stat,
    ) -> Result<Outcome, FilesError> {
        let store = self.links.store.as_fd();
        let (temporary, made) = self.temporary_link(link);
        match made {
            Ok(()) => {}
            Err(Errno::MLINK) => {
                if 0 < stat.st_size {
                    self.find(Finding::Full { path: link_path(link) });
                }
                return Ok(Outcome::Kept);
            }
            Err(Errno::NOENT) => return Ok(Outcome::Kept),
            Err(errno) => return Err(FilesError::io("link", link_path(link), errno)),
        }
        let rename = || rustix::fs::renameat(store, temporary.as_str(), dir, name.as_c_str());
        let renamed = match rename() {
            Err(Errno::ACCESS) if 1 < self.trail.len() => {
                rustix::fs::fchmod(dir, EXECUTABLE | Mode::WUSR).and_then(|()| rename())
            }
            renamed => renamed,
        };
        // If both are the same by now, renaming one to the other leaves both.
        rustix::fs::unlinkat(store, temporary.as_str(), AtFlags::empty()).ok();
        match renamed {
            Ok(()) => {}
            // Some file systems count the name that is about to go.
            Err(Errno::MLINK) => return Ok(Outcome::Touched),
            // A garbage collector, Nix's too, takes names in the store directory that are no path's.
            Err(Errno::NOENT) if handle::status(dir, name.as_c_str()).is_ok() => {
                return Ok(Outcome::Touched);
            }
            Err(errno) => return Err(self.io("replace", errno)),
        }
        self.optimised.files += 1;
        self.optimised.bytes += handle::size(stat);
        Ok(Outcome::Touched)
    }

    /// Gives a linked file another name in the store directory, and tells it.
    fn temporary_link(&self, link: &FileName) -> (String, Result<(), Errno>) {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let (store, links) = (self.links.store.as_fd(), self.links.dir.as_fd());
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let name = format!(".tmp-link-{}-{number}", std::process::id());
            let made =
                rustix::fs::linkat(links, link.as_c_str(), store, name.as_str(), AtFlags::empty());
            // Left by a process of that number that was killed.
            if made != Err(Errno::EXIST) {
                return (name, made);
            }
        }
    }

    fn find(&mut self, finding: Finding) {
        self.optimised.findings.push(finding);
    }

    fn io(&self, action: &'static str, errno: Errno) -> FilesError {
        FilesError::io(action, self.path(), errno)
    }

    fn path(&self) -> TreePath {
        TreePath::of(self.trail.iter().map(FileName::as_bytes))
    }
}
