//! Realisations are kept under hashes of derivations.
//!
//! Follows `staticOutputHashes` in `src/libstore/derivations.cc` of Nix up to 2.34.

use std::collections::BTreeMap;

use drover_core::{Hash, StorePath};
use drover_derivation::{Derivation, HashModuloCache, derivation_name};

use crate::error::StoreError;
use crate::store::Store;

/// Derivations that are read to answer one such question.
const MAX_DERIVATIONS: usize = 200_000;

/// Returns the hash under which the realisations of a valid derivation's outputs are kept.
///
/// # Errors
///
/// Derivations that can't be read, or too many of them.
pub async fn realisation_hash<S: Store + ?Sized>(
    store: &S,
    derivation: &StorePath,
) -> Result<Hash, StoreError> {
    let store_dir = store.store_dir();
    let fail = |error: &dyn std::fmt::Display| {
        let shown = store_dir.display(derivation);
        StoreError::refused(store.name(), format!("derivation '{shown}': {error}"))
    };
    let mut known: BTreeMap<StorePath, Derivation> = BTreeMap::new();
    let mut wanted = vec![derivation.clone()];
    while !wanted.is_empty() {
        let files = store.read_files(&wanted).await?;
        let mut next = Vec::new();
        for (path, file) in wanted.into_iter().zip(files) {
            let name = derivation_name(&path).ok_or_else(|| fail(&"it is no derivation"))?;
            let parsed =
                Derivation::parse_aterm(store_dir, &name, &file).map_err(|error| fail(&error))?;
            next.extend(parsed.input_derivations.keys().cloned());
            known.insert(path, parsed);
        }
        next.sort();
        next.dedup();
        next.retain(|path| !known.contains_key(path));
        if known.len() + next.len() > MAX_DERIVATIONS {
            return Err(fail(&"it depends on too many others"));
        }
        wanted = next;
    }
    let own = known.get(derivation).ok_or_else(|| fail(&"it is not valid"))?;
    let mut cache = HashModuloCache::new();
    cache
        .insert_closure(store_dir, derivation, own, |path| known.get(path))
        .map_err(|error| fail(&error))?;
    Ok(cache.masked(store_dir, own).map_err(|error| fail(&error))?.to_hash())
}
