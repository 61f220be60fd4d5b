//! Downloads files by URL, over TLS that is always verified, within limits.
//!
//! It knows `http`, `https` and `file`, and nothing of Nix but the meaning of its settings. A
//! [`Client`] gives what it downloads to a [`Receiver`], piece by piece.
//!
//! Invariants:
//!
//! - There is no way to switch the verification of certificates off, and no certificate is trusted
//!   that the caller hasn't given.
//! - Every wait has a limit: for the connection, for the answer, and for each next piece.
//! - Redirects and attempts are counted. Credentials go to the host that they are for, and never
//!   over a connection that was redirected from TLS to none.
//! - Nothing is set up before it's needed: without a URL that begins with `https`, no certificate is
//!   read.
//!
//! Follows `FileTransfer` of Nix 2.34 (`src/libstore/filetransfer.cc`) in what is tried again, when,
//! and how often.

mod attempt;
mod client;
mod error;
mod named;
mod netrc;
mod proxies;
mod retries;
mod tls;

pub use client::{Client, Receiver, Settings, without_password};
pub use error::DownloadError;
pub use named::verifier;
pub use netrc::Netrc;
pub use proxies::{Proxies, ProxyError};
pub use retries::Retries;
pub use tls::Certificates;

#[cfg(test)]
mod tests;
