//! The lanes of the machines: what is given to them, and how they end.

use std::sync::Arc;

use drover_schedule::{Event, JobFailure, JobId, Lane, MachineId};
use drover_store::{StoreError, Trust};
use tokio::sync::{mpsc, watch};

use crate::driver::{Driver, Interest, JobPhase, Lasting};
use crate::event::FleetEvent;
use crate::lane::{Guessing, LaneContext, LaneJob, run_lane};
use crate::machine::Site;
use crate::machine_state::{LaneHandle, MachineState, Opening};
use crate::shared::Shared;
use crate::voice::Voice;

/// Why the scheduler has a job stopped that it starts anew.
pub(crate) const SOONER_ELSEWHERE: &str = "another machine will be done sooner";

impl Driver {
    /// Gives a job to a lane, which is opened where it isn't yet.
    pub(crate) fn start(&mut self, job: JobId, lane: Lane) {
        let Some(state) = self.jobs.get_mut(job.0 as usize) else { return };
        let before = state.lane.replace(lane);
        let was = std::mem::replace(&mut state.state, JobPhase::Started);
        let plan = Arc::clone(&state.plan);
        let node = plan.node;
        let (machine, shared) = (lane.machine, Arc::clone(&self.shared));
        // one that failed as an input had just been lost has no verdict, and nothing was told of that
        let failed = self.reports.remove(&job).map(|report| report.message);
        let cause = match was {
            JobPhase::Stopped(why) => Some(why.to_owned()),
            JobPhase::Waiting => failed,
            _ => None,
        };
        if let (Some(cause), Some(before)) = (cause, before) {
            let machine = shared.name_of(before.machine);
            shared.observer.event(FleetEvent::Retried { node, machine, cause });
        }
        let name = shared.name_of(machine);
        shared.observer.event(FleetEvent::Assigned { node, machine: name });
        let Some(on) = self.machines.get_mut(machine.0 as usize) else { return };
        let Some(site) = on.site.clone() else {
            let cause = "the machine is not connected".to_owned();
            self.retried(job, &cause);
            let failure = JobFailure::Infrastructure { cause };
            return self.pending.push(Event::Failed { job, failure });
        };
        let guessing = match (self.options.keep_going, self.lasting) {
            (false, Lasting::OneRun) => Guessing::Allowed,
            // a failure ends the lane then, and here failures are nothing special
            _ => Guessing::No,
        };
        if !on.lanes.contains_key(&lane.index) {
            self.openings.0 += 1;
            let opened = open_lane(on, lane, site, guessing, self.openings, &shared);
            on.lanes.insert(lane.index, opened);
        }
        let Some(handle) = on.lanes.get_mut(&lane.index) else { return };
        handle.jobs.push(job);
        // a lane ends only with its machine, whose failing is told apart
        drop(handle.queue.send(LaneJob { job, plan }));
    }

    /// Notes that a job is not wanted any more where it is. A builder can't be told to forget one
    /// build: what was sent ends with its lane. So a job stops when all that are on its lane shall.
    /// Where something ahead of it goes on, it's taken off. And where it stands first, though others
    /// on its lane go on, it's only stopped because one ahead of it failed, and then it ends by
    /// itself at once, for want of an input; except where the machine would make that input itself.
    pub(crate) fn stop(&mut self, job: JobId) {
        let Some(state) = self.jobs.get_mut(job.0 as usize) else { return };
        // one that came back meanwhile has told so
        let (JobPhase::Started, Some(lane)) = (&state.state, state.lane) else { return };
        state.state = JobPhase::Stopping;
        if state.interest == Interest::Lost {
            return self.end_lane_if_unwanted(lane);
        }
        let Some(machine) = self.machines.get_mut(lane.machine.0 as usize) else { return };
        let Some(handle) = machine.lane_of(job, lane.index) else { return };
        let opening = handle.opening;
        let goes_on = |job: &JobId| {
            let state = self.jobs.get(job.0 as usize);
            !state.is_some_and(|state| matches!(state.state, JobPhase::Stopping))
        };
        if handle.jobs.iter().take_while(|other| **other != job).any(goes_on) {
            return self.take_off(job, lane.machine, opening);
        }
        let ends_by_itself = self.options.keep_going && machine.trust != Trust::NotTrusted;
        if !ends_by_itself && !handle.jobs.iter().any(goes_on) {
            for job in machine.end_lane(opening) {
                self.stopped(job);
            }
        }
    }

    /// Whether a job that is to stop has ended by itself, as what should have made an input ahead of it has
    /// failed: that's no fault of the machine.
    pub(crate) fn ended_for_want_of_an_input(&mut self, job: JobId, error: &StoreError) -> bool {
        if !matches!(error, StoreError::NotValid { .. }) {
            return false;
        }
        // that failure may have been told just before, and not been decided on
        self.let_scheduler_decide();
        let state = self.jobs.get(job.0 as usize);
        state.is_some_and(|state| matches!(state.state, JobPhase::Stopping))
    }

    /// Takes a job off its lane, with what stands behind it. The builder has been told of it, and
    /// would build it when what stands ahead has ended: then that lane is ended.
    fn take_off(&mut self, job: JobId, machine: MachineId, opening: Opening) {
        let Some(state) = self.machines.get_mut(machine.0 as usize) else { return };
        let Some((lane, taken)) = state.take_off(job, opening) else { return };
        for job in &taken {
            let Some(state) = self.jobs.get(job.0 as usize) else { continue };
            lane.silencer.mute(state.plan.node);
            let outputs = state.plan.derivation.outputs.values();
            self.shared.places.not_coming(outputs.filter_map(|output| output.path()), lane.berth);
        }
        for job in taken {
            self.retried(job, "what was ahead of it goes elsewhere");
            self.stopped(job);
        }
    }

    /// Notes that a job that was started runs no more.
    fn stopped(&mut self, job: JobId) {
        if let Some(state) = self.jobs.get_mut(job.0 as usize)
            && matches!(state.state, JobPhase::Stopping)
        {
            state.state = JobPhase::Stopped(SOONER_ELSEWHERE);
        }
        self.pending.push(Event::Stopped { job });
    }

    /// Ends the lanes of a number at whose heads something runs that nobody waits for any more. What
    /// stands behind it has not begun, and is started anew.
    pub(crate) fn end_lane_if_unwanted(&mut self, lane: Lane) {
        let is_unwanted = |job: &JobId| {
            self.jobs.get(job.0 as usize).is_some_and(|state| {
                matches!(state.state, JobPhase::Stopping) && state.interest == Interest::Lost
            })
        };
        let Some(machine) = self.machines.get_mut(lane.machine.0 as usize) else { return };
        let of_number = machine.all_lanes().filter(|handle| handle.index == lane.index);
        let unwanted = of_number.filter(|handle| handle.jobs.first().is_some_and(is_unwanted));
        let openings: Vec<Opening> = unwanted.map(|handle| handle.opening).collect();
        let ended: Vec<JobId> =
            openings.into_iter().flat_map(|opening| machine.end_lane(opening)).collect();
        for job in ended {
            self.retried(job, "what was ahead of it was cancelled");
            self.stopped(job);
        }
    }

    /// Ends a lane with what runs at its head. What stands behind that is started anew.
    pub(crate) fn end_lane(&mut self, machine: MachineId, opening: Opening, why: &str) {
        let Some(state) = self.machines.get_mut(machine.0 as usize) else { return };
        for job in state.end_lane(opening) {
            self.retried(job, why);
            self.stopped(job);
        }
    }

    /// Gives the lanes' channels back, for the transfers that follow. When each job has its verdict
    /// something may still run: what was lost and is built again for others that needed it then. That
    /// is stopped, and started anew if it's needed once more.
    pub(crate) async fn close_lanes(&mut self) {
        let mut ended = Vec::new();
        for machine in &mut self.machines {
            ended.extend(machine.end_lanes());
            machine.tasks.abort_all();
        }
        for job in ended {
            if let Some(state) = self.jobs.get_mut(job.0 as usize) {
                state.state = JobPhase::Stopped("all seemed to be done");
            }
            self.tell_scheduler(Event::Stopped { job });
        }
        self.until_ended().await;
    }

    /// Ends everything on all machines, and waits until it has ended here.
    pub(crate) async fn stop_everything(&mut self) {
        self.shared.tees.clear();
        for machine in &mut self.machines {
            machine.end();
        }
        for (machine, _) in (0..).map(MachineId).zip(&self.machines) {
            self.shared.forget_site(machine);
        }
        for machine in &mut self.machines {
            while machine.connecting.join_next().await.is_some() {}
        }
        self.until_ended().await;
    }

    /// Waits until the tasks of lanes that were ended are gone.
    async fn until_ended(&mut self) {
        for machine in &mut self.machines {
            while machine.tasks.join_next().await.is_some() {}
        }
        let tracker = &self.shared.tracker;
        tracker.close();
        tracker.wait().await;
        tracker.reopen();
    }
}

/// Opens a lane of a machine.
fn open_lane(
    on: &mut MachineState,
    Lane { machine, index }: Lane,
    site: Arc<dyn Site>,
    guessing: Guessing,
    opening: Opening,
    shared: &Arc<Shared>,
) -> LaneHandle {
    let (queue, jobs) = mpsc::unbounded_channel();
    let (voice, silencer) = Voice::new(Arc::clone(&shared.observer));
    let berth = shared.places.berth(shared.place_of(machine));
    let context = LaneContext {
        berth,
        shared: Arc::clone(shared),
        site,
        machine,
        name: shared.name_of(machine).into(),
        trust: on.trust,
        substitute: on.spec.substitute,
        generation: on.generation,
        opening,
        observer: voice,
        guessing,
        before: on.before(index),
    };
    let task = on.tasks.spawn(run_lane(Arc::new(context), jobs));
    let (jobs, presence) = (Vec::new(), watch::Sender::new(()));
    LaneHandle { index, queue, task, jobs, opening, berth, silencer, presence }
}
