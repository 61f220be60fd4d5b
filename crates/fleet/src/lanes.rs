//! The lanes of the machines: what is given to them, and how they end.

use std::sync::Arc;

use drover_schedule::{Event, JobFailure, JobId, Lane, MachineId};
use drover_store::Trust;
use tokio::sync::mpsc;

use crate::driver::{Driver, Interest, JobPhase, JobState, Lasting};
use crate::event::FleetEvent;
use crate::lane::{Guessing, LaneContext, LaneJob, run_lane};
use crate::machine_state::LaneHandle;
use crate::voice::Voice;

impl Driver {
    /// Gives a job to a lane, which is opened where it isn't yet.
    pub(crate) fn start(&mut self, job: JobId, lane: Lane) {
        let Some(state) = self.jobs.get_mut(job.0 as usize) else { return };
        let before = state.lane.replace(lane);
        let was = std::mem::replace(&mut state.state, JobPhase::Started);
        let plan = Arc::clone(&state.plan);
        let node = plan.node;
        let (machine, shared) = (lane.machine, Arc::clone(&self.shared));
        if let (JobPhase::Stopped, Some(before)) = (was, before) {
            let cause = "another machine will be done sooner".to_owned();
            let machine = shared.name_of(before.machine);
            shared.observer.event(FleetEvent::Retried { node, machine, cause });
        }
        let name = shared.name_of(machine);
        shared.observer.event(FleetEvent::Assigned { node, machine: name.clone() });
        let Some(on) = self.machines.get_mut(machine.0 as usize) else { return };
        let Some(site) = on.site.clone() else {
            let cause = "the machine is not connected".to_owned();
            let failure = JobFailure::Infrastructure { cause };
            return self.pending.push(Event::Failed { job, failure });
        };
        let guessing = match (self.options.keep_going, self.lasting) {
            (false, Lasting::OneRun) => Guessing::Allowed,
            // a failure ends the lane then, and here failures are nothing special
            _ => Guessing::No,
        };
        let opening = self.openings;
        let handle = on.lanes.entry(lane.index).or_insert_with(|| {
            self.openings += 1;
            let (queue, jobs) = mpsc::unbounded_channel();
            let (voice, silencer) = Voice::new(Arc::clone(&shared.observer));
            let context = LaneContext {
                berth: shared.places.berth(shared.place_of(machine)),
                shared,
                site,
                machine,
                name: name.into(),
                trust: on.trust,
                generation: on.generation,
                opening,
                observer: voice,
                guessing,
            };
            let task = on.tasks.spawn(run_lane(Arc::new(context), jobs));
            LaneHandle { queue, task, jobs: Vec::new(), opening, _silencer: silencer }
        });
        handle.jobs.push(job);
        // a lane ends only with its machine, whose failing is told apart
        drop(handle.queue.send(LaneJob { job, plan }));
    }

    /// Notes that a job is not wanted any more. A lane can only be ended whole, so a job stops when
    /// all that are on its lane shall. Where the rest goes on, a job is only stopped because one
    /// ahead of it failed, and then it ends by itself at once, for want of an input; except where
    /// the machine would make that input itself.
    pub(crate) fn stop(&mut self, job: JobId) {
        let Some(state) = self.jobs.get_mut(job.0 as usize) else { return };
        // one that came back meanwhile has told so
        let (JobPhase::Started, Some(lane)) = (&state.state, state.lane) else { return };
        state.state = JobPhase::Stopping;
        if state.interest == Interest::Lost {
            return self.end_lane_if_unwanted(lane);
        }
        let Some(machine) = self.machines.get_mut(lane.machine.0 as usize) else { return };
        if self.options.keep_going && machine.trust != Trust::NotTrusted {
            return;
        }
        let Some(handle) = machine.lanes.get(&lane.index) else { return };
        let is_stopping = |job: &JobId| {
            let state = self.jobs.get(job.0 as usize);
            state.is_some_and(|state| matches!(state.state, JobPhase::Stopping))
        };
        if !handle.jobs.iter().all(is_stopping) {
            return;
        }
        for job in machine.end_lane(lane.index) {
            if let Some(state) = self.jobs.get_mut(job.0 as usize) {
                state.state = JobPhase::Stopped;
            }
            self.pending.push(Event::Stopped { job });
        }
    }

    /// Ends a lane at whose head something runs that nobody waits for any more. What stands behind
    /// it has not begun, and is started anew.
    pub(crate) fn end_lane_if_unwanted(&mut self, lane: Lane) {
        let Some(machine) = self.machines.get_mut(lane.machine.0 as usize) else { return };
        let head = machine.lanes.get(&lane.index).and_then(|handle| handle.jobs.first());
        let is_unwanted = |state: &JobState| {
            matches!(state.state, JobPhase::Stopping) && state.interest == Interest::Lost
        };
        let head = head.and_then(|job| self.jobs.get(job.0 as usize));
        if !head.is_some_and(is_unwanted) {
            return;
        }
        for job in machine.end_lane(lane.index) {
            self.retried(job, "what was ahead of it was cancelled");
            if let Some(state) = self.jobs.get_mut(job.0 as usize)
                && matches!(state.state, JobPhase::Stopping)
            {
                state.state = JobPhase::Stopped;
            }
            self.pending.push(Event::Stopped { job });
        }
    }

    /// Gives the lanes' channels back, for the transfers that follow.
    pub(crate) async fn close_lanes(&mut self) {
        for machine in &mut self.machines {
            machine.lanes.clear();
            machine.tasks.abort_all();
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
