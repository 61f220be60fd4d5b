//! Jobs that come back: built, failed, stopped, cancelled.
//!
//! Invariant: a job leaves its lane before anything follows from how it came back; and what
//! depends on it is dealt with by work lists, not by recursion, as graphs can be deep.

use std::time::Duration;

use crate::command::{Command, Verdict};
use crate::connection::Attempts;
use crate::explanation::Outcome;
use crate::id::{ByteCount, JobId, Lane, PathId};
use crate::job::{Afterwards, NextTime, Queueing, State, Tried, VerdictDue};
use crate::scheduler::Scheduler;
use crate::settings::OnFailure;

impl Scheduler {
    /// Takes a job that was built. If it was told to stop, the build was faster.
    pub(crate) fn finished(
        &mut self,
        job: JobId,
        took: Option<Duration>,
        made: &[(PathId, ByteCount)],
    ) {
        let Some(lane) = self.jobs.get(job).and_then(|record| record.lane()) else { return };
        self.leave(job, lane);
        let speed = self.machines.at(lane.machine).speed;
        if let Some(took) = took {
            self.durations.record(crate::duration::at_speed(took, 1.0 / speed));
        }
        self.count_success(lane.machine);
        self.reindex(lane.machine);
        self.note_products(job, lane.machine, made);
        self.mark_built(job);
    }

    /// Notes that a job is built, and that its dependents miss one dependency less.
    pub(crate) fn mark_built(&mut self, job: JobId) {
        self.set_state(job, State::Built);
        let record = self.jobs.at_mut(job);
        if std::mem::replace(&mut record.verdict, VerdictDue::Given) == VerdictDue::Owed {
            self.done(job, Verdict::Built);
        }
        for dependent in self.jobs.at(job).dependents.clone() {
            let Some(record) = self.jobs.get_mut(dependent) else { continue };
            record.missing = record.missing.saturating_sub(1);
            if record.state == State::Waiting {
                match record.missing {
                    0 => self.ripe.push_back(dependent),
                    _ => self.hint_tail(dependent),
                }
            }
        }
    }

    /// Remembers the lane of what a job still waits for, as it might now be queued behind that.
    fn hint_tail(&mut self, job: JobId) {
        let record = self.jobs.at(job);
        if self.settings.chain_depth < record.missing {
            return;
        }
        let lane = record.dependencies.iter().find_map(|dependency| {
            let record = self.jobs.get(*dependency)?;
            match record.state {
                State::Built => None,
                _ => Some(record.lane()),
            }
        });
        if let Some(Some(lane)) = lane {
            self.tails.insert(lane);
        }
    }

    /// Takes a job whose build failed.
    pub(crate) fn build_failed(&mut self, job: JobId) {
        let Some((state, lane)) = self.take_back(job) else { return };
        self.reindex(lane.machine);
        match state {
            State::Stopping { then, .. } => self.after_stop(job, then),
            _ if self.lacks_input(job) => self.blame_dependency(job),
            _ => {
                self.end(job, Outcome::Failed, Verdict::Failed);
                if self.settings.on_failure == OnFailure::StopAll {
                    self.cancel_all();
                }
            }
        }
    }

    /// Takes a job that could not be run where it was started.
    pub(crate) fn attempt_failed(&mut self, job: JobId, cause: &str) {
        let Some((state, lane)) = self.take_back(job) else { return };
        match state {
            State::Stopping { then, .. } => self.after_stop(job, then),
            _ if self.lacks_input(job) => self.blame_dependency(job),
            _ => {
                self.count_return(lane.machine);
                let attempts = self.count_attempt(job, lane.machine, cause);
                self.try_again(job, attempts);
            }
        }
        self.reindex(lane.machine);
    }

    /// Takes a job that its machine can't build: nothing is wrong with the machine, and it isn't asked again while
    /// another one may do better.
    pub(crate) fn machine_unfit(&mut self, job: JobId, cause: &str) {
        let Some((state, lane)) = self.take_back(job) else { return };
        match state {
            State::Stopping { then, .. } => self.after_stop(job, then),
            _ if self.lacks_input(job) => self.blame_dependency(job),
            _ => {
                let attempts = self.count_attempt(job, lane.machine, cause);
                let record = self.jobs.at_mut(job);
                if let Some(tried) = record.tried.iter_mut().find(|it| it.machine == lane.machine) {
                    tried.next_time = NextTime::TheSame;
                }
                let is_nobody_fit = self.is_nobody_fit(job);
                self.try_again(job, if is_nobody_fit { Attempts::UsedUp } else { attempts });
            }
        }
        self.reindex(lane.machine);
    }

    /// Has a job given away once more, as long as that may be of use.
    fn try_again(&mut self, job: JobId, attempts: Attempts) {
        match attempts {
            Attempts::UsedUp => self.end_without_machine(job),
            Attempts::Left => {
                self.recall_dependents(job);
                self.ripe.push_back(job);
            }
        }
    }

    /// Whether all machines that a job may hope for have said that they can't build such jobs.
    fn is_nobody_fit(&self, job: JobId) -> bool {
        let record = self.jobs.at(job);
        let is_unfit = |tried: &Tried| tried.next_time == NextTime::TheSame;
        record.tried.iter().all(is_unfit) && self.machines_to_avoid(record).is_empty()
    }

    /// Takes a job for which its machine has no room: one that can't be run elsewhere ends when that
    /// machine fails, which is next.
    pub(crate) fn no_room(&mut self, job: JobId) {
        if let Some(State::Started { lane }) = self.jobs.get(job).map(|record| record.state)
            && !self.lacks_input(job)
            && !self.has_room_elsewhere(job)
        {
            self.jobs.at_mut(job).without_room = Some(lane.machine);
        }
    }

    /// Takes a job that was stopped.
    pub(crate) fn stopped(&mut self, job: JobId) {
        let Some((state, lane)) = self.take_back(job) else { return };
        self.reindex(lane.machine);
        match state {
            State::Stopping { then, .. } => self.after_stop(job, then),
            // Nobody asked for it, so somebody else stopped it: as good as never started.
            _ => {
                self.recall_dependents(job);
                self.ripe.push_back(job);
            }
        }
    }

    /// Takes a started job out of its lane; returns the state it was in.
    fn take_back(&mut self, job: JobId) -> Option<(State, Lane)> {
        let record = self.jobs.get(job)?;
        let (state, lane) = (record.state, record.lane()?);
        self.leave(job, lane);
        self.set_state(job, State::Waiting);
        Some((state, lane))
    }

    fn after_stop(&mut self, job: JobId, then: Afterwards) {
        match then {
            Afterwards::End(outcome) => self.end_alone(job, outcome),
            Afterwards::Again if self.jobs.at(job).missing != 0 => self.hint_tail(job),
            Afterwards::Again => self.ripe.push_back(job),
        }
    }

    /// Returns whether a dependency of a job is not built, or its outputs are lost.
    fn lacks_input(&self, job: JobId) -> bool {
        let record = self.jobs.at(job);
        record.missing != 0 || record.dependencies.iter().any(|other| self.outputs_are_lost(*other))
    }

    /// Lets a job wait whose dependency is not there (yet): that is why it came back, and it is
    /// neither its fault nor the machine's. It is not queued behind others again.
    fn blame_dependency(&mut self, job: JobId) {
        self.jobs.at_mut(job).queueing = Queueing::NotAgain;
        self.recall_dependents(job);
        self.ripe.push_back(job);
    }

    /// Recalls jobs that were started behind one which will not be built there.
    pub(crate) fn recall_dependents(&mut self, job: JobId) {
        let mut behind = self.jobs.at(job).dependents.clone();
        while let Some(dependent) = behind.pop() {
            let Some(record) = self.jobs.get(dependent) else { continue };
            if let State::Started { lane } = record.state
                && record.missing != 0
            {
                behind.extend_from_slice(&record.dependents);
                self.stop(dependent, lane, Afterwards::Again);
            }
        }
    }

    /// Tells a started job to stop.
    pub(crate) fn stop(&mut self, job: JobId, lane: Lane, then: Afterwards) {
        self.set_state(job, State::Stopping { lane, then });
        self.commands.push(Command::Stop { job });
    }

    /// Ends a job that stands in no lane, and all that depend on it.
    pub(crate) fn end(&mut self, job: JobId, outcome: Outcome, verdict: Verdict) {
        self.set_state(job, State::Ended(outcome));
        self.jobs.at_mut(job).verdict = VerdictDue::Given;
        self.done(job, verdict);
        let because = match outcome {
            Outcome::Cancelled => Outcome::Cancelled,
            Outcome::DependencyFailed { because } => Outcome::DependencyFailed { because },
            Outcome::Built
            | Outcome::Failed
            | Outcome::Impossible
            | Outcome::NoMachineLeft
            | Outcome::Unneeded => Outcome::DependencyFailed { because: job },
        };
        self.end_dependents(job, because);
    }

    /// Ends a job because of one that it depends on.
    pub(crate) fn end_for_dependency(&mut self, job: JobId, because: JobId) {
        // what it needs was let be, was needed again and had failed: that has ended it already
        let outcome = Outcome::DependencyFailed { because };
        if self.jobs.at(job).state == State::Ended(outcome) {
            return;
        }
        self.end(job, outcome, Verdict::DependencyFailed { because });
    }

    /// Ends whatever depends on a job, however far; started ones are told to stop.
    fn end_dependents(&mut self, job: JobId, outcome: Outcome) {
        let mut behind = self.jobs.at(job).dependents.clone();
        while let Some(dependent) = behind.pop() {
            let Some(record) = self.jobs.get(dependent) else { continue };
            match record.state {
                State::Waiting | State::Ready => {
                    behind.extend_from_slice(&record.dependents);
                    self.end_alone(dependent, outcome);
                }
                State::Started { lane } => {
                    behind.extend_from_slice(&record.dependents);
                    self.stop(dependent, lane, Afterwards::End(outcome));
                }
                State::Stopping { lane, then: Afterwards::Again } => {
                    behind.extend_from_slice(&record.dependents);
                    let then = Afterwards::End(outcome);
                    self.set_state(dependent, State::Stopping { lane, then });
                }
                State::Stopping { then: Afterwards::End(_), .. }
                | State::Built
                | State::Ended(_) => {}
            }
        }
    }

    /// Ends one job as a consequence of something else; tells the caller unless it is about a job
    /// that was built before and which is cancelled only now.
    pub(crate) fn end_alone(&mut self, job: JobId, outcome: Outcome) {
        self.set_state(job, State::Ended(outcome));
        let due = std::mem::replace(&mut self.jobs.at_mut(job).verdict, VerdictDue::Given);
        match (outcome, due) {
            (Outcome::Cancelled, VerdictDue::Given) => {}
            (Outcome::DependencyFailed { because }, _) => {
                self.done(job, Verdict::DependencyFailed { because });
            }
            _ => self.done(job, Verdict::Cancelled),
        }
    }

    /// Cancels a job and all that depend on it.
    pub(crate) fn cancel(&mut self, job: JobId) {
        let Some(record) = self.jobs.get(job) else { return };
        match record.state {
            State::Waiting | State::Ready => self.end_alone(job, Outcome::Cancelled),
            State::Started { lane } => self.stop(job, lane, Afterwards::End(Outcome::Cancelled)),
            State::Stopping { lane, then: Afterwards::Again } => {
                let then = Afterwards::End(Outcome::Cancelled);
                self.set_state(job, State::Stopping { lane, then });
            }
            State::Stopping { .. } | State::Built | State::Ended(_) => return,
        }
        self.end_dependents(job, Outcome::Cancelled);
    }

    /// Cancels everything that has no verdict.
    pub(crate) fn cancel_all(&mut self) {
        let jobs: Vec<JobId> = self.jobs.iter().map(|(job, _)| job).collect();
        for job in jobs {
            self.cancel(job);
        }
    }
}
