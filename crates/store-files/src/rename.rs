//! Gives a finished tree its place.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{FileType, Mode, RenameFlags};
use rustix::io::Errno;

use crate::handle;
use crate::{FileName, FilesError, TreePath};

/// Moves the tree `temporary` in `from` to `name` in `to`, at once, if nothing has that name.
///
/// A directory that its owner may not write to can't be moved elsewhere by him; it is made writable
/// for as long as that takes (as `movePath` in Nix's `src/libstore/unix/build/derivation-builder.cc`
/// does).
///
/// # Errors
///
/// [`FilesError::Exists`], or what the system refused; the tree is where it was then.
pub fn rename_into(
    from: BorrowedFd<'_>,
    temporary: &FileName,
    to: BorrowedFd<'_>,
    name: &FileName,
) -> Result<(), FilesError> {
    let failed = |errno| FilesError::make("rename to", TreePath::of([name.as_bytes()]), errno);
    match rename(from, temporary, to, name) {
        Err(Errno::ACCESS) => {}
        done => return done.map_err(failed),
    }
    // it may be that its owner may not even read it
    let dir = handle::open_mark(from, temporary.as_c_str()).map_err(failed)?;
    let stat = rustix::fs::fstat(&dir).map_err(failed)?;
    let mode = Mode::from_raw_mode(stat.st_mode);
    if handle::kind(&stat) != FileType::Directory || mode.contains(Mode::WUSR) {
        return Err(failed(Errno::ACCESS));
    }
    handle::set_mode(dir.as_fd(), mode | Mode::WUSR).map_err(failed)?;
    let renamed = rename(from, temporary, to, name);
    handle::set_mode(dir.as_fd(), mode).map_err(failed)?;
    renamed.map_err(failed)
}

fn rename(
    from: BorrowedFd<'_>,
    temporary: &FileName,
    to: BorrowedFd<'_>,
    name: &FileName,
) -> Result<(), Errno> {
    let flags = RenameFlags::NOREPLACE;
    match rustix::fs::renameat_with(from, temporary.as_c_str(), to, name.as_c_str(), flags) {
        // A file system that can't. Paths of a store are only made under their lock, so to look
        // first is as good.
        Err(Errno::INVAL | Errno::NOSYS) => match handle::status(to, name.as_c_str()) {
            Err(Errno::NOENT) => {
                rustix::fs::renameat(from, temporary.as_c_str(), to, name.as_c_str())
            }
            found => found.and(Err(Errno::EXIST)),
        },
        done => done,
    }
}
