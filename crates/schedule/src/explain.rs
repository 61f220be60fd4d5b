//! Making explanations and snapshots out of the state.
//!
//! Invariant: nothing here changes anything, and nothing is formatted before somebody asks.

use crate::explanation::{
    Choice, Explanation, JobStatus, LinkState, MachineExplanation, MachineSnapshot, MachineState,
    Outcome, Snapshot,
};
use crate::id::{JobId, MachineId};
use crate::job::{JobRecord, State};
use crate::machine::{Duty, Link, MachineRecord, Trust};
use crate::reason::{Edge, Reason};
use crate::scheduler::Scheduler;

impl Scheduler {
    /// Returns what a job is doing and why, or nothing if it is not known.
    #[must_use]
    pub fn explain(&self, job: JobId) -> Option<Explanation> {
        let record = self.jobs.get(job)?;
        let machines = self.machines.iter().map(|(machine, other)| MachineExplanation {
            machine,
            name: other.description.name.clone(),
            choice: self.choice(record, machine, other),
        });
        Some(Explanation {
            job,
            name: record.name.to_string(),
            status: self.status(job, record),
            machines: machines.collect(),
        })
    }

    /// Returns what a job is doing, or nothing if it is not known.
    #[must_use]
    pub fn job_status(&self, job: JobId) -> Option<JobStatus> {
        Some(self.status(job, self.jobs.get(job)?))
    }

    /// Returns the state of the run.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let machines = self.machines.iter().map(|(machine, record)| MachineSnapshot {
            machine,
            name: record.description.name.clone(),
            state: match self.unavailability(record) {
                None | Some(Reason::Full { .. }) => MachineState::Up,
                Some(reason) => MachineState::Not(reason),
            },
            running: record.busy_lanes(),
            queued: record
                .lanes
                .iter()
                .map(|lane| u32::try_from(lane.queue.len().saturating_sub(1)).unwrap_or(u32::MAX))
                .sum(),
            slots: record.slots,
            link: match record.link {
                Link::Asleep => LinkState::Unused,
                Link::Connecting => LinkState::Connecting,
                Link::Up if record.trust == Trust::Probation => LinkState::OnProbation,
                Link::Up => LinkState::Connected,
                Link::BackingOff { until } => LinkState::Down { again: until },
                Link::Refused => LinkState::Refused,
            },
            trouble: record.trouble.clone(),
        });
        Snapshot { jobs: self.counts, machines: machines.collect() }
    }

    fn status(&self, job: JobId, record: &JobRecord) -> JobStatus {
        match record.state {
            State::Waiting => JobStatus::Waiting {
                on: record
                    .dependencies
                    .iter()
                    .copied()
                    .filter(|other| {
                        self.jobs.get(*other).is_none_or(|other| other.state != State::Built)
                    })
                    .collect(),
            },
            State::Ready => JobStatus::Ready,
            State::Started { lane } => {
                let queue = &self.machines.at(lane.machine).lane(lane.index).queue;
                let ahead = queue.iter().copied().take_while(|other| *other != job).last();
                match ahead {
                    Some(after) => JobStatus::Queued { lane, after },
                    None => JobStatus::Running { lane },
                }
            }
            State::Stopping { lane, then } => JobStatus::Stopping { lane, then },
            State::Built => JobStatus::Done(Outcome::Built),
            State::Ended(outcome) => JobStatus::Done(outcome),
        }
    }

    /// Whether a job was given to a machine, and wasn't taken back to wait.
    pub fn was_placed(&self, job: JobId) -> bool {
        self.jobs.get(job).is_some_and(|record| record.decision.is_some() && is_placed(record))
    }

    fn choice(&self, job: &JobRecord, machine: MachineId, record: &MachineRecord) -> Choice {
        let asked = self.requirements.at(job.requirement);
        if let Some(reason) = record.description.refusal_of(&asked.needs) {
            return Choice::NotChosen(reason);
        }
        match &job.decision {
            Some(decision) if is_placed(job) => {
                if decision.machine == machine {
                    let estimate = decision.estimate.into();
                    return Choice::Chosen { why: decision.why, estimate };
                }
                let than = self.machines.at(decision.machine).description.name.clone();
                let considered = decision.others.iter().flatten();
                let estimate = considered
                    .copied()
                    .find_map(|(other, here, edge)| (other == machine).then_some((here, edge)));
                Choice::NotChosen(match (estimate, self.hindrance(job, machine, record)) {
                    (Some((here, edge)), _) => {
                        let there = decision.estimate.into();
                        Reason::Later { here: here.into(), than, there, edge }
                    }
                    (None, Some(reason)) => reason,
                    (None, None) => Reason::NotAmongBest { than },
                })
            }
            _ => match self.hindrance(job, machine, record) {
                Some(reason) => Choice::NotChosen(reason),
                None if job.state == State::Ready => self.passed_over(job, machine),
                None => Choice::Possible,
            },
        }
    }

    /// Returns why a ready job was not put on an idle machine: it waits for a better one.
    fn passed_over(&self, job: &JobRecord, machine: MachineId) -> Choice {
        let here = self.finish_at(job, machine, self.now);
        let asked = self.requirements.at(job.requirement);
        let busy = asked.classes.iter().filter_map(|class| {
            let (_, other) = self.classes.at(*class).full.first()?;
            let reach = self.reach(job.requirement, *other);
            let (_, free_at) = self.machines.at(*other).first_lane(usize::MAX, self.now, reach)?;
            Some((self.finish_at(job, *other, free_at), *other))
        });
        match busy.min() {
            Some((there, other)) if there < here => Choice::NotChosen(Reason::Later {
                here: here.since(self.now),
                than: self.machines.at(other).description.name.clone(),
                there: there.since(self.now),
                edge: Edge::Sooner,
            }),
            _ => Choice::Possible,
        }
    }

    /// Returns what keeps a machine that matches from taking a job now.
    fn hindrance(
        &self,
        job: &JobRecord,
        machine: MachineId,
        record: &MachineRecord,
    ) -> Option<Reason> {
        let failed_there = failed_there(job, machine);
        match self.machines_to_avoid(job).contains(&machine) {
            true => failed_there,
            false => self
                .unavailability(record)
                .or_else(|| self.exhaustion(job, machine, record))
                .or(failed_there),
        }
    }

    /// Returns what is taken if a machine has room, but not on the terms on which it takes a job.
    fn exhaustion(
        &self,
        job: &JobRecord,
        machine: MachineId,
        record: &MachineRecord,
    ) -> Option<Reason> {
        let slots = self.reach(job.requirement, machine);
        let is_full = slots != 0 && record.free_lane(slots).is_none();
        is_full.then(|| Reason::Full { busy: record.busy_lanes_below(slots), slots })
    }

    /// Returns what keeps a machine from taking any job now.
    fn unavailability(&self, record: &MachineRecord) -> Option<Reason> {
        let down = |again| {
            record.trouble.as_ref().map(|trouble| Reason::Down {
                fault: trouble.fault,
                cause: trouble.cause.to_string(),
                since: trouble.since,
                again,
            })
        };
        let slots = record.usable_lanes();
        match record.link {
            _ if record.slots == 0 => Some(Reason::ZeroSlots),
            _ if record.duty == Duty::Removed => Some(Reason::Removed),
            _ if record.duty == Duty::Draining => Some(Reason::Draining),
            Link::Refused => {
                let cause = record.trouble.as_ref().map(|trouble| trouble.cause.to_string());
                Some(Reason::Refused { cause: cause.unwrap_or_default() })
            }
            Link::BackingOff { until } => down(until),
            Link::Connecting => Some(down(self.now).unwrap_or(Reason::Connecting)),
            Link::Asleep => Some(Reason::NotConnected),
            Link::Up if record.busy_lanes() < slots => None,
            Link::Up if record.trust == Trust::Probation => Some(Reason::OnProbation {
                trouble: record
                    .trouble
                    .as_ref()
                    .map(|trouble| (trouble.fault, trouble.cause.to_string())),
            }),
            Link::Up => Some(Reason::Full { busy: record.busy_lanes(), slots }),
        }
    }

    /// Returns what each machine says to a job for which none is left.
    pub(crate) fn reasons(&self, job: JobId) -> Vec<(MachineId, Reason)> {
        let record = self.jobs.at(job);
        let asked = self.requirements.at(record.requirement);
        self.machines
            .iter()
            .filter(|(_, other)| other.duty != Duty::Removed)
            .filter_map(|(machine, other)| {
                let refusal = other.description.refusal_of(&asked.needs);
                let reason = refusal.or_else(|| self.hindrance_in_the_end(record, machine, other));
                Some((machine, reason?))
            })
            .collect()
    }

    /// Returns what kept a machine from building a job that isn't tried any more: what it said of the job itself,
    /// unless it's in no state to say anything.
    fn hindrance_in_the_end(
        &self,
        job: &JobRecord,
        machine: MachineId,
        record: &MachineRecord,
    ) -> Option<Reason> {
        let hindrance = self.hindrance(job, machine, record);
        match hindrance {
            Some(Reason::OnProbation { .. } | Reason::Full { .. } | Reason::NotConnected) => {
                failed_there(job, machine).or(hindrance)
            }
            _ => hindrance,
        }
    }
}

fn failed_there(job: &JobRecord, machine: MachineId) -> Option<Reason> {
    let tried = job.tried.iter().find(|tried| tried.machine == machine)?;
    Some(Reason::FailedThere { cause: tried.cause.to_string() })
}

fn is_placed(job: &JobRecord) -> bool {
    match job.state {
        State::Started { .. } | State::Stopping { .. } | State::Built | State::Ended(_) => true,
        State::Waiting | State::Ready => false,
    }
}
