//! Jobs that may run elsewhere from now on, as others wait for them.
//!
//! Invariant: a job stands among those with the same needs, and what waits in a lane may run there.

use crate::command::Verdict;
use crate::description::Scope;
use crate::explanation::Outcome;
use crate::id::{JobId, Lane};
use crate::job::{Afterwards, State};
use crate::machine::Needs;
use crate::scheduler::{Open, Scheduler, is_open};

impl Scheduler {
    /// Changes where a job may run.
    pub(crate) fn change_scope(&mut self, job: JobId, scope: Scope) {
        let Some(record) = self.jobs.get(job) else { return };
        let (state, before) = (record.state, record.requirement);
        let needs = &self.requirements.at(before).needs;
        if needs.scope == scope {
            return;
        }
        let after = self.requirement(Needs { scope, ..needs.clone() });
        if state == State::Ready {
            self.set_state(job, State::Waiting);
        }
        if let Open::Yes = is_open(state) {
            self.requirements.at_mut(before).open -= 1;
            self.requirements.at_mut(after).open += 1;
        }
        self.jobs.at_mut(job).requirement = after;
        match state {
            State::Waiting | State::Ready if self.requirements.at(after).classes.is_empty() => {
                let reasons = self.impossible(after);
                self.end(job, Outcome::Impossible, Verdict::Impossible { reasons });
            }
            State::Ready => self.ripe.push_back(job),
            State::Started { lane } => self.recall_from(job, lane),
            State::Waiting | State::Stopping { .. } | State::Built | State::Ended(_) => {}
        }
        self.renew_hope(after);
    }

    /// Takes a job back that stands behind another on a machine where it may not run.
    fn recall_from(&mut self, job: JobId, lane: Lane) {
        let record = self.machines.at(lane.machine);
        let needs = &self.requirements.at(self.jobs.at(job).requirement).needs;
        let is_head = record.lane(lane.index).queue.front() == Some(&job);
        if is_head || needs.scope.includes(record.description.kind) {
            return;
        }
        self.prefetched.remove(&job);
        self.recall_dependents(job);
        self.stop(job, lane, Afterwards::Again);
        self.reindex(lane.machine);
    }
}
