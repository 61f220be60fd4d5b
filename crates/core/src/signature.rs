//! Signatures of path infos.
//!
//! Follows `src/libutil/signature/local-keys.cc` of Nix.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64;

/// An Ed25519 signature under a key's name: `cache.example.org-1:BASE64`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signature {
    key: String,
    bytes: [u8; 64],
}

/// Why a text is not a signature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("signature '{text}' must be NAME:BASE64 of 64 bytes")]
pub struct SignatureError {
    /// The text as given.
    pub text: String,
}

impl Signature {
    /// The key's name must not be empty.
    pub(crate) fn new(key: &str, bytes: [u8; 64]) -> Signature {
        Signature { key: key.to_owned(), bytes }
    }

    /// Returns the name of the key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Returns the 64 bytes.
    pub fn bytes(&self) -> &[u8; 64] {
        &self.bytes
    }
}

impl FromStr for Signature {
    type Err = SignatureError;

    fn from_str(text: &str) -> Result<Self, SignatureError> {
        let bad = || SignatureError { text: text.to_owned() };
        let (key, digits) = text.split_once(':').ok_or_else(bad)?;
        let bytes = BASE64.decode(digits.as_bytes()).map_err(|_| bad())?;
        let bytes = bytes.try_into().map_err(|_| bad())?;
        if key.is_empty() { Err(bad()) } else { Ok(Signature { key: key.to_owned(), bytes }) }
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.key, BASE64.encode(&self.bytes))
    }
}
