//! Failures of operations in the words that clients, and scripts around them, know from Nix.
//!
//! Follows the messages of `src/libstore/store-api.cc` and `local-store.cc` of Nix.

use drover_core::{StoreDir, with_causes};
use drover_store::StoreError;
use drover_wire::RemoteError;

/// Exit status of a failure that has none of its own.
const PLAIN: u64 = 1;

/// Why an operation failed. The connection can go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) message: String,
    /// The exit status that clients before 1.26 are told.
    pub(crate) status: u64,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), status: PLAIN }
    }

    /// Returns what the store said, with whole paths as Nix writes them.
    pub(crate) fn of(store_dir: &StoreDir, error: &StoreError) -> Failure {
        Failure::new(match error {
            StoreError::NotValid { path, .. } => {
                format!("path '{}' is not valid", store_dir.display(path))
            }
            StoreError::HashMismatch { path, expected, actual, .. } => format!(
                "hash mismatch importing path '{}';\n  specified: {expected}\n  got:       {actual}",
                store_dir.display(path)
            ),
            StoreError::SizeMismatch { path, expected, actual, .. } => format!(
                "size mismatch importing path '{}';\n  specified: {}\n  got:       {}",
                store_dir.display(path),
                expected.0,
                actual.0
            ),
            error => with_causes(error),
        })
    }

    pub(crate) fn to_remote(&self) -> RemoteError {
        RemoteError {
            level: 0,
            message: self.message.clone(),
            status: self.status,
            traces: Vec::new(),
        }
    }
}
