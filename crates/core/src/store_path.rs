//! Store directories, store paths and their names.
//!
//! Follows `src/libstore/path.cc` and `store-dir-config.cc` of Nix.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::base32::decode_base32;
use crate::encode_base32;

/// Digits of the hash part of a store path: 160 bits in nix base 32.
const HASH_PART: usize = 32;

/// Name of a store path: 1 to 211 bytes of `[0-9A-Za-z+-._?=]`, whose first dash-separated
/// component is neither `.` nor `..`.
///
/// The rules are those of `checkName` in Nix (`src/libstore/path.cc`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreName(String);

/// Why a text is not the name of a store path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreNameError {
    /// Empty, or longer than 211 bytes.
    #[error("name has {len} bytes, must have 1 to {}", StoreName::MAX_LEN)]
    Length {
        /// Bytes of the name.
        len: usize,
    },
    /// A character that a name may not have.
    #[error("name has '{}' at position {at}; only letters, digits and +-._?= may stand there", found.escape_default())]
    Char {
        /// The character.
        found: char,
        /// Its position in bytes.
        at: usize,
    },
    /// `.`, `..`, or one of them before a dash.
    #[error("name may not be '.' or '..', alone or before a dash")]
    DotComponent,
}

impl StoreName {
    /// Bytes that a name may have at the most.
    pub const MAX_LEN: usize = 211;

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

pub(crate) fn check_name(name: &str) -> Result<(), StoreNameError> {
    if name.is_empty() || StoreName::MAX_LEN < name.len() {
        return Err(StoreNameError::Length { len: name.len() });
    }
    if let Some((at, found)) = name.char_indices().find(|&(_, c)| !is_name_char(c)) {
        return Err(StoreNameError::Char { found, at });
    }
    match name.split('-').next() {
        Some("." | "..") => Err(StoreNameError::DotComponent),
        _ => Ok(()),
    }
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.' | '_' | '?' | '=')
}

impl FromStr for StoreName {
    type Err = StoreNameError;

    fn from_str(name: &str) -> Result<Self, StoreNameError> {
        check_name(name)?;
        Ok(StoreName(name.to_owned()))
    }
}

impl fmt::Display for StoreName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A store path without its directory: 32 base 32 digits, a dash, and a name.
///
/// Ordered by that text, as Nix orders sets of paths. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StorePath(Arc<str>);

/// Why a text is not a store path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{}' is not a store path: {problem}", text.escape_default())]
pub struct StorePathError {
    /// The text as given, cut after 300 bytes.
    pub text: String,
    /// The rule that it breaks.
    pub problem: StorePathProblem,
}

/// The rule that a text breaks which should be a store path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StorePathProblem {
    /// Not directly in the store directory.
    #[error("it is not directly in {store_dir}")]
    NotInStore {
        /// The store directory.
        store_dir: StoreDir,
    },
    /// Something other than 32 base 32 digits before the dash.
    #[error("it must begin with 32 base32 digits and a dash")]
    HashPart,
    /// The part behind the dash.
    #[error(transparent)]
    Name(StoreNameError),
}

impl StorePathError {
    fn new(text: &str, problem: StorePathProblem) -> StorePathError {
        StorePathError { text: text.chars().take(300).collect(), problem }
    }
}

impl StorePath {
    /// Returns the path of a compressed hash and a name.
    pub fn new(hash_part: [u8; 20], name: &StoreName) -> StorePath {
        StorePath(format!("{}-{name}", encode_base32(&hash_part)).into())
    }

    /// Reads the last component of a store path, `HASH-NAME`.
    ///
    /// # Errors
    ///
    /// A hash part that is none, or a name against the rules of [`StoreName`].
    pub fn from_base_name(text: &str) -> Result<StorePath, StorePathError> {
        let bad = |problem| StorePathError::new(text, problem);
        let hash_part = text.get(..HASH_PART).ok_or_else(|| bad(StorePathProblem::HashPart))?;
        decode_base32::<20>(hash_part).map_err(|_| bad(StorePathProblem::HashPart))?;
        let name = text
            .get(HASH_PART..)
            .and_then(|rest| rest.strip_prefix('-'))
            .ok_or_else(|| bad(StorePathProblem::HashPart))?;
        check_name(name).map_err(|problem| bad(StorePathProblem::Name(problem)))?;
        Ok(StorePath(text.into()))
    }

    /// Returns `HASH-NAME`.
    pub fn base_name(&self) -> &str {
        &self.0
    }

    /// Returns the 32 digits of the hash part.
    pub fn hash_part(&self) -> &str {
        self.0.get(..HASH_PART).unwrap_or_default()
    }

    /// Returns the name, the part behind the hash.
    pub fn name(&self) -> &str {
        self.0.get(HASH_PART + 1..).unwrap_or_default()
    }

    /// Returns the name as one that keeps the rules of names.
    pub fn store_name(&self) -> StoreName {
        StoreName(self.name().to_owned())
    }

    /// Whether the name ends in `.drv`.
    pub fn is_derivation(&self) -> bool {
        self.name().ends_with(".drv")
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The directory that store paths are in: absolute, without a trailing slash, `/nix/store` mostly.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreDir(Arc<str>);

/// Why a text is not a store directory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "store directory '{text}' must be an absolute path without '.', '..', '//' or a slash at its end"
)]
pub struct StoreDirError {
    /// The text as given.
    pub text: String,
}

impl Default for StoreDir {
    fn default() -> StoreDir {
        StoreDir("/nix/store".into())
    }
}

impl StoreDir {
    /// Returns the directory as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the whole path of `path`.
    pub fn display(&self, path: &StorePath) -> String {
        format!("{}/{path}", self.0)
    }

    /// Reads a whole store path.
    ///
    /// # Errors
    ///
    /// A path that isn't directly in this directory, or isn't a store path.
    pub fn parse(&self, text: &str) -> Result<StorePath, StorePathError> {
        let base_name = text
            .strip_prefix(&*self.0)
            .and_then(|rest| rest.strip_prefix('/'))
            .filter(|rest| !rest.contains('/'))
            .ok_or_else(|| {
                StorePathError::new(text, StorePathProblem::NotInStore { store_dir: self.clone() })
            })?;
        StorePath::from_base_name(base_name)
            .map_err(|error| StorePathError::new(text, error.problem))
    }
}

impl FromStr for StoreDir {
    type Err = StoreDirError;

    fn from_str(text: &str) -> Result<Self, StoreDirError> {
        let plain = text.strip_prefix('/').is_some_and(|rest| {
            rest.split('/').all(|part| !matches!(part, "" | "." | ".."))
                && !rest.bytes().any(|byte| byte == 0)
        });
        if plain { Ok(StoreDir(text.into())) } else { Err(StoreDirError { text: text.to_owned() }) }
    }
}

impl fmt::Display for StoreDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
