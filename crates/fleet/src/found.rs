//! Outputs that machines have before anything was built in this run: left by one that was interrupted,
//! or made for somebody else.
//!
//! A machine that could build a job is believed when it says that it has the job's outputs, as it would
//! be believed if it built them; the same is checked as of a build. Where all of them are there the job
//! needs no build, and neither does what only it needs. Nothing waits for that question: it goes with
//! the first one, or behind it where it's long, and what was started meanwhile goes on.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use drover_core::{PathInfo, StorePath};
use drover_schedule::{ByteCount, Event, JobId, MachineId, Place};
use drover_store::{Built, Description, StoreError, Substitute};

use crate::check::{Promised, check_built};
use crate::driver::{Driver, JobPhase, Lasting};
use crate::event::FleetEvent;
use crate::machine::Site;
use crate::prepare::JobPlan;
use crate::shared::{Happened, Shared};

/// Bytes of paths in the first message, as no more goes with a greeting.
const AT_FIRST: usize = 48 * 1024;
/// Bytes that a path takes beside its name.
const AROUND_NAME: usize = 40;
/// Paths that are asked about at once later.
const LATER: usize = 2000;

/// A job, and its outputs as a machine has them.
type Candidate = (JobId, Arc<JobPlan>, Vec<PathInfo>);

/// What came of the first questions to a machine.
pub(crate) struct Greeted {
    pub(crate) description: Description,
    /// Paths that jobs need and that it has.
    pub(crate) valid: BTreeSet<StorePath>,
    /// Outputs that it has.
    pub(crate) found: Vec<PathInfo>,
    /// Outputs that it wasn't asked about.
    pub(crate) unasked: BTreeSet<StorePath>,
}

/// Connects to a machine, and asks which inputs and outputs it has, all in one go if that isn't much.
pub(crate) async fn greet(
    site: &dyn Site,
    inputs: &BTreeSet<StorePath>,
    outputs: &BTreeSet<StorePath>,
) -> Result<Greeted, StoreError> {
    let nothing = BTreeSet::new();
    // what is to be protected stands in it twice
    let (at_first, unasked) = match 2 * size(inputs) + size(outputs) <= AT_FIRST {
        true => (outputs, nothing),
        false => (&nothing, outputs.clone()),
    };
    // the questions go with the greeting; what it lacks it may fetch when a job needs it
    let all = site.hold_and_seek(inputs, at_first).await?;
    let description = site.connect().await?;
    let found = infos_of(site, all.intersection(at_first).cloned().collect()).await?;
    let valid = all.intersection(inputs).cloned().collect();
    Ok(Greeted { description, valid, found, unasked })
}

/// Returns how many bytes paths take in a message, about.
fn size(paths: &BTreeSet<StorePath>) -> usize {
    paths.iter().map(|path| path.base_name().len() + AROUND_NAME).sum()
}

/// Asks a machine that works already which outputs it has.
pub(crate) async fn seek(
    site: &dyn Site,
    shared: &Shared,
    (machine, generation): (MachineId, u32),
    outputs: &BTreeSet<StorePath>,
) {
    let outputs: Vec<StorePath> = outputs.iter().cloned().collect();
    let mut all = Vec::new();
    for part in outputs.chunks(LATER) {
        let sought = part.iter().cloned().collect();
        let asked = async {
            let valid = site.hold_and_seek(&BTreeSet::new(), &sought).await?;
            infos_of(site, valid).await
        };
        match asked.await {
            Ok(found) => all.extend(found),
            // a connection that broke is found out by those who work on it
            Err(_) => return,
        }
    }
    // all at once: the outputs of a job, and what they refer to, may be in several parts
    if !all.is_empty() {
        shared.tell(Happened::Found { machine, generation, found: all });
    }
}

/// Has paths kept, and returns what is known of those that are there.
async fn infos_of(
    site: &dyn Site,
    paths: BTreeSet<StorePath>,
) -> Result<Vec<PathInfo>, StoreError> {
    if paths.is_empty() {
        return Ok(Vec::new());
    }
    let kept = site.hold_valid(&paths, Substitute::No).await?;
    let kept: Vec<StorePath> = kept.into_iter().collect();
    Ok(site.path_infos(&kept).await?.into_iter().flatten().collect())
}

impl Driver {
    /// Returns the outputs that a machine is asked about: those of jobs that it could build. Their
    /// paths must be known before the build.
    pub(crate) fn sought(&self, machine: MachineId) -> BTreeSet<StorePath> {
        let Some(state) = self.machines.get(machine.0 as usize) else { return BTreeSet::new() };
        if self.lasting == Lasting::Shared || self.shared.place_of(machine) == Place::Here {
            return BTreeSet::new();
        }
        let is_for_it = |plan: &JobPlan| {
            let features = plan.derivation.required_system_features().unwrap_or_default();
            state.spec.description.refusal(&plan.derivation.system, &features).is_none()
        };
        let waiting = self.jobs.iter().filter(|job| matches!(job.state, JobPhase::Waiting));
        let plans = waiting.map(|job| &job.plan).filter(|plan| is_for_it(plan));
        plans.filter_map(|plan| known_outputs(plan)).flatten().collect()
    }

    /// Takes jobs for built whose outputs a machine has.
    pub(crate) fn take_found(&mut self, machine: MachineId, found: Vec<PathInfo>) {
        if found.is_empty() {
            return;
        }
        let place = self.shared.place_of(machine);
        let found: HashMap<StorePath, PathInfo> =
            found.into_iter().map(|info| (info.path.clone(), info)).collect();
        for (job, plan, infos) in self.whole(&found) {
            let mut outputs = Vec::with_capacity(infos.len());
            for info in infos {
                outputs.push((self.path_id(&info.path), ByteCount(info.nar_size.0)));
                self.shared.output_sizes.note(&info);
                self.shared.places.add(info, place);
            }
            self.found.insert(job);
            self.tell_scheduler(Event::Found { job, machine, outputs });
            let (node, machine) = (plan.node, self.shared.name_of(machine));
            self.shared.observer.event(FleetEvent::Found { node, machine });
        }
    }

    /// Returns the jobs all of whose outputs are among those that were found, and all that these refer
    /// to is there or elsewhere.
    fn whole(&self, found: &HashMap<StorePath, PathInfo>) -> Vec<Candidate> {
        let mut candidates: Vec<Candidate> = Vec::new();
        for (job, state) in (0..).map(JobId).zip(&self.jobs) {
            if !matches!(state.state, JobPhase::Waiting | JobPhase::Unneeded) {
                continue;
            }
            let Some(paths) = known_outputs(&state.plan) else { continue };
            let infos = paths.iter().map(|path| found.get(path).cloned());
            let Some(infos) = infos.collect::<Option<Vec<_>>>() else { continue };
            if self.is_credible(&state.plan, &infos) {
                candidates.push((job, Arc::clone(&state.plan), infos));
            }
        }
        loop {
            let there: BTreeSet<&StorePath> =
                candidates.iter().flat_map(|(_, _, infos)| infos).map(|info| &info.path).collect();
            let is_known = |path: &StorePath| {
                there.contains(path)
                    || self.shared.places.somewhere(path, &mut HashMap::new()).is_some()
            };
            let is_whole = |(_, _, infos): &&Candidate| {
                infos.iter().flat_map(|info| &info.references).all(is_known)
            };
            let whole: Vec<Candidate> = candidates.iter().filter(is_whole).cloned().collect();
            if whole.len() == candidates.len() {
                return whole;
            }
            candidates = whole;
        }
    }

    /// Whether a build could have made that.
    fn is_credible(&self, plan: &JobPlan, infos: &[PathInfo]) -> bool {
        let basic = &plan.derivation.basic;
        let promised = Promised { name: basic.name.clone(), outputs: basic.outputs.clone() };
        let by_path = |path: &StorePath| infos.iter().find(|info| info.path == *path).cloned();
        let outputs: BTreeMap<String, PathInfo> = promised
            .known()
            .into_iter()
            .filter_map(|(name, path)| Some((name, by_path(&path)?)))
            .collect();
        let built = Built { outputs, already_valid: true, took: None, nars: BTreeMap::new() };
        let inputs = self.all_inputs(plan);
        let places = &self.shared.places;
        check_built(&self.shared.store_dir, &promised, &inputs, &built, places).is_ok()
    }

    /// Returns the inputs of a job and of all jobs below it, with what those make: what a build of
    /// all of them could refer to. More precisely it can't be told, as what is between needn't be
    /// anywhere any more.
    fn all_inputs(&self, plan: &JobPlan) -> Vec<StorePath> {
        let mut inputs: BTreeSet<StorePath> = plan.inputs.iter().cloned().collect();
        let mut seen: BTreeSet<JobId> = plan.dependencies.iter().copied().collect();
        let mut left: Vec<JobId> = plan.dependencies.clone();
        while let Some(job) = left.pop() {
            let Some(state) = self.jobs.get(job.0 as usize) else { continue };
            inputs.extend(state.plan.inputs.iter().cloned());
            inputs.extend(known_outputs(&state.plan).into_iter().flatten());
            left.extend(state.plan.dependencies.iter().filter(|job| seen.insert(**job)));
        }
        inputs.into_iter().collect()
    }
}

/// Returns the paths of a job's outputs, if all of them are known before it's built.
fn known_outputs(plan: &JobPlan) -> Option<Vec<StorePath>> {
    plan.derivation.outputs.values().map(|output| output.path().cloned()).collect()
}
