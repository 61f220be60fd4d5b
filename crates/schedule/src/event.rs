//! What happens outside: the scheduler's only input.

use std::time::Duration;

use crate::description::{Job, Machine, Scope};
use crate::id::{ByteCount, JobId, MachineId, PathId, Place};

/// A number that is as good as random: the scheduler has no such thing itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chance(pub u16);

/// Something that happened; see [`Scheduler::on_all`](crate::Scheduler::on_all).
///
/// Events about ids that the scheduler does not know are ignored.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A machine exists. It is connected to when a job needs it; jobs that were told to be
    /// impossible before are not looked at again.
    MachineAdded {
        /// Its id, not used before.
        machine: MachineId,
        /// What it is like.
        description: Machine,
    },
    /// A machine is described anew; what runs there goes on. Where it has fewer slots now, nothing
    /// is started before enough has ended. One that failed or refused is tried again. Its kind
    /// stays what it was.
    MachineChanged {
        /// The machine.
        machine: MachineId,
        /// What it is like from now on.
        description: Machine,
    },
    /// A machine is no longer to be used: what was started there goes on, and nothing else waits
    /// for it. Its id stays in use.
    MachineRemoved {
        /// The machine.
        machine: MachineId,
    },
    /// The connection to a machine where nothing runs was given up, as nobody needed it. It is
    /// connected to again when a job needs it. Ignored where something runs.
    Disconnected {
        /// The machine.
        machine: MachineId,
    },
    /// A job is to be built.
    Submitted {
        /// Its id, not in use.
        job: JobId,
        /// What it is like.
        description: Job,
    },
    /// A path is now valid somewhere.
    PathAt {
        /// The path.
        path: PathId,
        /// Where it is valid.
        place: Place,
        /// Its size if known.
        size: Option<ByteCount>,
    },
    /// A path is no longer valid somewhere.
    PathGone {
        /// The path.
        path: PathId,
        /// Where it was valid.
        place: Place,
    },
    /// The connection that was asked for is up and was checked.
    Connected {
        /// The machine.
        machine: MachineId,
        /// One round trip, as measured.
        round_trip: Duration,
    },
    /// A machine could not be connected to, or failed while it was up.
    ///
    /// All jobs started there are taken as gone: no event about these attempts may follow.
    MachineFailed {
        /// The machine.
        machine: MachineId,
        /// What it said, for people.
        cause: String,
        /// What kind of failure it was.
        fault: MachineFault,
        /// How much longer than it must be it's left alone.
        chance: Chance,
    },
    /// A machine shall be connected before a job needs it. One that is connected, left alone after
    /// a failure, draining or without slots stays as it is.
    Reach {
        /// The machine.
        machine: MachineId,
    },
    /// No further job may start on a machine, nor is it connected to. What runs there goes on; what
    /// stands behind that is told to stop, and goes elsewhere. Jobs that only this machine could
    /// take wait until it is resumed or fails.
    Drain {
        /// The machine.
        machine: MachineId,
    },
    /// A drained machine takes jobs again.
    Resume {
        /// The machine.
        machine: MachineId,
    },
    /// A started job was built.
    Finished {
        /// The job.
        job: JobId,
        /// How long the build took, without transfers, where its beginning was told: an output that was
        /// there already says nothing of other builds.
        took: Option<Duration>,
        /// What it made and how big that is; valid on the machine where it ran.
        outputs: Vec<(PathId, ByteCount)>,
    },
    /// A job need not be built: all that it makes is valid on a machine that is up. It gets the
    /// verdict `Built`. A job that was started goes on, and this is ignored.
    ///
    /// What nobody needs any more then, among jobs that are only there for others, is let be.
    Found {
        /// The job.
        job: JobId,
        /// The machine.
        machine: MachineId,
        /// What it makes and how big that is.
        outputs: Vec<(PathId, ByteCount)>,
    },
    /// A started job came back without having been built.
    Failed {
        /// The job.
        job: JobId,
        /// What failed.
        failure: JobFailure,
    },
    /// A started job finds no room on its machine, of which
    /// [`MachineFailed`](Event::MachineFailed) tells next. Then a job that no other machine could take
    /// ends: the same again would come to the same end. Any other comes back.
    NoRoom {
        /// The job.
        job: JobId,
    },
    /// A [`Stop`](crate::Command::Stop) took effect: the job runs no more.
    Stopped {
        /// The job.
        job: JobId,
    },
    /// A built job is needed again: its outputs are gone from where the caller wanted them.
    ///
    /// It gets a verdict once more. A job without verdict gets only that one, and for a job with
    /// any other verdict than `Built` this is ignored: it would have to be submitted anew.
    Rebuild {
        /// The job.
        job: JobId,
    },
    /// The caller wants what a job makes, which was only there for others so far
    /// ([`Demand`](crate::Demand)). One that was let be is had by [`Rebuild`](Event::Rebuild).
    Asked {
        /// The job.
        job: JobId,
    },
    /// Where a job may run is something else now, as others wait for it. One that runs goes on where
    /// it is.
    Scoped {
        /// The job.
        job: JobId,
        /// Where it may run.
        scope: Scope,
    },
    /// Nobody wants a job any more; it is cancelled with everything that depends on it.
    Cancel {
        /// The job.
        job: JobId,
    },
    /// Everything that has no verdict is cancelled.
    CancelAll,
    /// A job that has its verdict, and on which no job without verdict depends, is forgotten;
    /// its id may be used again.
    Forget {
        /// The job.
        job: JobId,
    },
    /// No job that is known needs or makes a path; its id may be used again.
    ForgetPath {
        /// The path.
        path: PathId,
    },
    /// Time went by; see [`Wake`](crate::Command::Wake).
    Tick,
}

/// What is wrong with a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineFault {
    /// It cannot be connected to.
    Unreachable,
    /// It answers, and says that it is not ready yet: it boots, or its database is busy.
    Unready,
    /// The connection was lost.
    Lost,
    /// Its disk is full.
    DiskFull,
    /// It does not let us in, or is not what the configuration says; never tried again.
    Refused,
    /// It does not keep to the protocol.
    Misbehaved,
}

/// Why a job came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobFailure {
    /// The build itself failed; it would fail anywhere.
    Build,
    /// Something around the build failed; another machine may do better.
    Infrastructure {
        /// What it was, for people.
        cause: String,
    },
    /// The machine can't build such jobs, whatever was said of it; another one may.
    Unfit {
        /// What it said.
        cause: String,
    },
}
