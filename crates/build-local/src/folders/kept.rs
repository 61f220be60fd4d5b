//! What a build has left in a folder that is kept.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use rustix::fs::{Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::FOLDER;

/// Folders in folders that are gone into.
const DEEPEST: u32 = 256;

const LOOK: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Takes set-user and set-group bits from all that is in a folder: programs that others come to now would
/// run as the build's user, and a build can make such files in ways that no filter sees. What is root's in
/// the folder of somebody else has another name elsewhere, and isn't the build's.
pub(super) fn lend_nobody_rights(folder: &OwnedFd) -> io::Result<()> {
    let owner = rustix::fs::fstat(folder)?.st_uid;
    below(folder, owner, 0)
}

fn below(folder: &OwnedFd, owner: u32, depth: u32) -> io::Result<()> {
    if DEEPEST < depth {
        return Err(Errno::NAMETOOLONG.into());
    }
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            settle(folder, name, owner, depth)?;
        }
    }
    Ok(())
}

fn settle(folder: &OwnedFd, name: &CStr, owner: u32, depth: u32) -> io::Result<()> {
    let mark = rustix::fs::openat(folder, name, LOOK, Mode::empty())?;
    let stat = rustix::fs::fstat(&mark)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind == FileType::Symlink || stat.st_uid == 0 && owner != 0 {
        return Ok(());
    }
    let wanted = stat.st_mode & !0o6000;
    if wanted != stat.st_mode {
        set_mode(&mark, wanted)?;
    }
    if kind != FileType::Directory {
        return Ok(());
    }
    let inside = match rustix::fs::openat(folder, name, FOLDER, Mode::empty()) {
        // its owner may not look into it
        Err(Errno::ACCESS) => {
            set_mode(&mark, wanted | 0o500)?;
            rustix::fs::openat(folder, name, FOLDER, Mode::empty())
        }
        opened => opened,
    };
    // folders in folders hold no more files open than they have to
    drop(mark);
    below(&inside?, owner, depth + 1)
}

/// Sets the mode of what is open, whatever has become of its name.
fn set_mode(mark: impl AsFd, mode: u32) -> io::Result<()> {
    let path = format!("/proc/self/fd/{}", mark.as_fd().as_raw_fd());
    Ok(rustix::fs::chmod(path, Mode::from_raw_mode(mode))?)
}
