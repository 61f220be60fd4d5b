//! Store paths kept once for many derivations.

use std::collections::HashSet;

use drover_core::StorePath;

use crate::Derivation;

/// The paths of derivations that are held together.
///
/// A path takes some 80 bytes, and each derivation of nixpkgs names some 30 paths which other
/// derivations name as well: shared, 100,000 derivations take 200 MB less.
#[derive(Clone, Debug, Default)]
pub struct PathPool {
    paths: HashSet<StorePath>,
}

impl PathPool {
    /// Returns the pool without paths.
    pub fn new() -> PathPool {
        PathPool::default()
    }

    /// Returns the same path, in the memory of the first one like it.
    pub fn path(&mut self, path: StorePath) -> StorePath {
        if let Some(known) = self.paths.get(&path) {
            return known.clone();
        }
        self.paths.insert(path.clone());
        path
    }

    /// Makes a derivation share the paths of its inputs.
    pub fn share(&mut self, derivation: &mut Derivation) {
        let sources = std::mem::take(&mut derivation.basic.input_sources);
        derivation.basic.input_sources = sources.into_iter().map(|path| self.path(path)).collect();
        let inputs = std::mem::take(&mut derivation.input_derivations);
        derivation.input_derivations =
            inputs.into_iter().map(|(path, outputs)| (self.path(path), outputs)).collect();
    }
}
