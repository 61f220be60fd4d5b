//! Brings what was asked for into the caller's store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use drover_core::{OutputName, PathInfo, StorePath};
use drover_schedule::{Event, JobId, MachineFault, MachineId, Place};
use drover_store::{PathStream, StoreError, closure_order};
use futures::future::try_join_all;

use crate::driver::{Driver, JobPhase};
use crate::event::JobFailureReport;
use crate::fleet::{BuildError, CopyBack, Target, TargetResult};
use crate::graph::NodeId;
use crate::merge::Merged;
use crate::outcome::{full_text, store_of};
use crate::shared::Shared;

/// Bytes from which on a path gets a stream of its own.
const BULKY: u64 = 1024 * 1024;
/// Streams of bulky paths from one machine at once; each has a flow-control window of its own.
const STREAMS: usize = 4;
/// How often what a failed machine took away is built again.
const ATTEMPTS: usize = 3;

/// Copies what was wanted, and says what became of each target.
pub(crate) async fn retrieve(
    driver: &mut Driver,
    targets: &[Target],
) -> Result<Vec<TargetResult>, BuildError> {
    let mut attempt = 1;
    loop {
        let results: Vec<TargetResult> =
            targets.iter().map(|target| result(driver, target)).collect();
        let wanted = wanted_paths(driver, &results);
        let copied = match missing(driver, &wanted).await {
            Ok(paths) => copy(&driver.shared, paths).await,
            Err(error) => Err(error),
        };
        let error = match copied {
            Ok(()) => return Ok(results),
            Err(error) => error,
        };
        let blamed = store_of(&error).and_then(|store| driver.shared.machine_named(store));
        match blamed {
            Some(machine) if attempt < ATTEMPTS && error.is_infrastructure() => {
                attempt += 1;
                build_again(driver, machine, &wanted, full_text(&error)).await;
            }
            _ => return Err(explain(error)),
        }
    }
}

/// Says it in the user's words where the local store takes nothing unsigned.
fn explain(error: StoreError) -> BuildError {
    match &error {
        StoreError::Refused { message, .. }
            if message.contains("signature by a trusted key")
                || message.contains("lacks a valid signature") =>
        {
            BuildError::LocalStoreDistrusts
        }
        _ => BuildError::Store(error),
    }
}

fn result(driver: &Driver, target: &Target) -> TargetResult {
    let outcome = outcome(driver, target);
    TargetResult { target: target.clone(), outcome }
}

fn outcome(
    driver: &Driver,
    target: &Target,
) -> Result<BTreeMap<OutputName, StorePath>, Box<JobFailureReport>> {
    let Some((id, node)) =
        driver.graph.find(&target.derivation).and_then(|id| Some((id, driver.graph.node(id)?)))
    else {
        return Ok(BTreeMap::new());
    };
    let job = driver.job_of.get(&id).and_then(|job| driver.jobs.get(job.0 as usize));
    if let Some(JobPhase::Failed(failure)) = job.map(|job| &job.state) {
        return Err(failure.clone());
    }
    let wanted = |name: &OutputName| target.outputs.is_empty() || target.outputs.contains(name);
    let path = |name: &OutputName| {
        let known = node.derivation.outputs.get(name).and_then(|output| output.path()).cloned();
        known.or_else(|| driver.shared.realised(&target.derivation, name))
    };
    let names = node.derivation.outputs.keys().filter(|name| wanted(name));
    Ok(names.filter_map(|name| Some((name.clone(), path(name)?))).collect())
}

/// Returns the paths that shall be valid here.
fn wanted_paths(driver: &Driver, results: &[TargetResult]) -> BTreeSet<StorePath> {
    let of_targets = results.iter().filter_map(|result| result.outcome.as_ref().ok());
    let mut wanted: BTreeSet<StorePath> =
        of_targets.flat_map(|outputs| outputs.values().cloned()).collect();
    if driver.options.copy_back == CopyBack::Everything {
        for job in &driver.jobs {
            if matches!(job.state, JobPhase::Built) {
                let names = job.plan.derivation.outputs.keys();
                wanted.extend(
                    names.filter_map(|name| driver.shared.realised(&job.plan.path, name)),
                );
            }
        }
    }
    wanted
}

/// Returns what of the closure of `wanted` isn't here, references first, with where it is.
async fn missing(
    driver: &Driver,
    wanted: &BTreeSet<StorePath>,
) -> Result<Vec<(PathInfo, Place)>, StoreError> {
    let shared = &driver.shared;
    let mut found: BTreeMap<StorePath, (PathInfo, Place)> = BTreeMap::new();
    let mut level: Vec<StorePath> = wanted.iter().cloned().collect();
    let mut seen: BTreeSet<StorePath> = wanted.clone();
    while let Some(path) = level.pop() {
        if shared.places.is_at(&path, Place::Here) {
            continue;
        }
        // what was valid here before the run is not in the books unless a job needed it
        let Some((info, place)) = shared.places.somewhere(&path) else { continue };
        level.extend(info.references.iter().filter(|path| seen.insert((*path).clone())).cloned());
        found.insert(path, (info, place));
    }
    let places: BTreeMap<StorePath, Place> =
        found.iter().map(|(path, (_, place))| (path.clone(), *place)).collect();
    let infos = found.into_values().map(|(info, _)| info).collect();
    Ok(closure_order(infos)
        .into_iter()
        .filter_map(|info| {
            let place = *places.get(&info.path)?;
            Some((info, place))
        })
        .collect())
}

/// Copies paths here: the bulky ones on streams of their own, several at once, as soon as what they
/// refer to is here; the others in one stream, in order.
async fn copy(
    shared: &Arc<Shared>,
    mut left: Vec<(PathInfo, Place)>,
) -> Result<(), StoreError> {
    while !left.is_empty() {
        let waiting: BTreeSet<StorePath> =
            left.iter().map(|(info, _)| info.path.clone()).collect();
        let free = |info: &PathInfo| {
            info.references.iter().all(|path| *path == info.path || !waiting.contains(path))
        };
        let (bulky, rest): (Vec<_>, Vec<_>) =
            left.into_iter().partition(|(info, _)| info.nar_size.0 >= BULKY && free(info));
        let mut held: BTreeSet<StorePath> =
            bulky.iter().map(|(info, _)| info.path.clone()).collect();
        let mut now = Vec::new();
        left = Vec::new();
        for (info, place) in rest {
            let waits = info.nar_size.0 >= BULKY
                || info.references.iter().any(|path| held.contains(path));
            if waits {
                held.insert(info.path.clone());
                left.push((info, place));
            } else {
                now.push((info, place));
            }
        }
        if bulky.is_empty() && now.is_empty() {
            now = std::mem::take(&mut left);
        }
        let mut streams = split(bulky);
        if !now.is_empty() {
            streams.push(now);
        }
        try_join_all(streams.into_iter().map(|paths| copy_stream(shared, paths))).await?;
    }
    Ok(())
}

/// Spreads bulky paths over streams, each machine's apart, the largest first.
fn split(mut bulky: Vec<(PathInfo, Place)>) -> Vec<Vec<(PathInfo, Place)>> {
    bulky.sort_by_key(|(info, _)| std::cmp::Reverse(info.nar_size));
    let mut streams: BTreeMap<(Place, usize), Vec<(PathInfo, Place)>> = BTreeMap::new();
    let mut counts: BTreeMap<Place, usize> = BTreeMap::new();
    for (info, place) in bulky {
        let count = counts.entry(place).or_default();
        streams.entry((place, *count % STREAMS)).or_default().push((info, place));
        *count += 1;
    }
    streams.into_values().collect()
}

async fn copy_stream(
    shared: &Arc<Shared>,
    paths: Vec<(PathInfo, Place)>,
) -> Result<(), StoreError> {
    let infos: Vec<PathInfo> = paths.iter().map(|(info, _)| info.clone()).collect();
    let transfer = shared.start_transfer(&paths, None);
    let to = shared.traffic(Place::Here);
    let observer = Arc::clone(&shared.observer);
    let merged = Merged::open(shared.as_ref(), paths, to, transfer, observer).await?;
    let merged: Box<dyn PathStream> = Box::new(merged);
    shared.local.import(merged).await?;
    shared.places.landed(&infos, Place::Here);
    Ok(())
}

/// Has what was only on a machine that failed built again elsewhere.
async fn build_again(
    driver: &mut Driver,
    machine: MachineId,
    wanted: &BTreeSet<StorePath>,
    cause: String,
) {
    driver.machine_failed(machine, cause, MachineFault::Lost);
    driver.let_scheduler_decide();
    let lost: Vec<JobId> = driver
        .job_of
        .iter()
        .filter(|(node, job)| is_lost(driver, **node, **job, wanted))
        .map(|(_, job)| *job)
        .collect();
    for job in lost {
        driver.undecided_again();
        driver.tell_scheduler(Event::Rebuild { job });
    }
    driver.run().await;
}

fn is_lost(driver: &Driver, node: NodeId, job: JobId, wanted: &BTreeSet<StorePath>) -> bool {
    let built = driver
        .jobs
        .get(job.0 as usize)
        .is_some_and(|state| matches!(state.state, JobPhase::Built));
    let Some(node) = driver.graph.node(node).filter(|_| built) else { return false };
    node.derivation.outputs.keys().any(|name| {
        driver.shared.realised(&node.path, name).is_some_and(|path| {
            wanted.contains(&path) && driver.shared.places.somewhere(&path).is_none()
        })
    })
}
