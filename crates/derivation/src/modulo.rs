//! Hashes of derivations modulo the way in which their fixed outputs are fetched.
//!
//! Follows `src/libstore/derivation/modulo.cc` of Nix, and for floating outputs
//! `hashDerivationModulo` of Nix up to 2.34 (`derivations.cc`), because realisations are named by
//! those hashes.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use drover_core::{Hash, HashNotation, NarHash, OutputName, StoreDir, StorePath};
use sha2::Digest as _;

use crate::aterm::{Outputs, print_modulo};
use crate::{
    BasicDerivation, Derivation, DerivationError, DerivationKind, DerivationProblem, Output,
};

/// What an input derivation contributes to the hashes of those that depend on it: a SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashModulo {
    /// All paths are known before anything is built.
    Known([u8; 32]),
    /// The single output `out` has known contents; how they come about leaves no trace.
    Fixed([u8; 32]),
    /// The derivation, or one that it depends on, has outputs whose paths are not known yet.
    Deferred([u8; 32]),
}

/// The [`HashModulo`] of every derivation that was asked for and of all that they depend on.
///
/// An entry takes about 60 bytes besides the path, so 100,000 derivations take 6 MB.
#[derive(Clone, Debug, Default)]
pub struct HashModuloCache {
    known: HashMap<StorePath, HashModulo>,
}

impl HashModuloCache {
    /// Returns a cache that knows nothing.
    pub fn new() -> HashModuloCache {
        HashModuloCache::default()
    }

    /// Returns what is known of the derivation at `path`.
    pub fn get(&self, path: &StorePath) -> Option<HashModulo> {
        self.known.get(path).copied()
    }

    /// Returns the number of derivations known.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether no derivation is known.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Computes the hash of a derivation all of whose input derivations are known, and keeps it.
    ///
    /// # Errors
    ///
    /// An input derivation that isn't known or hasn't the output, or outputs that do not go
    /// together.
    pub fn insert(
        &mut self,
        store_dir: &StoreDir,
        path: &StorePath,
        derivation: &Derivation,
    ) -> Result<HashModulo, DerivationError> {
        let hash = self.hash(store_dir, derivation, Outputs::AsTheyAre)?;
        self.known.insert(path.clone(), hash);
        Ok(hash)
    }

    /// Computes the hashes of the derivation at `path` and of all that it depends on, and keeps
    /// them. `lookup` returns derivations by path; it is asked at most twice for each.
    ///
    /// Deep graphs need no stack: what is left to do stands in a list.
    ///
    /// # Errors
    ///
    /// [`DerivationProblem::UnknownInput`] where `lookup` has no answer,
    /// [`DerivationProblem::Cycle`], and the errors of [`HashModuloCache::insert`]. What was
    /// computed until then stays.
    pub fn insert_closure<D: Borrow<Derivation>>(
        &mut self,
        store_dir: &StoreDir,
        path: &StorePath,
        derivation: &Derivation,
        mut lookup: impl FnMut(&StorePath) -> Option<D>,
    ) -> Result<HashModulo, DerivationError> {
        let refuse = |problem| DerivationError::new(&derivation.name, problem);
        let mut entered = HashSet::from([path.clone()]);
        let mut left: Vec<StorePath> = self.unknown_inputs(derivation);
        while let Some(next) = left.last().cloned() {
            if self.known.contains_key(&next) {
                left.pop();
                continue;
            }
            let input = lookup(&next)
                .ok_or_else(|| refuse(DerivationProblem::UnknownInput { path: next.clone() }))?;
            let input: &Derivation = input.borrow();
            let unknown = self.unknown_inputs(input);
            if unknown.is_empty() {
                self.insert(store_dir, &next, input)?;
                left.pop();
            } else if entered.insert(next.clone()) {
                left.extend(unknown);
            } else {
                return Err(refuse(DerivationProblem::Cycle { path: next }));
            }
        }
        self.insert(store_dir, path, derivation)
    }

    fn unknown_inputs(&self, derivation: &Derivation) -> Vec<StorePath> {
        let inputs = derivation.input_derivations.keys();
        inputs.filter(|path| !self.known.contains_key(*path)).cloned().collect()
    }

    /// Returns the hash from which the paths of input-addressed outputs follow, and by which
    /// realisations name the derivation: the one with outputs masked.
    ///
    /// # Errors
    ///
    /// Those of [`HashModuloCache::insert`].
    pub fn masked(
        &self,
        store_dir: &StoreDir,
        derivation: &Derivation,
    ) -> Result<HashModulo, DerivationError> {
        self.hash(store_dir, derivation, Outputs::Masked)
    }

    fn hash(
        &self,
        store_dir: &StoreDir,
        derivation: &Derivation,
        outputs: Outputs,
    ) -> Result<HashModulo, DerivationError> {
        let kind = derivation.kind()?;
        if let Some(fixed) = fixed(store_dir, derivation) {
            return Ok(HashModulo::Fixed(fixed));
        }
        let mut deferred = matches!(kind, DerivationKind::Floating | DerivationKind::Impure);
        let mut inputs: BTreeMap<[u8; 32], BTreeSet<&OutputName>> = BTreeMap::new();
        for (path, names) in &derivation.input_derivations {
            let refuse = |problem| DerivationError::new(&derivation.name, problem);
            let input = self
                .get(path)
                .ok_or_else(|| refuse(DerivationProblem::UnknownInput { path: path.clone() }))?;
            deferred |= matches!(input, HashModulo::Deferred(_));
            if matches!(input, HashModulo::Fixed(_))
                && let Some(output) = names.iter().find(|name| !name.is_out())
            {
                let (path, output) = (path.clone(), output.clone());
                return Err(refuse(DerivationProblem::UnknownInputOutput { path, output }));
            }
            inputs.entry(input.digest()).or_default().extend(names);
        }
        let text = print_modulo(derivation, store_dir, &inputs, outputs);
        let digest = sha256(&text);
        Ok(if deferred { HashModulo::Deferred(digest) } else { HashModulo::Known(digest) })
    }
}

impl HashModulo {
    /// Returns the SHA-256.
    pub fn digest(self) -> [u8; 32] {
        match self {
            HashModulo::Known(digest)
            | HashModulo::Fixed(digest)
            | HashModulo::Deferred(digest) => digest,
        }
    }

    /// Returns the SHA-256 as a general hash.
    pub fn to_hash(self) -> Hash {
        NarHash(self.digest()).to_hash()
    }
}

fn fixed(store_dir: &StoreDir, derivation: &BasicDerivation) -> Option<[u8; 32]> {
    let Some(output @ Output::Fixed { address, .. }) = derivation.outputs.get("out") else {
        return None;
    };
    let columns = output.columns(store_dir);
    let digits = address.hash.digits(HashNotation::Base16);
    let text = format!("fixed:out:{}:{digits}:{}", columns.method_algorithm, columns.path);
    Some(sha256(text.as_bytes()))
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    sha2::Sha256::digest(bytes).into()
}
