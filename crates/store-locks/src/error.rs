//! What can go wrong with a lock.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use drover_core::StorePathError;
use rustix::io::Errno;

/// Why a lock or a root was not had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// The system refused something; nothing is held.
    #[error("cannot {action} '{}'", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else kept it until the time was up; nothing is held.
    #[error("gave up {what} after {} s", after.as_secs())]
    TimedOut {
        /// What was waited for, as `waiting for …`.
        what: String,
        /// How long.
        after: Duration,
    },
    /// Whoever was told of the wait did not want to wait on; nothing is held.
    #[error("stopped {what}")]
    Stopped {
        /// What was waited for, as `waiting for …`.
        what: String,
    },
    /// A file of temporary roots that holds something else. What it protects is unknown, so nothing
    /// may be deleted.
    #[error("'{}' holds something that is no temporary root", path.display())]
    BadRecord {
        /// The file.
        path: PathBuf,
        /// What is wrong with the record.
        source: StorePathError,
    },
    /// A file of temporary roots that is longer than any that can be meant.
    #[error("'{}' has {bytes} bytes; a file of temporary roots may have {limit}", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// The longest that is read.
        limit: u64,
    },
    /// A session that protects more than it may.
    #[error("a session may protect {limit} paths, no more; end it and begin another")]
    TooManyRoots {
        /// Paths that one session may protect.
        limit: usize,
    },
    /// A garbage collector that answered something other than an acknowledgement.
    #[error("the garbage collector behind '{}' answered {got:#04x} to a root", path.display())]
    BadAnswer {
        /// Its socket.
        path: PathBuf,
        /// The byte that came.
        got: u8,
    },
}

impl LockError {
    pub(crate) fn io(action: &'static str, path: &Path, errno: Errno) -> LockError {
        LockError::Io { action, path: path.to_owned(), source: errno.into() }
    }
}
