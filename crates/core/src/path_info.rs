//! What a store knows of a valid path.
//!
//! Follows `src/libstore/path-info.cc` of Nix.

use std::collections::BTreeSet;
use std::fmt;

use crate::{ContentAddress, NarHash, Signature, StoreDir, StorePath};

/// Bytes of a path's NAR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NarSize(pub u64);

impl fmt::Display for NarSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0)
    }
}

/// What a store knows of a valid path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathInfo {
    /// The path.
    pub path: StorePath,
    /// The derivation that made it, where that is known.
    pub deriver: Option<StorePath>,
    /// The hash of its NAR.
    pub nar_hash: NarHash,
    /// The size of its NAR.
    pub nar_size: NarSize,
    /// The paths it refers to, itself among them where it does.
    pub references: BTreeSet<StorePath>,
    /// When it was registered, in seconds since 1970; 0 where unknown.
    pub registration_time: u64,
    /// Whether it was built by the store that says so.
    pub ultimate: bool,
    /// Who vouches for it.
    pub signatures: BTreeSet<Signature>,
    /// What it is addressed by, where it is content-addressed.
    pub content_address: Option<ContentAddress>,
}

impl PathInfo {
    /// Returns the text that signatures sign: path, NAR hash, NAR size and references.
    pub fn fingerprint(&self, store_dir: &StoreDir) -> String {
        let references: Vec<String> =
            self.references.iter().map(|path| store_dir.display(path)).collect();
        let path = store_dir.display(&self.path);
        format!("1;{path};{};{};{}", self.nar_hash, self.nar_size.0, references.join(","))
    }
}
