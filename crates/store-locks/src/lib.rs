//! The locks, temporary roots and sockets by which processes share a Nix store.
//!
//! All of it keeps to what Nix 2.8 to 2.34 do on the same files (`src/libstore/pathlocks.cc`,
//! `unix/pathlocks.cc`, `gc.cc`, `local-store.cc`), so that their processes and ours exclude each
//! other. Everything here is synchronous; what may wait takes a [`Wait`].
//!
//! The order in which locks are taken, so that nobody waits in a circle: the big lock for life, then
//! the GC lock, then path locks, all that are needed at once.

mod big_lock;
mod error;
mod flock;
mod gc_lock;
mod path_locks;
mod real_store;
mod roots_client;
mod roots_connection;
mod roots_server;
mod roots_state;
mod socket;
mod temp_dir;
mod temp_roots;
mod temp_roots_scan;
mod wait;

pub use big_lock::{BigLock, ExclusiveBigLock};
pub use error::LockError;
pub use gc_lock::{GcLock, SharedGcLock};
pub use path_locks::{PathLocks, StaleLock, Tried};
pub use real_store::RealStore;
pub use roots_server::RootsServer;
pub use roots_state::{Claim, Deletion};
pub use temp_dir::{DirLock, TempDir};
pub use temp_roots::TempRoots;
pub use temp_roots_scan::find_temporary_roots;
pub use wait::{Delay, Notice, Verdict, Wait};
