//! The scheduler's record of one job.

use std::cmp::Reverse;
use std::time::Duration;

use crate::description::{Demand, Preference};
use crate::explanation::{Outcome, Why};
use crate::id::{JobId, Lane, MachineId, PathId};
use crate::reason::Edge;
use crate::table::RequirementId;

/// All that is known of one job.
#[derive(Debug)]
pub(crate) struct JobRecord {
    pub(crate) name: Box<str>,
    pub(crate) requirement: RequirementId,
    pub(crate) preference: Preference,
    pub(crate) demand: Demand,
    /// Inputs and outputs of dependencies, sorted, each once.
    pub(crate) needs: Box<[PathId]>,
    /// Sorted, each once.
    pub(crate) dependencies: Box<[JobId]>,
    pub(crate) dependents: Vec<JobId>,
    pub(crate) outputs: Box<[PathId]>,
    pub(crate) expected: Option<Duration>,
    /// What it was taken to last when ranks were computed.
    pub(crate) weight: Duration,
    /// Its weight and that of the longest path of dependents behind it, and the more the earlier
    /// they were submitted.
    pub(crate) rank: Duration,
    /// The order of submission.
    pub(crate) order: u64,
    /// How many of its dependencies are not built.
    pub(crate) missing: u32,
    pub(crate) state: State,
    /// How often it came back because a machine failed.
    pub(crate) attempts: u32,
    /// How often it was built again because its outputs were lost.
    pub(crate) rebuilds: u32,
    /// Where it came back from.
    pub(crate) tried: Vec<Tried>,
    /// The machine that has no room for it, where no other could take it either.
    pub(crate) without_room: Option<MachineId>,
    pub(crate) queueing: Queueing,
    pub(crate) verdict: VerdictDue,
    pub(crate) decision: Option<Decision>,
}

/// Where a job is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It is not started, and cannot be as it is.
    Waiting,
    /// All its dependencies are built; it stands among the ready jobs of its requirement.
    Ready,
    /// It stands in a lane.
    Started { lane: Lane },
    /// It stands in a lane and was told to stop.
    Stopping { lane: Lane, then: Afterwards },
    /// It is built.
    Built,
    /// It ended otherwise.
    Ended(Outcome),
}

/// What becomes of a job that was told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Afterwards {
    /// It ends like this.
    End(Outcome),
    /// It is to be started again, elsewhere or later.
    Again,
}

/// Whether the caller waits for a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VerdictDue {
    /// It does.
    Owed,
    /// It has been told `Built`, and the job is only built again because its outputs were lost.
    Given,
}

/// Whether a job may be queued behind another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Queueing {
    Allowed,
    /// It went wrong once.
    NotAgain,
}

/// A machine that a job came back from.
#[derive(Debug)]
pub(crate) struct Tried {
    pub(crate) machine: MachineId,
    pub(crate) cause: Box<str>,
    pub(crate) next_time: NextTime,
}

/// What is to be expected of a machine that a job came back from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NextTime {
    /// It may be able to do it.
    Open,
    /// The same again: it can't build such jobs.
    TheSame,
}

/// Thousandths of a second, rounded down and capped at seven weeks: compact, for explanations only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Millis(u32);

impl From<Duration> for Millis {
    fn from(duration: Duration) -> Millis {
        Millis(u32::try_from(duration.as_millis()).unwrap_or(u32::MAX))
    }
}

impl From<Millis> for Duration {
    fn from(millis: Millis) -> Duration {
        Duration::from_millis(millis.0.into())
    }
}

/// Why a job was last put where it is, in compact numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decision {
    pub(crate) machine: MachineId,
    pub(crate) why: Why,
    pub(crate) estimate: Millis,
    /// The next best machines with their estimates, and in what this one is before them.
    pub(crate) others: [Option<(MachineId, Millis, Edge)>; 3],
}

/// The order of ready jobs: critical path first, then the longer one, then the earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ReadyKey {
    pub(crate) rank: Reverse<Duration>,
    weight: Reverse<Duration>,
    order: u64,
    pub(crate) job: JobId,
}

impl JobRecord {
    /// Returns its place among the ready jobs.
    pub(crate) fn ready_key(&self, job: JobId) -> ReadyKey {
        ReadyKey { rank: Reverse(self.rank), weight: Reverse(self.weight), order: self.order, job }
    }

    /// Returns the lane it stands in.
    pub(crate) fn lane(&self) -> Option<Lane> {
        match self.state {
            State::Started { lane } | State::Stopping { lane, .. } => Some(lane),
            State::Waiting | State::Ready | State::Built | State::Ended(_) => None,
        }
    }

    /// Returns whether it came back from `machine` before.
    pub(crate) fn was_tried_on(&self, machine: MachineId) -> bool {
        self.tried.iter().any(|tried| tried.machine == machine)
    }
}
