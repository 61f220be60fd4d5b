//! The text of `.drv` files.
//!
//! Follows `src/libstore/derivation/aterm.cc` of Nix. Nix reads more than it writes: lists in any
//! order, entries twice, escapes without need. This reader takes only what Nix writes, so that
//! printing a derivation gives the file's bytes again and its path follows from what was read.

mod parse;
mod print;
mod reader;

pub(crate) use print::{Outputs, print_modulo};

/// Bytes that a `.drv` file may have at the most: 64 MiB.
///
/// Nix has no limit; the largest derivations of nixpkgs are below 2 MiB.
pub const MAX_ATERM_SIZE: usize = 64 << 20;
