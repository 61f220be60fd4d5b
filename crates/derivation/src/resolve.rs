//! The derivation to build, once the paths of all inputs are known.
//!
//! Follows `src/libstore/derivation/resolution.cc` and `downstream-placeholder.cc` of Nix.

use std::collections::{BTreeMap, HashMap};

use drover_core::{Hash, HashAlgorithm, HashNotation, OutputName, StoreDir, StorePath};

use crate::check::fill_deferred;
use crate::{
    BasicDerivation, ByteString, Derivation, DerivationError, DerivationKind, DerivationProblem,
    derivation_name, output_path_name,
};

/// Bytes of a placeholder: a slash and the base 32 digits of a SHA-256.
const PLACEHOLDER: usize = 53;

impl Derivation {
    /// Whether it has to be resolved before it is built: it has input derivations, and paths of
    /// outputs that are not known, its own or those that it mentions.
    ///
    /// A fixed output's own path is known, but what it is made of may be floating outputs. Nix
    /// resolves every one (`Derivation::shouldResolve` in `src/libstore/derivations.cc`); those that
    /// needn't be keep their own name here.
    ///
    /// # Errors
    ///
    /// Those of [`BasicDerivation::kind`].
    pub fn must_resolve(&self) -> Result<bool, DerivationError> {
        if self.input_derivations.is_empty() {
            return Ok(false);
        }
        match self.kind()? {
            DerivationKind::InputAddressed => Ok(false),
            DerivationKind::Fixed => self.mentions_placeholders(),
            _ => Ok(true),
        }
    }

    /// Whether the text of the derivation has a placeholder of one of its inputs.
    fn mentions_placeholders(&self) -> Result<bool, DerivationError> {
        let mut placeholders = HashMap::new();
        for (path, outputs) in &self.input_derivations {
            for output in outputs {
                let placeholder = downstream_placeholder(path, output)?;
                placeholders.insert(placeholder.into_bytes(), String::new());
            }
        }
        let variables = self.environment.iter().flat_map(|(name, value)| [name, value]);
        let command = std::iter::once(&self.builder).chain(&self.args).map(|text| text.as_bytes());
        Ok(command.chain(variables).any(|text| replace(text, &placeholders).len() < text.len()))
    }

    /// Returns the derivation with the paths of its inputs' outputs in the place of the input
    /// derivations, and in the place of the placeholders that stand for them in builder, arguments
    /// and environment. Deferred outputs get their paths.
    ///
    /// # Errors
    ///
    /// [`DerivationProblem::NotRealised`] where `realised` doesn't know the path of an output.
    pub fn resolve(
        &self,
        store_dir: &StoreDir,
        realised: impl Fn(&StorePath, &OutputName) -> Option<StorePath>,
    ) -> Result<BasicDerivation, DerivationError> {
        let mut basic = self.basic.clone();
        let mut rewrites = HashMap::new();
        for (path, outputs) in &self.input_derivations {
            for output in outputs {
                let refuse = |problem| DerivationError::new(&self.name, problem);
                let found = realised(path, output).ok_or_else(|| {
                    let (path, output) = (path.clone(), output.clone());
                    refuse(DerivationProblem::NotRealised { path, output })
                })?;
                let placeholder = downstream_placeholder(path, output)?;
                rewrites.insert(placeholder.into_bytes(), store_dir.display(&found));
                basic.input_sources.insert(found);
            }
        }
        basic.rewrite(&rewrites);
        fill_deferred(basic, store_dir)
    }
}

impl BasicDerivation {
    fn rewrite(&mut self, rewrites: &HashMap<Vec<u8>, String>) {
        let rewritten = |bytes: &[u8]| ByteString::from(replace(bytes, rewrites));
        self.builder = rewritten(&self.builder);
        for arg in &mut self.args {
            *arg = rewritten(arg);
        }
        let mut variables = BTreeMap::new();
        for (name, value) in self.environment.iter() {
            // Nix keeps the first of two variables whose names become one.
            variables.entry(rewritten(name)).or_insert_with(|| rewritten(value));
        }
        self.environment = variables.into_iter().collect();
    }
}

/// Replaces all placeholders in one pass; none of them can begin within another.
fn replace(bytes: &[u8], rewrites: &HashMap<Vec<u8>, String>) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(slash) = rest.iter().position(|&byte| byte == b'/') {
        let (before, after) = rest.split_at(slash);
        out.extend_from_slice(before);
        let found = after.split_at_checked(PLACEHOLDER);
        match found.and_then(|(placeholder, rest)| Some((rewrites.get(placeholder)?, rest))) {
            Some((path, behind)) => {
                out.extend_from_slice(path.as_bytes());
                rest = behind;
            }
            None => {
                out.push(b'/');
                rest = after.get(1..).unwrap_or_default();
            }
        }
    }
    out.extend_from_slice(rest);
    out
}

/// Returns what stands for the path of an own output whose path is not known yet (`placeholder
/// "out"` in the Nix language).
pub fn output_placeholder(output: &OutputName) -> String {
    placeholder(&format!("nix-output:{output}"))
}

/// Returns what stands for the path of an input derivation's output whose path is not known yet.
///
/// # Errors
///
/// A path that is no derivation's, or names that make no store path.
pub fn downstream_placeholder(
    derivation: &StorePath,
    output: &OutputName,
) -> Result<String, DerivationError> {
    let Some(name) = derivation_name(derivation) else {
        let path = derivation.clone();
        let problem = DerivationProblem::NotDerivation { path };
        return Err(DerivationError::new(&derivation.store_name(), problem));
    };
    let name = output_path_name(&name, output)?;
    Ok(placeholder(&format!("nix-upstream-output:{}:{name}", derivation.hash_part())))
}

fn placeholder(text: &str) -> String {
    let hash = Hash::of(HashAlgorithm::Sha256, text.as_bytes());
    format!("/{}", hash.digits(HashNotation::Base32))
}
