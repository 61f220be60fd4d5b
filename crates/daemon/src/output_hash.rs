//! Realisations are kept under hashes of derivations; newer clients name the derivation instead.
//!
//! Follows `staticOutputHashes` in `src/libstore/derivations.cc` of Nix up to 2.34.

use std::collections::BTreeMap;

use drover_core::{DrvOutput, OutputName, StorePath};
use drover_derivation::{Derivation, HashModuloCache, derivation_name};
use drover_store::Keeper;

use crate::failure::Failure;

/// Derivations that are read to answer one such question.
const MAX_DERIVATIONS: usize = 200_000;

/// Returns the name under which the realisation of an output of a valid derivation is kept.
pub(crate) async fn output_id(
    keeper: &dyn Keeper,
    derivation: &StorePath,
    output: &OutputName,
) -> Result<DrvOutput, Failure> {
    let store_dir = keeper.store_dir().clone();
    let fail = |error: &dyn std::fmt::Display| {
        Failure::new(format!("derivation '{}': {error}", store_dir.display(derivation)))
    };
    let mut known: BTreeMap<StorePath, Derivation> = BTreeMap::new();
    let mut wanted = vec![derivation.clone()];
    while !wanted.is_empty() {
        let files = keeper
            .read_files(&wanted)
            .await
            .map_err(|error| Failure::of(keeper.store_dir(), &error))?;
        let mut next = Vec::new();
        for (path, file) in wanted.into_iter().zip(files) {
            let name = derivation_name(&path).ok_or_else(|| fail(&"it is no derivation"))?;
            let parsed =
                Derivation::parse_aterm(&store_dir, &name, &file).map_err(|error| fail(&error))?;
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
        .insert_closure(&store_dir, derivation, own, |path| known.get(path))
        .map_err(|error| fail(&error))?;
    let hash = cache.masked(&store_dir, own).map_err(|error| fail(&error))?.to_hash();
    Ok(DrvOutput { hash, output: output.clone() })
}
