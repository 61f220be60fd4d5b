//! What a build is asked for, and how.
//!
//! Follows `Serialise<DerivedPath>` and `Serialise<BuildMode>` in `src/libstore/worker-protocol.cc`
//! and `src/libstore/path-with-outputs.cc` of Nix.

use std::collections::BTreeSet;

use drover_core::{BuildMode, StorePath};

use crate::codec::{Decoder, Encoder};
use crate::dialect::Dialect;
use crate::error::DecodeError;

/// What a build is asked for: a path, or outputs of a derivation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DerivedPath {
    /// A path as it is.
    Opaque(StorePath),
    /// All outputs of a derivation.
    All(StorePath),
    /// Some outputs of a derivation.
    Outputs(StorePath, BTreeSet<String>),
    /// Outputs of a derivation that another one makes.
    Made(MadeDerivation, MadeOutputs),
}

/// A derivation that is an output of another one, or an output of such a one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MadeDerivation {
    /// The derivation that is there.
    pub derivation: StorePath,
    /// Its output, which is a derivation, that one's output, and so on; at least one and at most
    /// [`MadeDerivation::MAX_STEPS`].
    pub steps: Vec<String>,
}

impl MadeDerivation {
    /// How many derivations may be made by one another.
    pub const MAX_STEPS: usize = 16;
}

/// Outputs of a derivation that isn't known yet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MadeOutputs {
    /// All.
    All,
    /// These.
    Some(BTreeSet<String>),
}

impl MadeOutputs {
    /// Returns what is asked for, now that the derivation is known.
    pub fn of(self, derivation: StorePath) -> DerivedPath {
        match self {
            MadeOutputs::All => DerivedPath::All(derivation),
            MadeOutputs::Some(outputs) => DerivedPath::Outputs(derivation, outputs),
        }
    }
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
    /// Returns the derivation or the plain path, or the derivation that makes the derivation.
    pub fn path(&self) -> &StorePath {
        match self {
            DerivedPath::Opaque(path) | DerivedPath::All(path) | DerivedPath::Outputs(path, _) => {
                path
            }
            DerivedPath::Made(made, _) => &made.derivation,
        }
    }

    /// `PATH`, `DRV!*`, `DRV!out,dev`, or `DRV!out!out` for what a derivation makes that is an output
    /// itself; before 1.30 a bare derivation stands for all its outputs.
    pub fn display(&self, dialect: &Dialect) -> String {
        let store_dir = &dialect.store_dir;
        match self {
            DerivedPath::Opaque(path) => store_dir.display(path),
            DerivedPath::All(path) if dialect.since(30) => {
                format!("{}!*", store_dir.display(path))
            }
            DerivedPath::All(path) => store_dir.display(path),
            DerivedPath::Outputs(path, outputs) => {
                format!("{}!{}", store_dir.display(path), joined(outputs))
            }
            DerivedPath::Made(made, outputs) => {
                let outputs = match outputs {
                    MadeOutputs::All => "*".to_owned(),
                    MadeOutputs::Some(outputs) => joined(outputs),
                };
                let derivation = store_dir.display(&made.derivation);
                format!("{derivation}!{}!{outputs}", made.steps.join("!"))
            }
        }
    }

    /// Reads what [`DerivedPath`]s travel as.
    ///
    /// # Errors
    ///
    /// A path that is none, or more than [`MadeDerivation::MAX_STEPS`] derivations in a row.
    pub fn parse(text: &str, dialect: &Dialect) -> Result<DerivedPath, DecodeError> {
        let path = |text| dialect.store_dir.parse(text);
        let Some((derivation, outputs)) = text.rsplit_once('!') else {
            return match path(text)? {
                path if !dialect.since(30) && path.is_derivation() => Ok(DerivedPath::All(path)),
                path => Ok(DerivedPath::Opaque(path)),
            };
        };
        let outputs = match outputs {
            "*" => MadeOutputs::All,
            some => MadeOutputs::Some(some.split(',').map(str::to_owned).collect()),
        };
        let mut steps = derivation.split('!');
        let derivation = path(steps.next().unwrap_or_default())?;
        let steps: Vec<String> = steps.map(str::to_owned).collect();
        if steps.is_empty() {
            return Ok(outputs.of(derivation));
        }
        let max = MadeDerivation::MAX_STEPS;
        if steps.len() > max {
            return Err(DecodeError::TooMany {
                what: "derivations in between",
                count: steps.len() as u64,
                max,
            });
        }
        Ok(DerivedPath::Made(MadeDerivation { derivation, steps }, outputs))
    }
}

fn joined(outputs: &BTreeSet<String>) -> String {
    outputs.iter().map(String::as_str).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::{FEATURE_REALISATION_WITH_PATH, Version};

    fn dialect(minor: u8) -> Dialect {
        Dialect {
            store_dir: drover_core::StoreDir::default(),
            version: Version { major: 1, minor },
            features: [FEATURE_REALISATION_WITH_PATH.to_owned()].into(),
        }
    }

    const DRV: &str = "/nix/store/0s7piywhyxxxjgl17bqhm4rfz95np7s4-made.drv";

    #[rstest]
    #[case::one("!out!out", &["out"])]
    #[case::all("!out!*", &["out"])]
    #[case::several("!a!b!c,d", &["a", "b"])]
    fn outputs_of_what_a_derivation_makes(#[case] text: &str, #[case] expected: &[&str]) {
        let text = format!("{DRV}{text}");
        let parsed = DerivedPath::parse(&text, &dialect(38)).unwrap();
        let DerivedPath::Made(made, _) = &parsed else { panic!("{parsed:?}") };
        assert_eq!(made.steps, expected);
        assert_eq!(parsed.display(&dialect(38)), text);
    }

    #[test]
    fn nobody_makes_us_count_derivations_without_end() {
        let steps = |count: usize| format!("{DRV}{}", "!out".repeat(count + 1));
        let max = MadeDerivation::MAX_STEPS;
        assert!(DerivedPath::parse(&steps(max), &dialect(38)).is_ok());
        let error = DerivedPath::parse(&steps(max + 1), &dialect(38)).unwrap_err();
        assert!(matches!(error, DecodeError::TooMany { .. }), "{error}");
    }
}
