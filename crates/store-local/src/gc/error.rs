//! Why garbage could not be collected.

use std::io;
use std::path::{Path, PathBuf};

use drover_store_db::DbError;
use drover_store_files::FilesError;
use drover_store_locks::LockError;
use rustix::io::Errno;

use super::explain::Why;

/// Why garbage could not be collected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum GcError {
    /// The database. What it was asked to forget is remembered, and all files are there.
    #[error(transparent)]
    Database(#[from] DbError),
    /// A lock, or a file of temporary roots.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The files of a path, or the pool of hard links. All else that was found dead is deleted.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// Something that can't be read, which may be a root, or can't be deleted. All else that was
    /// found dead is deleted in the latter case.
    #[error("cannot {doing} '{}'", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Whoever wanted it has gone away. What was deleted by then is gone.
    #[error("the garbage collection was stopped as nobody waits for it any more")]
    Unwanted,
    /// A path that was to be deleted is needed. The first sentence is Nix's.
    #[error(
        "Cannot delete path '{path}' since it is still alive. To find out why, use: nix-store \
         --query --roots and nix-store --query --referrers{why}"
    )]
    Alive {
        /// The whole path.
        path: String,
        /// What needs it.
        why: Why,
    },
}

impl GcError {
    pub(super) fn io(doing: &'static str, path: &Path, source: io::Error) -> GcError {
        GcError::Io { doing, path: path.to_owned(), source }
    }

    /// Whether there is no room for something new, be it a file's name.
    pub(super) fn is_for_lack_of_room(&self) -> bool {
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        matches!(self, GcError::Io { source, .. } if full.contains(&source.kind()))
    }

    pub(super) fn errno(doing: &'static str, path: &Path, errno: Errno) -> GcError {
        GcError::io(doing, path, errno.into())
    }
}
