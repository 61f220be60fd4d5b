//! What is done with files through descriptors: always a directory that is open and one name in it,
//! never a path, and never through a symbolic link.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Stat, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::{Errno, Result};

use crate::{FileName, FilesError, TreePath};

/// Mode of files that aren't executable in a store.
pub(crate) const PLAIN: Mode = Mode::from_raw_mode(0o444);

/// Mode of executable files and of directories in a store.
pub(crate) const EXECUTABLE: Mode = Mode::from_raw_mode(0o555);

/// When everything in a store was modified last, in seconds since 1970
/// (`src/libstore/posix-fs-canonicalise.cc`).
pub(crate) const STORE_TIME: i64 = 1;

/// Bytes for the entries of a directory that are read at once.
const LISTING: usize = 32 << 10;

/// An entry of a directory.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: FileName,
    /// What it was when it was listed; `Unknown` on some file systems.
    pub(crate) kind: FileType,
    pub(crate) inode: u64,
}

/// Returns a descriptor of one's own of the directory that `name` is in.
pub(crate) fn keep(
    dir: BorrowedFd<'_>,
    name: &FileName,
) -> std::result::Result<OwnedFd, FilesError> {
    let path = || TreePath::of([name.as_bytes()]);
    rustix::io::fcntl_dupfd_cloexec(dir, 0)
        .map_err(|errno| FilesError::io("open the directory of", path(), errno))
}

pub(crate) fn open_dir(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// Opens what should be a regular file; if it is something else by now, this neither waits for it
/// nor wakes a device.
pub(crate) fn open_file(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let harmless = OFlags::NONBLOCK | OFlags::NOCTTY;
    rustix::fs::openat(parent, name, flags | harmless, Mode::empty())
}

/// Opens whatever it is, only to say which one is meant.
pub(crate) fn open_mark(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

pub(crate) fn create_file(parent: BorrowedFd<'_>, name: &CStr, mode: Mode) -> Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, mode)
}

pub(crate) fn status(parent: BorrowedFd<'_>, name: &CStr) -> Result<Stat> {
    rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
}

pub(crate) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

pub(crate) fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "regular file",
        FileType::Directory => "directory",
        FileType::Symlink => "symbolic link",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::CharacterDevice => "character device",
        FileType::BlockDevice => "block device",
        _ => "file of an unknown kind",
    }
}

/// Returns a size, which the system never says to be negative.
pub(crate) fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

/// Returns the bytes that it takes on the disk.
pub(crate) fn disk_size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512)
}

/// Returns the number of names that it has.
pub(crate) fn links(stat: &Stat) -> u64 {
    widen(stat.st_nlink)
}

/// Some fields differ in width from one machine to the other.
fn widen(count: impl Into<u64>) -> u64 {
    count.into()
}

/// The modification time of the store; the time of last access stays as it is.
pub(crate) fn store_times() -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: STORE_TIME, tv_nsec: 0 },
    }
}

pub(crate) fn set_store_time(fd: BorrowedFd<'_>) -> Result<()> {
    rustix::fs::futimens(fd, &store_times())
}

pub(crate) fn set_link_time(parent: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    rustix::fs::utimensat(parent, name, &store_times(), AtFlags::SYMLINK_NOFOLLOW)
}

/// Adds permissions of the owner to something that can't be opened for the lack of them.
pub(crate) fn permit(parent: BorrowedFd<'_>, name: &CStr, added: Mode) -> Result<()> {
    let mark = open_mark(parent, name)?;
    let stat = rustix::fs::fstat(&mark)?;
    if kind(&stat) == FileType::Symlink {
        return Err(Errno::LOOP);
    }
    set_mode(mark.as_fd(), Mode::from_raw_mode(stat.st_mode) | added)
}

/// Sets the mode of what is open, if only to say which one is meant; it must be no symbolic link.
///
/// The one place where a path is used: that of an open descriptor, which leads to what is open,
/// whatever has become of its name. (`fchmodat2`, which needs none, is not in older kernels.)
pub(crate) fn set_mode(mark: BorrowedFd<'_>, mode: Mode) -> Result<()> {
    rustix::fs::chmod(magic_path(mark), mode)
}

/// Returns a path that leads to what is open, even if it is a symbolic link.
pub(crate) fn magic_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

pub(crate) fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(0) => return Err(Errno::IO),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Hands the entries of an open directory to `each` until that says no more. It goes on where the
/// descriptor stands, which for one just opened is the beginning.
pub(crate) fn for_each_entry(
    dir: BorrowedFd<'_>,
    mut each: impl FnMut(Entry) -> Listing,
) -> Result<()> {
    let mut buffer = Vec::with_capacity(LISTING);
    let mut entries = RawDir::new(dir, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = match entry {
            // A directory that has been removed since it was opened has no entries.
            Err(Errno::NOENT) => return Ok(()),
            entry => entry?,
        };
        let Some(name) = FileName::listed(entry.file_name()) else { continue };
        let found = Entry { name, kind: entry.file_type(), inode: entry.ino() };
        if each(found) == Listing::Enough {
            break;
        }
    }
    Ok(())
}

/// Whether a directory is read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listing {
    More,
    Enough,
}

/// Returns the entries of an open directory, in no order.
pub(crate) fn list(dir: BorrowedFd<'_>) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for_each_entry(dir, |entry| {
        entries.push(entry);
        Listing::More
    })?;
    Ok(entries)
}
