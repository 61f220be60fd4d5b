//! Why the local store could not do what it was asked.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::path::PathBuf;

use drover_core::{ContentAddressError, NarHash, NarSize, StorePath, with_causes};
use drover_derivation::DerivationError;
use drover_store::{Refusal, StoreError};
use drover_store_db::DbError;
use drover_store_files::FilesError;
use drover_store_locks::LockError;

use crate::gc::GcError;

/// What a file system has none of any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Lacking {
    /// It can hold no more files, whatever their size.
    #[error("all {0} inodes of the store's file system are in use")]
    Inodes(u64),
    /// It is full, or the user's share of it.
    #[error("the store's file system is full")]
    Bytes,
}

/// Why the local store could not do what it was asked. Where Nix has words for it that scripts may
/// look for, they are Nix's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum LocalError {
    /// The database.
    #[error(transparent)]
    Database(#[from] DbError),
    /// A lock or a temporary root.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The garbage collector.
    #[error(transparent)]
    Garbage(#[from] GcError),
    /// The files of a path, or a NAR that is none.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// There is no room for the files of a path.
    #[error("there is no room for '{path}': {lacking}; 'drover gc' makes room")]
    NoRoom {
        /// The whole path.
        path: String,
        /// What there is none of.
        lacking: Lacking,
        /// What the system said.
        source: FilesError,
    },
    /// Something behind a NAR.
    #[error("{bytes} trailing bytes after the NAR")]
    Trailing {
        /// How many bytes.
        bytes: u64,
    },
    /// The files of a valid path have another size than is registered.
    #[error(
        "path '{path}' was modified! expected size {}, got {}; repair it with \
         `nix-store --repair-path`", specified.0, got.0
    )]
    Modified {
        /// The whole path.
        path: String,
        /// As registered.
        specified: NarSize,
        /// As found, so far.
        got: NarSize,
    },
    /// Another file or folder of the store.
    #[error("cannot {doing} '{}'", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The store or a folder above it is a symbolic link.
    #[error(
        "the path '{}' is a symlink; this is not allowed for the Nix store and its parent \
         directories", path.display()
    )]
    Symlink {
        /// The link.
        path: PathBuf,
    },
    /// Something was to be changed in a store that was opened for reading only.
    #[error("cannot {what}: the store was opened read-only")]
    ReadOnly {
        /// What was to be done.
        what: &'static str,
    },
    /// A path that should be valid isn't.
    #[error("path '{path}' is not valid")]
    NotValid {
        /// The whole path.
        path: String,
    },
    /// A path that should become valid, and can't.
    #[error("path '{path}' does not exist and cannot be created")]
    Absent {
        /// The whole path.
        path: String,
    },
    /// Nobody who is trusted signed the path.
    #[error("cannot add path '{path}' because it lacks a signature by a trusted key{saw}")]
    Unsigned {
        /// The whole path.
        path: String,
        /// Whose signatures it has, in brackets; empty where it has none.
        saw: String,
    },
    /// Nobody who is trusted signed the realisation.
    #[error(
        "cannot register realisation '{path}' because it lacks a signature by a trusted key{saw}"
    )]
    UnsignedRealisation {
        /// The path that it tells of.
        path: StorePath,
        /// Whose signatures it has, in brackets; empty where it has none.
        saw: String,
    },
    /// The NAR isn't the one that was announced.
    #[error("hash mismatch importing path '{path}';\n  specified: {specified}\n  got:       {got}")]
    Hash {
        /// The whole path.
        path: String,
        /// As announced.
        specified: NarHash,
        /// As received.
        got: NarHash,
    },
    /// The NAR hasn't the size that was announced.
    #[error(
        "size mismatch importing path '{path}';\n  specified: {}\n  got:       {}", specified.0, got.0
    )]
    Size {
        /// The whole path.
        path: String,
        /// As announced.
        specified: NarSize,
        /// As received.
        got: NarSize,
    },
    /// The contents aren't those by which the path is addressed.
    #[error(
        "ca hash mismatch importing path '{path}';\n  specified: {specified}\n  got:       {got}"
    )]
    ContentHash {
        /// The whole path.
        path: String,
        /// As announced.
        specified: String,
        /// As received.
        got: String,
    },
    /// The path doesn't follow from its content address.
    #[error(
        "cannot add path '{path}' to the Nix store because it claims to be content-addressed but \
         isn't"
    )]
    NotContentAddressed {
        /// The whole path.
        path: String,
    },
    /// A content address that no path can have.
    #[error(transparent)]
    ContentAddress(#[from] ContentAddressError),
    /// A derivation that is none, or whose outputs should have other paths.
    #[error("derivation '{path}' cannot be added")]
    Derivation {
        /// The whole path.
        path: String,
        /// What is wrong with it.
        source: DerivationError,
    },
    /// A file that should be a regular one of a bounded size, as it should be a derivation.
    #[error(
        "'{}' is not a regular file of at most {limit} bytes; a derivation should refer to large \
         data by its path (builtins.toFile, builtins.path)",
        path.display()
    )]
    NotAFile {
        /// The file.
        path: PathBuf,
        /// Bytes that it may have.
        limit: u64,
    },
    /// A link that can't become a root.
    #[error("{0}")]
    Root(String),
    /// A damaged path that no store has as it was.
    #[error(
        "cannot repair path '{path}': no store that is asked has it with the hash that is \
         registered{unasked}"
    )]
    NoSource {
        /// The whole path.
        path: String,
        /// Why others weren't asked, each behind a semicolon.
        unasked: String,
    },
    /// Paths came and went while the store was checked.
    #[error(
        "the store was changed by others each of the {looks} times that it was looked at; check it \
         again when less is added"
    )]
    Restless {
        /// How often it was looked at.
        looks: u32,
    },
    /// The thread that did the work is gone.
    #[error("the work was given up because the program stops or has a bug: {0}")]
    Thread(String),
    /// The other side ended the transfer before it was whole. Complete paths were added.
    #[error("the transfer ended before it was complete")]
    Ended,
}

impl LocalError {
    /// Whether it's the store that is at fault, whatever is added to it.
    pub(crate) fn is_of_the_store(&self) -> bool {
        matches!(
            self,
            LocalError::Database(_)
                | LocalError::Lock(_)
                | LocalError::Garbage(_)
                | LocalError::NoRoom { .. }
                | LocalError::Io { .. }
                | LocalError::Symlink { .. }
                | LocalError::ReadOnly { .. }
                | LocalError::Thread(_)
        )
    }

    /// Returns the error as one that a store of any kind gives.
    pub(crate) fn into_store_error(self, store: &str) -> StoreError {
        StoreError::Refused {
            store: store.to_owned(),
            why: self.refusal(),
            message: with_causes(&self),
        }
    }

    fn refusal(&self) -> Refusal {
        match self {
            LocalError::Unsigned { .. } | LocalError::UnsignedRealisation { .. } => {
                Refusal::Distrust
            }
            LocalError::NoRoom { .. } | LocalError::Database(DbError::Full { .. }) => {
                Refusal::NoRoom
            }
            LocalError::Database(DbError::Busy { .. }) => Refusal::Unready,
            error if is_want_of_room(error) => Refusal::NoRoom,
            _ => Refusal::Other,
        }
    }
}

/// Whether the system said somewhere below an error that there is no room.
fn is_want_of_room(error: &LocalError) -> bool {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        let said = error.downcast_ref::<io::Error>().map(io::Error::kind);
        if matches!(said, Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded)) {
            return true;
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn io(kind: ErrorKind) -> LocalError {
        LocalError::Io { doing: "write", path: "/s/x".into(), source: kind.into() }
    }

    #[rstest]
    #[case::unsigned(
        LocalError::Unsigned { path: "/s/x".to_owned(), saw: String::new() },
        Refusal::Distrust
    )]
    #[case::full(io(ErrorKind::StorageFull), Refusal::NoRoom)]
    #[case::quota(io(ErrorKind::QuotaExceeded), Refusal::NoRoom)]
    #[case::full_database(DbError::Full { path: "/d".into() }.into(), Refusal::NoRoom)]
    #[case::full_behind_a_lock(
        DbError::Io { doing: "open", path: "/d".into(), source: ErrorKind::StorageFull.into() }.into(),
        Refusal::NoRoom
    )]
    #[case::denied(io(ErrorKind::PermissionDenied), Refusal::Other)]
    fn who_asked_is_told_why_by_type(#[case] error: LocalError, #[case] expected: Refusal) {
        let StoreError::Refused { why, .. } = error.into_store_error("local") else {
            panic!("another error")
        };
        assert_eq!(why, expected);
    }
}
