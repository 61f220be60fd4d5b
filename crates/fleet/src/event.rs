//! What a fleet tells while it works.

use std::time::Duration;

use drover_core::StorePath;
use drover_store::FailureCause;

use crate::graph::NodeId;

/// A derivation that was not built, and what is known of it.
#[derive(Clone, Debug)]
pub struct JobFailureReport {
    /// The derivation.
    pub derivation: StorePath,
    /// Why it was not.
    pub cause: FailureCause,
    /// The machine where it failed.
    pub machine: Option<String>,
    /// The machine's words, or the reasons of the machines.
    pub message: String,
    /// The last lines of the build's log.
    pub log_tail: Vec<String>,
}

/// Something that happened. Jobs are told by their place in the graph, machines by name.
#[derive(Clone, Debug)]
pub enum FleetEvent {
    /// The graph is known: so many derivations will be built, of so many.
    Planned {
        /// Derivations to build.
        to_build: usize,
        /// Paths that substituters have and that are needed.
        to_substitute: usize,
        /// Derivations in the whole graph.
        in_graph: usize,
    },
    /// A machine is being connected to.
    Connecting {
        /// The machine.
        machine: String,
    },
    /// A machine is there.
    Connected {
        /// The machine.
        machine: String,
        /// How long it took.
        took: Duration,
    },
    /// A machine can't be used for now.
    MachineDown {
        /// The machine.
        machine: String,
        /// Why.
        cause: String,
    },
    /// A derivation was given to a machine; its inputs are on their way, or it waits behind another.
    Assigned {
        /// The derivation.
        node: NodeId,
        /// The machine.
        machine: String,
    },
    /// A derivation is being built.
    Building {
        /// The derivation.
        node: NodeId,
        /// The machine.
        machine: String,
    },
    /// A line of a build's log.
    LogLine {
        /// The derivation.
        node: NodeId,
        /// The line.
        line: String,
    },
    /// The phase that a build is in.
    Phase {
        /// The derivation.
        node: NodeId,
        /// The phase.
        phase: String,
    },
    /// A derivation was built.
    Built {
        /// The derivation.
        node: NodeId,
        /// The machine.
        machine: String,
        /// How long the build took, as seen from here.
        took: Duration,
        /// Bytes of its outputs' NARs.
        bytes: u64,
    },
    /// A derivation needs no build: its outputs are on a machine already.
    Found {
        /// The derivation.
        node: NodeId,
        /// The machine.
        machine: String,
    },
    /// A derivation needs no build: only such that were found somewhere need it.
    Unneeded {
        /// The derivation.
        node: NodeId,
    },
    /// A derivation was not built, for good.
    Failed {
        /// The derivation.
        node: NodeId,
        /// What is known.
        failure: Box<JobFailureReport>,
    },
    /// A derivation came back from a machine for a reason that isn't its own, and is tried again.
    Retried {
        /// The derivation.
        node: NodeId,
        /// The machine it came back from.
        machine: String,
        /// Why.
        cause: String,
    },
    /// A transfer began; `None` is the caller's own store.
    CopyStarted {
        /// A number for this transfer.
        transfer: u64,
        /// Where from, one or several machines; or `its substituters`, where the machine that it goes
        /// to fetches it by itself.
        from: Vec<Option<String>>,
        /// Where to.
        to: Option<String>,
        /// Paths.
        paths: usize,
        /// Bytes of NARs.
        bytes: u64,
    },
    /// A transfer has come further.
    CopyProgress {
        /// The transfer.
        transfer: u64,
        /// Bytes since the last event.
        bytes: u64,
    },
    /// A transfer ended, well or not.
    CopyEnded {
        /// The transfer.
        transfer: u64,
    },
    /// Something that the user should know.
    Note(String),
}

/// Follows a fleet. Called from the tasks that do the work: it must never wait.
pub trait Observer: Send + Sync {
    /// Takes one event.
    fn event(&self, event: FleetEvent);
}

/// Takes no interest.
#[derive(Debug)]
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _: FleetEvent) {}
}

/// What a machine did in a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineTotals {
    /// The machine.
    pub machine: String,
    /// Builds that went well.
    pub builds: usize,
    /// Builds that didn't.
    pub failures: usize,
    /// Bytes of NARs sent to it.
    pub bytes_up: u64,
    /// Bytes of NARs fetched from it.
    pub bytes_down: u64,
    /// The sum of the times of its builds.
    pub busy: Duration,
}
