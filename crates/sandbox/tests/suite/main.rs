//! Commands run for real: what they find, what they try, and what is left of them. Takes root, from
//! which some of them step down.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

mod ahead;
mod attacks;
mod cgroups;
mod inside;
mod support;
