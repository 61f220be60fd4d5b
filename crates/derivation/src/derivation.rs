//! Derivations, whole and resolved.
//!
//! Follows `src/libstore/derivations.cc` of Nix.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;

use drover_core::{HashAlgorithm, OutputName, StoreDir, StoreName, StorePath};

use crate::{ByteString, DerivationError, DerivationProblem, Environment, Output, OutputNames};

/// A derivation whose inputs are all store paths: what a builder gets (`BuildDerivation`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BasicDerivation {
    /// The name, which begins the names of the outputs' paths; without `.drv`.
    pub name: StoreName,
    /// The outputs.
    pub outputs: BTreeMap<OutputName, Output>,
    /// Paths that the build needs.
    pub input_sources: BTreeSet<StorePath>,
    /// The kind of machine that can build it, such as `x86_64-linux` or `builtin`.
    pub system: String,
    /// The program, or `builtin:NAME`.
    pub builder: ByteString,
    /// The program's arguments.
    pub args: Vec<ByteString>,
    /// The program's environment.
    pub environment: Environment,
}

/// A derivation as a `.drv` file holds it: a [`BasicDerivation`], which it derefs to, and the
/// derivations whose outputs it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Derivation {
    /// All but the input derivations.
    pub basic: BasicDerivation,
    /// The derivations whose outputs the build needs, and which outputs.
    pub input_derivations: BTreeMap<StorePath, OutputNames>,
}

/// What kind of outputs a derivation has; all of one derivation are of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DerivationKind {
    /// The paths follow from the derivation.
    InputAddressed,
    /// As input-addressed, but some input's path is not known yet.
    Deferred,
    /// One output whose contents are given.
    Fixed,
    /// Content-addressed by what the build makes.
    Floating,
    /// As floating, and built anew each time.
    Impure,
}

impl BasicDerivation {
    /// Returns what kind of outputs it has.
    ///
    /// # Errors
    ///
    /// No outputs, outputs of several kinds, fixed outputs other than a single `out`, or floating
    /// outputs with several hash algorithms. Parsed derivations have none of these.
    pub fn kind(&self) -> Result<DerivationKind, DerivationError> {
        let refuse = |problem| DerivationError::new(&self.name, problem);
        let mut outputs = self.outputs.iter();
        let (first, output) = outputs.next().ok_or_else(|| refuse(DerivationProblem::NoOutputs))?;
        let kind = kind_of(output);
        if kind == DerivationKind::Fixed
            && let Some(other) = self.outputs.keys().rfind(|name| !name.is_out())
        {
            return Err(refuse(DerivationProblem::FixedOutput { output: other.clone() }));
        }
        for (name, other) in outputs {
            if kind_of(other) != kind {
                return Err(refuse(DerivationProblem::MixedOutputs {
                    output: name.clone(),
                    first: first.clone(),
                }));
            }
            if floating_algorithm(other) != floating_algorithm(output) {
                return Err(refuse(DerivationProblem::MixedAlgorithms {
                    output: name.clone(),
                    first: first.clone(),
                }));
            }
        }
        Ok(kind)
    }

    /// Whether its output's contents are given.
    pub fn is_fixed_output(&self) -> bool {
        self.outputs.values().any(|output| matches!(output, Output::Fixed { .. }))
    }

    /// Whether Nix itself is the builder (`builtin:fetchurl` and its likes).
    pub fn is_builtin(&self) -> bool {
        self.builder.starts_with(b"builtin:")
    }
}

fn kind_of(output: &Output) -> DerivationKind {
    match output {
        Output::InputAddressed(_) => DerivationKind::InputAddressed,
        Output::Fixed { .. } => DerivationKind::Fixed,
        Output::Floating { .. } => DerivationKind::Floating,
        Output::Deferred => DerivationKind::Deferred,
        Output::Impure { .. } => DerivationKind::Impure,
    }
}

fn floating_algorithm(output: &Output) -> Option<HashAlgorithm> {
    match output {
        Output::Floating { algorithm, .. } => Some(*algorithm),
        _ => None,
    }
}

impl Derivation {
    /// Returns what a builder needs, given all paths that the build needs.
    ///
    /// The paths are those of the inputs' closure; they replace the input derivations. Without
    /// input derivations nothing changes, because the path of a content-addressed output could.
    pub fn to_basic(&self, inputs: impl IntoIterator<Item = StorePath>) -> BasicDerivation {
        let mut basic = self.basic.clone();
        if !self.input_derivations.is_empty() {
            basic.input_sources.extend(inputs);
        }
        basic
    }

    /// Returns the path of the `.drv` file.
    ///
    /// # Errors
    ///
    /// A name that is too long with `.drv` behind it.
    pub fn derivation_path(&self, store_dir: &StoreDir) -> Result<StorePath, DerivationError> {
        let name = format!("{}.drv", self.name).parse().map_err(|error| {
            DerivationError::new(&self.name, DerivationProblem::FileName { error })
        })?;
        let references = self.input_sources.iter().chain(self.input_derivations.keys());
        Ok(store_dir.text_path(&self.to_aterm(store_dir), references.cloned(), &name))
    }
}

impl Deref for Derivation {
    type Target = BasicDerivation;

    fn deref(&self) -> &BasicDerivation {
        &self.basic
    }
}

impl From<BasicDerivation> for Derivation {
    fn from(basic: BasicDerivation) -> Derivation {
        Derivation { basic, input_derivations: BTreeMap::new() }
    }
}

/// Returns the name of the derivation whose file is at `path`; nothing where it isn't `NAME.drv`.
pub fn derivation_name(path: &StorePath) -> Option<StoreName> {
    path.name().strip_suffix(".drv")?.parse().ok()
}
