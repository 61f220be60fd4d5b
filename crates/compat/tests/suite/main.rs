//! The commands, over a store in memory and against the Nix of this machine.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

mod commands;
mod golden;
mod support;
