//! Builds derivations on this machine, in a sandbox, into its store.
//!
//! [`LocalMachine`] is a store and a builder at once, as the fleet wants its machines. What a build
//! is given and what is made of what it leaves is decided by `drover-recipe`, how it is shut in by
//! `drover-sandbox`, and how it becomes valid by `drover-store-local`; here they are put together.
//!
//! # The way of a build
//!
//! 1. Its inputs' closure is found and held ([`inputs`](self)), the outputs are locked, and it's
//!    looked whether somebody has made them meanwhile.
//! 2. A user is locked that nobody else has, and folders are made: one beside the store's paths,
//!    where outputs come about, and one for the build itself, in one that only root can enter.
//! 3. The plan of its surroundings is carried out by a small launcher. What it says goes to the
//!    caller line by line, and to its log.
//! 4. When nothing of it runs any more, its outputs are taken out of its reach, checked, made
//!    canonical, searched for references, hashed, and rewritten where their paths follow from their
//!    contents.
//! 5. All outputs become valid in one transaction, under the locks that are held since 1.
//!
//! Invariants:
//!
//! - Nothing is built as root, or as any user that another build has.
//! - What is done with what a build has made is done by descriptor, after all of its processes are
//!   gone; what had a way out, to the network, is copied to fresh inodes first.
//! - A build that fails leaves nothing but its log, and a fixed output of another hash than was said at
//!   the path that follows from the hash that it has; it never takes anything away that was valid.
//! - What isn't done is refused by name ([`Unsupported`]).

mod attempt;
mod builder;
mod builtin;
mod compare;
mod contents;
mod failure;
mod folders;
mod group;
mod harvest;
mod heard;
mod hook;
mod hooks;
mod inputs;
mod job;
mod lane;
mod left;
mod log;
mod log_file;
mod machine;
mod order;
mod places;
mod process;
mod reach;
#[cfg(test)]
mod recorder;
mod references;
mod registering;
mod scratch;
mod settings;
mod suitable;
mod surroundings;
mod users;
mod validity;
mod variables;
mod wished;
mod written;

pub use builder::LocalBuilder;
pub use hooks::{HookError, PostBuildHook};
pub use machine::LocalMachine;
pub use settings::{
    BuildUsers, Groups, KeepFailed, KeepLog, LocalSettings, Outside, OwnGroups, OwnVariables,
    SandboxFallback, SandboxMode, SandboxPath, SandboxPathError, SigningKeys, Wherever,
};
pub use suitable::Unsupported;
pub use users::{PER_RANGE, refusal_of_users};
