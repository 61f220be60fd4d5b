//! Why a cache can't be used, and why a file of one didn't come.

use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use drover_core::{Compression, CompressionError, KeyError, StorePath};
use drover_store::StoreError;

/// Why an address is not that of a cache which can be used. Nothing was connected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// Another kind of store, or one that isn't spoken yet.
    #[error("'{scheme}://' is no binary cache that is spoken here, only file, http, https and s3")]
    Scheme {
        /// The scheme.
        scheme: String,
    },
    /// The address can't be made into a URL.
    #[error("'{address}' is no good address of a cache: {reason}")]
    Address {
        /// The address, without user and password.
        address: String,
        /// What is wrong.
        reason: String,
    },
    /// A parameter that must be a number.
    #[error("{name} must be a whole number, not '{value}'")]
    Number {
        /// The parameter.
        name: String,
        /// Its value.
        value: String,
    },
    /// A parameter that must be true or false.
    #[error("{name} must be true or false, not '{value}'")]
    Switch {
        /// The parameter.
        name: String,
        /// Its value.
        value: String,
    },
    /// Another way to a bucket than there is.
    #[error("scheme must be http or https, not '{value}'")]
    BucketScheme {
        /// The value.
        value: String,
    },
    /// Another place for the bucket's name than there is.
    #[error("addressing-style must be path, virtual or auto, not '{value}'")]
    Addressing {
        /// The value.
        value: String,
    },
    /// A compression that nobody knows.
    #[error(transparent)]
    Compression(CompressionError),
    /// A level that the compression doesn't have.
    #[error("{compression} has no level {level}, only {} to {}", levels.start(), levels.end())]
    Level {
        /// Which.
        compression: Compression,
        /// As given.
        level: i32,
        /// Those that it has.
        levels: RangeInclusive<i32>,
    },
    /// A parameter of Nix that asks for what isn't done.
    #[error("{name} is not done here: leave it out")]
    Unsupported {
        /// The parameter.
        name: String,
    },
    /// The file of a key can't be read.
    #[error("cannot read the secret key in {}", path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file of a key holds none.
    #[error("{} holds no secret key", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: KeyError,
    },
}

/// Why a file of a cache didn't come.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum TransferError {
    /// There is no connection.
    #[error("cannot reach {url}: {reason}")]
    Unreachable { url: String, reason: String },
    /// What the server shows is not signed by anybody who is trusted.
    #[error(
        "{url}: the server's certificate is not accepted: {reason}; authorities are in {authorities} \
         (ssl-cert-file, NIX_SSL_CERT_FILE)"
    )]
    Certificate { url: String, reason: String, authorities: String },
    /// The server says no.
    /// Its words have a colon before them, if there are any.
    #[error("{url}: the server answers {status}{words}")]
    Status { url: String, status: u16, words: String, again_in: Option<Duration> },
    /// The server wants to know who asks.
    #[error(
        "{url}: the server answers {status}: it wants a user and a password, which a netrc-file \
         can tell"
    )]
    Denied { url: String, status: u16 },
    /// The server doesn't take what is sent.
    #[error("{url}: the server answers {status}: {words}")]
    Refused { url: String, status: u16, words: String },
    /// The server takes nothing of what is sent.
    #[error("{url}: the server has taken nothing for {seconds} s (stalled-download-timeout)")]
    Untaken { url: String, seconds: u64 },
    /// The answer ended early.
    #[error("{url}: the transfer was cut off: {reason}")]
    Cut { url: String, reason: String },
    /// The server says nothing, or next to nothing.
    #[error("{url}: no more than {bytes} bytes came in {seconds} s (stalled-download-timeout)")]
    Stalled { url: String, bytes: u64, seconds: u64 },
    /// More than there should be.
    #[error("{url}: there are more than the {limit} bytes that there may be")]
    TooLarge { url: String, limit: u64 },
    /// It leads elsewhere, where nobody should go.
    #[error("{url}: the server leads on to {to}, {rule}")]
    Redirect { url: String, to: String, rule: &'static str },
    /// A file can't be read.
    #[error("cannot read {url}: {reason}")]
    Read { url: String, reason: String },
    /// A setting keeps everything from being fetched.
    #[error("{url}: {reason}")]
    Settings { url: String, reason: String },
    /// What came can't be decompressed.
    #[error("{url} is no good {compression}: {reason}")]
    Decode { url: String, compression: Compression, reason: String },
    /// A bucket doesn't answer as it should.
    #[error("{url}: {reason}")]
    Bucket { url: String, reason: String },
    /// What a narinfo names isn't there.
    #[error("{url} is not there, though the path's narinfo names it")]
    Gone { url: String },
}

impl TransferError {
    /// Whether it may go well if it is tried again.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            TransferError::Unreachable { .. }
            | TransferError::Cut { .. }
            | TransferError::Untaken { .. }
            | TransferError::Stalled { .. } => true,
            // 501, 505, 507 and 511 will stay as they are
            TransferError::Status { status, .. } => {
                let passing = [408, 425, 429, 500, 502, 503, 504, 506, 508, 509, 510];
                passing.contains(status) || (520..=599).contains(status)
            }
            _ => false,
        }
    }

    /// Returns it as the error of a store that says nothing of other paths, where it doesn't: a file
    /// that is gone or no good is one of many.
    pub(crate) fn of_nar(self, store: &str, path: &StorePath) -> StoreError {
        let message = self.to_string();
        match self {
            TransferError::Gone { .. } => {
                StoreError::NotValid { store: store.to_owned(), path: path.clone() }
            }
            TransferError::Decode { .. }
            | TransferError::TooLarge { .. }
            | TransferError::Read { .. }
            | TransferError::Redirect { .. }
            | TransferError::Bucket { .. }
            | TransferError::Status { .. } => StoreError::refused(store, message),
            other => other.of(store),
        }
    }

    /// Returns it as the error of a store.
    pub(crate) fn of(self, store: &str) -> StoreError {
        let store = store.to_owned();
        let reason = self.to_string();
        match self {
            TransferError::Unreachable { .. } | TransferError::Certificate { .. } => {
                StoreError::Unreachable { store, reason }
            }
            TransferError::Cut { .. } => StoreError::Lost { store, reason },
            TransferError::Stalled { seconds, .. } => {
                StoreError::Silent { store, seconds, doing: "a file was fetched" }
            }
            TransferError::Untaken { seconds, .. } => {
                StoreError::Silent { store, seconds, doing: "a file was sent" }
            }
            TransferError::Refused { .. } | TransferError::Denied { .. } => {
                StoreError::refused(store, reason)
            }
            _ => StoreError::Protocol { store, reason },
        }
    }
}
