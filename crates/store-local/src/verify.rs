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
use drover_store_db::{DbError, Edges, Graph, NodeId};

use crate::Access;
use crate::error::LocalError;
use crate::failpoint::{Point, reach};
use crate::opened::lock;
use crate::tree;
use crate::view::View;

/// What a check found, before anything is done about it.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// In the order in which they are told.
    pub(crate) problems: Vec<Problem>,
}

/// Something that is wrong.
#[derive(Debug)]
pub(crate) enum Problem {
    /// It was mended, or does no harm.
    Harmless(String),
    /// A name in the pool of hard links stands for other contents than it says.
    Link { name: String, text: String },
    /// A valid path is gone or isn't what it was.
    Broken { info: Box<PathInfo>, text: String },
}

impl Found {
    /// Returns what was found, with nothing done about it.
    pub(crate) fn unrepaired(self) -> Verification {
        let mut verification = Verification::default();
        for problem in self.problems {
            let (text, wrong) = match problem {
                Problem::Harmless(text) => (text, false),
                Problem::Link { text, .. } | Problem::Broken { text, .. } => (text, true),
            };
            verification.problems.push(text);
            verification.errors_left |= wrong;
        }
        verification
    }

    fn harmless(&mut self, text: String) {
        self.problems.push(Problem::Harmless(text));
    }
}

/// How often the store is looked at anew because somebody has changed it meanwhile.
const LOOKS: u32 = 20;

/// Checks the whole store. No garbage collector runs meanwhile, which the caller sees to.
pub(crate) fn verify(view: &View, depth: VerifyDepth) -> Result<Found, LocalError> {
    let mut looks = 0;
    let (mut found, there) = loop {
        if let Some(looked) = check_existence(view)? {
            break looked;
        }
        looks += 1;
        if looks == LOOKS {
            return Err(LocalError::Restless { looks });
        }
    };
    if depth == VerifyDepth::Contents {
        check_links(view, &mut found)?;
        check_contents(view, &there, &mut found)?;
    }
    Ok(found)
}

/// Returns those of these paths that are valid and not what they were.
pub(crate) fn damaged(view: &View, paths: &[StorePath]) -> Result<BTreeSet<StorePath>, LocalError> {
    let mut found = Found::default();
    check_contents(view, paths, &mut found)?;
    let broken = |problem| match problem {
        Problem::Broken { info, .. } => Some(info.path),
        Problem::Harmless(_) | Problem::Link { .. } => None,
    };
    Ok(found.problems.into_iter().filter_map(broken).collect())
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
/// `None` if somebody has changed something meanwhile that matters.
///
/// The database is read first: what is valid then and has no files is gone, as nothing becomes valid
/// before its files are in their place.
fn check_existence(view: &View) -> Result<Option<(Found, Vec<StorePath>)>, LocalError> {
    let graph = view.opened.read(|database| database.load_graph())?;
    reach(Point::VerifyHalfway);
    let on_disk = names(view)?;
    let mut found = Found::default();
    let referrers = graph.references().reversed();
    let (there, gone): (Vec<NodeId>, Vec<NodeId>) = graph
        .nodes()
        .map(|(node, _)| node)
        .partition(|&node| graph.path(node).is_some_and(|path| on_disk.contains(path)));
    let needed: BTreeSet<NodeId> = needed(&graph, &referrers, &gone, &there);
    let (needed, forgotten): (Vec<NodeId>, Vec<NodeId>) =
        gone.iter().partition(|node| needed.contains(node));
    let paths = |nodes: &[NodeId]| -> Vec<StorePath> {
        nodes.iter().filter_map(|node| graph.path(*node).cloned()).collect()
    };
    let (needed, forgotten) = (paths(&needed), paths(&forgotten));
    if needed.iter().any(|path| is_there(view, path)) || !forget(view, &forgotten)? {
        return Ok(None);
    }
    for path in &forgotten {
        let shown = view.display(path);
        found.harmless(format!("path '{shown}' disappeared, removing from database..."));
    }
    for info in view.path_infos(&needed)?.into_iter().flatten() {
        let shown = view.display(&info.path);
        let text = format!("path '{shown}' disappeared, but it still has valid referrers!");
        found.problems.push(Problem::Broken { info: Box::new(info), text });
    }
    list_unknown(view, &graph, &on_disk, &mut found)?;
    Ok(Some((found, paths(&there))))
}

/// Whether a path has files, as it is looked for by itself.
fn is_there(view: &View, path: &StorePath) -> bool {
    !matches!(fs::symlink_metadata(view.layout().real_path(path)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound)
}

/// Makes paths invalid that are gone. Does nothing, and returns so, if one is there after all, or if
/// somebody has begun to refer to one.
fn forget(view: &View, paths: &[StorePath]) -> Result<bool, LocalError> {
    if view.layout().access == Access::ReadOnly || paths.is_empty() {
        return Ok(true);
    }
    let forgotten = view
        .opened
        .write(|database| database.invalidate_unless(paths, |path| is_there(view, path)));
    match forgotten {
        Ok(kept) => Ok(kept.is_none()),
        Err(LocalError::Database(DbError::InUse { .. })) => Ok(false),
        Err(error) => Err(error),
    }
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
    found: &mut Found,
) -> Result<(), LocalError> {
    let unknown: Vec<&StorePath> =
        on_disk.iter().filter(|path| graph.find(path).is_none()).collect();
    // Some may have become valid since the database was read, others are being made.
    let valid = view.valid(unknown.iter().copied())?;
    for path in unknown.into_iter().filter(|path| !valid.contains(path)) {
        if !path.name().ends_with(".lock") && !path.name().starts_with("tmp-") {
            let shown = view.display(path);
            found.harmless(format!("path '{shown}' is in the store but not valid"));
        }
    }
    Ok(())
}

/// Checks the pool of hard links, whose names are their hashes.
fn check_links(view: &View, found: &mut Found) -> Result<(), LocalError> {
    let links = view.layout().real.join(".links");
    let fail = |source| LocalError::Io { doing: "read folder", path: links.clone(), source };
    let folder = match fs::File::open(&links) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        folder => folder.map_err(fail)?,
    };
    for entry in fs::read_dir(&links).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let expected = entry.file_name().to_string_lossy().into_owned();
        let (hash, _) = match tree::nar_hash(&folder, &expected) {
            // A collector, or whoever found it corrupted, has removed it.
            Err(LocalError::Files(error)) if error.is_missing() => continue,
            hashed => hashed?,
        };
        let got = hash.to_hash().digits(HashNotation::Base32);
        if got != expected {
            let link = entry.path();
            let link = link.display();
            let text = format!("link '{link}' was modified! expected hash {expected}, got '{got}'");
            found.problems.push(Problem::Link { name: expected, text });
        }
    }
    Ok(())
}

/// Hashes all contents, each core the next path that nobody has taken; large paths first, so that
/// no core is left with one at the end.
fn check_contents(view: &View, there: &[StorePath], found: &mut Found) -> Result<(), LocalError> {
    let mut infos: Vec<PathInfo> = view.path_infos(there)?.into_iter().flatten().collect();
    infos.sort_by_key(|info| std::cmp::Reverse(info.nar_size));
    let next = AtomicUsize::new(0);
    let broken: Mutex<BTreeMap<StorePath, Problem>> = Mutex::default();
    let fill: Mutex<Vec<PathInfo>> = Mutex::new(Vec::new());
    let failed: Mutex<Option<LocalError>> = Mutex::default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Some(info) = infos.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match check_one(view, info) {
                        Ok(Finding::Good) => {}
                        Ok(Finding::SizeMissing(size)) => {
                            lock(&fill).push(PathInfo { nar_size: size, ..info.clone() });
                        }
                        Ok(Finding::Bad(text)) => {
                            let problem = Problem::Broken { info: Box::new(info.clone()), text };
                            lock(&broken).insert(info.path.clone(), problem);
                        }
                        Err(error) => {
                            lock(&failed).get_or_insert(error);
                        }
                    }
                }
            });
        }
    });
    if let Some(error) = lock(&failed).take() {
        return Err(error);
    }
    for info in lock(&fill).drain(..) {
        if view.layout().access == Access::ReadWrite {
            view.opened.write(|database| database.update(&info))?;
        }
    }
    found.problems.extend(broken.into_inner().unwrap_or_default().into_values());
    Ok(())
}

enum Finding {
    Good,
    /// The database is of a Nix that did not note sizes.
    SizeMissing(NarSize),
    Bad(String),
}

/// Checks a path, once more if its files were replaced while they were read.
fn check_one(view: &View, info: &PathInfo) -> Result<Finding, LocalError> {
    let first = hash_one(view, info);
    let Finding::Bad(_) = first else { return Ok(first) };
    match view.path_infos(std::slice::from_ref(&info.path))?.into_iter().flatten().next() {
        Some(now) => Ok(hash_one(view, &now)),
        None => Ok(Finding::Good),
    }
}

fn hash_one(view: &View, info: &PathInfo) -> Finding {
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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use drover_store::contract::{Given, flat_file};
    use drover_store::{Keeper as _, Store as _};

    use super::*;
    use crate::failpoint::at;
    use crate::kill_tests::store;

    /// Adds a path in a session of its own, while the caller's thread waits.
    fn add(home: PathBuf, name: &'static str) -> StorePath {
        let added = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let (info, nar) = flat_file(name, name.as_bytes(), &[]);
            let path = info.path.clone();
            let store = store(&home);
            let import = store.import(Given::boxed([(info, nar)]));
            runtime.expect("a runtime").block_on(import).expect("added");
            path
        });
        added.join().expect("added")
    }

    /// What is registered after one of the two was read, and is in its place since before.
    #[tokio::test]
    async fn a_path_that_comes_meanwhile_is_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let home = folder.path().canonicalize().expect("a path");
        let first = add(home.clone(), "first");
        let store = store(&home);
        let elsewhere = home.clone();
        at(Point::VerifyHalfway, move || {
            add(elsewhere, "second");
        });
        let found = verify(&store.view(), VerifyDepth::Contents).expect("verified").unrepaired();
        assert_eq!(found, Verification::default());
        let second = flat_file("second", b"second", &[]).0.path;
        let valid = store.all_valid().await.expect("all");
        assert_eq!(valid, BTreeSet::from([first, second]));
    }

    /// What was read of the database is old by the time that the folder is read.
    #[tokio::test]
    async fn a_path_that_goes_meanwhile_is_no_problem() {
        let folder = tempfile::tempdir().expect("a folder");
        let home = folder.path().canonicalize().expect("a path");
        let path = add(home.clone(), "path");
        let store = store(&home);
        let view = store.view();
        let gone = path.clone();
        at(Point::VerifyHalfway, move || {
            view.opened.write(|database| database.invalidate(&[gone])).expect("invalidated");
        });
        let found = verify(&store.view(), VerifyDepth::Contents).expect("verified").unrepaired();
        assert!(!found.errors_left, "{found:?}");
        assert_eq!(store.all_valid().await.expect("all"), BTreeSet::new());
        assert!(home.join("store").join(path.base_name()).exists());
    }
}
