//! A directory for a test.

use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use drover_nar::Limits;
use drover_store_files::{FileName, FilesError, Unpacker, remove_tree};

pub(crate) struct Place {
    folder: tempfile::TempDir,
    dir: File,
}

impl Place {
    pub(crate) fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let dir = File::open(folder.path()).unwrap();
        Place { folder, dir }
    }

    pub(crate) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, contents: &str) {
        fs::write(self.path(name), contents).unwrap();
    }

    pub(crate) fn mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// The names in the directory, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<_> = fs::read_dir(self.folder.path()).unwrap().map(name).collect();
        names.sort();
        names.into_iter().map(|name| name.into_string().unwrap()).collect()
    }

    pub(crate) fn unpack(&self, to: &str, nar: &[u8]) -> Result<(), FilesError> {
        let mut unpacker = Unpacker::new(self.dir(), &name(to), Limits::default())?;
        unpacker.push(nar)?;
        unpacker.finish()
    }

    pub(crate) fn remove(&self, what: &str) {
        remove_tree(self.dir(), &name(what)).unwrap();
    }
}

impl Drop for Place {
    /// What some tests make is too deep for the standard library.
    fn drop(&mut self) {
        for entry in self.names() {
            remove_tree(self.dir(), &name(&entry)).ok();
        }
    }
}

pub(crate) fn name(name: &str) -> FileName {
    name.parse().unwrap()
}

/// Mode (without type), modification time in ns, owner and number of links.
pub(crate) fn state(path: &Path) -> (u32, i64, u32, u64) {
    let stat = fs::symlink_metadata(path).unwrap();
    let time = stat.mtime() * 1_000_000_000 + stat.mtime_nsec();
    (stat.mode() & 0o7777, time, stat.uid(), stat.nlink())
}

/// Asserts that all of a tree has the form of a store; symbolic links have no mode of their own.
pub(crate) fn assert_canonical(path: &Path) {
    let stat = fs::symlink_metadata(path).unwrap();
    let (mode, time, ..) = state(path);
    assert_eq!(time, 1_000_000_000, "{path:?}");
    if stat.is_dir() {
        assert_eq!(mode, 0o555, "{path:?}");
        for entry in fs::read_dir(path).unwrap() {
            assert_canonical(&entry.unwrap().path());
        }
    } else if stat.is_file() {
        assert!(mode == 0o444 || mode == 0o555, "{path:?} {mode:o}");
    }
}
