//! File trees made, read, put in order and removed, on a real disk and against stock Nix.

// Helpers of tests may panic as tests do.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod archives;
mod canonical;
mod evil;
mod place;
mod race;
mod removal;
mod stock;
mod tree;
