//! Brings what was asked for into the caller's store.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use drover_core::{OutputName, PathInfo, StorePath};
use drover_schedule::{JobId, MachineId, Place};
use drover_store::{FailureCause, Refusal, StoreError, closure_order};

use crate::attempts::{Earlier, Mixed, reaches};
use crate::driver::{Driver, JobPhase, JobState};
use crate::event::{FleetEvent, JobFailureReport};
use crate::fault::not_fetched;
use crate::fleet::{BuildError, CopyBack, Target, TargetResult};
use crate::merge::{Culprit, Origin};
use crate::transfer::{copy_all, here};

/// How often a machine may fail while it is fetched from, before what it has is given up.
const ATTEMPTS: usize = 3;

/// Copies what was wanted, and says what became of each target. What is gone is built again.
pub(crate) async fn retrieve(
    driver: &mut Driver,
    targets: &[Target],
) -> Result<Vec<TargetResult>, BuildError> {
    let mut failures: HashMap<MachineId, usize> = HashMap::new();
    let mut earlier = Earlier::default();
    loop {
        let results: Vec<TargetResult> =
            targets.iter().map(|target| result(driver, target)).collect();
        let wanted = wanted_paths(driver, &results);
        let Closure { found, nowhere } = closure(driver, &wanted);
        let lost = makers(driver, &nowhere);
        if !lost.is_empty() {
            build_again(driver, lost).await;
            continue;
        }
        let in_pieces = in_pieces(driver, &wanted, &nowhere);
        if !in_pieces.is_empty() {
            give_up_in_pieces(driver, in_pieces);
            continue;
        }
        let (places, local) = (&driver.shared.places, &driver.shared.local);
        let coming = found.iter().map(|(info, _)| info.path.clone()).collect();
        let mixed = earlier.begin(places, local.as_ref(), coming).await?;
        if mixed.is_some_and(|mixed| give_up_mixed(driver, &wanted, &mixed) > 0) {
            continue;
        }
        driver.close_lanes().await;
        let culprit = Culprit::default();
        let error = match copy_all(&driver.shared, here(&driver.shared, &culprit), found).await {
            Ok(()) => return Ok(results),
            Err(error) => error,
        };
        let Some((origin @ Origin::On { machine, .. }, error)) = culprit.get() else {
            return Err(explain(error));
        };
        let count = failures.entry(*machine).or_default();
        *count += 1;
        let only_there = only_at(driver, Place::On(*machine), &wanted);
        driver.source_failed(*origin, error);
        if *count >= ATTEMPTS {
            if only_there.is_empty() {
                return Err(explain(error.clone()));
            }
            give_up(driver, *machine, only_there, error);
        }
        driver.let_scheduler_decide();
    }
}

/// Has jobs built again, and waits for them. Those that are being built already go on.
async fn build_again(driver: &mut Driver, jobs: Vec<JobId>) {
    for job in jobs {
        driver.let_scheduler_decide();
        let state = driver.jobs.get(job.0 as usize);
        if state.is_some_and(|state| matches!(state.state, JobPhase::Stopping)) {
            // how that ends must be known first
            driver.close_lanes().await;
        }
        driver.build_again(job);
    }
    driver.run().await;
}

/// Returns the jobs that made some of these paths.
fn makers(driver: &Driver, paths: &BTreeSet<StorePath>) -> Vec<JobId> {
    if paths.is_empty() {
        return Vec::new();
    }
    let made_some = |state: &JobState| {
        let mut names = state.plan.derivation.outputs.keys();
        let path = |name| driver.shared.realised(&state.plan.path, name);
        !matches!(state.state, JobPhase::Failed(_))
            && names.any(|name| path(name).is_some_and(|path| paths.contains(&path)))
    };
    let jobs = (0..).map(JobId).zip(&driver.jobs);
    jobs.filter(|(_, state)| made_some(state)).map(|(job, _)| job).collect()
}

/// Returns the jobs that made some of `wanted` that refer, themselves or by others, to what is
/// nowhere and can't be built again, each with such a path.
fn in_pieces(
    driver: &Driver,
    wanted: &BTreeSet<StorePath>,
    nowhere: &BTreeSet<StorePath>,
) -> BTreeMap<JobId, StorePath> {
    let gone: BTreeSet<&StorePath> =
        nowhere.iter().filter(|path| failed_maker(driver, path).is_some()).collect();
    let mut in_pieces = BTreeMap::new();
    if gone.is_empty() {
        return in_pieces;
    }
    for path in wanted {
        if let Some(missing) = reaches(&driver.shared.places, path, &gone) {
            let makers = makers(driver, &BTreeSet::from([path.clone()]));
            in_pieces.extend(makers.into_iter().map(|job| (job, missing.clone())));
        }
    }
    in_pieces
}

/// Returns the report of the job that made a path once and failed when it had to again.
fn failed_maker<'a>(driver: &'a Driver, path: &StorePath) -> Option<&'a JobFailureReport> {
    driver.jobs.iter().find_map(|state| {
        let JobPhase::Failed(report) = &state.state else { return None };
        let mut names = state.plan.derivation.outputs.keys();
        let makes = |name| driver.shared.realised(&state.plan.path, name).as_ref() == Some(path);
        names.any(makes).then_some(&**report)
    })
}

/// Has jobs failed whose outputs are there, but not all that they refer to.
fn give_up_in_pieces(driver: &mut Driver, jobs: BTreeMap<JobId, StorePath>) {
    for (job, missing) in jobs {
        let cause = failed_maker(driver, &missing).map(|report| report.message.clone());
        let message = format!(
            "it was built, but '{missing}', which it refers to, was lost and could not be built \
             again: {}",
            cause.unwrap_or_default()
        );
        fail(driver, job, (None, FailureCause::NoMachine), message);
    }
}

/// Has jobs failed whose outputs are, or refer to, what doesn't belong to what is here. Returns how many.
fn give_up_mixed(driver: &mut Driver, wanted: &BTreeSet<StorePath>, mixed: &Mixed) -> usize {
    let reaching = wanted.iter().filter(|path| mixed.concerns(&driver.shared.places, path));
    let jobs = makers(driver, &reaching.cloned().collect());
    for job in &jobs {
        fail(driver, *job, (None, FailureCause::NotDeterministic), mixed.to_string());
    }
    jobs.len()
}

/// Has a job failed that was built, as what it made can't be had here.
fn fail(
    driver: &mut Driver,
    job: JobId,
    (machine, cause): (Option<MachineId>, FailureCause),
    message: String,
) {
    let Some(state) = driver.jobs.get_mut(job.0 as usize) else { return };
    let (derivation, log_tail) = (state.plan.path.clone(), Vec::new());
    let machine = machine.map(|machine| driver.shared.name_of(machine));
    let report = Box::new(JobFailureReport { derivation, cause, machine, message, log_tail });
    let (node, failure) = (state.plan.node, report.clone());
    state.state = JobPhase::Failed(report);
    driver.shared.observer.event(FleetEvent::Failed { node, failure });
}

/// Returns the jobs some of whose wanted outputs are only at a place.
fn only_at(driver: &Driver, place: Place, wanted: &BTreeSet<StorePath>) -> Vec<JobId> {
    let there = wanted.iter().filter(|path| driver.shared.places.is_only_at(path, place));
    makers(driver, &there.cloned().collect())
}

/// Has jobs failed whose outputs can't be had from the machine that made them, however often.
fn give_up(driver: &mut Driver, machine: MachineId, jobs: Vec<JobId>, error: &StoreError) {
    for job in jobs {
        fail(driver, job, (Some(machine), FailureCause::NoMachine), not_fetched(error));
    }
}

/// Says it in the user's words where the local store takes nothing unsigned.
fn explain(error: StoreError) -> BuildError {
    match &error {
        StoreError::Refused { why: Refusal::Distrust, .. } => BuildError::LocalStoreDistrusts,
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
            // it may be being built again
            if !matches!(job.state, JobPhase::Failed(_) | JobPhase::Unneeded) {
                let names = job.plan.derivation.outputs.keys();
                wanted
                    .extend(names.filter_map(|name| driver.shared.realised(&job.plan.path, name)));
            }
        }
    }
    wanted
}

/// The closure of paths, without what is here.
struct Closure {
    /// Paths with where they are, references first.
    found: Vec<(PathInfo, Place)>,
    /// Paths that are nowhere, as far as is known: those of failed machines, and those that were
    /// valid here before the run and which no job needed.
    nowhere: BTreeSet<StorePath>,
}

fn closure(driver: &Driver, wanted: &BTreeSet<StorePath>) -> Closure {
    let places = &driver.shared.places;
    let mut found: BTreeMap<StorePath, (PathInfo, Place)> = BTreeMap::new();
    let mut nowhere = BTreeSet::new();
    let mut load: HashMap<Place, u64> = HashMap::new();
    let mut left: Vec<StorePath> = wanted.iter().cloned().collect();
    let mut seen: BTreeSet<StorePath> = wanted.clone();
    while let Some(path) = left.pop() {
        if places.is_at(&path, Place::Here) {
            continue;
        }
        let Some((info, place)) = places.somewhere(&path, &mut load) else {
            nowhere.insert(path);
            continue;
        };
        left.extend(info.references.iter().filter(|path| seen.insert((*path).clone())).cloned());
        found.insert(path, (info, place));
    }
    let at: BTreeMap<StorePath, Place> =
        found.iter().map(|(path, (_, place))| (path.clone(), *place)).collect();
    let infos = closure_order(found.into_values().map(|(info, _)| info).collect());
    let found = infos.into_iter().filter_map(|info| {
        let place = *at.get(&info.path)?;
        Some((info, place))
    });
    Closure { found: found.collect(), nowhere }
}
