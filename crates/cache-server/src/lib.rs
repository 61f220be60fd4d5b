//! A store as a binary cache behind HTTP, for the clients of Nix's `http://` stores and drover's own.
//!
//! Invariants:
//!
//! - What is asked for is found by its hash, never by a path in a file system.
//! - A NAR that isn't what its narinfo says never ends cleanly: its last bytes are kept back until it
//!   is known to be good.
//! - Without a token nothing can be written; with one, what is uploaded is checked like anything that
//!   comes into the store, and nothing that is there is replaced.
//! - A reader that is slow costs its connection and a few blocks: no thread, no encoder, no lock.
//! - Nobody is told paths of this machine or what the system says; that goes to the log.
//!
//! What is served follows `src/libstore/binary-cache-store.cc` and `http-binary-cache-store.cc` of Nix,
//! and what `nix-serve` and its successors have made of it.

mod body;
mod budget;
mod catalogue;
mod checked;
mod compressed;
mod conditions;
mod connection;
mod error;
mod guarded;
mod kept;
mod listener;
mod listings;
mod metrics;
mod nar_out;
mod range;
mod refusal;
mod request;
mod server;
mod settings;
mod tls;
mod turns;
mod upload;

pub use error::ServeError;
pub use listener::{Listener, Place};
pub use server::CacheServer;
pub use settings::{NarForm, Settings, Signers, UploadTrust, Uploads, WriteToken};
pub use tls::{TlsError, tls_config};
