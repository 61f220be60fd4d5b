//! What makes files outlast a power cut.
//!
//! A tree's files are on the disk once the file system that holds them was synced: one call, instead
//! of one for every file, each of which would wait for the disk. A name is on the disk once its
//! directory was synced. So: unpack, [`sync_file_system`], [`rename_into`](crate::rename_into),
//! [`sync_directory`], and only then tell the database.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::FileType;

use crate::handle;
use crate::{FileName, FilesError, Tree, TreePath};

/// Waits until all that was written to the file system of `dir`, by anybody, is on the disk.
///
/// # Errors
///
/// The disk failed: what was written since the last success may be lost.
pub fn sync_file_system(dir: BorrowedFd<'_>) -> Result<(), FilesError> {
    rustix::fs::syncfs(dir)
        .map_err(|errno| FilesError::io("sync the file system of", here(), errno))
}

/// Waits until the names in `dir` are on the disk as they are now.
///
/// # Errors
///
/// The disk failed: names that were made or removed since the last success may be as before.
pub fn sync_directory(dir: BorrowedFd<'_>) -> Result<(), FilesError> {
    rustix::fs::fsync(dir).map_err(|errno| FilesError::io("sync directory", here(), errno))
}

/// Whether all of some trees was synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Synced {
    /// All of it is on the disk.
    Whole,
    /// There is too much of it: [`sync_file_system`] is faster.
    TooMany,
}

/// Waits until trees are on the disk, file by file, where they have no more than `most` files and
/// directories together. For few that is better than [`sync_file_system`], which also waits for
/// whatever strangers have written.
///
/// # Errors
///
/// Something that can't be opened, or the disk failed.
pub fn sync_trees<'a>(
    trees: impl IntoIterator<Item = Tree<'a>>,
    most: usize,
) -> Result<Synced, FilesError> {
    let mut opened = Vec::new();
    for Tree { dir, name } in trees {
        if open_all(dir, name, most, &mut opened)? == Synced::TooMany {
            return Ok(Synced::TooMany);
        }
    }
    for (fd, path) in opened {
        rustix::fs::fsync(&fd).map_err(|errno| FilesError::io("sync", path, errno))?;
    }
    Ok(Synced::Whole)
}

/// Opens everything in a tree that has contents: files and directories.
fn open_all(
    dir: BorrowedFd<'_>,
    name: &FileName,
    most: usize,
    opened: &mut Vec<(OwnedFd, TreePath)>,
) -> Result<Synced, FilesError> {
    let path = || TreePath::of([name.as_bytes()]);
    let failed = |errno| FilesError::io("open", path(), errno);
    let stat = handle::status(dir, name.as_c_str()).map_err(failed)?;
    let is_dir = match handle::kind(&stat) {
        FileType::Directory => true,
        FileType::RegularFile => false,
        // a symbolic link is all in its directory
        _ => return Ok(Synced::Whole),
    };
    if opened.len() >= most {
        return Ok(Synced::TooMany);
    }
    if !is_dir {
        opened.push((handle::open_file(dir, name.as_c_str()).map_err(failed)?, path()));
        return Ok(Synced::Whole);
    }
    let fd = handle::open_dir(dir, name.as_c_str()).map_err(failed)?;
    opened.push((handle::open_dir(dir, name.as_c_str()).map_err(failed)?, path()));
    for entry in handle::list(fd.as_fd()).map_err(failed)? {
        if open_all(fd.as_fd(), &entry.name, most, opened)? == Synced::TooMany {
            return Ok(Synced::TooMany);
        }
    }
    Ok(Synced::Whole)
}

fn here() -> TreePath {
    TreePath::of([b".".as_slice()])
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn few_files_are_synced_and_many_are_not_begun() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(folder.path().join("tree/below")).expect("folders");
        for file in ["tree/a", "tree/below/b"] {
            std::fs::write(folder.path().join(file), file).expect("a file");
        }
        std::os::unix::fs::symlink("a", folder.path().join("tree/link")).expect("a link");
        let dir = File::open(folder.path()).expect("the folder");
        let name: FileName = "tree".parse().expect("a name");
        let tree = Tree { dir: dir.as_fd(), name: &name };
        assert_eq!(sync_trees([tree], 4).expect("synced"), Synced::Whole);
        assert_eq!(sync_trees([tree], 3).expect("counted"), Synced::TooMany);
        assert_eq!(sync_trees([tree, tree], 7).expect("counted"), Synced::TooMany);
        let absent: FileName = "absent".parse().expect("a name");
        let absent = Tree { dir: dir.as_fd(), name: &absent };
        assert!(sync_trees([absent], 9).is_err());
    }
}
