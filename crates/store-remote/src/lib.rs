//! Stores and builders behind a socket, a child process or SSH.
//!
//! One crate for `daemon`/`unix://`, `ssh-ng://` (worker protocol) and `ssh://` (serve protocol).
//! Each machine has one SSH master; protocol channels run over it, and requests on a channel are
//! pipelined: the next is sent before the answer to the last has come. Invariants: a channel whose
//! peer said something wrong is never used again; every wait for a peer has a limit.

mod activities;
mod builder;
mod channel;
mod ciphers;
mod closing;
mod content;
mod dial;
mod ends;
mod error;
mod failure;
mod fetches;
mod findings;
mod handshake;
mod held;
mod import;
mod inlet;
mod keeper;
mod lane;
mod ledger;
mod log;
mod log_file;
mod login;
mod master;
mod mux;
mod nar_stream;
mod opener;
mod openings;
mod output_map;
mod path_questions;
mod places;
mod pool;
mod pull;
mod reader;
mod real_files;
mod realiser;
mod reply;
mod root_link;
mod session;
mod spool;
mod ssh;
mod stderr;
mod steady;
mod store;
mod turn_lane;
mod turns;
mod watch;
mod wide;
mod writer;

pub use dial::{Address, AddressError, ConnectOptions, KeepAlive, Program, Wire};
pub use login::{Login, Ran};
pub use realiser::{RemoteRealiser, client_options};
pub use ssh::{Compression, SshTarget};
pub use store::RemoteStore;
pub use turns::builds_at_once;
