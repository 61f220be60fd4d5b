//! What derivations in the store make, and what of it is there.

use std::collections::{BTreeMap, BTreeSet};

use drover_core::{DrvOutput, Hash, OutputName, StorePath};
use drover_derivation::{Derivation, DerivationKind, HashModuloCache};
use drover_store::Missing;

use crate::error::LocalError;
use crate::view::View;

/// Returns the outputs of a valid derivation: by the database where their paths are known before the
/// build, by realisations otherwise.
pub(crate) fn output_map(
    view: &View,
    path: &StorePath,
) -> Result<BTreeMap<String, Option<StorePath>>, LocalError> {
    let not_valid = || LocalError::NotValid { path: view.display(path) };
    let known = view.opened.read(|database| database.outputs(path))?.ok_or_else(not_valid)?;
    let derivation = view.derivation(path)?.ok_or_else(not_valid)?;
    let mut outputs = by_realisation(view, path, &derivation)?;
    outputs.extend(known.into_iter().map(|(name, path)| (name, Some(path))));
    Ok(outputs.into_iter().map(|(name, path)| (name.as_str().to_owned(), path)).collect())
}

fn by_realisation(
    view: &View,
    path: &StorePath,
    derivation: &Derivation,
) -> Result<BTreeMap<OutputName, Option<StorePath>>, LocalError> {
    let bad = |source| LocalError::Derivation { path: view.display(path), source };
    let kind = derivation.kind().map_err(bad)?;
    let known =
        derivation.outputs.iter().map(|(name, output)| (name.clone(), output.path().cloned()));
    let mut outputs: BTreeMap<OutputName, Option<StorePath>> = known.collect();
    if matches!(kind, DerivationKind::InputAddressed | DerivationKind::Fixed) {
        return Ok(outputs);
    }
    let hash = masked_hash(view, path, derivation)?;
    for (name, path) in &mut outputs {
        let id = DrvOutput { hash: hash.clone(), output: name.clone() };
        let realisation = view.opened.read(|database| database.realisation(&id))?;
        *path = realisation.map(|realisation| realisation.out_path);
    }
    Ok(outputs)
}

fn masked_hash(view: &View, path: &StorePath, derivation: &Derivation) -> Result<Hash, LocalError> {
    let store_dir = &view.layout().store_dir;
    let masked = |hashes: &HashModuloCache| hashes.masked(store_dir, derivation);
    Ok(view.with_input_hashes(path, derivation, |_| None, masked)?.to_hash())
}

/// Returns the hash under which realisations of a derivation's outputs are kept. Those of what it
/// depends on are remembered from one question to the next.
pub(crate) fn realisation_hash(view: &View, path: &StorePath) -> Result<Hash, LocalError> {
    let not_valid = || LocalError::NotValid { path: view.display(path) };
    let derivation = view.derivation(path)?.ok_or_else(not_valid)?;
    masked_hash(view, path, &derivation)
}

/// Says what must be built for all outputs of derivations. Nothing can be fetched.
pub(crate) fn missing(
    view: &View,
    derivations: BTreeSet<StorePath>,
) -> Result<Missing, LocalError> {
    let mut missing = Missing::default();
    // Derivations with the outputs that are wanted of them; all where it is none.
    let mut left: Vec<(StorePath, Option<BTreeSet<OutputName>>)> =
        derivations.into_iter().map(|path| (path, None)).collect();
    let mut seen = BTreeSet::new();
    while let Some((path, wanted)) = left.pop() {
        if !seen.insert((path.clone(), wanted.clone())) || missing.build.contains(&path) {
            continue;
        }
        let not_valid = || LocalError::NotValid { path: view.display(&path) };
        let derivation = view.derivation(&path)?.ok_or_else(not_valid)?;
        let outputs = by_realisation(view, &path, &derivation)?;
        let wanted: Vec<Option<StorePath>> = outputs
            .into_iter()
            .filter(|(name, _)| wanted.as_ref().is_none_or(|wanted| wanted.contains(name)))
            .map(|(_, path)| path)
            .collect();
        let known: BTreeSet<StorePath> = wanted.iter().flatten().cloned().collect();
        if wanted.iter().all(Option::is_some) && view.valid(&known)?.len() == known.len() {
            continue;
        }
        missing.build.insert(path);
        for (input, names) in &derivation.input_derivations {
            left.push((input.clone(), Some(names.iter().cloned().collect())));
        }
    }
    Ok(missing)
}
