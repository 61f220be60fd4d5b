//! Puts trees that somebody else has made into the form that everything in a store has.
//!
//! Follows `canonicalisePathMetaData` of Nix (`src/libstore/posix-fs-canonicalise.cc`), which tells
//! links from elsewhere by their owner alone; here they are counted.

mod separate;

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use drover_nar::Limits;
use rustix::fs::{AtFlags, FileType, Gid, Mode, Stat, Uid};
use rustix::io::Errno;

use crate::attributes::{self, Bearer, ByDescriptor, ByMagicPath, Found};
use crate::handle::{self, EXECUTABLE, Entry, PLAIN, STORE_TIME};
use crate::{FileName, FilesError, TreePath};

/// A tree: a name in a directory.
#[derive(Clone, Copy, Debug)]
pub struct Tree<'a> {
    /// The directory.
    pub dir: BorrowedFd<'a>,
    /// The name in it.
    pub name: &'a FileName,
}

/// Whose the files of a tree may be before they become the caller's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owners {
    /// Anybody's.
    Anybody,
    /// These users', those of a build. Whatever belongs to others may be linked from elsewhere
    /// (`ln /etc/shadow $out/`), and is refused. What is theirs and has names elsewhere is copied.
    Users(RangeInclusive<u32>),
}

/// Puts trees into canonical form: files 0444 or 0555 (if their owner could execute them),
/// directories 0555, last modified at 1 s, owned by the caller, without extended attributes other
/// than those called by `ignored_attributes` (usually
/// [`IGNORED_ATTRIBUTES`](crate::IGNORED_ATTRIBUTES)).
///
/// Trees that belong together, the outputs of a build, are given together, since a file may have a
/// name in each of them. What has names outside of them is not changed: if it is canonical already,
/// as files are that [`Links`](crate::Links) has linked, it stays; otherwise a copy takes its place where
/// [`Owners::Users`] says whose it is, and it is refused where anybody could have made it.
///
/// Doing it again changes nothing, if the caller is among the owners.
///
/// # Errors
///
/// Something other than files, directories and symbolic links, something of a foreign owner, a file
/// that is linked from elsewhere, a tree too deep or too large for an archive, or what the system
/// refused. Types, owners and numbers are checked before anything is changed.
pub fn canonicalise(
    trees: &[Tree<'_>],
    owners: &Owners,
    ignored_attributes: &[&str],
) -> Result<(), FilesError> {
    let mut walk = Walk {
        owners,
        ignored: ignored_attributes,
        trail: Vec::new(),
        entries: 0,
        linked: HashMap::new(),
        done: HashSet::new(),
        copies: HashSet::new(),
    };
    trees.iter().try_for_each(|tree| walk.survey(tree.dir, tree.name))?;
    if walk.has_names_outside() {
        trees.iter().try_for_each(|tree| walk.separate(tree.dir, tree.name))?;
        (walk.entries, walk.linked) = (0, HashMap::new());
        trees.iter().try_for_each(|tree| walk.survey(tree.dir, tree.name))?;
    }
    trees.iter().try_for_each(|tree| walk.settle(tree.dir, tree.name))
}

/// Which file it is, whatever its name.
type Inode = (u64, u64);

struct Walk<'a> {
    owners: &'a Owners,
    ignored: &'a [&'a str],
    /// The names from the root to the node at hand.
    trail: Vec<FileName>,
    entries: u64,
    /// Files with several names.
    linked: HashMap<Inode, Names>,
    /// Those that are canonical and the caller's by now.
    done: HashSet<Inode>,
    /// Files that were made here, in the place of those with names outside.
    copies: HashSet<Inode>,
}

/// How many names a file has.
#[derive(Clone, Copy, Debug, Default)]
struct Names {
    /// Those in the trees.
    inside: u64,
    all: u64,
}

impl Walk<'_> {
    /// Checks what can be checked without changing anything, and counts links.
    fn survey(&mut self, dir: BorrowedFd<'_>, name: &FileName) -> Result<(), FilesError> {
        self.trail.push(name.clone());
        let stat =
            handle::status(dir, name.as_c_str()).map_err(|errno| self.io("look at", errno))?;
        self.check(&stat)?;
        if handle::kind(&stat) == FileType::Directory {
            let opened = self.open(dir, name, FileType::Directory)?;
            for entry in self.list(&opened)? {
                self.survey(opened.as_fd(), &entry.name)?;
            }
        } else if 1 < handle::links(&stat) {
            let names = self.linked.entry(inode(&stat)).or_default();
            *names = Names { inside: names.inside + 1, all: handle::links(&stat) };
        }
        self.trail.pop();
        Ok(())
    }

    /// Checks type and owner.
    fn check(&self, stat: &Stat) -> Result<(), FilesError> {
        let kind = handle::kind(stat);
        if !matches!(kind, FileType::RegularFile | FileType::Directory | FileType::Symlink) {
            let kind = handle::kind_name(kind);
            return Err(FilesError::UnsupportedType { path: self.path(), kind });
        }
        match self.owners {
            Owners::Users(users)
                if !users.contains(&stat.st_uid) && !self.copies.contains(&inode(stat)) =>
            {
                Err(FilesError::ForeignOwner { path: self.path(), owner: stat.st_uid })
            }
            _ => Ok(()),
        }
    }

    fn list(&mut self, dir: &OwnedFd) -> Result<Vec<Entry>, FilesError> {
        let Limits { max_depth, max_entries, .. } = Limits::default();
        let entries = handle::list(dir.as_fd()).map_err(|errno| self.io("list", errno))?;
        self.entries += entries.len() as u64;
        if max_entries < self.entries {
            return Err(FilesError::TooManyEntries { path: self.path(), limit: max_entries });
        }
        if max_depth <= self.trail.len() && !entries.is_empty() {
            return Err(FilesError::TooDeep { path: self.path(), limit: max_depth });
        }
        Ok(entries)
    }

    fn open(
        &self,
        dir: BorrowedFd<'_>,
        name: &FileName,
        kind: FileType,
    ) -> Result<OwnedFd, FilesError> {
        let open = || match kind {
            FileType::Directory => handle::open_dir(dir, name.as_c_str()),
            FileType::RegularFile => handle::open_file(dir, name.as_c_str()),
            _ => handle::open_mark(dir, name.as_c_str()),
        };
        match open() {
            // Its own owner may not look at it; that is about to change anyway.
            Err(Errno::ACCESS) => {
                let rights = Mode::RUSR | Mode::from_raw_mode(execute(kind));
                handle::permit(dir, name.as_c_str(), rights).and_then(|()| open())
            }
            opened => opened,
        }
        .map_err(|errno| self.io("open", errno))
    }

    /// Makes a node canonical, then what is in it.
    fn settle(&mut self, dir: BorrowedFd<'_>, name: &FileName) -> Result<(), FilesError> {
        self.trail.push(name.clone());
        let stat =
            handle::status(dir, name.as_c_str()).map_err(|errno| self.io("look at", errno))?;
        let opened = self.open(dir, name, handle::kind(&stat))?;
        let stat = rustix::fs::fstat(&opened).map_err(|errno| self.io("look at", errno))?;
        let many = 1 < handle::links(&stat) && handle::kind(&stat) != FileType::Directory;
        if !many || !self.done.contains(&inode(&stat)) {
            self.check(&stat)?;
            self.settle_opened(opened.as_fd(), &stat)?;
            if many {
                self.done.insert(inode(&stat));
            }
        }
        if handle::kind(&stat) == FileType::Directory {
            for entry in handle::list(opened.as_fd()).map_err(|errno| self.io("list", errno))? {
                self.settle(opened.as_fd(), &entry.name)?;
            }
        }
        self.trail.pop();
        Ok(())
    }

    fn settle_opened(&self, node: BorrowedFd<'_>, stat: &Stat) -> Result<(), FilesError> {
        let inside = self.linked.get(&inode(stat)).map_or(1, |names| names.inside);
        let links = handle::links(stat);
        if handle::kind(stat) != FileType::Directory && inside < links {
            return match self.is_canonical(node, stat) {
                Ok(true) => Ok(()),
                Ok(false) => {
                    let path = self.path();
                    Err(FilesError::LinkedFromOutside { path, links, inside })
                }
                Err(errno) => Err(self.io("read the attributes of", errno)),
            };
        }
        self.strip(node, stat).map_err(|errno| self.io("take the attributes of", errno))?;
        own(node, stat).map_err(|errno| self.io("take over", errno))?;
        set_mode_and_time(node, stat).map_err(|errno| self.io("set mode and time of", errno))
    }

    fn is_canonical(&self, node: BorrowedFd<'_>, stat: &Stat) -> Result<bool, Errno> {
        let mode = Mode::from_raw_mode(stat.st_mode);
        let symlink = handle::kind(stat) == FileType::Symlink;
        let unwanted = |name: &[u8]| self.is_unwanted(name);
        let found = if symlink {
            attributes::find(&ByMagicPath(handle::magic_path(node)), unwanted)?
        } else {
            attributes::find(&ByDescriptor(node), unwanted)?
        };
        Ok(stat.st_uid == rustix::process::geteuid().as_raw()
            && (symlink || mode == PLAIN || mode == EXECUTABLE)
            && is_store_time(stat)
            && found == Found::Nothing)
    }

    fn strip(&self, node: BorrowedFd<'_>, stat: &Stat) -> Result<Found, Errno> {
        let unwanted = |name: &[u8]| self.is_unwanted(name);
        if handle::kind(stat) != FileType::Symlink {
            return attributes::strip(&ByDescriptor(node), unwanted);
        }
        let link = ByMagicPath(handle::magic_path(node));
        match link.list_len() {
            // Without /proc nothing can be said of links, which hardly ever have attributes.
            Err(Errno::NOENT) => Ok(Found::Nothing),
            _ => attributes::strip(&link, unwanted),
        }
    }

    fn is_unwanted(&self, name: &[u8]) -> bool {
        !self.ignored.iter().any(|ignored| ignored.as_bytes() == name)
    }

    fn io(&self, action: &'static str, errno: Errno) -> FilesError {
        FilesError::io(action, self.path(), errno)
    }

    fn path(&self) -> TreePath {
        TreePath::of(self.trail.iter().map(FileName::as_bytes))
    }
}

fn inode(stat: &Stat) -> Inode {
    (stat.st_dev, stat.st_ino)
}

/// The right to go through a directory, which files don't get with the right to read them.
fn execute(kind: FileType) -> u32 {
    if kind == FileType::Directory { 0o100 } else { 0 }
}

fn is_store_time(stat: &Stat) -> bool {
    stat.st_mtime == STORE_TIME && stat.st_mtime_nsec == 0
}

/// Makes a node the caller's. This also takes set-user-id bits from it.
fn own(node: BorrowedFd<'_>, stat: &Stat) -> Result<(), Errno> {
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    if stat.st_uid == user.as_raw() {
        return Ok(());
    }
    rustix::fs::chownat(
        node,
        "",
        Some::<Uid>(user),
        Some::<Gid>(group),
        AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW,
    )
}

fn set_mode_and_time(node: BorrowedFd<'_>, stat: &Stat) -> Result<(), Errno> {
    let kind = handle::kind(stat);
    let executable = kind == FileType::Directory || stat.st_mode & 0o100 != 0;
    let mode = if executable { EXECUTABLE } else { PLAIN };
    if kind != FileType::Symlink && (Mode::from_raw_mode(stat.st_mode) != mode) {
        rustix::fs::fchmod(node, mode)?;
    }
    if is_store_time(stat) {
        return Ok(());
    }
    if kind == FileType::Symlink {
        // An empty path stands for what is open.
        let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
        return rustix::fs::utimensat(node, "", &handle::store_times(), flags);
    }
    handle::set_store_time(node)
}
