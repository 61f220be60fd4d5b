//! Content addresses, and the store paths that follow from contents.
//!
//! Follows `src/libstore/content-address.cc` and `makeStorePath`, `makeFixedOutputPath` of
//! `store-dir-config.cc` of Nix, and its document "Complete store path calculation".

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::{Hash, HashAlgorithm, HashError, HashNotation, StoreDir, StoreName, StorePath};

/// How file system objects become the bytes that are hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IngestionMethod {
    /// The bytes of one regular file.
    Flat,
    /// The NAR of the whole tree (`r:`).
    Nar,
    /// The git object of the tree (`git:`).
    Git,
    /// The bytes of a text file such as a derivation; the path may have references (`text:`).
    Text,
}

impl IngestionMethod {
    /// Returns what stands before the algorithm in a derivation's output: `r:`, `git:`, `text:` or nothing.
    pub const fn prefix(self) -> &'static str {
        match self {
            IngestionMethod::Flat => "",
            IngestionMethod::Nar => "r:",
            IngestionMethod::Git => "git:",
            IngestionMethod::Text => "text:",
        }
    }

    /// Splits `r:sha256` into method and algorithm.
    pub fn strip_prefix(text: &str) -> (IngestionMethod, &str) {
        for method in [IngestionMethod::Nar, IngestionMethod::Git, IngestionMethod::Text] {
            if let Some(rest) = text.strip_prefix(method.prefix()) {
                return (method, rest);
            }
        }
        (IngestionMethod::Flat, text)
    }
}

/// What a content-addressed path's contents are: method and hash.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentAddress {
    /// How the contents were turned into bytes.
    pub method: IngestionMethod,
    /// The hash of those bytes.
    pub hash: Hash,
}

/// Why a text is not a content address, or a content address has no store path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ContentAddressError {
    /// Neither `text:…` nor `fixed:…`.
    #[error("content address '{text}' must begin with 'text:' or 'fixed:'")]
    Prefix {
        /// The text as given.
        text: String,
    },
    /// The hash.
    #[error("content address '{text}' has no good hash")]
    Hash {
        /// The text as given.
        text: String,
        /// What is wrong with the hash.
        source: HashError,
    },
    /// A hash algorithm that the method does not allow.
    #[error("a path that is content-addressed as '{address}' must have {expected}")]
    Algorithm {
        /// The content address.
        address: String,
        /// The algorithms that the method allows.
        expected: &'static str,
    },
    /// References where the method allows none.
    #[error("a path that is content-addressed as '{address}' can't have references")]
    References {
        /// The content address.
        address: String,
    },
}

/// What a path refers to: other paths, and perhaps itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// Other paths.
    pub others: BTreeSet<StorePath>,
    /// Whether the path refers to itself.
    pub itself: bool,
}

impl fmt::Display for ContentAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.method == IngestionMethod::Text { "" } else { "fixed:" };
        write!(f, "{kind}{}{}", self.method.prefix(), self.hash.display(HashNotation::Base32))
    }
}

impl FromStr for ContentAddress {
    type Err = ContentAddressError;

    fn from_str(text: &str) -> Result<Self, ContentAddressError> {
        let (method, hash) = if let Some(rest) = text.strip_prefix("text:") {
            (IngestionMethod::Text, rest)
        } else if let Some(rest) = text.strip_prefix("fixed:") {
            match IngestionMethod::strip_prefix(rest) {
                (IngestionMethod::Text, _) => (IngestionMethod::Flat, rest),
                found => found,
            }
        } else {
            return Err(ContentAddressError::Prefix { text: text.to_owned() });
        };
        let refuse = |source| ContentAddressError::Hash { text: text.to_owned(), source };
        if !hash.contains(':') {
            return Err(refuse(HashError::NoAlgorithm { text: hash.to_owned() }));
        }
        let hash = hash.parse().map_err(refuse)?;
        Ok(ContentAddress { method, hash })
    }
}

impl StoreDir {
    /// Returns the path of a kind (`output:out`, `text`, `source`), an inner hash and a name.
    pub fn make_path(&self, kind: &str, inner: &Hash, name: &StoreName) -> StorePath {
        let fingerprint = format!("{kind}:{}:{self}:{name}", inner.display(HashNotation::Base16));
        let hash = Hash::of(HashAlgorithm::Sha256, fingerprint.as_bytes());
        let mut compressed = [0u8; 20];
        for (at, byte) in hash.digest().iter().enumerate() {
            if let Some(slot) = compressed.get_mut(at % 20) {
                *slot ^= byte;
            }
        }
        StorePath::new(compressed, name)
    }

    /// Returns the path of a text such as a derivation, which may refer to other paths.
    pub fn text_path(
        &self,
        text: &[u8],
        references: impl IntoIterator<Item = StorePath>,
        name: &StoreName,
    ) -> StorePath {
        let others = references.into_iter().collect();
        let kind = self.kind("text", &References { others, itself: false });
        self.make_path(&kind, &Hash::of(HashAlgorithm::Sha256, text), name)
    }

    /// Returns the path of contents that are addressed by `address`.
    ///
    /// # Errors
    ///
    /// [`ContentAddressError::Algorithm`] for texts that are not hashed with SHA-256, or git objects
    /// with neither that nor SHA-1; [`ContentAddressError::References`] where the method allows no
    /// (such) references.
    pub fn content_addressed_path(
        &self,
        address: &ContentAddress,
        references: &References,
        name: &StoreName,
    ) -> Result<StorePath, ContentAddressError> {
        let none = references.others.is_empty() && !references.itself;
        let sha256 = address.hash.algorithm() == HashAlgorithm::Sha256;
        let sha1 = address.hash.algorithm() == HashAlgorithm::Sha1;
        let refuse = |expected| {
            Err(ContentAddressError::Algorithm { address: address.to_string(), expected })
        };
        match address.method {
            IngestionMethod::Text if !sha256 => refuse("sha256"),
            IngestionMethod::Git if !sha256 && !sha1 => refuse("sha1 or sha256"),
            IngestionMethod::Text if !references.itself => {
                Ok(self.make_path(&self.kind("text", references), &address.hash, name))
            }
            IngestionMethod::Nar if sha256 => {
                Ok(self.make_path(&self.kind("source", references), &address.hash, name))
            }
            IngestionMethod::Flat | IngestionMethod::Nar | IngestionMethod::Git if none => {
                let digits = address.hash.display(HashNotation::Base16);
                let inner = format!("fixed:out:{}{digits}:", address.method.prefix());
                let inner = Hash::of(HashAlgorithm::Sha256, inner.as_bytes());
                Ok(self.make_path("output:out", &inner, name))
            }
            _ => Err(ContentAddressError::References { address: address.to_string() }),
        }
    }

    fn kind(&self, kind: &str, references: &References) -> String {
        let mut text = kind.to_owned();
        for path in &references.others {
            text.push(':');
            text.push_str(&self.display(path));
        }
        if references.itself {
            text.push_str(":self");
        }
        text
    }
}
