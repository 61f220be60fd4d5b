//! Outputs that machines have before anything was built in this run: left by one that was interrupted,
//! or made for somebody else.
//!
//! A machine that could build a job is believed when it says that it has the job's outputs, as it would
//! be believed if it built them; the same is checked as of a build. Where all of them are there the job
//! needs no build, and neither does what only it needs. That question goes with the first one (`sought`),
//! and nothing is started before machines have answered it or a second is over; what they say later is
//! used as far as it's not being built by then.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use drover_core::{OutputName, PathInfo, StorePath};
use drover_schedule::{ByteCount, Event, JobId, MachineId, MachineKind, Place};
use drover_store::Built;

use crate::check::{Promised, check_built};
use crate::driver::{Driver, JobPhase};
use crate::event::FleetEvent;
use crate::prepare::JobPlan;
use crate::sought::{Findings, Sought, sought_of};
use crate::vouched::Unsigned;

/// A job, and its outputs as a machine has them.
type Candidate = (JobId, Arc<JobPlan>, BTreeMap<OutputName, PathInfo>);

/// What a machine has, by what it's looked up by.
struct There {
    infos: HashMap<StorePath, PathInfo>,
    realised: HashMap<(StorePath, OutputName), StorePath>,
}

impl There {
    fn new(found: Findings) -> There {
        let infos = found.infos.into_iter().map(|info| (info.path.clone(), info)).collect();
        let realised = found.realised.into_iter();
        let realised =
            realised.map(|(derivation, name, path)| ((derivation, name), path)).collect();
        There { infos, realised }
    }

    fn realised(&self, derivation: &StorePath, output: &OutputName) -> Option<&StorePath> {
        self.realised.get(&(derivation.clone(), output.clone()))
    }

    /// Returns the outputs of a job, if all are there.
    fn outputs(&self, plan: &JobPlan) -> Option<BTreeMap<OutputName, PathInfo>> {
        let outputs = plan.derivation.outputs.iter().map(|(name, output)| {
            let said = || self.realised(&plan.path, name);
            let path = output.path().or_else(said)?;
            Some((name.clone(), self.infos.get(path)?.clone()))
        });
        outputs.collect()
    }
}

impl Driver {
    /// Returns the outputs that a machine is asked about: those of jobs that it could build.
    pub(crate) fn sought(&self, machine: MachineId) -> Sought {
        let Some(state) = self.machines.get(machine.0 as usize) else { return Sought::default() };
        if state.spec.description.kind == MachineKind::Local {
            return Sought::default();
        }
        let waiting = self.jobs.iter().filter(|job| matches!(job.state, JobPhase::Waiting));
        sought_of(&state.spec.description, waiting.map(|job| job.plan.as_ref()))
    }

    /// Takes jobs for built whose outputs a machine has.
    pub(crate) fn take_found(&mut self, machine: MachineId, found: Findings) {
        if found.is_empty() {
            return;
        }
        let place = self.shared.place_of(machine);
        let there = There::new(found);
        for (job, plan, infos) in self.whole(&there, place) {
            let mut outputs = Vec::with_capacity(infos.len());
            for (name, info) in infos {
                self.shared.places.realise(&plan.path, name, info.path.clone());
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
    fn whole(&self, found: &There, place: Place) -> Vec<Candidate> {
        let trust = self.shared.output_trust(place);
        let mut unsigned = None;
        let mut candidates: Vec<Candidate> = Vec::new();
        for (job, state) in (0..).map(JobId).zip(&self.jobs) {
            if !matches!(state.state, JobPhase::Waiting | JobPhase::Unneeded) {
                continue;
            }
            let plan = &state.plan;
            let Some(infos) = found.outputs(plan) else { continue };
            let refused = infos.iter().find_map(|(name, info)| {
                let (dir, name) = (&self.shared.store_dir, name.as_str());
                trust.check(dir, &plan.derivation, name, info).err()
            });
            match refused {
                Some(refused) => unsigned = Some(refused),
                None if self.is_credible(plan, &infos, found) => {
                    candidates.push((job, Arc::clone(plan), infos));
                }
                None => {}
            }
        }
        if let Some(unsigned) = unsigned {
            self.tell_of_unsigned(place, &unsigned);
        }
        loop {
            let there: BTreeSet<&StorePath> = candidates
                .iter()
                .flat_map(|(_, _, infos)| infos.values())
                .map(|info| &info.path)
                .collect();
            let is_known = |path: &StorePath| {
                there.contains(path)
                    || self.shared.places.somewhere(path, &mut HashMap::new()).is_some()
            };
            let is_whole = |(_, _, infos): &&Candidate| {
                infos.values().flat_map(|info| &info.references).all(is_known)
            };
            let whole: Vec<Candidate> = candidates.iter().filter(is_whole).cloned().collect();
            if whole.len() == candidates.len() {
                return whole;
            }
            candidates = whole;
        }
    }

    /// Says that what a machine has isn't used; that it isn't there is no failure of anything.
    fn tell_of_unsigned(&self, place: Place, unsigned: &Unsigned) {
        let Place::On(machine) = place else { return };
        let name = self.shared.name_of(machine);
        let text = format!("what '{name}' has is not used: {unsigned}");
        self.shared.observer.event(FleetEvent::Note(text));
    }

    /// Whether a build could have made that.
    fn is_credible(
        &self,
        plan: &JobPlan,
        infos: &BTreeMap<OutputName, PathInfo>,
        found: &There,
    ) -> bool {
        let basic = &plan.derivation.basic;
        let promised = Promised { name: basic.name.clone(), outputs: basic.outputs.clone() };
        let named = infos.iter().map(|(name, info)| (name.to_string(), info.clone()));
        let outputs: BTreeMap<String, PathInfo> = named.collect();
        let built = Built { outputs, already_valid: true, took: None, nars: BTreeMap::new() };
        let inputs = self.all_inputs(plan, found);
        let places = &self.shared.places;
        check_built(&self.shared.store_dir, &promised, &inputs, &built, places).is_ok()
    }

    /// Returns the inputs of a job and of all jobs below it, with what those make: what a build of
    /// all of them could refer to. More precisely it can't be told, as what is between needn't be
    /// anywhere any more.
    fn all_inputs(&self, plan: &JobPlan, found: &There) -> Vec<StorePath> {
        let mut inputs: BTreeSet<StorePath> = plan.inputs.iter().cloned().collect();
        let mut seen: BTreeSet<JobId> = plan.dependencies.iter().copied().collect();
        let mut left: Vec<JobId> = plan.dependencies.clone();
        while let Some(job) = left.pop() {
            let Some(state) = self.jobs.get(job.0 as usize) else { continue };
            inputs.extend(state.plan.inputs.iter().cloned());
            let outputs = state.plan.derivation.outputs.iter().filter_map(|(name, output)| {
                let known = output.path().cloned();
                let known = known.or_else(|| self.shared.realised(&state.plan.path, name));
                known.or_else(|| found.realised(&state.plan.path, name).cloned())
            });
            inputs.extend(outputs);
            left.extend(state.plan.dependencies.iter().filter(|job| seen.insert(**job)));
        }
        inputs.into_iter().collect()
    }
}
