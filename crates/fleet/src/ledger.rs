//! What outputs became whose paths aren't known before the build: the caller's store is asked before
//! a run, and told after it. Nix calls that realisations.

use std::collections::BTreeMap;

use drover_core::{DrvOutput, Hash, OutputName, Realisation, StoreDir, StorePath};
use drover_derivation::{Derivation, DerivationError, HashModuloCache, Output};
use drover_schedule::Place;
use drover_store::{Keeper, SignatureCheck, StoreError, Substitute};
use futures::future::try_join_all;

use crate::driver::{Driver, JobPhase};
use crate::event::FleetEvent;
use crate::graph::{Graph, Node};
use crate::prepare::JobPlan;
use crate::resolve::resolve;

/// Whether it can be known from another build what a derivation's outputs become. That of an impure
/// one counts only once.
pub(crate) fn is_kept(derivation: &Derivation) -> bool {
    let mut outputs = derivation.outputs.values();
    outputs.any(|output| matches!(output, Output::Floating { .. } | Output::Deferred))
}

/// Returns what a derivation of a graph is known by where it's kept what its outputs became, if that is
/// kept.
pub(crate) fn realisation_hash(
    store_dir: &StoreDir,
    graph: &Graph,
    node: &Node,
    cache: &mut HashModuloCache,
) -> Option<Hash> {
    if !is_kept(&node.derivation) {
        return None;
    }
    let lookup = |path: &StorePath| Some(graph.node(graph.find(path)?)?.derivation.as_ref());
    // one that has no such hash can't be built either, and then it's said why
    cache.insert_closure(store_dir, &node.path, &node.derivation, lookup).ok()?;
    Some(cache.masked(store_dir, &node.derivation).ok()?.to_hash())
}

/// Looks up the outputs of derivations, as far as their paths aren't known anyway.
///
/// Where substituters may be asked they are, of what the ledger doesn't know.
pub(crate) async fn look_up(
    ledger: &dyn Keeper,
    substitute: Substitute,
    nodes: impl Iterator<Item = &Node>,
) -> Result<Vec<(StorePath, OutputName, StorePath)>, StoreError> {
    let kept = nodes.filter(|node| is_kept(&node.derivation));
    let found = kept.map(|node| async {
        let outputs = match substitute {
            Substitute::Yes => ledger.expected_outputs(&node.path).await,
            Substitute::No => ledger.output_map(&node.path).await,
        };
        let outputs = match outputs {
            Err(StoreError::Unsupported { .. }) => BTreeMap::new(),
            outputs => outputs?,
        };
        let outputs = outputs.into_iter().filter_map(|(name, path)| {
            let (name, _) = node.derivation.outputs.get_key_value(name.as_str())?;
            Some((node.path.clone(), name.clone(), path?))
        });
        Ok(outputs.collect::<Vec<_>>())
    });
    Ok(try_join_all(found).await?.concat())
}

/// Registers what was built and is here now. A store that can't keep it is no reason to fail.
pub(crate) async fn enter(driver: &Driver, ledger: &dyn Keeper) {
    let mut cache = HashModuloCache::new();
    let built = driver.jobs.iter().filter(|job| matches!(job.state, JobPhase::Built));
    for plan in built.map(|job| &job.plan).filter(|plan| is_kept(&plan.derivation)) {
        let entries = match entries(driver, plan, &mut cache) {
            Ok(entries) => entries,
            Err(error) => return note(driver, &error.to_string()),
        };
        for (id, out_path) in entries {
            if let Err(error) = register(ledger, id, out_path).await {
                return note(driver, &error.to_string());
            }
        }
    }
}

/// Registers what one output became.
pub(crate) async fn register(
    ledger: &dyn Keeper,
    id: DrvOutput,
    out_path: StorePath,
) -> Result<(), StoreError> {
    let realisation = Realisation { id, out_path, signatures: Default::default() };
    ledger.register_realisation(&realisation, SignatureCheck::Skip).await
}

fn note(driver: &Driver, why: &str) {
    let text = format!("the local store did not note what was built; it may be built again: {why}");
    driver.shared.observer.event(FleetEvent::Note(text));
}

/// Returns the outputs of a job that are here, under the names of its derivation and of the one that
/// was really built, in which the paths of inputs stand for input derivations.
fn entries(
    driver: &Driver,
    plan: &JobPlan,
    cache: &mut HashModuloCache,
) -> Result<Vec<(DrvOutput, StorePath)>, DerivationError> {
    let shared = &driver.shared;
    let names = plan.derivation.outputs.keys();
    let path = |name: &OutputName| {
        let path = shared.realised(&plan.path, name)?;
        shared.places.is_at(&path, Place::Here).then_some(path)
    };
    let here: BTreeMap<&OutputName, StorePath> =
        names.filter_map(|name| Some((name, path(name)?))).collect();
    if here.is_empty() {
        return Ok(Vec::new());
    }
    let store_dir = &shared.store_dir;
    let lookup = |path: &StorePath| {
        let node = driver.graph.node(driver.graph.find(path)?)?;
        Some(node.derivation.as_ref())
    };
    cache.insert_closure(store_dir, &plan.path, &plan.derivation, lookup)?;
    let mut hashes = vec![cache.masked(store_dir, &plan.derivation)?.to_hash()];
    if plan.derivation.must_resolve()?
        && let Ok(resolved) = resolve(shared, plan)
    {
        let resolved = Derivation::from(resolved.basic);
        hashes.push(cache.masked(store_dir, &resolved)?.to_hash());
    }
    hashes.dedup();
    let entries = hashes.into_iter().flat_map(|hash| {
        here.iter().map(move |(name, path)| {
            (DrvOutput { hash: hash.clone(), output: (*name).clone() }, path.clone())
        })
    });
    Ok(entries.collect())
}
