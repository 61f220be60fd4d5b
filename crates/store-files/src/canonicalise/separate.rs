//! Files of a build's own that have names outside of its outputs, as those have that it has linked from the
//! folder that it worked in: copies take their places.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, Stat};
use rustix::io::Errno;

use super::{Owners, Walk, inode};
use crate::handle;
use crate::{FileName, FilesError};

/// Names that are tried for a copy.
const MOST_NAMES: u32 = 10_000;

impl Walk<'_> {
    /// Whether there is anything to be done here.
    pub(super) fn has_names_outside(&self) -> bool {
        let is_known = matches!(self.owners, Owners::Users(_));
        is_known && self.linked.values().any(|names| names.inside < names.all)
    }

    /// Has a copy take the place of everything below a name that has names outside of the trees, unless
    /// nothing would have to be changed in it.
    pub(super) fn separate(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &FileName,
    ) -> Result<(), FilesError> {
        self.trail.push(name.clone());
        let stat =
            handle::status(dir, name.as_c_str()).map_err(|errno| self.io("look at", errno))?;
        if handle::kind(&stat) == FileType::Directory {
            let opened = self.open(dir, name, FileType::Directory)?;
            for entry in handle::list(opened.as_fd()).map_err(|errno| self.io("list", errno))? {
                self.separate(opened.as_fd(), &entry.name)?;
            }
        } else if self.linked.get(&inode(&stat)).is_some_and(|names| names.inside < names.all) {
            self.copy(dir, name, handle::kind(&stat))?;
        }
        self.trail.pop();
        Ok(())
    }

    fn copy(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &FileName,
        kind: FileType,
    ) -> Result<(), FilesError> {
        let opened = self.open(dir, name, kind)?;
        // it's this one that is read, whatever has its name by now
        let stat = rustix::fs::fstat(&opened).map_err(|errno| self.io("look at", errno))?;
        self.check(&stat)?;
        let canonical = self.is_canonical(opened.as_fd(), &stat);
        if canonical.map_err(|errno| self.io("read the attributes of", errno))? {
            return Ok(());
        }
        let copied = make_copy(dir, opened, &stat).and_then(|(copy, temporary)| {
            rustix::fs::renameat(dir, temporary.as_c_str(), dir, name.as_c_str()).map(|()| copy)
        });
        let copy = copied.map_err(|errno| self.io("copy", errno))?;
        self.copies.insert(inode(&copy));
        Ok(())
    }
}

/// Makes a copy of a file or symlink under a name of its own, and returns which file that is.
fn make_copy(dir: BorrowedFd<'_>, from: OwnedFd, stat: &Stat) -> Result<(Stat, FileName), Errno> {
    if handle::kind(stat) == FileType::Symlink {
        let target = rustix::fs::readlinkat(&from, "", Vec::new())?;
        let make = |name: &FileName| rustix::fs::symlinkat(&*target, dir, name.as_c_str());
        let ((), name) = with_new_name(dir, make)?;
        let made = handle::open_mark(dir, name.as_c_str())?;
        return Ok((rustix::fs::fstat(&made)?, name));
    }
    let mode = Mode::from_raw_mode(stat.st_mode & 0o700 | 0o600);
    let (made, name) = with_new_name(dir, |name| handle::create_file(dir, name.as_c_str(), mode))?;
    let made = File::from(made);
    let copied = io::copy(&mut File::from(from), &mut &made);
    copied.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok((rustix::fs::fstat(&made)?, name))
}

/// Makes something under a name that nothing has in a directory, to which its owner may have no right.
fn with_new_name<T>(
    dir: BorrowedFd<'_>,
    mut make: impl FnMut(&FileName) -> Result<T, Errno>,
) -> Result<(T, FileName), Errno> {
    for count in 0..MOST_NAMES {
        let name = FileName::new(format!(".drover-copy-{count}").as_bytes());
        let name = name.map_err(|_| Errno::INVAL)?;
        let made = match make(&name) {
            Err(Errno::ACCESS) => {
                // that is about to change anyway
                let mode = Mode::from_raw_mode(rustix::fs::fstat(dir)?.st_mode);
                rustix::fs::fchmod(dir, mode | Mode::WUSR | Mode::XUSR)?;
                make(&name)
            }
            made => made,
        };
        match made {
            Err(Errno::EXIST) => {}
            made => return Ok((made?, name)),
        }
    }
    Err(Errno::EXIST)
}
