//! Taking back jobs that were queued behind others when a better lane has become idle.
//!
//! A job is queued behind another while there is more than enough to do. When that has changed,
//! and the one ahead turns out to take long, it should not wait there beside idle machines.
//!
//! Invariant: a job is recalled at most once, and not when the one ahead may be done before the
//! recall gets there.

use std::time::Duration;

use crate::duration::tenths;
use crate::estimate::Wanted;
use crate::id::{JobId, Moment};
use crate::job::{Afterwards, Queueing, State};
use crate::scheduler::Scheduler;

/// How many queued jobs are looked at per event.
const LOOKS: usize = 16;
/// A job that is expected to be at the head of its lane sooner is left there.
const SOON: Duration = Duration::from_millis(100);

impl Scheduler {
    /// Recalls queued jobs that would be done clearly sooner on an idle machine; returns when the
    /// others should be thought over.
    pub(crate) fn recall_queued(&mut self) -> Option<Moment> {
        let mut revisit: Option<Moment> = None;
        let queued: Vec<JobId> = self.prefetched.iter().take(LOOKS).copied().collect();
        for job in queued {
            let record = self.jobs.at(job);
            let State::Started { lane } = record.state else { continue };
            let requirement = record.requirement;
            let has_ready = !self.requirements.at(requirement).ready.is_empty();
            if has_ready || !self.has_room(requirement, Wanted::FreeLane) {
                continue;
            }
            let machine = self.machines.at(lane.machine);
            let state = machine.lane(lane.index);
            let behind = state.queue.iter().skip_while(|other| **other != job);
            let duration = |other: &JobId| self.duration_on(self.jobs.at(*other), lane.machine);
            let rest: Duration =
                behind.map(duration).fold(Duration::ZERO, Duration::saturating_add);
            let ahead = state.free_at(self.now).since(self.now).saturating_sub(rest);
            let here = ahead.saturating_add(duration(&job));
            let offers = self.offers(job, Wanted::FreeLane, &self.holders(job));
            let Some(best) = offers.first() else { continue };
            let there = best.finish.since(self.now).saturating_add(machine.round_trip);
            let is_far = SOON.max(machine.round_trip.saturating_mul(4)) < ahead;
            if is_far && tenths(there, 12) < here {
                self.prefetched.remove(&job);
                self.jobs.at_mut(job).queueing = Queueing::NotAgain;
                self.recall_dependents(job);
                self.stop(job, lane, Afterwards::Again);
                self.reindex(lane.machine);
            } else {
                let again = self.now.plus(ahead.max(SOON));
                revisit = Some(revisit.map_or(again, |other| other.min(again)));
            }
        }
        revisit
    }
}
