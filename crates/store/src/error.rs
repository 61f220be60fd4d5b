//! Why a store could not do what it was asked.

use std::path::PathBuf;

use drover_core::{NarHash, NarSize, StorePath};
use drover_nar::NarError;

use crate::said::refusal_said;

/// Why a store could not do what it was asked. Cheap to clone, as many may wait for one answer.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No connection came about. Nothing was sent.
    #[error("cannot connect to '{store}': {reason}")]
    Unreachable {
        /// The store.
        store: String,
        /// What the system, `ssh` or the other side said.
        reason: String,
    },
    /// The other side answered, but not in the protocol, or in a version that isn't spoken.
    #[error("cannot speak with '{store}': {reason}")]
    Protocol {
        /// The store.
        store: String,
        /// What was wrong with its words.
        reason: String,
    },
    /// Something else spoke in the place of the server: a login script, a notice that the machine
    /// is about to go down or has just come up. That may pass.
    #[error("cannot speak with '{store}': {reason}")]
    ForeignWords {
        /// The store.
        store: String,
        /// What was said, and what can be done about it.
        reason: String,
    },
    /// The connection ended while an answer was awaited. Whether the request took effect is unknown.
    #[error("lost the connection to '{store}': {reason}")]
    Lost {
        /// The store.
        store: String,
        /// What is known of the end.
        reason: String,
    },
    /// A transfer ended because of something else, which failed and is told apart, or because nobody wanted it
    /// any more.
    #[error("the transfer was broken off: {reason}")]
    BrokenOff {
        /// What it waited for in vain.
        reason: String,
    },
    /// A queue was ended by something ahead in it that did not go as hoped. Nothing of the request
    /// was done, and nobody is to blame: on another lane it will do.
    #[error("the queue at '{store}' was ended by what was ahead in it")]
    LaneEnded {
        /// The store.
        store: String,
    },
    /// Nothing was heard for too long.
    #[error("'{store}' has said nothing for {seconds} s while {doing}")]
    Silent {
        /// The store.
        store: String,
        /// Seconds waited.
        seconds: u64,
        /// What was awaited.
        doing: &'static str,
    },
    /// The store understood and refused, or failed at it.
    #[error("{message}")]
    Refused {
        /// The store.
        store: String,
        /// Why, as far as it matters to who asked.
        why: Refusal,
        /// Its words.
        message: String,
    },
    /// A path that should be there isn't.
    #[error("path '{path}' is not valid in '{store}'")]
    NotValid {
        /// The store.
        store: String,
        /// The path.
        path: StorePath,
    },
    /// A path that is larger than what is read whole.
    #[error(
        "'{path}' in '{store}' has {size} bytes, and a file of more than {limit} is not read; a \
         derivation should refer to large data by its path (builtins.toFile, builtins.path)"
    )]
    TooLarge {
        /// The store.
        store: String,
        /// The path.
        path: StorePath,
        /// Its size as a NAR.
        size: u64,
        /// The most that is read.
        limit: u64,
    },
    /// A NAR that is none.
    #[error("'{store}' sent a bad NAR of '{path}'")]
    Nar {
        /// The store.
        store: String,
        /// The path.
        path: StorePath,
        /// The rule that it breaks.
        source: NarError,
    },
    /// The NAR received is not the one announced; nothing was registered.
    #[error("NAR of '{path}' from '{store}' has hash {actual}, announced as {expected}")]
    HashMismatch {
        /// The store.
        store: String,
        /// The path.
        path: StorePath,
        /// As announced.
        expected: NarHash,
        /// As received.
        actual: NarHash,
    },
    /// The NAR received has not the size announced; nothing was registered.
    #[error("NAR of '{path}' from '{store}' has {actual}, announced as {expected}")]
    SizeMismatch {
        /// The store.
        store: String,
        /// The path.
        path: StorePath,
        /// As announced.
        expected: NarSize,
        /// As received.
        actual: NarSize,
    },
    /// What a store says of a path isn't so; nothing was registered.
    #[error("what '{store}' says isn't so: {reason}")]
    Untrue {
        /// The store.
        store: String,
        /// What is wrong with it.
        reason: String,
    },
    /// What is on its way to a store could not be kept on this machine until its turn. Nothing was sent,
    /// and neither the store nor the link to it is to blame.
    #[error(
        "what is sent to '{store}' has to wait in '{}' on this machine, which can't be: {reason}; make \
         room there, or set TMPDIR to another folder",
        folder.display()
    )]
    Waiting {
        /// The store.
        store: String,
        /// The folder for temporary files.
        folder: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// This process may have no more files open, or this machine: neither the store nor the link to it is
    /// to blame.
    #[error("cannot connect to '{store}': {reason}")]
    OwnLimit {
        /// The store.
        store: String,
        /// Which limit it is.
        reason: String,
    },
    /// The store can't do that at all.
    #[error("'{store}' cannot {what}")]
    Unsupported {
        /// The store.
        store: String,
        /// What it was asked for.
        what: &'static str,
    },
}

/// Why a store refuses something, as far as it matters to who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It takes this from nobody whom it doesn't trust, or without the signature of somebody whom it does.
    Distrust,
    /// It has no dealings with who asked.
    Stranger,
    /// There is no room for it.
    NoRoom,
    /// It isn't ready yet, and will be in a moment.
    Unready,
    /// What its words say, and nothing else.
    Other,
}

impl StoreError {
    /// Returns the error of a store that refuses something for what its words say, and nothing else.
    pub fn refused(store: impl Into<String>, message: impl Into<String>) -> StoreError {
        StoreError::Refused { store: store.into(), why: Refusal::Other, message: message.into() }
    }

    /// Returns the error of a store behind another program, which has said in words why it refuses something.
    pub fn said(store: impl Into<String>, message: impl Into<String>) -> StoreError {
        let (store, message) = (store.into(), message.into());
        StoreError::Refused { store, why: refusal_said(&message), message }
    }

    /// Whether it says something of the machine or the link and nothing of the request: elsewhere,
    /// or later, the same request may do.
    pub fn is_infrastructure(&self) -> bool {
        !matches!(
            self,
            StoreError::Refused { .. }
                | StoreError::Unsupported { .. }
                | StoreError::TooLarge { .. }
                | StoreError::Waiting { .. }
        )
    }
}
