//! What a run knows of a machine.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use drover_schedule::JobId;
use drover_store::Trust;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use crate::lane::LaneJob;
use crate::machine::{MachineSpec, Site};
use crate::voice::Silencer;

/// A machine in a run.
pub(crate) struct MachineState {
    pub(crate) spec: MachineSpec,
    /// Grows with each failure: what is told of an earlier one is passed over.
    pub(crate) generation: u32,
    pub(crate) site: Option<Arc<dyn Site>>,
    /// Opened already, for the first connection.
    pub(crate) approached: Option<Arc<dyn Site>>,
    pub(crate) trust: Trust,
    pub(crate) lanes: HashMap<u32, LaneHandle>,
    /// Lanes, and what is fetched ahead.
    pub(crate) tasks: JoinSet<()>,
    /// Attempts to connect, which outlive the lanes: the scheduler counts on their outcome.
    pub(crate) connecting: JoinSet<()>,
    pub(crate) builds: usize,
    pub(crate) failures: usize,
    pub(crate) busy: Duration,
}

/// A lane that was opened.
pub(crate) struct LaneHandle {
    pub(crate) queue: mpsc::UnboundedSender<LaneJob>,
    pub(crate) task: AbortHandle,
    /// What was given to it and has not come back, in that order.
    pub(crate) jobs: Vec<JobId>,
    /// Which opening of a lane this is: what is told of another one is passed over.
    pub(crate) opening: u64,
    /// Keeps it heard.
    pub(crate) _silencer: Silencer,
}

impl MachineState {
    pub(crate) fn new(spec: MachineSpec) -> MachineState {
        MachineState {
            spec,
            generation: 0,
            site: None,
            approached: None,
            trust: Trust::Unknown,
            lanes: HashMap::new(),
            tasks: JoinSet::new(),
            connecting: JoinSet::new(),
            builds: 0,
            failures: 0,
            busy: Duration::ZERO,
        }
    }

    /// Takes note of what a new connection says of trust. That it refused us before counts for
    /// more than that it doesn't say.
    pub(crate) fn note_trust(&mut self, trust: Trust) {
        if trust != Trust::Unknown || self.trust != Trust::NotTrusted {
            self.trust = trust;
        }
    }

    /// Ends a lane with all that runs on it, and returns what had not come back from it.
    pub(crate) fn end_lane(&mut self, index: u32) -> Vec<JobId> {
        let Some(lane) = self.lanes.remove(&index) else { return Vec::new() };
        lane.task.abort();
        lane.jobs
    }

    /// Drops all connections and what was asked over them.
    pub(crate) fn end(&mut self) {
        self.generation += 1;
        self.lanes.clear();
        self.tasks.abort_all();
        self.connecting.abort_all();
        self.site = None;
        self.approached = None;
    }
}
