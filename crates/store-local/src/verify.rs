//! Whether what is registered is there and is what it was.
//!
//! Follows `LocalStore::verifyStore` of Nix (`src/libstore/local-store.cc`), in whose words problems
//! are told, but for contents, which are read on all cores.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use drover_core::{HashNotation, NarHash, NarSize, PathInfo, StorePath};
use drover_store::{Verification, VerifyDepth};
use drover_store_db::{Edges, Graph, NodeId};
use drover_store_locks::SharedGcLock;

use crate::Access;
use crate::error::LocalError;
use crate::opened::{lock, patience};
use crate::tree;
use crate::view::View;

/// Checks the whole store. No garbage collector runs meanwhile.
pub(crate) fn verify(view: &View, depth: VerifyDepth) -> Result<Verification, LocalError> {
    let _no_collector = match view.layout().access {
        Access::ReadWrite => Some(SharedGcLock::acquire(
            &view.layout().state,
            patience(view.options().lock_patience),
        )?),
        Access::ReadOnly => None,
    };
    let on_disk = names(view)?;
    let graph = view.opened.read(|database| database.load_graph())?;
    let mut found = Verification::default();
    let there = check_existence(view, &graph, &on_disk, &mut found)?;
    list_unknown(view, &graph, &on_disk, &mut found)?;
    if depth == VerifyDepth::Contents {
        check_links(view, &mut found)?;
        check_contents(view, &there, &mut found)?;
    }
    Ok(found)
}

/// The store paths that there are files of.
fn names(view: &View) -> Result<BTreeSet<StorePath>, LocalError> {
    let real = &view.layout().real;
    let fail = |source| LocalError::Io { doing: "read folder", path: real.clone(), source };
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(real).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name();
        names.extend(name.to_str().and_then(|name| StorePath::from_base_name(name).ok()));
    }
    Ok(names)
}

/// Forgets paths that are gone and that nobody who is there refers to; returns those that are there.
fn check_existence(
    view: &View,
    graph: &Graph,
    on_disk: &BTreeSet<StorePath>,
    found: &mut Verification,
) -> Result<Vec<StorePath>, LocalError> {
    let referrers = graph.references().reversed();
    let (there, gone): (Vec<NodeId>, Vec<NodeId>) = graph
        .nodes()
        .map(|(node, _)| node)
        .partition(|&node| graph.path(node).is_some_and(|path| on_disk.contains(path)));
    let needed: BTreeSet<NodeId> = needed(graph, &referrers, &gone, &there);
    let mut forgotten = Vec::new();
    for &node in &gone {
        let Some(path) = graph.path(node) else { continue };
        let shown = view.display(path);
        if needed.contains(&node) {
            found
                .problems
                .push(format!("path '{shown}' disappeared, but it still has valid referrers!"));
            found.errors_left = true;
        } else {
            found.problems.push(format!("path '{shown}' disappeared, removing from database..."));
            forgotten.push(path.clone());
        }
    }
    if view.layout().access == Access::ReadWrite && !forgotten.is_empty() {
        view.opened.write(|database| database.invalidate(&forgotten))?;
    }
    Ok(there.into_iter().filter_map(|node| graph.path(node).cloned()).collect())
}

/// Those who are gone and that a path which is there needs, if only by way of others.
fn needed(graph: &Graph, referrers: &Edges, gone: &[NodeId], there: &[NodeId]) -> BTreeSet<NodeId> {
    let there: BTreeSet<NodeId> = there.iter().copied().collect();
    let direct = gone
        .iter()
        .copied()
        .filter(|&node| referrers.of(node).iter().any(|referrer| there.contains(referrer)));
    let reached = graph.reachable(direct.collect::<Vec<_>>(), graph.references());
    let gone: BTreeSet<NodeId> = gone.iter().copied().collect();
    reached.into_iter().filter(|node| gone.contains(node)).collect()
}

/// Tells of files that nobody registered. They are no error: the next collection deletes them.
fn list_unknown(
    view: &View,
    graph: &Graph,
    on_disk: &BTreeSet<StorePath>,
    found: &mut Verification,
) -> Result<(), LocalError> {
    let unknown: Vec<&StorePath> =
        on_disk.iter().filter(|path| graph.find(path).is_none()).collect();
    // Some may have become valid since the database was read, others are being made.
    let valid = view.valid(unknown.iter().copied())?;
    for path in unknown.into_iter().filter(|path| !valid.contains(path)) {
        if !path.name().ends_with(".lock") && !path.name().starts_with("tmp-") {
            let shown = view.display(path);
            found.problems.push(format!("path '{shown}' is in the store but not valid"));
        }
    }
    Ok(())
}

/// Checks the pool of hard links, whose names are their hashes.
fn check_links(view: &View, found: &mut Verification) -> Result<(), LocalError> {
    let links = view.layout().real.join(".links");
    let fail = |source| LocalError::Io { doing: "read folder", path: links.clone(), source };
    let folder = match fs::File::open(&links) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        folder => folder.map_err(fail)?,
    };
    for entry in fs::read_dir(&links).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let expected = entry.file_name().to_string_lossy().into_owned();
        let (hash, _) = tree::nar_hash(&folder, &expected)?;
        let got = hash.to_hash().digits(HashNotation::Base32);
        if got != expected {
            let link = entry.path();
            found.problems.push(format!(
                "link '{}' was modified! expected hash {expected}, got '{got}'",
                link.display()
            ));
            found.errors_left = true;
        }
    }
    Ok(())
}

/// Hashes all contents, each core the next path that nobody has taken; large paths first, so that
/// no core is left with one at the end.
fn check_contents(
    view: &View,
    there: &[StorePath],
    found: &mut Verification,
) -> Result<(), LocalError> {
    let mut infos: Vec<PathInfo> = view.path_infos(there)?.into_iter().flatten().collect();
    infos.sort_by_key(|info| std::cmp::Reverse(info.nar_size));
    let next = AtomicUsize::new(0);
    let problems: Mutex<BTreeMap<StorePath, String>> = Mutex::new(BTreeMap::new());
    let fill: Mutex<Vec<PathInfo>> = Mutex::new(Vec::new());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Some(info) = infos.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match check_one(view, info) {
                        Finding::Good => {}
                        Finding::SizeMissing(size) => {
                            lock(&fill).push(PathInfo { nar_size: size, ..info.clone() });
                        }
                        Finding::Bad(problem) => {
                            lock(&problems).insert(info.path.clone(), problem);
                        }
                    }
                }
            });
        }
    });
    for info in lock(&fill).drain(..) {
        if view.layout().access == Access::ReadWrite {
            view.opened.write(|database| database.update(&info))?;
        }
    }
    let problems = problems.into_inner().unwrap_or_default();
    found.errors_left |= !problems.is_empty();
    found.problems.extend(problems.into_values());
    Ok(())
}

enum Finding {
    Good,
    /// The database is of a Nix that did not note sizes.
    SizeMissing(NarSize),
    Bad(String),
}

fn check_one(view: &View, info: &PathInfo) -> Finding {
    let hashed: Result<(NarHash, NarSize), LocalError> = tree::path_nar_hash(view, &info.path);
    let shown = view.display(&info.path);
    match hashed {
        Ok((hash, size)) if hash == info.nar_hash && info.nar_size == NarSize(0) => {
            Finding::SizeMissing(size)
        }
        Ok((hash, _)) if hash == info.nar_hash => Finding::Good,
        Ok((hash, _)) => Finding::Bad(format!(
            "path '{shown}' was modified! expected hash '{}', got '{hash}'",
            info.nar_hash
        )),
        Err(error) => Finding::Bad(format!("path '{shown}' cannot be read: {error}")),
    }
}
