//! What is to be done outside: the scheduler's only output.

use std::sync::Arc;

use crate::id::{JobId, Lane, MachineId, Moment};
use crate::reason::Reason;

/// Something the caller has to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Connect to a machine; answered by `Connected` or `MachineFailed`.
    Connect {
        /// The machine.
        machine: MachineId,
    },
    /// Run a job at the end of a lane; answered by `Finished`, `Failed` or `Stopped`.
    Start {
        /// The job.
        job: JobId,
        /// Where it runs.
        lane: Lane,
        /// The job directly ahead in that lane that has not finished yet.
        after: Option<JobId>,
    },
    /// Stop a started job; answered by `Stopped`, or by `Finished` or `Failed` if that was sooner.
    Stop {
        /// The job.
        job: JobId,
    },
    /// A job has its verdict.
    Done {
        /// The job.
        job: JobId,
        /// How it ended.
        verdict: Verdict,
    },
    /// Send a `Tick` no later than this; replaces earlier wishes.
    Wake {
        /// When.
        at: Moment,
    },
}

/// What each machine has to say to a job; shared, because many jobs get the same answer.
pub type Reasons = Arc<[(MachineId, Reason)]>;

/// How a job ended.
///
/// A job gets exactly one verdict, except that one which was `Built` gets another after
/// [`Rebuild`](crate::Event::Rebuild), and when its lost outputs could not be built again. One that
/// was `Unneeded` may be built later without another verdict, as such outputs were lost; it gets
/// another one where that fails.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It was built.
    Built,
    /// Its build failed.
    Failed,
    /// It was not built, because a job it depends on was not.
    DependencyFailed {
        /// The job at the root of it: it failed, was impossible or found no machine.
        because: JobId,
    },
    /// No machine could ever take it.
    Impossible {
        /// Why not, for each machine.
        reasons: Reasons,
    },
    /// It was cancelled.
    Cancelled,
    /// It was not built, as nobody needs it: what depends on it was found somewhere.
    Unneeded,
    /// No machine that could take it is left, or it was tried too often.
    NoMachineLeft {
        /// What each machine said.
        reasons: Reasons,
    },
}
