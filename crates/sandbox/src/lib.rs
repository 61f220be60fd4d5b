//! Runs a command in surroundings of its own, from a [`Plan`] that is data.
//!
//! This crate knows nothing of Nix. It's given what to run, as whom, and what to show, and sees to
//! it that the command sees nothing else, gets no privileges, and leaves no process behind.
//!
//! # Processes
//!
//! ```text
//! caller (tokio, many threads, large) ── socket ──► launcher (one thread, small)
//!    │                                                  │ fork, per command
//!    └─────────────── socket, per command ──────────► supervisor
//!                                                       │ clone3 with namespaces
//!                                                       ▼
//!                                                    child ── exec ──► command
//! ```
//!
//! * The **launcher** is started once, as a program of its own ([`run_launcher_for`]). Forking it costs
//!   little, as it's small, where forking a daemon with a gigabyte in memory takes 26 ms. It has one
//!   thread, so that what is forked from it may do anything, not only what is safe in signal
//!   handlers; and death signals, which are sent when the parent's *thread* ends, mean what they say.
//! * A **supervisor** belongs to one command. It makes the command's process, writes the user
//!   namespace's maps, waits, kills what is left, and tells how it ended. It has the far end of a
//!   socket: when the caller's end closes, because [`Running`] was dropped or the caller was killed,
//!   the supervisor kills everything. It's out of the command's reach: of another user or outside its
//!   process namespace.
//! * The **child** sets itself up and becomes the command. What fails on the way is told by step
//!   ([`Step`]). If the supervisor dies, the kernel kills the child, and with it its namespace; the
//!   caller sees the socket close and kills what it can reach too.
//!
//! A supervisor may be there before its command is known: where root has commands run that are shut in,
//! the launcher forks the next one at once, and its child makes what such commands have in common
//! ([`Namespaces::recurring`]) while the one before runs: its namespaces, devices, file systems in
//! memory. It's for one command only, and only for one that is to have exactly this.
//!
//! # A network with a way out
//!
//! [`Network::Forwarded`] has one more process, and `pasta`, for as long as the command runs: see `link`.
//!
//! # Three ways to run
//!
//! | [`Identity`] | [`Isolation`] | takes | leftovers end by |
//! |---|---|---|---|
//! | `User` | `Namespaces` | root | the process namespace, the user, the control group |
//! | `Range` | `Namespaces` | root | the process namespace, the users, the control group |
//! | `Caller` | `Namespaces` | user namespaces | the process namespace, the control group |
//! | `User` | `None` | root | the user, the control group |
//! | `Caller` | `None` | nothing | being the supervisor's descendants, the control group |
//!
//! As root and with one user, the user namespace is made last: until then, root of the machine makes
//! the root file system, whose files so belong to root, as does every namespace. Otherwise it's made
//! first, and all else belongs to it.
//!
//! # Needs
//!
//! Linux 5.12 for namespaces (mounts by descriptor with `mount_setattr`), 5.9 without; 6.12 for
//! [`Scope`].
//!
//! # Example
//!
//! ```no_run
//! use drover_sandbox::*;
//! # async fn run(log: std::os::fd::OwnedFd, store: std::os::fd::OwnedFd) -> Result<(), Box<dyn std::error::Error>> {
//! // `main` calls `run_launcher()` first thing when it's started with this argument.
//! let launcher = Launcher::start(&LauncherProgram::this_one("__sandbox"))?;
//!
//! let mut handles = Handles::new();
//! let output = handles.add(log);
//! let store = handles.add(store);
//! let shell = Source::In { folder: store, path: Below::new("abc-bash")? };
//! let plan = Plan {
//!     command: Command {
//!         program: Program::File(b"/store/abc-bash/bin/bash".to_vec()),
//!         arguments: vec![b"bash".to_vec(), b"-c".to_vec(), b"echo hello".to_vec()],
//!         environment: vec![(b"HOME".to_vec(), b"/nowhere".to_vec())],
//!         folder: b"/tmp".to_vec(),
//!         output,
//!         umask: 0o022,
//!     },
//!     identity: Identity::User(Ids { uid: 30_001, gid: 30_000 }),
//!     isolation: Isolation::Namespaces(Box::new(Namespaces {
//!         users: UserNamespace::Private { appears_as: Ids { uid: 1000, gid: 100 } },
//!         network: Network::Private,
//!         root: Root::Tmpfs { size: 16 << 20 },
//!         root_access: Access::ReadOnly,
//!         recurring: vec![Mount { at: Target::new("/proc")?, what: Content::Proc }],
//!         mounts: vec![
//!             Mount {
//!                 at: Target::new("/store/abc-bash")?,
//!                 what: Content::Bind { source: shell, access: Access::ReadOnly },
//!             },
//!             Mount {
//!                 at: Target::new("/tmp")?,
//!                 what: Content::Tmpfs {
//!                     size: TmpfsSize::Percent(50),
//!                     mode: 0o1777,
//!                     owner: Owner::Root,
//!                 },
//!             },
//!         ],
//!         hostname: b"localhost".to_vec(),
//!         domainname: b"(none)".to_vec(),
//!     })),
//!     filter: SyscallFilter::Builds,
//!     scope: Scope::WhereSupported,
//!     cgroup: Cgroup::Inherited,
//!     limits: vec![],
//!     personality: Personality { machine: Machine::Native, addresses: Addresses::Fixed },
//!     oom_score: None,
//!     groups: vec![],
//!     leftovers: Leftovers::Kill,
//! };
//! let mut running = launcher.spawn(&plan, &handles).await?;
//! drop(handles); // or the log would never come to its end here
//! let ended = running.wait().await?;
//! assert_eq!(ended.exit, Exit::Code(0));
//! # Ok(())
//! # }
//! ```

mod ahead;
mod cgroup;
mod child;
mod error;
mod filter;
mod handles;
mod identity;
mod inherited;
mod launch;
mod launcher;
mod leftovers;
mod limits;
mod link;
mod message;
mod mounts;
mod network;
mod plan;
mod running;
mod sources;
mod spare;
mod standing;
mod supervisor;
mod support;
mod sys;
mod target;
mod terminal;
mod users;

pub use cgroup::{CgroupFolder, CgroupLeaf, CgroupUsage};
pub use error::{Failure, Reason, SpawnError, Step, WaitError};
pub use handles::{Handle, Handles};
pub use inherited::{close_inherited, keep_descriptors_from_children};
pub use launch::{OwnProgram, run_launcher, run_launcher_for};
pub use launcher::{Launcher, LauncherProgram};
pub use network::{Forwarder, Network};
pub use plan::{
    Access, Addresses, Cgroup, Command, Content, HardLimit, Identity, Ids, Isolation, Leftovers,
    Limit, Machine, Mount, Namespaces, Owner, Personality, Plan, Program, Resource, Root, Scope,
    Source, SyscallFilter, TmpfsSize, UserNamespace,
};
pub use running::{Cause, Connection, Ended, Exit, Running, Usage};
pub use standing::Standing;
pub use support::{Availability, Support};
pub use target::{Below, PathError, Target};
pub use terminal::{Terminal, TerminalReader};
pub use users::{LockedUsers, UserPool, UserPoolError};
