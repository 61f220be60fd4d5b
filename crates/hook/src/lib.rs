//! The build hook of Nix: a program that Nix asks, for each derivation, whether it will have it built.
//!
//! Nix starts it with its settings on standard input, then asks one question after another. The answers
//! go to standard error, a line each with `# ` in front; messages for the user are JSON behind `@nix`. After
//! `# accept` and a line with the machine's name, Nix says what the build needs, closes its side, and
//! waits for the end: status 0 means that all outputs are valid. The output of the build goes to
//! descriptor 4.
//!
//! Follows `tryBuildHook` in `src/libstore/build/derivation-building-goal.cc`,
//! `src/libstore/unix/build/hook-instance.cc` and `src/nix/build-remote/build-remote.cc` of Nix.

mod choice;
mod conversation;
mod message;

pub use choice::{Choice, LocalMachine, choose, refusal};
pub use conversation::{Conversation, HookError};
pub use message::{Order, Question, Reply, Settings};
