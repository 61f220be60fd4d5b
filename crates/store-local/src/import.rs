//! Adding paths: from a stream that may be slow or stop at any time, to valid paths on the disk.
//!
//! The order keeps what is valid whole, whatever happens in between: a temporary root; unpacked
//! beside the store's paths, hashed on the way, **without any lock** on the path; checked; then for
//! a whole batch the locks, validity once more, what is left of earlier tries removed, renamed into
//! place, on the disk, and registered in one transaction. Nix takes the lock before it reads the
//! first byte, so that a client who sends nothing keeps everybody off the path.

mod batch;
mod check;
mod flow;
mod room;
mod unpacking;

pub(crate) use batch::{Batch, Ready, commit};
pub(crate) use check::{Checks, check_derivation, check_info, known_outputs};
pub(crate) use flow::{ImportFailure, import, import_and_blame};
