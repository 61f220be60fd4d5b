//! Why a cache can't be served.

use std::io;
use std::path::PathBuf;

/// Why a cache can't be served. Nobody was served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Not an address that can be listened at.
    #[error("'{text}' is no place to listen at: it must be ADDRESS:PORT or unix:PATH")]
    Place {
        /// As given.
        text: String,
    },
    /// Nobody can listen there.
    #[error("cannot listen at {place}")]
    Listen {
        /// Where.
        place: String,
        /// Why.
        source: io::Error,
    },
    /// A file, or a socket that somebody listens at, stands where the socket should be.
    #[error("cannot listen at unix:{}: {reason}; choose another path or remove it", path.display())]
    Taken {
        /// The path.
        path: PathBuf,
        /// What is there.
        reason: &'static str,
    },
}
