//! File trees on disk: unpacked from NARs, packed into them, checked and removed.
//!
//! Everything is done through descriptors of directories and names in them, never by a path that
//! somebody else can put something else under, and never through a symbolic link. All of it is
//! synchronous: callers run it on threads that may wait.
//!
//! ```
//! use std::fs::File;
//! use std::os::fd::AsFd;
//!
//! use drover_nar::{Executable, Limits, single_file_nar};
//! use drover_store_files::{FileName, Unpacker, measure, remove_tree};
//!
//! # let temporary = tempfile::tempdir()?;
//! # let path = temporary.path();
//! let dir = File::open(path)?;
//! let name: FileName = "hello".parse()?;
//! let nar = single_file_nar(b"hello\n", Executable::No);
//!
//! let mut unpacker = Unpacker::new(dir.as_fd(), &name, Limits::of_size(nar.len() as u64))?;
//! unpacker.push(&nar)?;
//! unpacker.finish()?;
//! assert_eq!(measure(dir.as_fd(), &name)?.size.0, nar.len() as u64);
//! remove_tree(dir.as_fd(), &name)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod attributes;
mod canonicalise;
mod crew;
mod durable;
mod error;
mod folder;
mod form;
mod git;
mod handle;
mod hashing_unpacker;
mod links;
mod measure;
mod name;
mod optimise;
mod pack;
mod remove;
mod rename;
mod stamp;
mod tree_writer;
mod unpack;

pub use attributes::IGNORED_ATTRIBUTES;
pub use canonicalise::{Owners, Tree, canonicalise};
pub use durable::{Synced, sync_directory, sync_file_system, sync_trees};
pub use error::{FilesError, TreePath};
pub use form::Form;
pub use git::git_hash;
pub use hashing_unpacker::HashingUnpacker;
pub use links::{Links, Swept};
pub use measure::{Measured, hash_tree, measure};
pub use name::FileName;
pub use optimise::{Finding, LinkCheck, Optimised};
pub use pack::{Filled, Packer};
pub use remove::{Freed, remove_tree};
pub use rename::rename_into;
pub use stamp::{Stamp, stamp};
pub use unpack::Unpacker;
