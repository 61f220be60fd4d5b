//! Why bytes are not a message.

use drover_core::StorePathError;

/// Why bytes are not the message that should stand here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end too early; more may arrive.
    #[error("message ends {missing} bytes too early")]
    Incomplete {
        /// Bytes that are missing at least.
        missing: usize,
    },
    /// A byte string longer than it may be here.
    #[error("string length {len} exceeds limit {max}")]
    TooLong {
        /// The length that the peer announced.
        len: u64,
        /// The longest that is accepted.
        max: usize,
    },
    /// A list with more items than it may have.
    #[error("{count} {what} exceed limit {max}")]
    TooMany {
        /// What the items are.
        what: &'static str,
        /// The count that the peer announced.
        count: u64,
        /// The largest that is accepted.
        max: usize,
    },
    /// Padding other than zero bytes.
    #[error("string is not padded with zero bytes")]
    Padding,
    /// A text that isn't UTF-8.
    #[error("text is not UTF-8")]
    Utf8,
    /// A number that stands for nothing here.
    #[error("invalid {what} {found}")]
    Number {
        /// What the number should have been.
        what: &'static str,
        /// The number.
        found: u64,
    },
    /// A text that isn't what it should be.
    #[error("invalid {what} '{}'", found.escape_default())]
    Text {
        /// What the text should have been.
        what: &'static str,
        /// The text, cut after 200 characters.
        found: String,
    },
    /// A text that should be a store path.
    #[error(transparent)]
    Path(#[from] StorePathError),
    /// The first bytes are not the peer's part of the handshake.
    #[error("peer did not speak the protocol (first number {found:#x})")]
    Magic {
        /// The first number that arrived.
        found: u64,
    },
    /// A version that can't be spoken with.
    #[error(
        "peer speaks {protocol} protocol {found}; {needed} or newer of the same major version is needed"
    )]
    Version {
        /// Worker or serve.
        protocol: &'static str,
        /// The peer's version.
        found: crate::Version,
        /// The oldest version that is spoken here.
        needed: crate::Version,
    },
}

impl DecodeError {
    /// Returns the error of a text that isn't a `what`.
    pub(crate) fn text(what: &'static str, found: &str) -> DecodeError {
        DecodeError::Text { what, found: found.chars().take(200).collect() }
    }
}
