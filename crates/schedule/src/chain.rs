//! Queueing jobs behind what they need, so that chains run without a round trip per job.
//!
//! Invariant: a job is only queued so if all of its dependencies are built or stand ahead of it in
//! that very lane, and at most one job is queued directly behind each: its siblings stay free to
//! run beside it.

use crate::duration::tenths;
use crate::explanation::Why;
use crate::id::{JobId, Lane, MachineId, Moment};
use crate::job::{Decision, JobRecord, Queueing, State};
use crate::machine::Trust;
use crate::scheduler::Scheduler;

impl Scheduler {
    /// Queues jobs behind the last ones of lanes that changed.
    pub(crate) fn extend_chains(&mut self) {
        while let Some(lane) = self.tails.pop_first() {
            if let Some((job, decision)) = self.next_in_chain(lane) {
                // This puts the lane among the changed ones again, until its chain is complete.
                self.start(job, lane, decision);
            }
        }
    }

    /// Returns the job to queue at the end of a lane, if there is one.
    fn next_in_chain(&self, lane: Lane) -> Option<(JobId, Decision)> {
        let machine = self.machines.at(lane.machine);
        let state = machine.lanes.get(lane.index as usize)?;
        let depth = self.settings.chain_depth as usize;
        if !machine.takes_jobs() || machine.trust != Trust::Full || depth <= state.queue.len() {
            return None;
        }
        let tail = *state.queue.back()?;
        let best = self
            .jobs
            .at(tail)
            .dependents
            .iter()
            .filter(|job| self.can_follow(**job, lane))
            .min_by_key(|job| self.jobs.get(**job).map(|record| record.ready_key(**job)))?;
        let record = self.jobs.at(*best);
        let free_at = state.free_at(self.now);
        let finish = self.finish_at(record, lane.machine, free_at);
        if self.is_more_urgent_ready(record, lane.machine)
            || self.is_better_elsewhere(*best, lane.machine, free_at, finish)
        {
            return None;
        }
        let decision = Decision {
            machine: lane.machine,
            why: Why::BehindDependency,
            estimate: finish.since(self.now).into(),
            others: [None; 3],
        };
        Some((*best, decision))
    }

    /// Returns whether all that a job still waits for stands in a lane that it could run in.
    fn can_follow(&self, job: JobId, lane: Lane) -> bool {
        let Some(record) = self.jobs.get(job) else { return false };
        record.state == State::Waiting
            && record.queueing == Queueing::Allowed
            && record.missing <= self.settings.chain_depth
            && !record.was_tried_on(lane.machine)
            && self.position(record.requirement, lane.machine).is_some()
            && lane.index < self.reach(record.requirement, lane.machine)
            && record.dependencies.iter().all(|dependency| {
                self.jobs.get(*dependency).is_some_and(|record| match record.state {
                    State::Built => !self.outputs_are_lost(*dependency),
                    state => state == State::Started { lane },
                })
            })
    }

    /// Returns whether a ready job that the machine could run should clearly be first: its critical path
    /// is longer than this one's by more than this one's duration, or its owner has clearly less.
    fn is_more_urgent_ready(&self, job: &JobRecord, machine: MachineId) -> bool {
        let enough = job.rank.saturating_add(job.weight);
        let owner = self.requirements.at(job.requirement).needs.owner;
        let share = self.share(owner);
        self.machines.at(machine).faces.iter().any(|face| {
            self.classes.at(face.class).requirements.iter().any(|requirement| {
                let asked = self.requirements.at(*requirement);
                let has_less =
                    asked.needs.owner != owner && self.share(asked.needs.owner) + 1 < share;
                asked.ready.first().is_some_and(|key| has_less || enough < key.rank.0)
            })
        })
    }

    /// Returns whether a job that could be done at `finish` behind a lane's last one, itself done
    /// at `free_at`, would clearly be done sooner on another machine.
    fn is_better_elsewhere(
        &self,
        job: JobId,
        machine: MachineId,
        free_at: Moment,
        finish: Moment,
    ) -> bool {
        let record = self.jobs.at(job);
        let here = finish.since(self.now);
        let is_better = |other: MachineId| {
            let there = self.machines.at(other);
            if other == machine || !there.takes_jobs() {
                return false;
            }
            let reach = self.reach(record.requirement, other);
            let lane_free = match there.free_lane(reach) {
                Some(_) => self.now,
                None => match there.first_lane(usize::MAX, self.now, reach) {
                    Some((_, free_at)) => free_at,
                    None => return false,
                },
            };
            let inputs = self.transfer(record, other).done_at;
            let start = lane_free.max(inputs).max(free_at.plus(there.round_trip));
            let finish = start.plus(self.duration_on(record, other));
            tenths(finish.since(self.now), 12) < here
        };
        let asked = self.requirements.at(record.requirement);
        let best_of_classes = asked.classes.iter().flat_map(|class| {
            let class = self.classes.at(*class);
            let idle = class.idle.first().map(|key| key.machine);
            idle.into_iter().chain(class.full.first().map(|(_, machine)| *machine))
        });
        best_of_classes
            .chain(self.holders(job))
            .any(|other| self.position(record.requirement, other).is_some() && is_better(other))
    }
}
