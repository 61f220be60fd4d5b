//! The builders that are part of Nix: `builtin:fetchurl`, `builtin:buildenv`,
//! `builtin:unpack-channel`.
//!
//! A [`Task`] is all that one of them needs, as data; [`run`] does it. Who builds sends the bytes of a
//! task to where builds are shut in, and has them run there like any other builder, as the build's
//! user: nothing here knows of sandboxes, users or stores, and nothing is to be trusted with more than
//! a build is.
//!
//! Follows `src/libstore/builtins/` of Nix 2.34; what they make is the same, byte by byte.

mod archive;
mod attributes;
mod builtin;
mod environment;
mod error;
mod fetch;
mod links;
mod task;
mod tree;
mod unpack;

pub use builtin::Builtin;
pub use error::BuiltinError;
pub use task::{Fetching, FlatHash, Task, run};
