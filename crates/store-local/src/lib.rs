//! The local store: files, database and locks as Nix keeps them.
//!
//! [`LocalStore`] implements [`drover_store::Store`] and [`drover_store::Keeper`] on the folders, the
//! schema and the locks of Nix, so that it and stock Nix can use one store at the same time.
//! [`Layout`] says where a store is. Invariants:
//!
//! - What is valid is whole: contents are checked and on the disk before the row is written, all
//!   rows of a batch in one transaction.
//! - What a session was told is valid stays, as long as the session lives: temporary roots come
//!   before the question.
//! - No lock on a path is held, and no thread waits, while a client dawdles.
//! - Nothing that is kept in memory outlives the store on the disk: a store that was removed and
//!   made anew is noticed at the next question.
//!
//! All that blocks runs on tokio's blocking threads, on a `View` of the store.

mod adopt;
mod build_log;
mod compressed_log;
mod content;
mod error;
mod export;
mod failpoint;
mod folders;
mod gc;
mod import;
mod keeper;
#[cfg(test)]
mod kill_tests;
mod layout;
mod links;
mod local_store;
mod opened;
mod optimise;
mod options;
mod outputs;
mod own_thread;
mod parallel_bzip2;
mod patience;
mod repair;
mod signers;
mod substitution;
mod tree;
mod verify;
mod view;
mod workshop;

pub use build_log::BuildLogWriter;
pub use drover_store::{LogForm, Optimise};
pub use drover_store_db::Sync as MetadataSync;
pub use layout::{Access, Layout, LayoutError, Place, Surroundings, Uid};
pub use local_store::LocalStore;
pub use options::{ContentSync, LocalOptions, RequiredSignatures, Symlinks};
pub use own_thread::in_place;
pub use substitution::{Forbidden, OpenSubstituters, Sources};
pub use workshop::{BuildLocks, LockedProducts, Product, Workshop};
