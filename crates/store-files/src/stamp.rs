//! What a tree looks like from outside, so that what was read of it once need not be checked again.

use std::os::fd::{AsFd as _, BorrowedFd};

use drover_core::{HashAlgorithm, Hasher};
use drover_nar::Limits;
use rustix::fs::{FileType, Stat};

use crate::handle::{self, Listing};
use crate::{FileName, FilesError, TreePath};

/// What a tree looks like from outside. Where two are equal nobody has changed a byte of the tree
/// between them, unless past the file system: each change of contents, of names or of a link is a
/// change of a file's or directory's `ctime`, which nobody can set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The SHA-256 of what is seen of all files.
    pub digest: [u8; 32],
    /// When the last of them was changed, in seconds since 1970. A change within the next tick of
    /// the file system's clock need not show in a stamp that is this young.
    pub changed: i64,
}

/// Looks at every file of the tree `name` in `dir`, without reading any.
///
/// # Errors
///
/// What the system says, or a tree that no archive could have.
pub fn stamp(dir: BorrowedFd<'_>, name: &FileName) -> Result<Stamp, FilesError> {
    let Limits { max_depth, max_entries, .. } = Limits::default();
    let hasher = Hasher::new(HashAlgorithm::Sha256);
    let mut look = Look { hasher, changed: i64::MIN, entries: max_entries, max_depth };
    look.at(dir, name, 0)?;
    let hash = look.hasher.finish();
    let digest = <[u8; 32]>::try_from(hash.digest()).unwrap_or_default();
    Ok(Stamp { digest, changed: look.changed })
}

struct Look {
    hasher: Hasher,
    changed: i64,
    /// Entries that there may still be.
    entries: u64,
    max_depth: usize,
}

impl Look {
    fn at(&mut self, dir: BorrowedFd<'_>, name: &FileName, depth: usize) -> Result<(), FilesError> {
        let path = || TreePath::of([name.as_bytes()]);
        let failed = |action, errno| FilesError::io(action, path(), errno);
        let stat = handle::status(dir, name.as_c_str()).map_err(|it| failed("look at", it))?;
        self.note(name, &stat);
        if handle::kind(&stat) != FileType::Directory {
            return Ok(());
        }
        if depth >= self.max_depth {
            return Err(FilesError::TooDeep { path: path(), limit: self.max_depth });
        }
        let inner = handle::open_dir(dir, name.as_c_str());
        let inner = inner.map_err(|errno| failed("open directory", errno))?;
        let mut names = Vec::new();
        let room = self.entries;
        handle::for_each_entry(inner.as_fd(), |entry| {
            names.push(entry.name);
            if names.len() as u64 <= room { Listing::More } else { Listing::Enough }
        })
        .map_err(|errno| failed("list directory", errno))?;
        self.entries = room.checked_sub(names.len() as u64).ok_or_else(|| {
            let limit = Limits::default().max_entries;
            FilesError::TooManyEntries { path: path(), limit }
        })?;
        names.sort_unstable();
        self.hasher.update(&(names.len() as u64).to_le_bytes());
        names.iter().try_for_each(|name| self.at(inner.as_fd(), name, depth + 1))
    }

    fn note(&mut self, name: &FileName, stat: &Stat) {
        self.changed = self.changed.max(stat.st_ctime);
        self.hasher.update(&(name.as_bytes().len() as u64).to_le_bytes());
        self.hasher.update(name.as_bytes());
        let seen = [
            i128::from(stat.st_dev),
            i128::from(stat.st_ino),
            i128::from(stat.st_mode),
            i128::from(stat.st_size),
            i128::from(stat.st_mtime),
            i128::from(stat.st_mtime_nsec),
            i128::from(stat.st_ctime),
            i128::from(stat.st_ctime_nsec),
        ];
        for field in seen {
            self.hasher.update(&field.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn every_change_shows() {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::write(tree.join("a/file"), "one").unwrap();
        symlink("one", tree.join("a/b/link")).unwrap();
        let dir = fs::File::open(folder.path()).unwrap();
        let look = || stamp(dir.as_fd(), &"tree".parse().unwrap()).unwrap();
        let mut before = look();
        assert_eq!(look(), before);
        let changes: [&dyn Fn(); 6] = [
            &|| fs::write(tree.join("a/file"), "two").unwrap(),
            &|| fs::write(tree.join("a/b/more"), "").unwrap(),
            &|| {
                fs::remove_file(tree.join("a/b/link")).unwrap();
                symlink("two", tree.join("a/b/link")).unwrap();
            },
            &|| fs::rename(tree.join("a/b/more"), tree.join("a/b/less")).unwrap(),
            &|| fs::remove_file(tree.join("a/b/less")).unwrap(),
            &|| {
                let mode = fs::Permissions::from_mode(0o755);
                fs::set_permissions(tree.join("a/file"), mode).unwrap();
            },
        ];
        for (at, change) in changes.iter().enumerate() {
            // a change within one tick of the clock is what `changed` is for
            while look().changed >= now() {
                std::thread::yield_now();
            }
            change();
            let after = look();
            assert_ne!(after, before, "change {at}");
            before = after;
        }
    }

    /// The time as a file system sees it.
    fn now() -> i64 {
        let file = tempfile::tempfile().unwrap();
        rustix::fs::fstat(&file).unwrap().st_ctime
    }
}
