//! What would have to be done to make something valid.
//!
//! Goes down from what is wanted, level by level, and stops at what is valid, or what substituters have
//! with all that it refers to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use drover_core::StorePath;
use drover_derivation::{Derivation, derivation_name};
use drover_store::{FetchSize, Keeper, MissingPaths, StoreError, Substitute, Wanted};

/// Outputs that are needed of derivations; all where absent.
type Level = BTreeMap<StorePath, Option<BTreeSet<String>>>;

/// A store, and whether its substituters may be asked.
struct Asked<'a> {
    store: &'a Arc<dyn Keeper>,
    substitute: Substitute,
}

/// Says what would have to be built and fetched.
pub(crate) async fn missing(
    store: &Arc<dyn Keeper>,
    wanted: &[Wanted],
    substitute: Substitute,
) -> Result<MissingPaths, StoreError> {
    let store = &Asked { store, substitute };
    let mut missing = MissingPaths::default();
    let mut level = Level::new();
    let mut paths = BTreeSet::new();
    for wanted in wanted {
        match wanted {
            Wanted::Path(path) => drop(paths.insert(path.clone())),
            Wanted::AllOutputs(path) => drop(level.insert(path.clone(), None)),
            Wanted::Outputs(path, names) => need(&mut level, path, names.iter().cloned()),
        }
    }
    lacking(store, &paths, &mut missing).await?;
    let mut seen: BTreeMap<StorePath, BTreeSet<String>> = BTreeMap::new();
    while !level.is_empty() {
        level = descend(store, level, &mut seen, &mut missing).await?;
    }
    Ok(missing)
}

fn need(level: &mut Level, path: &StorePath, names: impl Iterator<Item = String>) {
    if let Some(known) = level.entry(path.clone()).or_insert_with(|| Some(BTreeSet::new())) {
        known.extend(names);
    }
}

/// Sorts paths that aren't valid by whether substituters have them.
async fn lacking(
    store: &Asked<'_>,
    paths: &BTreeSet<StorePath>,
    missing: &mut MissingPaths,
) -> Result<(), StoreError> {
    let valid = store.store.hold_valid(paths, Substitute::No).await?;
    let lacking: BTreeSet<StorePath> = paths.difference(&valid).cloned().collect();
    let offered = fetchable(store, &lacking).await?;
    missing.unknown.extend(lacking.into_iter().filter(|path| !offered.contains_key(path)));
    add(missing, offered);
    Ok(())
}

/// What substituters have of some paths, with all that it refers to.
type Offered = BTreeMap<StorePath, FetchSize>;

async fn fetchable(store: &Asked<'_>, paths: &BTreeSet<StorePath>) -> Result<Offered, StoreError> {
    match paths.is_empty() || store.substitute == Substitute::No {
        true => Ok(Offered::new()),
        false => store.store.fetchable(paths).await,
    }
}

/// Adds what is to be fetched; each path counts once.
fn add(missing: &mut MissingPaths, offered: Offered) {
    for (path, FetchSize { download, nar }) in offered {
        if missing.substitute.insert(path) {
            missing.download_size = missing.download_size.saturating_add(download);
            missing.nar_size = missing.nar_size.saturating_add(nar);
        }
    }
}

/// Looks at one level, and returns the next.
async fn descend(
    store: &Asked<'_>,
    level: Level,
    seen: &mut BTreeMap<StorePath, BTreeSet<String>>,
    missing: &mut MissingPaths,
) -> Result<Level, StoreError> {
    let drvs: BTreeSet<StorePath> = level.keys().cloned().collect();
    let readable: BTreeSet<StorePath> = store
        .store
        .hold_valid(&drvs, Substitute::No)
        .await?
        .into_iter()
        .filter(|path| derivation_name(path).is_some())
        .collect();
    let absent: BTreeSet<StorePath> = drvs.difference(&readable).cloned().collect();
    lacking(store, &absent, missing).await?;
    let order: Vec<StorePath> = readable.into_iter().collect();
    let files = store.store.read_files(&order).await?;
    let mut asked: Vec<(StorePath, Derivation, Vec<Option<StorePath>>)> = Vec::new();
    for (path, file) in order.into_iter().zip(files) {
        let name = derivation_name(&path);
        let parsed =
            name.map(|name| Derivation::parse_aterm(store.store.store_dir(), &name, &file));
        let Some(Ok(derivation)) = parsed else {
            missing.unknown.insert(path);
            continue;
        };
        let wanted = level.get(&path).cloned().flatten();
        let names = derivation.outputs.keys().map(ToString::to_string);
        let names: BTreeSet<String> =
            names.filter(|name| wanted.as_ref().is_none_or(|set| set.contains(name))).collect();
        let before = seen.entry(path.clone()).or_default();
        let new: Vec<String> = names.difference(before).cloned().collect();
        before.extend(new.iter().cloned());
        if new.is_empty() {
            continue;
        }
        let map = known_outputs(store, &path, &derivation).await?;
        let path_of = |name: &String| {
            let known = derivation.outputs.get(name.as_str()).and_then(|output| output.path());
            known.cloned().or_else(|| map.get(name).cloned().flatten())
        };
        let paths = new.iter().map(path_of).collect();
        asked.push((path, derivation, paths));
    }
    sort(store, asked, missing).await
}

/// Returns outputs whose paths don't follow from the derivation, as far as they are known.
async fn known_outputs(
    store: &Asked<'_>,
    path: &StorePath,
    derivation: &Derivation,
) -> Result<BTreeMap<String, Option<StorePath>>, StoreError> {
    if derivation.outputs.values().all(|output| output.path().is_some()) {
        return Ok(BTreeMap::new());
    }
    match store.substitute {
        Substitute::Yes => store.store.expected_outputs(path).await,
        Substitute::No => store.store.output_map(path).await,
    }
}

/// Sorts derivations by whether they are there, can be fetched, or have to be built; returns what
/// the last need.
async fn sort(
    store: &Asked<'_>,
    asked: Vec<(StorePath, Derivation, Vec<Option<StorePath>>)>,
    missing: &mut MissingPaths,
) -> Result<Level, StoreError> {
    let known = asked.iter().flat_map(|(_, _, paths)| paths.iter().flatten());
    let known: BTreeSet<StorePath> = known.cloned().collect();
    let valid = store.store.hold_valid(&known, Substitute::No).await?;
    let may_be_fetched = |derivation: &Derivation| derivation.allow_substitutes().unwrap_or(true);
    let lacking = asked.iter().filter(|(_, derivation, _)| may_be_fetched(derivation));
    let lacking: BTreeSet<StorePath> = lacking
        .flat_map(|(_, _, paths)| paths.iter().flatten())
        .filter(|path| !valid.contains(path))
        .cloned()
        .collect();
    let mut offered = fetchable(store, &lacking).await?;
    let mut fetched = BTreeSet::new();
    let (mut next, mut sources) = (Level::new(), BTreeSet::new());
    for (path, derivation, paths) in asked {
        let invalid =
            paths.iter().filter(|path| path.as_ref().is_none_or(|path| !valid.contains(path)));
        let whole: Option<Vec<StorePath>> =
            invalid.map(|path| path.clone().filter(|path| offered.contains_key(path))).collect();
        if let Some(whole) = whole {
            fetched.extend(whole);
            continue;
        }
        if missing.build.insert(path) {
            sources.extend(derivation.input_sources.iter().cloned());
            for (input, names) in &derivation.input_derivations {
                need(&mut next, input, names.iter().map(ToString::to_string));
            }
        }
    }
    // what is built in spite of some outputs that are offered needs nothing that these refer to
    if lacking.iter().any(|path| offered.contains_key(path) && !fetched.contains(path)) {
        offered = fetchable(store, &fetched).await?;
    }
    add(missing, offered);
    self::lacking(store, &sources, missing).await?;
    Ok(next)
}
