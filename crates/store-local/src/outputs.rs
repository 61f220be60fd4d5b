//! What derivations in the store make, and what of it is there.

use std::collections::{BTreeMap, BTreeSet};

use drover_core::{DrvOutput, Hash, OutputName, StorePath};
use drover_derivation::{Derivation, DerivationKind, HashModuloCache};
use drover_store::{Missing, Plan, StoreError};

use crate::error::LocalError;
use crate::substitution::Forbidden;
use crate::view::View;
use crate::{LocalStore, substitution};

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

/// Says what must be built and fetched for all outputs of derivations.
///
/// Substituters are asked for what is wanted, and where that isn't all there, once more for all that
/// would have to be built: two questions, however deep the graph is.
pub(crate) async fn missing(
    store: &LocalStore,
    derivations: &BTreeSet<StorePath>,
) -> Result<Missing, StoreError> {
    let nothing = BTreeSet::new();
    if store.supply().is_empty() {
        let survey = survey(store, derivations, nothing, Depth::All).await?;
        return Ok(Missing { build: survey.build, ..Missing::default() });
    }
    let top = survey(store, derivations, nothing, Depth::Wanted).await?;
    let below = async |offered| {
        let all = survey(store, derivations, offered, Depth::All).await?;
        Ok(all.lacking)
    };
    let mut wanted = top.lacking;
    if wanted.is_empty() {
        // nobody is asked in vain
        let all = survey(store, derivations, BTreeSet::new(), Depth::All).await?;
        if all.lacking.is_empty() {
            return Ok(Missing { build: all.build, ..Missing::default() });
        }
        wanted = all.lacking;
    }
    let plan = substitution::plan(store, wanted, below).await?;
    let offered = plan.fetch.iter().map(|offer| offer.info.path.clone()).collect();
    let Survey { build, used, .. } = survey(store, derivations, offered, Depth::All).await?;
    // what they refer to comes with them
    let fetched = closure(&plan, used);
    let sizes = plan.fetch.iter().filter(|offer| fetched.contains(&offer.info.path));
    let download_size = sizes.map(|offer| offer.info.nar_size.0).fold(0, u64::saturating_add);
    Ok(Missing { build, substitute: fetched, download_size })
}

/// How far down it's looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Depth {
    /// At what was asked for.
    Wanted,
    /// At all that would have to be built.
    All,
}

/// What has to be done, given what is offered.
#[derive(Default)]
struct Survey {
    build: BTreeSet<StorePath>,
    /// What is offered and needed.
    used: BTreeSet<StorePath>,
    /// Outputs that are needed and lacking, and may be fetched.
    lacking: BTreeSet<StorePath>,
}

async fn survey(
    store: &LocalStore,
    derivations: &BTreeSet<StorePath>,
    offered: BTreeSet<StorePath>,
    depth: Depth,
) -> Result<Survey, StoreError> {
    let derivations = derivations.clone();
    let forbidden = store.supply().sources.forbidden;
    store.blocking(move |view| look(view, &derivations, &offered, (forbidden, depth))).await
}

fn look(
    view: &View,
    derivations: &BTreeSet<StorePath>,
    offered: &BTreeSet<StorePath>,
    (forbidden, depth): (Forbidden, Depth),
) -> Result<Survey, LocalError> {
    let mut survey = Survey::default();
    // Derivations with the outputs that are wanted of them; all where it is none.
    let mut left: Vec<(StorePath, Option<BTreeSet<OutputName>>)> =
        derivations.iter().map(|path| (path.clone(), None)).collect();
    let mut seen = BTreeSet::new();
    while let Some((path, names)) = left.pop() {
        if !seen.insert((path.clone(), names.clone())) || survey.build.contains(&path) {
            continue;
        }
        let not_valid = || LocalError::NotValid { path: view.display(&path) };
        let derivation = view.derivation(&path)?.ok_or_else(not_valid)?;
        let mut outputs = by_realisation(view, &path, &derivation)?;
        outputs.retain(|name, _| names.as_ref().is_none_or(|names| names.contains(name)));
        let paths: Vec<Option<StorePath>> = outputs.into_values().collect();
        let known: BTreeSet<StorePath> = paths.iter().flatten().cloned().collect();
        let valid = view.valid(&known)?;
        let lacking: BTreeSet<StorePath> = known.difference(&valid).cloned().collect();
        if lacking.is_empty() && paths.iter().all(Option::is_some) {
            continue;
        }
        let bad = |source| LocalError::Derivation { path: view.display(&path), source };
        if forbidden == Forbidden::Ignore || derivation.allow_substitutes().map_err(bad)? {
            survey.lacking.extend(lacking.iter().cloned());
            let is_whole = lacking.is_subset(offered) && paths.iter().all(Option::is_some);
            // of what was asked for not all outputs may be wanted
            if is_whole || names.is_none() {
                survey.used.extend(lacking.intersection(offered).cloned());
            }
            if is_whole {
                continue;
            }
        }
        survey.build.insert(path);
        if depth == Depth::Wanted {
            continue;
        }
        for (input, names) in &derivation.input_derivations {
            left.push((input.clone(), Some(names.iter().cloned().collect())));
        }
    }
    Ok(survey)
}

/// Returns paths of a plan with those that they refer to.
fn closure(plan: &Plan, paths: BTreeSet<StorePath>) -> BTreeSet<StorePath> {
    let mut closure = paths;
    // references come first, so from the last to the first all are found in one go
    for offer in plan.fetch.iter().rev() {
        if closure.contains(&offer.info.path) {
            closure.extend(offer.info.references.iter().cloned());
        }
    }
    plan.fetch
        .iter()
        .map(|offer| &offer.info.path)
        .filter(|path| closure.contains(path))
        .cloned()
        .collect()
}
