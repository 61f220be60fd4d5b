//! Hashes in every notation that Nix reads and writes.
//!
//! Follows `src/libutil/hash.cc` of Nix.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE64, BASE64_NOPAD, HEXLOWER, HEXLOWER_PERMISSIVE};
use sha2::Digest as _;

use crate::base32::{decode_base32, encode_base32};

/// The hash functions that Nix knows by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HashAlgorithm {
    /// MD5, 16 bytes; only for old fixed-output derivations.
    Md5,
    /// SHA-1, 20 bytes; only for old fixed-output derivations.
    Sha1,
    /// SHA-256, 32 bytes.
    Sha256,
    /// SHA-512, 64 bytes.
    Sha512,
}

impl HashAlgorithm {
    /// Returns the number of bytes of a digest.
    pub const fn size(self) -> usize {
        match self {
            HashAlgorithm::Md5 => 16,
            HashAlgorithm::Sha1 => 20,
            HashAlgorithm::Sha256 => 32,
            HashAlgorithm::Sha512 => 64,
        }
    }

    /// Returns the name as Nix writes it.
    pub const fn name(self) -> &'static str {
        match self {
            HashAlgorithm::Md5 => "md5",
            HashAlgorithm::Sha1 => "sha1",
            HashAlgorithm::Sha256 => "sha256",
            HashAlgorithm::Sha512 => "sha512",
        }
    }
}

impl fmt::Display for HashAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for HashAlgorithm {
    type Err = HashError;

    fn from_str(name: &str) -> Result<Self, HashError> {
        match name {
            "md5" => Ok(HashAlgorithm::Md5),
            "sha1" => Ok(HashAlgorithm::Sha1),
            "sha256" => Ok(HashAlgorithm::Sha256),
            "sha512" => Ok(HashAlgorithm::Sha512),
            _ => Err(HashError::Algorithm { name: name.to_owned() }),
        }
    }
}

/// Why a text is not a hash.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HashError {
    /// An algorithm that is not known.
    #[error("unknown hash algorithm '{name}', expected md5, sha1, sha256 or sha512")]
    Algorithm {
        /// The name as given.
        name: String,
    },
    /// The text names no algorithm and none was given.
    #[error("hash '{text}' does not say its algorithm")]
    NoAlgorithm {
        /// The text as given.
        text: String,
    },
    /// The text has a length that no notation of the algorithm has.
    #[error("hash '{text}' has {} digits, which no notation of {algorithm} has", text.len())]
    Length {
        /// The digits as given.
        text: String,
        /// The algorithm.
        algorithm: HashAlgorithm,
    },
    /// The digits are not of the notation that their number tells.
    #[error("hash '{text}' is not valid {notation}")]
    Digits {
        /// The digits as given.
        text: String,
        /// The notation by the number of digits.
        notation: &'static str,
    },
    /// Another algorithm than the one that is wanted here.
    #[error("hash is {found}, expected {expected}")]
    Unexpected {
        /// The algorithm of the hash.
        found: HashAlgorithm,
        /// The algorithm wanted.
        expected: HashAlgorithm,
    },
}

/// How a hash is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashNotation {
    /// `sha256:` and lower case hexadecimal digits.
    Base16,
    /// `sha256:` and nix base 32 digits.
    Base32,
    /// `sha256:` and base 64 with padding.
    Base64,
    /// `sha256-` and base 64 with padding (subresource integrity).
    Sri,
}

/// A digest and its algorithm.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash {
    algorithm: HashAlgorithm,
    digest: Box<[u8]>,
}

impl Hash {
    /// Returns the hash of `bytes`.
    pub fn of(algorithm: HashAlgorithm, bytes: &[u8]) -> Hash {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    /// Returns a hash from its digest.
    ///
    /// # Errors
    ///
    /// [`HashError::Length`] where the digest is not as long as the algorithm's.
    pub fn from_digest(algorithm: HashAlgorithm, digest: &[u8]) -> Result<Hash, HashError> {
        if digest.len() != algorithm.size() {
            return Err(HashError::Length { text: HEXLOWER.encode(digest), algorithm });
        }
        Ok(Hash { algorithm, digest: digest.into() })
    }

    /// Returns the algorithm.
    pub fn algorithm(&self) -> HashAlgorithm {
        self.algorithm
    }

    /// Returns the digest.
    pub fn digest(&self) -> &[u8] {
        &self.digest
    }

    /// Returns the hash in a notation, with the algorithm in front.
    pub fn display(&self, notation: HashNotation) -> String {
        match notation {
            HashNotation::Sri => format!("{}-{}", self.algorithm, self.digits(notation)),
            _ => format!("{}:{}", self.algorithm, self.digits(notation)),
        }
    }

    /// Returns the digits alone.
    pub fn digits(&self, notation: HashNotation) -> String {
        match notation {
            HashNotation::Base16 => HEXLOWER.encode(&self.digest),
            HashNotation::Base32 => encode_base32(&self.digest),
            HashNotation::Base64 | HashNotation::Sri => BASE64.encode(&self.digest),
        }
    }

    /// Reads a hash that may leave its algorithm out where `algorithm` gives it; the notation is
    /// told by the number of digits, as Nix does.
    ///
    /// # Errors
    ///
    /// No algorithm at all, two that differ, or digits that are none.
    pub fn parse(text: &str, algorithm: Option<HashAlgorithm>) -> Result<Hash, HashError> {
        let (named, digits, sri) = if let Some((name, digits)) = text.split_once(':') {
            (Some(name.parse()?), digits, Sri::No)
        } else if let Some((name, digits)) = text.split_once('-') {
            (Some(name.parse()?), digits, Sri::Yes)
        } else {
            (None, text, Sri::No)
        };
        let algorithm = match (named, algorithm) {
            (Some(found), Some(expected)) if found != expected => {
                return Err(HashError::Unexpected { found, expected });
            }
            (Some(algorithm), _) | (None, Some(algorithm)) => algorithm,
            (None, None) => return Err(HashError::NoAlgorithm { text: text.to_owned() }),
        };
        Ok(Hash { algorithm, digest: decode_digits(digits, algorithm, sri)? })
    }
}

/// Whether the text was of the form `sha256-…`, which is always base 64.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sri {
    Yes,
    No,
}

fn decode_digits(digits: &str, algorithm: HashAlgorithm, sri: Sri) -> Result<Box<[u8]>, HashError> {
    let size = algorithm.size();
    let bad = |notation| HashError::Digits { text: digits.to_owned(), notation };
    let length = || HashError::Length { text: digits.to_owned(), algorithm };
    let decoded = if sri == Sri::No && digits.len() == size * 2 {
        HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).map_err(|_| bad("base16"))?
    } else if sri == Sri::No && digits.len() == (size * 8 - 1) / 5 + 1 {
        let decoded = match algorithm {
            HashAlgorithm::Md5 => decode_base32::<16>(digits).map(Vec::from),
            HashAlgorithm::Sha1 => decode_base32::<20>(digits).map(Vec::from),
            HashAlgorithm::Sha256 => decode_base32::<32>(digits).map(Vec::from),
            HashAlgorithm::Sha512 => decode_base32::<64>(digits).map(Vec::from),
        };
        decoded.map_err(|_| bad("nix base32"))?
    } else if digits.len() == size.div_ceil(3) * 4 {
        BASE64.decode(digits.as_bytes()).map_err(|_| bad("base64"))?
    } else if sri == Sri::Yes && digits.len() == (size * 4).div_ceil(3) {
        // as of old, without the padding
        BASE64_NOPAD.decode(digits.as_bytes()).map_err(|_| bad("base64"))?
    } else {
        return Err(length());
    };
    if decoded.len() != size {
        return Err(length());
    }
    Ok(decoded.into())
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.display(HashNotation::Sri))
    }
}

impl FromStr for Hash {
    type Err = HashError;

    fn from_str(text: &str) -> Result<Self, HashError> {
        Hash::parse(text, None)
    }
}

/// The SHA-256 of a path's NAR.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NarHash(pub [u8; 32]);

impl NarHash {
    /// Reads a NAR hash in any notation; bare digits are taken for SHA-256, as on the wire.
    ///
    /// # Errors
    ///
    /// Anything but a SHA-256.
    pub fn parse(text: &str) -> Result<NarHash, HashError> {
        let hash = Hash::parse(text, Some(HashAlgorithm::Sha256))?;
        let length =
            || HashError::Length { text: text.to_owned(), algorithm: HashAlgorithm::Sha256 };
        hash.digest().try_into().map(NarHash).map_err(|_| length())
    }

    /// Returns the hash as a general one.
    pub fn to_hash(self) -> Hash {
        Hash { algorithm: HashAlgorithm::Sha256, digest: self.0.into() }
    }

    /// Returns the 64 hexadecimal digits, the form of the worker protocol.
    pub fn base16(self) -> String {
        HEXLOWER.encode(&self.0)
    }
}

impl fmt::Display for NarHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", encode_base32(&self.0))
    }
}

impl fmt::Debug for NarHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A hash in the making.
#[derive(Clone)]
pub struct Hasher(State);

#[derive(Clone)]
enum State {
    Md5(md5::Md5),
    Sha1(sha1::Sha1),
    Sha256(sha2::Sha256),
    Sha512(sha2::Sha512),
}

impl Hasher {
    /// Returns the hasher of no bytes yet.
    pub fn new(algorithm: HashAlgorithm) -> Hasher {
        Hasher(match algorithm {
            HashAlgorithm::Md5 => State::Md5(md5::Md5::new()),
            HashAlgorithm::Sha1 => State::Sha1(sha1::Sha1::new()),
            HashAlgorithm::Sha256 => State::Sha256(sha2::Sha256::new()),
            HashAlgorithm::Sha512 => State::Sha512(sha2::Sha512::new()),
        })
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Md5(state) => state.update(bytes),
            State::Sha1(state) => state.update(bytes),
            State::Sha256(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
        }
    }

    /// Returns the hash of all that was added.
    pub fn finish(self) -> Hash {
        let (algorithm, digest): (_, Box<[u8]>) = match self.0 {
            State::Md5(state) => (HashAlgorithm::Md5, state.finalize().as_slice().into()),
            State::Sha1(state) => (HashAlgorithm::Sha1, state.finalize().as_slice().into()),
            State::Sha256(state) => (HashAlgorithm::Sha256, state.finalize().as_slice().into()),
            State::Sha512(state) => (HashAlgorithm::Sha512, state.finalize().as_slice().into()),
        };
        Hash { algorithm, digest }
    }
}
