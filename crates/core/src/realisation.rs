//! What output of which derivation a store path is.
//!
//! Follows `src/libstore/realisation.cc` of Nix up to 2.34, where a derivation is named by its hash
//! modulo and not by its path.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::{Hash, HashError, HashNotation, OutputName, Signature, StoreNameError, StorePath};

/// An output of a derivation, named by the derivation's hash modulo: `sha256:HEX!out`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DrvOutput {
    /// The derivation's hash modulo with its outputs masked.
    pub hash: Hash,
    /// The output's name.
    pub output: OutputName,
}

/// Why a text does not name an output of a derivation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DrvOutputError {
    /// No `!`.
    #[error("derivation output '{text}' must be HASH!OUTPUT")]
    Separator {
        /// The text as given.
        text: String,
    },
    /// The part before the `!`.
    #[error("derivation output '{text}' has no good hash")]
    Hash {
        /// The text as given.
        text: String,
        /// What is wrong with the hash.
        source: HashError,
    },
    /// The part after the `!`.
    #[error("derivation output '{text}' has no good output name")]
    Output {
        /// The text as given.
        text: String,
        /// What is wrong with the name.
        source: StoreNameError,
    },
}

impl FromStr for DrvOutput {
    type Err = DrvOutputError;

    fn from_str(text: &str) -> Result<Self, DrvOutputError> {
        let (hash, output) = text
            .split_once('!')
            .ok_or_else(|| DrvOutputError::Separator { text: text.to_owned() })?;
        let hash = hash
            .parse()
            .map_err(|source| DrvOutputError::Hash { text: text.to_owned(), source })?;
        let output = output
            .parse()
            .map_err(|source| DrvOutputError::Output { text: text.to_owned(), source })?;
        Ok(DrvOutput { hash, output })
    }
}

impl fmt::Display for DrvOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}!{}", self.hash.display(HashNotation::Base16), self.output)
    }
}

/// The store path that an output of a derivation became.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Realisation {
    /// The output.
    pub id: DrvOutput,
    /// The path that holds it.
    pub out_path: StorePath,
    /// Who vouches for it.
    pub signatures: BTreeSet<Signature>,
}
