//! What derivations in the store make, and what of it is there.

use std::collections::{BTreeMap, BTreeSet};

use drover_core::{ContentAddress, DrvOutput, Hash, OutputName, StorePath};
use drover_derivation::{Derivation, DerivationKind, HashModuloCache, Output, OutputNames};
use drover_store::{Keeper as _, Missing, Plan, StoreError};

use crate::error::LocalError;
use crate::substitution::realisations::{self, Found};
use crate::substitution::{Forbidden, Supply};
use crate::view::View;
use crate::{LocalStore, substitution};

/// Returns the outputs of a valid derivation: by the database where their paths are known before the
/// build, by realisations otherwise.
pub(crate) fn output_map(
    view: &View,
    path: &StorePath,
) -> Result<BTreeMap<String, Option<StorePath>>, LocalError> {
    map_with(view, path, None).map(|(outputs, _)| outputs)
}

/// Returns the same with what substituters say of outputs that nobody here knows.
pub(crate) async fn expected_outputs(
    store: &LocalStore,
    path: &StorePath,
) -> Result<BTreeMap<String, Option<StorePath>>, StoreError> {
    let ask = async || {
        let (path, supply) = (path.clone(), store.supply());
        store.blocking(move |view| map_with(view, &path, Some(&supply))).await
    };
    let (mut outputs, mut unregistered) = ask().await?;
    if unregistered.is_empty() {
        return Ok(outputs);
    }
    if realisations::seek(store, &unregistered).await? == Found::Something {
        (outputs, unregistered) = ask().await?;
    }
    // what was only said may be valid meanwhile
    realisations::register_of(store, &unregistered).await?;
    Ok(outputs)
}

/// Returns what an output became, by a realisation or by what substituters say.
pub(crate) async fn expected_realisation(
    store: &LocalStore,
    output: &DrvOutput,
) -> Result<Option<StorePath>, StoreError> {
    if let Some(realisation) = store.realisation(output).await? {
        return Ok(Some(realisation.out_path));
    }
    realisations::seek(store, &BTreeSet::from([output.clone()])).await?;
    let (output, supply) = (output.clone(), store.supply());
    store.blocking(move |view| Ok(supply.hearsay.path_of(view, &output))).await
}

/// Returns outputs by name, and those that substituters may be asked about, or were.
type Mapped = (BTreeMap<String, Option<StorePath>>, BTreeSet<DrvOutput>);

fn map_with(view: &View, path: &StorePath, supply: Option<&Supply>) -> Result<Mapped, LocalError> {
    let not_valid = || LocalError::NotValid { path: view.display(path) };
    let known = view.opened.read(|database| database.outputs(path))?.ok_or_else(not_valid)?;
    let derivation = view.derivation(path)?.ok_or_else(not_valid)?;
    let supply = match supply {
        Some(supply) if may_be_fetched(view, path, &derivation, supply)? => Some(supply),
        _ => None,
    };
    let Outputs { mut paths, unnamed, said } = by_realisation(view, path, &derivation, supply)?;
    paths.extend(known.into_iter().map(|(name, path)| (name, Some(path))));
    let paths = paths.into_iter().map(|(name, path)| (name.as_str().to_owned(), path)).collect();
    let unregistered = if supply.is_some() { &unnamed | &said } else { BTreeSet::new() };
    Ok((paths, unregistered))
}

fn may_be_fetched(
    view: &View,
    path: &StorePath,
    derivation: &Derivation,
    supply: &Supply,
) -> Result<bool, LocalError> {
    let bad = |source| LocalError::Derivation { path: view.display(path), source };
    let ignored = supply.sources.forbidden == Forbidden::Ignore;
    Ok(ignored || derivation.allow_substitutes().map_err(bad)?)
}

/// The outputs of a derivation.
struct Outputs {
    /// Their paths, as far as they are known.
    paths: BTreeMap<OutputName, Option<StorePath>>,
    /// Those that are known once somebody says what they became.
    unnamed: BTreeSet<DrvOutput>,
    /// Those that are known by what substituters said only.
    said: BTreeSet<DrvOutput>,
}

impl Outputs {
    fn keep(&mut self, names: &BTreeSet<OutputName>) {
        self.paths.retain(|name, _| names.contains(name));
        self.unnamed.retain(|id| names.contains(&id.output));
    }
}

/// Returns the outputs with what is registered, or else was said by substituters.
fn by_realisation(
    view: &View,
    path: &StorePath,
    derivation: &Derivation,
    supply: Option<&Supply>,
) -> Result<Outputs, LocalError> {
    let bad = |source| LocalError::Derivation { path: view.display(path), source };
    let kind = derivation.kind().map_err(bad)?;
    let known =
        derivation.outputs.iter().map(|(name, output)| (name.clone(), output.path().cloned()));
    let mut outputs =
        Outputs { paths: known.collect(), unnamed: BTreeSet::new(), said: BTreeSet::new() };
    if matches!(kind, DerivationKind::InputAddressed | DerivationKind::Fixed) {
        return Ok(outputs);
    }
    let hash = masked_hash(view, path, derivation)?;
    for (name, path) in &mut outputs.paths {
        let id = DrvOutput { hash: hash.clone(), output: name.clone() };
        let realisation = view.opened.read(|database| database.realisation(&id))?;
        *path = realisation.map(|realisation| realisation.out_path);
        // that of an impure one counts only once
        if path.is_some() || kind == DerivationKind::Impure {
            continue;
        }
        *path = supply.and_then(|supply| supply.hearsay.path_of(view, &id));
        match path {
            Some(_) => outputs.said.insert(id),
            None => outputs.unnamed.insert(id),
        };
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
    let top = sought(store, derivations, nothing, Depth::Wanted).await?;
    let below = async |offered| {
        let all = sought(store, derivations, offered, Depth::All).await?;
        Ok(all.lacking)
    };
    let mut wanted = top.lacking;
    if wanted.is_empty() {
        // nobody is asked in vain
        let all = sought(store, derivations, BTreeSet::new(), Depth::All).await?;
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
    let mut offers = plan.fetch;
    offers.retain(|offer| fetched.contains(&offer.info.path));
    let sizes = substitution::sizes(store, &offers).await;
    let download_size = sizes.values().map(|size| size.download).fold(0, u64::saturating_add);
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
    /// Outputs that are needed, and may be known to substituters.
    unnamed: BTreeSet<DrvOutput>,
}

/// Looks, and looks again if substituters know what outputs became that were not known.
async fn sought(
    store: &LocalStore,
    derivations: &BTreeSet<StorePath>,
    offered: BTreeSet<StorePath>,
    depth: Depth,
) -> Result<Survey, StoreError> {
    let seen = survey(store, derivations, offered.clone(), depth).await?;
    if seen.unnamed.is_empty() || realisations::seek(store, &seen.unnamed).await? == Found::Nothing
    {
        return Ok(seen);
    }
    survey(store, derivations, offered, depth).await
}

async fn survey(
    store: &LocalStore,
    derivations: &BTreeSet<StorePath>,
    offered: BTreeSet<StorePath>,
    depth: Depth,
) -> Result<Survey, StoreError> {
    let derivations = derivations.clone();
    let supply = store.supply();
    store.blocking(move |view| look(view, &derivations, &offered, (&supply, depth))).await
}

fn look(
    view: &View,
    derivations: &BTreeSet<StorePath>,
    offered: &BTreeSet<StorePath>,
    (supply, depth): (&Supply, Depth),
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
        let fetchable = may_be_fetched(view, &path, &derivation, supply)?;
        let by = fetchable.then_some(supply);
        let outputs = outputs_of(view, (&path, &derivation), names.as_ref(), by)?;
        let paths: Vec<Option<StorePath>> = outputs.paths.into_values().collect();
        let known: BTreeSet<StorePath> = paths.iter().flatten().cloned().collect();
        let valid = view.valid(&known)?;
        let lacking: BTreeSet<StorePath> = known.difference(&valid).cloned().collect();
        if lacking.is_empty() && paths.iter().all(Option::is_some) {
            continue;
        }
        if fetchable {
            survey.unnamed.extend(outputs.unnamed);
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
        if depth == Depth::All {
            let inputs = derivation.input_derivations.iter();
            let all = |names: &OutputNames| Some(names.iter().cloned().collect());
            left.extend(inputs.map(|(input, names)| (input.clone(), all(names))));
        }
    }
    Ok(survey)
}

/// Returns the outputs of a derivation, or these of them; those that substituters may be asked for by
/// their addresses are made known to the supply.
fn outputs_of(
    view: &View,
    (path, derivation): (&StorePath, &Derivation),
    names: Option<&BTreeSet<OutputName>>,
    supply: Option<&Supply>,
) -> Result<Outputs, LocalError> {
    if let Some(supply) = supply {
        supply.addresses().remember(fixed(derivation));
    }
    let mut outputs = by_realisation(view, path, derivation, supply)?;
    if let Some(names) = names {
        outputs.keep(names);
    }
    Ok(outputs)
}

/// Returns the paths of fixed outputs, and what they must be.
fn fixed(derivation: &Derivation) -> impl Iterator<Item = (&StorePath, &ContentAddress)> {
    derivation.outputs.values().filter_map(|output| match output {
        Output::Fixed { address, path } => Some((path, address)),
        _ => None,
    })
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
