//! Why a connection ended otherwise than well, or a daemon could not listen.

use std::io;
use std::path::PathBuf;

use drover_codec::PackedError;
use drover_nar::NarError;
use drover_store::StoreError;
use drover_wire::DecodeError;

/// Why a connection ended otherwise than well, or a daemon could not listen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DaemonError {
    /// The client's bytes are no message. It was told so, where it could be.
    #[error("client broke the protocol: {0}")]
    Decode(#[from] DecodeError),
    /// What the client packed can't be unpacked. It was told so, where it could be.
    #[error("client broke the protocol: {0}")]
    Packed(#[from] PackedError),
    /// The client sent a NAR that is none, and where it ends can't be told.
    #[error("client sent a bad NAR: {0}")]
    Nar(#[from] NarError),
    /// The client asked for something that isn't offered. It was told so.
    #[error("client asked for {what}, which isn't offered")]
    NotOffered {
        /// The operation.
        what: String,
    },
    /// The request failed where the protocol has no words for it.
    #[error("{message}")]
    Failed {
        /// What the client is to be told.
        message: String,
    },
    /// The connection broke.
    #[error("lost the client while {doing}")]
    Lost {
        /// What was going on.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The client closed the connection in the middle of a message, or of an operation.
    #[error("client went away while {doing}")]
    Gone {
        /// What was going on.
        doing: &'static str,
    },
    /// The client was too slow.
    #[error("client took too long {doing}")]
    TooSlow {
        /// What was going on.
        doing: &'static str,
    },
    /// The store could not be opened for the client.
    #[error("the store can't be used")]
    Store(#[from] StoreError),
    /// A socket could not be made, or is another daemon's.
    #[error("cannot listen at '{}': {reason}", path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The service manager's variables or sockets are not what they should be.
    #[error("socket activation: {reason}")]
    Activation {
        /// What is wrong.
        reason: String,
    },
}
