//! What a build is asked for, and how.
//!
//! Follows `Serialise<DerivedPath>` and `Serialise<BuildMode>` in `src/libstore/worker-protocol.cc`
//! and `src/libstore/path-with-outputs.cc` of Nix.

use std::collections::BTreeSet;

use drover_core::StorePath;

use crate::codec::{Decoder, Encoder};
use crate::dialect::Dialect;
use crate::error::DecodeError;

/// Whether a build is plain, a repair, or a check of what is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildMode {
    /// Build what isn't valid.
    Normal,
    /// Replace what is corrupt.
    Repair,
    /// Build again and compare.
    Check,
}

/// What a build is asked for: a path, or outputs of a derivation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DerivedPath {
    /// A path as it is.
    Opaque(StorePath),
    /// All outputs of a derivation.
    All(StorePath),
    /// Some outputs of a derivation.
    Outputs(StorePath, BTreeSet<String>),
}

pub(crate) fn encode_mode(out: &mut Encoder, mode: BuildMode) {
    out.number(match mode {
        BuildMode::Normal => 0,
        BuildMode::Repair => 1,
        BuildMode::Check => 2,
    });
}

pub(crate) fn decode_mode(from: &mut Decoder<'_>) -> Result<BuildMode, DecodeError> {
    match from.number()? {
        0 => Ok(BuildMode::Normal),
        1 => Ok(BuildMode::Repair),
        2 => Ok(BuildMode::Check),
        found => Err(DecodeError::Number { what: "build mode", found }),
    }
}

pub(crate) fn encode_derived_paths(out: &mut Encoder, dialect: &Dialect, paths: &[DerivedPath]) {
    out.list(paths.iter(), |out, path| out.text(&path.display(dialect)));
}

pub(crate) fn decode_derived_paths(
    from: &mut Decoder<'_>,
    dialect: &Dialect,
) -> Result<Vec<DerivedPath>, DecodeError> {
    from.list(|from| DerivedPath::parse(from.text()?, dialect))
}

impl DerivedPath {
    /// Returns the derivation or the plain path.
    pub fn path(&self) -> &StorePath {
        match self {
            DerivedPath::Opaque(path) | DerivedPath::All(path) | DerivedPath::Outputs(path, _) => {
                path
            }
        }
    }

    /// `PATH`, `DRV!*` or `DRV!out,dev`; before 1.30 a bare derivation stands for all its outputs.
    pub fn display(&self, dialect: &Dialect) -> String {
        let store_dir = &dialect.store_dir;
        match self {
            DerivedPath::Opaque(path) => store_dir.display(path),
            DerivedPath::All(path) if dialect.since(30) => {
                format!("{}!*", store_dir.display(path))
            }
            DerivedPath::All(path) => store_dir.display(path),
            DerivedPath::Outputs(path, outputs) => {
                let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
                format!("{}!{}", store_dir.display(path), outputs.join(","))
            }
        }
    }

    /// Reads what [`DerivedPath`]s travel as.
    ///
    /// # Errors
    ///
    /// A path that is none.
    pub fn parse(text: &str, dialect: &Dialect) -> Result<DerivedPath, DecodeError> {
        let path = |text| dialect.store_dir.parse(text);
        match text.split_once('!') {
            None if dialect.since(30) => Ok(DerivedPath::Opaque(path(text)?)),
            None => match path(text)? {
                path if path.is_derivation() => Ok(DerivedPath::All(path)),
                path => Ok(DerivedPath::Opaque(path)),
            },
            Some((derivation, "*")) => Ok(DerivedPath::All(path(derivation)?)),
            Some((derivation, outputs)) => {
                let outputs = outputs.split(',').map(str::to_owned).collect();
                Ok(DerivedPath::Outputs(path(derivation)?, outputs))
            }
        }
    }
}
