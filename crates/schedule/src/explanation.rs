//! Answers to "where does this job run, and why not elsewhere?", and the state of the whole run.

use std::fmt;
use std::time::Duration;

use crate::event::MachineFault;
use crate::id::{JobId, Lane, MachineId, Moment};
use crate::job::Afterwards;
use crate::reason::Reason;

/// Why a job is where it is; made by [`Scheduler::explain`](crate::Scheduler::explain).
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// The job.
    pub job: JobId,
    /// What users call it.
    pub name: String,
    /// What it is doing.
    pub status: JobStatus,
    /// What each machine has to say, in the order of the machines.
    pub machines: Vec<MachineExplanation>,
}

/// What one machine has to say to a job.
#[derive(Clone, Debug, PartialEq)]
pub struct MachineExplanation {
    /// The machine.
    pub machine: MachineId,
    /// What users call it.
    pub name: String,
    /// Whether it was chosen.
    pub choice: Choice,
}

/// Whether a machine was chosen for a job.
#[derive(Clone, Debug, PartialEq)]
pub enum Choice {
    /// It was, and this is why.
    Chosen {
        /// The rule that decided.
        why: Why,
        /// How long it was estimated to take from the choice to the end.
        estimate: Duration,
    },
    /// It can take the job, and the choice is still open.
    Possible,
    /// It was not, and this is why.
    NotChosen(Reason),
}

/// The rule that decided for a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It was estimated to finish the job first.
    EarliestFinish,
    /// The job prefers the local machine, and that had a free lane.
    PreferLocal,
    /// What the job needs is built just ahead in the same lane.
    BehindDependency,
    /// All lanes were busy, and its inputs can travel while this one is.
    Prefetch,
    /// Stock Nix's rule.
    Stock,
}

/// What a job is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobStatus {
    /// It waits for these jobs.
    Waiting {
        /// Those of its dependencies that are not built.
        on: Vec<JobId>,
    },
    /// It waits for a machine.
    Ready,
    /// It was started behind another job.
    Queued {
        /// Where.
        lane: Lane,
        /// The job directly ahead.
        after: JobId,
    },
    /// It runs.
    Running {
        /// Where.
        lane: Lane,
    },
    /// It was told to stop.
    Stopping {
        /// Where.
        lane: Lane,
        /// What becomes of it then.
        then: Afterwards,
    },
    /// It has its verdict.
    Done(Outcome),
}

/// A verdict without its reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was built.
    Built,
    /// Its build failed.
    Failed,
    /// A job it depends on was not built.
    DependencyFailed {
        /// The job at the root of it.
        because: JobId,
    },
    /// No machine could ever take it.
    Impossible,
    /// It was cancelled.
    Cancelled,
    /// Nobody needs it.
    Unneeded,
    /// No machine was left for it.
    NoMachineLeft,
}

/// The state of the run, for progress; made by [`Scheduler::snapshot`](crate::Scheduler::snapshot).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// How many jobs are in which state.
    pub jobs: JobCounts,
    /// Each machine, in order.
    pub machines: Vec<MachineSnapshot>,
}

/// How many jobs are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JobCounts {
    /// Waiting for other jobs.
    pub waiting: usize,
    /// Waiting for a machine.
    pub ready: usize,
    /// Started: at the head of a lane or queued in one.
    pub started: usize,
    /// Told to stop.
    pub stopping: usize,
    /// Built.
    pub built: usize,
    /// Failed to build.
    pub failed: usize,
    /// Not built because of a dependency.
    pub dependency_failed: usize,
    /// Not built because no machine could ever take it, or none was left.
    pub no_machine: usize,
    /// Cancelled.
    pub cancelled: usize,
    /// Not built, as nobody needs them.
    pub unneeded: usize,
}

/// The state of one machine.
#[derive(Clone, Debug, PartialEq)]
pub struct MachineSnapshot {
    /// The machine.
    pub machine: MachineId,
    /// What users call it.
    pub name: String,
    /// Whether it takes jobs, and if not why not.
    pub state: MachineState,
    /// Lanes with a job.
    pub running: u32,
    /// Jobs that stand behind others.
    pub queued: u32,
    /// Lanes there are.
    pub slots: u32,
    /// How the connection to it is, whether it takes jobs or not.
    pub link: LinkState,
    /// Its last failure, also where it works again.
    pub trouble: Option<Trouble>,
}

/// How the connection to a machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Nobody has needed it so far, or for long.
    Unused,
    /// It is being connected to.
    Connecting,
    /// It is connected.
    Connected,
    /// It is connected, and gets one job at a time until one succeeds.
    OnProbation,
    /// It failed, and is left alone for a while.
    Down {
        /// When it is tried again at the earliest, if a job needs it then.
        again: Moment,
    },
    /// It does not let us in, or is not what the configuration says; never tried again.
    Refused,
}

/// A machine's failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What kind of failure it was.
    pub fault: MachineFault,
    /// What it said.
    pub cause: Box<str>,
    /// When that was.
    pub since: Moment,
}

/// Whether a machine takes jobs.
#[derive(Clone, Debug, PartialEq)]
pub enum MachineState {
    /// It is connected and takes jobs.
    Up,
    /// It does not, or only a few.
    Not(Reason),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Why::EarliestFinish => "it is estimated to be done first there",
            Why::PreferLocal => "it prefers the local machine, which had a free slot",
            Why::BehindDependency => "what it needs is built just ahead of it there",
            Why::Prefetch => "all slots were busy, and its inputs can travel there meanwhile",
            Why::Stock => "stock Nix would choose it",
        })
    }
}

impl Choice {
    /// Returns a name for programs, which stays the same.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Choice::Chosen { .. } => "chosen",
            Choice::Possible => "possible",
            Choice::NotChosen(reason) => reason.code(),
        }
    }

    /// Returns the words for people at a moment: times are told from then on.
    #[must_use]
    pub fn at(&self, now: Moment) -> String {
        match self {
            Choice::NotChosen(reason) => format!("not chosen: {}", reason.at(now)),
            other => other.to_string(),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Choice::Chosen { why, estimate } => {
                write!(f, "chosen: {why} (in {:.1} s)", estimate.as_secs_f64())
            }
            Choice::Possible => f.write_str("possible"),
            Choice::NotChosen(reason) => write!(f, "not chosen: {reason}"),
        }
    }
}
