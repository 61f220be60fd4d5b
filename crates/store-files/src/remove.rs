//! Removes file trees, whatever is in them.
//!
//! A tree may be deeper than there are descriptors and longer than any path, and somebody may change
//! it meanwhile: a directory is entered only by opening it, not following a link, and what is in it
//! is removed through that descriptor.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, RenameFlags};
use rustix::io::Errno;

use crate::handle::{self, Entry};
use crate::{FileName, FilesError, TreePath};

/// Directories that are open at once. What is deeper is moved up before it is entered.
const OPEN: usize = 96;

/// How often a directory is looked through again that turns out not to be empty.
const AGAIN: u32 = 16;

/// What the removal of a tree freed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freed {
    /// As Nix counts (`_deletePath` in `src/libutil/unix/file-system.cc`): the sizes of what had one
    /// name left or two, the other presumably in `.links`.
    pub nominal: u64,
    /// What it took on the disk and no longer does: the blocks of directories, and of files that had
    /// no other name.
    pub disk: u64,
}

/// Removes `name` in `dir` with all that is in it, and says what that freed. Nothing of that name is
/// nothing to do.
///
/// Directories that may not be changed are made writable if they are the caller's.
///
/// # Errors
///
/// The first thing that can't be removed; it is there still, with all around it.
pub fn remove_tree(dir: BorrowedFd<'_>, name: &FileName) -> Result<Freed, FilesError> {
    let mut removal =
        Removal { around: dir, root: name, open: Vec::new(), freed: Freed::default(), moved: 0 };
    let entry = Entry { name: name.clone(), kind: FileType::Unknown, inode: 0 };
    removal.remove_or_enter(entry)?;
    while !removal.open.is_empty() {
        removal.step()?;
    }
    Ok(removal.freed)
}

struct Removal<'a> {
    around: BorrowedFd<'a>,
    root: &'a FileName,
    /// The directories that are being emptied, from the root on.
    open: Vec<OpenDir>,
    freed: Freed,
    /// Directories that were moved up.
    moved: u64,
}

struct OpenDir {
    dir: OwnedFd,
    name: FileName,
    left: Vec<Entry>,
    /// How often it has been listed.
    listed: u32,
}

impl Removal<'_> {
    /// Removes the next entry of the innermost directory, or that if it has none.
    fn step(&mut self) -> Result<(), FilesError> {
        let Some(inner) = self.open.last_mut() else { return Ok(()) };
        match inner.left.pop() {
            Some(entry) => self.remove_or_enter(entry),
            None => self.leave(),
        }
    }

    /// The directory that the next node is in.
    fn parent(&self) -> BorrowedFd<'_> {
        self.open.last().map_or(self.around, |inner| inner.dir.as_fd())
    }

    fn remove_or_enter(&mut self, mut entry: Entry) -> Result<(), FilesError> {
        // Whoever changes the tree meanwhile may turn the one into the other, but not for ever.
        for _ in 0..AGAIN {
            let done = match entry.kind {
                FileType::Directory if OPEN <= self.open.len() => return self.move_up(entry),
                FileType::Directory => self.enter(&entry.name),
                _ => self.unlink(&entry.name),
            };
            entry.kind = match done {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                Err(Errno::NOTDIR | Errno::LOOP) => FileType::RegularFile,
                Err(Errno::ISDIR) => FileType::Directory,
                Err(errno) => return Err(FilesError::io("remove", self.path(&entry.name), errno)),
            };
        }
        Err(FilesError::Refilled { path: self.path(&entry.name) })
    }

    fn unlink(&mut self, name: &FileName) -> Result<(), Errno> {
        let stat = handle::status(self.parent(), name.as_c_str())?;
        if handle::kind(&stat) == FileType::Directory {
            return Err(Errno::ISDIR);
        }
        self.unlink_permitted(name, AtFlags::empty())?;
        if handle::links(&stat) <= 2 {
            self.freed.nominal += handle::size(&stat);
        }
        if handle::links(&stat) <= 1 {
            self.freed.disk += handle::disk_size(&stat);
        }
        Ok(())
    }

    /// Removes a name, making the directory that it is in writable if it must be.
    fn unlink_permitted(&self, name: &FileName, flags: AtFlags) -> Result<(), Errno> {
        let unlink = || rustix::fs::unlinkat(self.parent(), name.as_c_str(), flags);
        match unlink() {
            Err(Errno::ACCESS) if !self.open.is_empty() => {
                permit_open(self.parent())?;
                unlink()
            }
            done => done,
        }
    }

    fn enter(&mut self, name: &FileName) -> Result<(), Errno> {
        let parent = self.parent();
        let open = || handle::open_dir(parent, name.as_c_str());
        let dir = match open() {
            Err(Errno::ACCESS) => {
                handle::permit(parent, name.as_c_str(), Mode::RWXU)?;
                open()?
            }
            dir => dir?,
        };
        let left = handle::list(dir.as_fd())?;
        self.open.push(OpenDir { dir, name: name.clone(), left, listed: 1 });
        Ok(())
    }

    /// Removes the innermost directory, or lists it again if it isn't empty.
    fn leave(&mut self) -> Result<(), FilesError> {
        let Some(mut inner) = self.open.pop() else { return Ok(()) };
        let blocks = rustix::fs::fstat(&inner.dir).map_or(0, |stat| handle::disk_size(&stat));
        match self.unlink_permitted(&inner.name, AtFlags::REMOVEDIR) {
            Ok(()) => self.freed.disk += blocks,
            Err(Errno::NOENT) => {}
            // Something else has its name now.
            Err(Errno::NOTDIR) => {
                let kind = FileType::Unknown;
                return self.remove_or_enter(Entry { name: inner.name, kind, inode: 0 });
            }
            Err(Errno::NOTEMPTY | Errno::EXIST) if inner.listed < AGAIN => {
                return self.list_again(inner);
            }
            Err(Errno::NOTEMPTY | Errno::EXIST) => {
                return Err(FilesError::Refilled { path: self.path(&inner.name) });
            }
            Err(errno) => return Err(FilesError::io("remove", self.path(&inner.name), errno)),
        }
        inner.left.clear();
        Ok(())
    }

    /// What has the directory's name may be another than the one that is open: it is opened anew.
    fn list_again(&mut self, inner: OpenDir) -> Result<(), FilesError> {
        let depth = self.open.len();
        let entry = Entry { name: inner.name, kind: FileType::Directory, inode: 0 };
        self.remove_or_enter(entry)?;
        if let Some(again) = self.open.get_mut(depth) {
            again.listed = inner.listed + 1;
        }
        Ok(())
    }

    /// Moves a directory to the root, where it is found in time.
    fn move_up(&mut self, entry: Entry) -> Result<(), FilesError> {
        let path = self.path(&entry.name);
        let failed = |errno| FilesError::io("move up for removal", path.clone(), errno);
        let (Some(outer), Some(inner)) = (self.open.first(), self.open.last()) else {
            return Ok(());
        };
        let name = loop {
            self.moved += 1;
            let name: FileName = format!(".removed-{}", self.moved).parse()?;
            let flags = RenameFlags::NOREPLACE;
            let (from, to) = (entry.name.as_c_str(), name.as_c_str());
            let moved = || rustix::fs::renameat_with(&inner.dir, from, &outer.dir, to, flags);
            match moved() {
                Err(Errno::EXIST) => {}
                Err(Errno::NOENT) => return Ok(()),
                Err(Errno::ACCESS) => {
                    let all = [inner.dir.as_fd(), outer.dir.as_fd()];
                    all.into_iter().try_for_each(permit_open).map_err(failed)?;
                    handle::permit(inner.dir.as_fd(), from, Mode::RWXU).map_err(failed)?;
                    moved().map_err(failed)?;
                    break name;
                }
                done => {
                    done.map_err(failed)?;
                    break name;
                }
            }
        };
        if let Some(outer) = self.open.first_mut() {
            outer.left.push(Entry { name, ..entry });
        }
        Ok(())
    }

    fn path(&self, name: &FileName) -> TreePath {
        let around = self.open.iter().map(|open| open.name.as_bytes());
        let inner = (!self.open.is_empty()).then_some(name.as_bytes());
        let root = self.open.is_empty().then_some(self.root.as_bytes());
        TreePath::of(around.chain(root).chain(inner))
    }
}

/// Gives the owner of an open directory all rights in it.
fn permit_open(dir: BorrowedFd<'_>) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(rustix::fs::fstat(dir)?.st_mode);
    rustix::fs::fchmod(dir, mode | Mode::RWXU)
}
