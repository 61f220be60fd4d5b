//! How a run begins: machines, paths and jobs are made known to the scheduler.

use std::sync::Arc;

use drover_core::StorePath;
use drover_schedule::{Demand, Event, JobId, MachineId, OwnerId, Place, Scope};
use drover_store::closure_order;

use crate::approach::Approach;
use crate::driver::{Awaited, Driver, Interest, JobPhase, JobState, Lasting};
use crate::fleet::CopyBack;
use crate::plan::describe;
use crate::prepare::{JobPlan, Work};

impl Driver {
    /// Takes over machines that were approached before the run.
    pub(crate) fn take_approached(&mut self, approach: &Approach) {
        for machine in &mut self.machines {
            machine.approached = approach.take(&machine.spec);
        }
    }

    /// Tells the scheduler of machines, paths and jobs.
    pub(crate) fn take_work(&mut self, work: Work) {
        for (machine, state) in (0..).map(MachineId).zip(&self.machines) {
            let description = state.spec.description.clone();
            self.pending.push(Event::MachineAdded { machine, description });
        }
        for info in closure_order(work.infos) {
            self.path_at(&info.path, Place::Here, Some(info.nar_size.0));
            self.shared.places.add(info, Place::Here);
        }
        for (derivation, output, path) in work.realised {
            self.shared.places.realise(&derivation, output, path);
        }
        self.job_of = work.job_of;
        self.undecided = work.jobs.len();
        self.shared.set_jobs_left(self.undecided);
        for (job, plan) in (0..).map(JobId).zip(work.jobs) {
            self.submit((OwnerId::default(), Scope::AllMachines), job, plan);
        }
        for (job, report) in work.refused {
            self.reports.insert(job, report);
            self.pending.push(match self.options.keep_going {
                true => Event::Cancel { job },
                false => Event::CancelAll,
            });
        }
    }

    /// Says who wants what a job makes.
    fn demand(&self, plan: &JobPlan) -> Demand {
        // among many it's said of each that somebody asks for it
        let only_others = self.lasting == Lasting::Shared
            || self.options.copy_back == CopyBack::Wanted && !self.shared.is_target(&plan.path);
        if only_others { Demand::ForOthers } else { Demand::Asked }
    }

    /// Has a job built, whose number is free or the next.
    pub(crate) fn submit(&mut self, (owner, scope): (OwnerId, Scope), job: JobId, plan: JobPlan) {
        let derivation = &plan.derivation;
        let known = |plan: &JobPlan| -> Vec<StorePath> {
            plan.derivation.outputs.values().filter_map(|output| output.path()).cloned().collect()
        };
        for (name, output) in &derivation.outputs {
            if let Some(path) = output.path() {
                self.shared.places.realise(&plan.path, name.clone(), path.clone());
            }
        }
        let description = drover_schedule::Job {
            owner,
            scope,
            demand: self.demand(&plan),
            inputs: plan.inputs.iter().map(|path| self.path_id(path)).collect(),
            outputs: known(&plan).iter().map(|path| self.path_id(path)).collect(),
            ..describe(&plan)
        };
        self.pending.push(Event::Submitted { job, description });
        let state = JobState {
            plan: Arc::new(plan),
            lane: None,
            state: JobPhase::Waiting,
            verdict: Awaited::Yes,
            interest: Interest::Some,
        };
        match self.jobs.get_mut(job.0 as usize) {
            Some(slot) => *slot = state,
            None => self.jobs.push(state),
        }
    }
}

/// Returns how many channels a machine will need beside its first: as many as it can use for the
/// jobs that are ready at once, and one for outputs that go elsewhere.
pub(crate) fn expected_channels(work: &Work, machines: usize) -> usize {
    let ready = work.jobs.iter().filter(|job| job.dependencies.is_empty()).count();
    let lanes = ready.div_ceil(machines.max(1));
    let transfers = usize::from(machines > 1 && ready > 1 && ready < work.jobs.len());
    (lanes + transfers).saturating_sub(1)
}
