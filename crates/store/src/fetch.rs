//! What a store tells while it fetches paths from its substituters.

use std::collections::BTreeSet;

use drover_core::StorePath;

/// Something that happened while a store asks its substituters, or fetches from them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchEvent {
    /// A substituter is asked what it has.
    Asking {
        /// The substituter, as its address.
        substituter: String,
    },
    /// A path is being fetched.
    Started {
        /// A number for this transfer; no other that runs has it.
        number: u64,
        /// The path.
        path: StorePath,
        /// The substituter, as its address.
        substituter: String,
    },
    /// More of a path has come.
    Progress {
        /// The transfer.
        number: u64,
        /// Bytes of its NAR so far.
        done: u64,
        /// Bytes of its NAR; 0 where that isn't known.
        size: u64,
    },
    /// A transfer has ended, well or not.
    Ended {
        /// The transfer.
        number: u64,
    },
    /// Something that the user should know.
    Note(String),
}

/// Follows what a store fetches. Called from the task that reads the connection: it must never wait.
pub trait FetchObserver: Send + Sync {
    /// Takes one event.
    fn event(&self, event: FetchEvent);
}

/// How big a path is that can be fetched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FetchSize {
    /// Bytes to download; those of the NAR where it isn't known how it's compressed.
    pub download: u64,
    /// Bytes of its NAR.
    pub nar: u64,
}

/// What a substituter says of a path that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offered {
    /// The derivation that made it.
    pub deriver: Option<StorePath>,
    /// The paths that it refers to.
    pub references: BTreeSet<StorePath>,
    /// How big it is.
    pub size: FetchSize,
}
