//! Puts the members of an archive into a folder, and nowhere else.
//!
//! Every step goes from one open folder to the next by a name, and follows no link: neither those that
//! were there nor those that the archive brings. Follows libarchive as Nix asks it
//! (`ARCHIVE_EXTRACT_SECURE_SYMLINKS`, `ARCHIVE_EXTRACT_SECURE_NODOTDOT`), and is stricter where that
//! would remove a folder or a link to make room.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

/// Folders within folders.
const MAX_DEPTH: usize = 64;

const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// A folder that an archive is unpacked to.
pub(crate) struct Tree {
    root: OwnedFd,
}

/// Whether a file is a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Executable {
    Yes,
    No,
}

/// What is wrong with a member.
fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The names on the way to a member, of which the last is its own; none for the folder itself.
fn names(path: &[u8]) -> io::Result<Vec<&[u8]>> {
    let mut names = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => return Err(bad("its path leads upwards")),
            _ if name.contains(&0) => return Err(bad("its path has a NUL in it")),
            _ => names.push(name),
        }
    }
    match names.len() {
        0..=MAX_DEPTH => Ok(names),
        _ => Err(bad("it's in too many folders")),
    }
}

impl Tree {
    pub(crate) fn open(folder: &Path) -> io::Result<Tree> {
        Ok(Tree { root: rustix::fs::open(folder, FOLDER, Mode::empty())? })
    }

    /// Makes a folder, unless it's there.
    pub(crate) fn folder(&self, path: &[u8]) -> io::Result<()> {
        self.enter(&names(path)?).map(drop)
    }

    /// Makes a file with what comes from somewhere.
    pub(crate) fn file(
        &self,
        path: &[u8],
        executable: Executable,
        from: &mut dyn Read,
    ) -> io::Result<()> {
        let (folder, name) = self.room(path)?;
        let mode = match executable {
            Executable::Yes => 0o755,
            Executable::No => 0o644,
        };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&folder, name, flags, Mode::from_raw_mode(mode))?;
        io::copy(from, &mut File::from(file)).map(drop)
    }

    /// Makes a link, wherever it leads: that is for who follows it to decide.
    pub(crate) fn link(&self, path: &[u8], target: &[u8]) -> io::Result<()> {
        let (folder, name) = self.room(path)?;
        Ok(rustix::fs::symlinkat(target, &folder, name)?)
    }

    /// Makes another name for something of this archive.
    pub(crate) fn same(&self, path: &[u8], as_path: &[u8]) -> io::Result<()> {
        let existing = names(as_path)?;
        let Some((its_name, way)) = existing.split_last() else {
            return Err(bad("it's said to be the same as a folder"));
        };
        if names(path)? == existing {
            return Ok(());
        }
        let its_folder = self.find(way)?;
        let stat = rustix::fs::statat(&its_folder, *its_name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Err(bad("it's said to be the same as a folder"));
        }
        let (folder, name) = self.room(path)?;
        Ok(rustix::fs::linkat(&its_folder, *its_name, &folder, name, AtFlags::empty())?)
    }

    /// Opens the folder that something is to be in, and removes what is at its place, as the last of the
    /// same name in an archive is what counts.
    fn room<'a>(&self, path: &'a [u8]) -> io::Result<(OwnedFd, &'a [u8])> {
        let names = names(path)?;
        let Some((name, way)) = names.split_last() else {
            return Err(bad("it would be in the place of the whole"));
        };
        let folder = self.enter(way)?;
        match rustix::fs::unlinkat(&folder, *name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok((folder, *name)),
            Err(Errno::ISDIR | Errno::PERM) => Err(bad("there is a folder in its place")),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Opens a folder, and makes it and those around it where they aren't there.
    fn enter(&self, way: &[&[u8]]) -> io::Result<OwnedFd> {
        let mut folder = self.root.try_clone()?;
        for name in way {
            let opened = match rustix::fs::openat(&folder, *name, FOLDER, Mode::empty()) {
                Err(Errno::NOENT) => {
                    rustix::fs::mkdirat(&folder, *name, Mode::from_raw_mode(0o755))?;
                    rustix::fs::openat(&folder, *name, FOLDER, Mode::empty())
                }
                opened => opened,
            };
            folder = opened.map_err(no_folder)?;
        }
        Ok(folder)
    }

    fn find(&self, way: &[&[u8]]) -> io::Result<OwnedFd> {
        let mut folder = self.root.as_fd().try_clone_to_owned()?;
        for name in way {
            folder =
                rustix::fs::openat(&folder, *name, FOLDER, Mode::empty()).map_err(no_folder)?;
        }
        Ok(folder)
    }
}

fn no_folder(errno: Errno) -> io::Error {
    match errno {
        Errno::NOTDIR | Errno::LOOP => bad("it's below something that is a link or a file"),
        errno => errno.into(),
    }
}
