//! Derivations that come down to others whose outputs are known.
//!
//! What is really built of a derivation with inputs that float is another one, in which their paths
//! stand. Where all of them are here already, it may be one that was built before, or that a
//! substituter knows, and then nobody has to build it. Follows `DerivationResolutionGoal`
//! (`src/libstore/build/derivation-resolution-goal.cc`) of Nix.

use std::collections::{BTreeMap, BTreeSet};

use drover_core::{DrvOutput, Hash, OutputName, StoreDir, StorePath};
use drover_derivation::{BasicDerivation, Derivation, HashModuloCache};
use drover_store::{Keeper, Store, StoreError, Substitute};

use super::Search;
use crate::fleet::BuildError;
use crate::graph::{Node, NodeId};
use crate::ledger::{is_kept, realisation_hash, register};

/// Whether something that was to be built needn't be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CutOff {
    Some,
    Nothing,
}

/// Looks for such derivations among those that are to be built. What is found counts as valid, and is
/// noted in the ledger.
pub(super) async fn cut_off(
    search: &mut Search<'_>,
    local: &dyn Store,
) -> Result<CutOff, BuildError> {
    let Some(ledger) = search.ledger else { return Ok(CutOff::Nothing) };
    let mut hashes = HashModuloCache::new();
    let mut found = CutOff::Nothing;
    // mostly what is needed comes behind what needs it
    let nodes: Vec<NodeId> = search.needed.keys().rev().copied().collect();
    for id in nodes {
        let Some(node) = search.graph.node(id) else { continue };
        let names = search.needed.get(&id).cloned().unwrap_or_default();
        if names.iter().all(|name| search.is_valid(node, name)) {
            continue;
        }
        let Some(resolved) = resolved(search, local.store_dir(), node) else { continue };
        let substitute = match node.derivation.allow_substitutes() {
            Ok(true) => search.substitute,
            _ => Substitute::No,
        };
        let outputs = outputs(local.store_dir(), ledger, &resolved, &names, substitute).await?;
        let Some(outputs) = outputs else { continue };
        let paths: BTreeSet<StorePath> = outputs.values().cloned().collect();
        if local.hold_valid(&paths, substitute).await? != paths {
            continue;
        }
        let Some(hash) = realisation_hash(local.store_dir(), search.graph, node, &mut hashes)
        else {
            continue;
        };
        // where it can't be noted, who asks for it later wouldn't find it
        if note(ledger, &hash, &outputs).await.is_err() {
            continue;
        }
        search.known.entry(node.path.clone()).or_default().extend(outputs);
        search.valid.extend(paths);
        found = CutOff::Some;
    }
    Ok(found)
}

/// Notes what the outputs of a derivation are.
async fn note(
    ledger: &dyn Keeper,
    hash: &Hash,
    outputs: &BTreeMap<OutputName, StorePath>,
) -> Result<(), StoreError> {
    for (output, path) in outputs {
        let id = DrvOutput { hash: hash.clone(), output: output.clone() };
        register(ledger, id, path.clone()).await?;
    }
    Ok(())
}

/// Returns what a derivation comes down to, if it isn't itself and all of its inputs are here.
fn resolved(search: &Search<'_>, store_dir: &StoreDir, node: &Node) -> Option<BasicDerivation> {
    let derivation = &node.derivation;
    // one that can't be resolved can't be built either, and then it's said why
    if !is_kept(derivation) || !derivation.must_resolve().ok()? {
        return None;
    }
    let realised = |path: &StorePath, output: &OutputName| {
        let node = search.graph.node(search.graph.find(path)?)?;
        search.path(node, output).filter(|path| search.valid.contains(*path)).cloned()
    };
    derivation.resolve(store_dir, realised).ok()
}

/// Returns the paths of these outputs, if all are known.
async fn outputs(
    store_dir: &StoreDir,
    ledger: &dyn Keeper,
    resolved: &BasicDerivation,
    names: &BTreeSet<OutputName>,
    substitute: Substitute,
) -> Result<Option<BTreeMap<OutputName, StorePath>>, StoreError> {
    let whole = Derivation::from(resolved.clone());
    let Ok(hash) = HashModuloCache::new().masked(store_dir, &whole).map(|hash| hash.to_hash())
    else {
        return Ok(None);
    };
    let mut outputs = BTreeMap::new();
    for name in names {
        let known = resolved.outputs.get(name).and_then(|output| output.path()).cloned();
        let id = DrvOutput { hash: hash.clone(), output: name.clone() };
        let path = match (known, substitute) {
            (Some(path), _) => Ok(Some(path)),
            (None, Substitute::Yes) => ledger.expected_realisation(&id).await,
            (None, Substitute::No) => {
                let realisation = ledger.realisation(&id).await;
                realisation.map(|found| found.map(|found| found.out_path))
            }
        };
        match path {
            Ok(Some(path)) => outputs.insert(name.clone(), path),
            Ok(None) | Err(StoreError::Unsupported { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
    }
    Ok(Some(outputs))
}
