//! Jobs that need not be built, as their outputs were found on a machine.
//!
//! A run that was interrupted leaves outputs on machines, and other callers do. What is found there is
//! as good as built; and what only it needed is let be, until somebody needs it after all.
//!
//! Invariant: a job is let be only while nothing that is to be built depends on it, and nobody else
//! asked for it.

use crate::command::Verdict;
use crate::description::Demand;
use crate::explanation::Outcome;
use crate::id::{ByteCount, JobId, MachineId, Moment, PathId, Place};
use crate::job::{JobRecord, State, VerdictDue};
use crate::machine::{Link, MachineRecord, Past};
use crate::scheduler::Scheduler;

impl Scheduler {
    /// Takes a job for built whose outputs are on a machine.
    pub(crate) fn found(&mut self, job: JobId, machine: MachineId, made: &[(PathId, ByteCount)]) {
        let is_up = self.machines.get(machine).is_some_and(|machine| machine.link == Link::Up);
        let state = self.jobs.get(job).map(|record| record.state);
        let is_open =
            matches!(state, Some(State::Waiting | State::Ready | State::Ended(Outcome::Unneeded)));
        if !is_up || !is_open {
            return;
        }
        for (path, size) in made {
            let record = self.paths.entry(*path);
            record.size = Some(*size);
            record.maker.get_or_insert(job);
            self.note_present(*path, Place::On(machine));
        }
        self.mark_built(job);
        self.newly_found.push(job);
        // once in a run: machines that come later find it going on
        self.hold.get_or_insert(self.now.plus(self.settings.hold));
    }

    /// Lets jobs be that only those needed which were found.
    pub(crate) fn let_unneeded_be(&mut self) {
        while let Some(job) = self.newly_found.pop() {
            let Some(record) = self.jobs.get(job) else { continue };
            for dependency in record.dependencies.clone() {
                if self.is_needed_by_nobody(dependency) {
                    self.set_state(dependency, State::Ended(Outcome::Unneeded));
                    let record = self.jobs.at_mut(dependency);
                    let due = std::mem::replace(&mut record.verdict, VerdictDue::Given);
                    if due == VerdictDue::Owed {
                        self.done(dependency, Verdict::Unneeded);
                    }
                    self.newly_found.push(dependency);
                }
            }
        }
    }

    /// Whether a job was not started, and nothing would be lacking without it.
    fn is_needed_by_nobody(&self, job: JobId) -> bool {
        let Some(record) = self.jobs.get(job) else { return false };
        let is_over = |job: &JobId| {
            let state = self.jobs.get(*job).map(|record| record.state);
            matches!(state, None | Some(State::Built | State::Ended(_)))
        };
        record.demand == Demand::ForOthers
            && matches!(record.state, State::Waiting | State::Ready)
            && record.dependents.iter().all(is_over)
    }

    /// Notes that the caller wants what a job makes, whoever else does.
    pub(crate) fn asked_for(&mut self, job: JobId) {
        if let Some(record) = self.jobs.get_mut(job) {
            record.demand = Demand::Asked;
        }
    }

    /// Has those dependencies of a job built that were let be.
    pub(crate) fn need_dependencies(&mut self, job: JobId) {
        for dependency in self.jobs.at(job).dependencies.clone() {
            self.need(dependency);
        }
    }

    /// Has a job built that was let be, and what it needs.
    pub(crate) fn need(&mut self, job: JobId) {
        let is_let_be = |record: &&JobRecord| record.state == State::Ended(Outcome::Unneeded);
        let mut needed = vec![job];
        let mut revived = Vec::new();
        while let Some(job) = needed.pop() {
            let Some(record) = self.jobs.get(job).filter(is_let_be) else { continue };
            needed.extend_from_slice(&record.dependencies);
            revived.push((job, record.requirement));
            self.set_state(job, State::Waiting);
        }
        for (job, requirement) in revived.into_iter().rev() {
            if self.jobs.at(job).state != State::Waiting {
                continue;
            }
            if let Some(because) = self.failed_dependency(job) {
                self.end_for_dependency(job, because);
                continue;
            }
            self.ripe.push_back(job);
            self.renew_hope(requirement);
        }
    }

    /// Returns until when nothing is started, as other machines may have what they are asked about.
    pub(crate) fn holding_until(&self) -> Option<Moment> {
        self.held_for_others().max(self.asking_until())
    }

    /// Returns until when a machine is waited for that was asked for a connection and that nothing bad
    /// is known of.
    fn asking_until(&self) -> Option<Moment> {
        if self.asking_until <= self.now {
            return None;
        }
        let waited_for =
            |record: &MachineRecord| record.link == Link::Connecting && record.strikes == 0;
        let asked = self.machines.iter().map(|(_, record)| record).filter(|one| waited_for(one));
        let until = asked.map(|record| record.asked.plus(self.settings.ask));
        until.filter(|until| self.now < *until).max()
    }

    fn held_for_others(&self) -> Option<Moment> {
        let until = self.hold.filter(|until| self.now < *until)?;
        let has_not_said = |machine: MachineId| {
            let record = self.machines.at(machine);
            record.link == Link::Connecting && record.past == Past::NeverUp
        };
        let mut machines = self.machines.iter().map(|(machine, _)| machine);
        machines.any(has_not_said).then_some(until)
    }
}
