//! Whether a derivation says of its outputs what follows from it.
//!
//! Follows `checkInvariants` and `fillInOutputPaths` of `src/libstore/derivations.cc` of Nix.
//! Without this check, an edited derivation could claim the path of another derivation's output.

use drover_core::{OutputName, StoreDir, StorePath};

use crate::{
    BasicDerivation, ByteString, Derivation, DerivationError, DerivationKind, DerivationProblem,
    HashModulo, HashModuloCache, Output, output_path,
};

impl Derivation {
    /// Checks that the paths of the outputs, and the variables which are named like them, are the
    /// ones that follow from the derivation; `inputs` knows all of its input derivations.
    ///
    /// An output that is deferred without need passes, as it does in Nix.
    ///
    /// # Errors
    ///
    /// Which output or variable should say what; nothing of the derivation may be registered then.
    pub fn check_outputs(
        &self,
        store_dir: &StoreDir,
        inputs: &HashModuloCache,
    ) -> Result<(), DerivationError> {
        let kind = self.kind()?;
        let refuse = |problem| DerivationError::new(&self.name, problem);
        let hash = match kind {
            DerivationKind::InputAddressed => Some(inputs.masked(store_dir, self)?),
            _ => None,
        };
        for (name, output) in &self.outputs {
            let expected = match (output, hash) {
                (Output::InputAddressed(_), Some(HashModulo::Known(_) | HashModulo::Fixed(_))) => {
                    let hash = hash.map(HashModulo::to_hash);
                    hash.map(|hash| output_path(store_dir, &self.name, name, &hash)).transpose()?
                }
                (Output::InputAddressed(found), _) => {
                    let found = store_dir.display(found);
                    return Err(refuse(DerivationProblem::NotDeferred {
                        output: name.clone(),
                        found,
                    }));
                }
                (Output::Fixed { address, .. }, _) => {
                    Output::fixed(store_dir, &self.name, name, address.clone())?.path().cloned()
                }
                (Output::Floating { .. } | Output::Deferred | Output::Impure { .. }, _) => None,
            };
            if let Some(expected) = expected {
                self.check_output(store_dir, name, output, &expected).map_err(refuse)?;
            }
        }
        Ok(())
    }

    fn check_output(
        &self,
        store_dir: &StoreDir,
        name: &OutputName,
        output: &Output,
        expected: &StorePath,
    ) -> Result<(), DerivationProblem> {
        let (output_name, path) = (name.clone(), store_dir.display(expected));
        if let Some(found) = output.path().filter(|&found| found != expected) {
            let found = store_dir.display(found);
            return Err(DerivationProblem::OutputPath {
                output: output_name,
                expected: path,
                found,
            });
        }
        match self.environment.get(name.as_str()) {
            Some(found) if found == path.as_bytes() => Ok(()),
            Some(found) => Err(DerivationProblem::OutputVariable {
                output: output_name,
                expected: path,
                found: ByteString::excerpt(found),
            }),
            None => {
                Err(DerivationProblem::NoOutputVariable { output: output_name, expected: path })
            }
        }
    }
}

/// Gives deferred outputs the paths that follow now that the paths of all inputs are known.
pub(crate) fn fill_deferred(
    basic: BasicDerivation,
    store_dir: &StoreDir,
) -> Result<BasicDerivation, DerivationError> {
    if basic.kind()? != DerivationKind::Deferred {
        return Ok(basic);
    }
    let mut derivation = Derivation::from(basic);
    let hash = HashModuloCache::new().masked(store_dir, &derivation)?.to_hash();
    let mut paths = Vec::new();
    for name in derivation.outputs.keys() {
        paths.push((name.clone(), output_path(store_dir, &derivation.name, name, &hash)?));
    }
    let variables: Vec<(Vec<u8>, Vec<u8>)> = derivation
        .environment
        .iter()
        .map(|(name, value)| (name.to_vec(), value.to_vec()))
        .chain(
            paths
                .iter()
                .map(|(name, path)| (name.as_str().into(), store_dir.display(path).into_bytes())),
        )
        .collect();
    derivation.basic.environment = variables.into_iter().collect();
    derivation.basic.outputs =
        paths.into_iter().map(|(name, path)| (name, Output::InputAddressed(path))).collect();
    Ok(derivation.basic)
}
