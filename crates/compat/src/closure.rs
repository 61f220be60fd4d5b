//! What paths refer to, directly and further on, and the order in which Nix lists it.
//!
//! Follows `computeFSClosure` (`src/libstore/misc.cc`) and `topoSort` (`topo-sort.hh`) of Nix.

use std::collections::{BTreeMap, BTreeSet, btree_set};

use drover_core::{PathInfo, StoreDir, StorePath};
use drover_store::{Keeper, Store};

use crate::error::CompatError;
use crate::host::Switch;

/// Returns the error of a path that is not valid, in Nix's words.
pub(crate) fn not_valid(store_dir: &StoreDir, path: &StorePath) -> CompatError {
    CompatError::failed(format!("path '{}' is not valid", store_dir.display(path)))
}

/// Looks up one path that must be valid.
pub(crate) async fn path_info<S: Store + ?Sized>(
    store: &S,
    path: &StorePath,
) -> Result<PathInfo, CompatError> {
    let found = store.path_infos(std::slice::from_ref(path)).await?;
    found.into_iter().next().flatten().ok_or_else(|| not_valid(store.store_dir(), path))
}

/// Looks up paths that must be valid, all at once.
pub(crate) async fn path_infos<S: Store + ?Sized>(
    store: &S,
    paths: &[StorePath],
) -> Result<Vec<PathInfo>, CompatError> {
    let found = store.path_infos(paths).await?;
    let mut infos = Vec::with_capacity(found.len());
    for (path, info) in paths.iter().zip(found) {
        infos.push(info.ok_or_else(|| not_valid(store.store_dir(), path))?);
    }
    Ok(infos)
}

/// Returns the infos of paths and of all that they refer to, one question per step away.
///
/// # Errors
///
/// A path that is not valid.
pub(crate) async fn closure<S: Store + ?Sized>(
    store: &S,
    roots: impl IntoIterator<Item = StorePath>,
) -> Result<BTreeMap<StorePath, PathInfo>, CompatError> {
    let mut known = BTreeMap::new();
    extend_closure(store, roots, &mut known).await?;
    Ok(known)
}

/// Adds paths and all that they refer to.
async fn extend_closure<S: Store + ?Sized>(
    store: &S,
    roots: impl IntoIterator<Item = StorePath>,
    known: &mut BTreeMap<StorePath, PathInfo>,
) -> Result<BTreeSet<StorePath>, CompatError> {
    let mut added = BTreeSet::new();
    let mut next: BTreeSet<StorePath> =
        roots.into_iter().filter(|path| !known.contains_key(path)).collect();
    while !next.is_empty() {
        let paths: Vec<StorePath> = next.into_iter().collect();
        let infos = path_infos(store, &paths).await?;
        let mut referred = BTreeSet::new();
        for info in infos {
            referred.extend(info.references.iter().cloned());
            added.insert(info.path.clone());
            known.insert(info.path.clone(), info);
        }
        next = referred.into_iter().filter(|path| !known.contains_key(path)).collect();
    }
    Ok(added)
}

/// Returns the same with the valid outputs of all derivations in it, and what these refer to.
pub(crate) async fn closure_with_outputs(
    store: &dyn Keeper,
    roots: impl IntoIterator<Item = StorePath>,
) -> Result<BTreeMap<StorePath, PathInfo>, CompatError> {
    let mut known = BTreeMap::new();
    let mut added = extend_closure(store, roots, &mut known).await?;
    while !added.is_empty() {
        let mut outputs = BTreeSet::new();
        for derivation in added.iter().filter(|path| path.is_derivation()) {
            outputs.extend(store.output_map(derivation).await?.into_values().flatten());
        }
        let outputs: Vec<StorePath> = outputs.into_iter().collect();
        let valid = store.path_infos(&outputs).await?;
        let valid = valid.into_iter().flatten().map(|info| info.path);
        added = extend_closure(store, valid, &mut known).await?;
    }
    Ok(known)
}

/// Returns paths and all that refers to them.
pub(crate) async fn referrers_closure(
    store: &dyn Keeper,
    roots: impl IntoIterator<Item = StorePath>,
    keeps: Keeps,
) -> Result<BTreeSet<StorePath>, CompatError> {
    let mut seen: BTreeSet<StorePath> = roots.into_iter().collect();
    let mut waiting: Vec<StorePath> = seen.iter().cloned().collect();
    while let Some(path) = waiting.pop() {
        let mut found = store.referrers(&path).await?;
        if keeps.outputs == Switch::On {
            found.extend(store.valid_derivers(&path).await?);
        }
        if keeps.derivations == Switch::On && path.is_derivation() {
            let outputs: Vec<StorePath> =
                store.output_map(&path).await?.into_values().flatten().collect();
            let valid = store.path_infos(&outputs).await?;
            found.extend(valid.into_iter().flatten().map(|info| info.path));
        }
        for path in found {
            if seen.insert(path.clone()) {
                waiting.push(path);
            }
        }
    }
    Ok(seen)
}

/// What the garbage collector keeps beyond references (`keep-outputs`, `keep-derivations`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keeps {
    /// Outputs of derivations that are kept.
    pub(crate) outputs: Switch,
    /// Derivations of outputs that are kept.
    pub(crate) derivations: Switch,
}

impl Keeps {
    /// References only.
    pub(crate) const REFERENCES: Keeps = Keeps { outputs: Switch::Off, derivations: Switch::Off };
}

/// Returns paths so that references come before those that refer to them, in the very order in
/// which Nix lists them: by name, each after what it refers to among them.
pub(crate) fn references_first(
    references: &BTreeMap<StorePath, BTreeSet<StorePath>>,
) -> Vec<StorePath> {
    let mut seen: BTreeSet<&StorePath> = BTreeSet::new();
    let mut ordered = Vec::with_capacity(references.len());
    for (start, itself) in references {
        if !seen.insert(start) {
            continue;
        }
        let mut stack: Vec<(&StorePath, btree_set::Iter<'_, StorePath>)> =
            vec![(start, itself.iter())];
        while let Some((path, rest)) = stack.last_mut() {
            let Some(next) = rest.next() else {
                ordered.push((*path).clone());
                stack.pop();
                continue;
            };
            if let Some((next, itself)) = references.get_key_value(next)
                && seen.insert(next)
            {
                stack.push((next, itself.iter()));
            }
        }
    }
    ordered
}

/// Returns the same for paths whose references are yet to be looked up; those that are not valid
/// count as having none.
pub(crate) async fn sorted_paths<S: Store + ?Sized>(
    store: &S,
    paths: BTreeSet<StorePath>,
) -> Result<Vec<StorePath>, CompatError> {
    let paths: Vec<StorePath> = paths.into_iter().collect();
    let infos = store.path_infos(&paths).await?;
    let references = paths
        .into_iter()
        .zip(infos)
        .map(|(path, info)| (path, info.map(|info| info.references).unwrap_or_default()))
        .collect();
    Ok(references_first(&references))
}

/// Returns the infos of a closure with references first.
pub(crate) fn infos_in_order(mut infos: BTreeMap<StorePath, PathInfo>) -> Vec<PathInfo> {
    let references =
        infos.iter().map(|(path, info)| (path.clone(), info.references.clone())).collect();
    references_first(&references).iter().filter_map(|path| infos.remove(path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> StorePath {
        StorePath::from_base_name(&format!("{}-{name}", "0".repeat(32))).unwrap()
    }

    #[test]
    fn by_name_after_references() {
        let graph: BTreeMap<_, BTreeSet<_>> = [
            ("a", vec!["c", "b", "a", "elsewhere"]),
            ("b", vec!["d"]),
            ("c", vec!["d"]),
            ("d", vec![]),
        ]
        .into_iter()
        .map(|(name, others)| (path(name), others.into_iter().map(path).collect()))
        .collect();
        let order: Vec<_> =
            references_first(&graph).iter().map(|path| path.name().to_owned()).collect();
        assert_eq!(order, ["d", "b", "c", "a"]);
    }

    #[test]
    fn a_long_chain_needs_no_stack() {
        let count = 200_000;
        let name = |number: usize| path(&format!("{number:06}"));
        let graph = (0..count).map(|number| (name(number), [name(number + 1)].into())).collect();
        let order = references_first(&graph);
        assert_eq!(order.len(), count);
        assert_eq!(order.first(), Some(&name(count - 1)));
    }
}
