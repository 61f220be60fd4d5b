//! What a run knows of a machine.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use drover_schedule::JobId;
use drover_store::Trust;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::lane::LaneJob;
use crate::machine::{MachineSpec, Site};
use crate::places::Berth;
use crate::voice::Silencer;

/// How often a machine has failed: what is told of an earlier time is passed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Generation(pub(crate) u32);

/// Which opening of a lane something is of: what is told of another one is passed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Opening(pub(crate) u64);

/// A machine in a run.
pub(crate) struct MachineState {
    pub(crate) spec: MachineSpec,
    pub(crate) generation: Generation,
    pub(crate) site: Option<Arc<dyn Site>>,
    /// Opened already, for the first connection.
    pub(crate) approached: Option<Arc<dyn Site>>,
    pub(crate) trust: Trust,
    pub(crate) lanes: HashMap<u32, LaneHandle>,
    /// Lanes that get nothing more, as something was taken off them that the builder knows of. Each
    /// is ended when what is left on it has, and the next of its number builds nothing before that.
    pub(crate) closing: Vec<LaneHandle>,
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
    pub(crate) index: u32,
    pub(crate) queue: mpsc::UnboundedSender<LaneJob>,
    pub(crate) task: AbortHandle,
    /// What was given to it and has not come back, in that order.
    pub(crate) jobs: Vec<JobId>,
    pub(crate) opening: Opening,
    pub(crate) berth: Berth,
    /// Keeps it heard.
    pub(crate) silencer: Silencer,
    /// Tells the next one when this one is gone, by being dropped.
    pub(crate) presence: watch::Sender<()>,
}

impl MachineState {
    pub(crate) fn new(spec: MachineSpec) -> MachineState {
        MachineState {
            spec,
            generation: Generation::default(),
            site: None,
            approached: None,
            trust: Trust::Unknown,
            lanes: HashMap::new(),
            closing: Vec::new(),
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

    /// Returns all lanes that are there.
    pub(crate) fn all_lanes(&self) -> impl Iterator<Item = &LaneHandle> {
        self.closing.iter().chain(self.lanes.values())
    }

    /// Returns the lane on which a job is.
    pub(crate) fn lane_of(&self, job: JobId, index: u32) -> Option<&LaneHandle> {
        let closing = self.closing.iter().filter(|lane| lane.index == index);
        let mut lanes = closing.chain(self.lanes.get(&index));
        lanes.find(|lane| lane.jobs.contains(&job))
    }

    /// Returns what must be gone before something is built on a new lane of this number.
    pub(crate) fn before(&self, index: u32) -> Vec<watch::Receiver<()>> {
        let closing = self.closing.iter().filter(|lane| lane.index == index);
        closing.map(|lane| lane.presence.subscribe()).collect()
    }

    /// Takes a job off the lane of that opening. A lane that gets nothing more ends with its last.
    pub(crate) fn leave_lane(&mut self, job: JobId, index: u32, opening: Opening) -> Left {
        let is_it = |lane: &LaneHandle| lane.index == index && lane.opening == opening;
        let remove = |lane: &mut LaneHandle| {
            let at = lane.jobs.iter().position(|other| *other == job)?;
            Some(lane.jobs.remove(at))
        };
        if let Some(lane) = self.lanes.get_mut(&index).filter(|lane| is_it(lane)) {
            return if remove(lane).is_some() { Left::Now } else { Left::Before };
        }
        let Some(at) = self.closing.iter().position(is_it) else { return Left::Before };
        let left = self.closing.get_mut(at).and_then(remove);
        if self.closing.get(at).is_some_and(|lane| lane.jobs.is_empty()) {
            self.closing.swap_remove(at).task.abort();
        }
        if left.is_some() { Left::Now } else { Left::Before }
    }

    /// Ends a lane with all that runs on it, and returns what had not come back from it.
    pub(crate) fn end_lane(&mut self, opening: Opening) -> Vec<JobId> {
        let Some(lane) = self.remove_lane(opening) else { return Vec::new() };
        lane.task.abort();
        lane.jobs
    }

    fn remove_lane(&mut self, opening: Opening) -> Option<LaneHandle> {
        if let Some(at) = self.closing.iter().position(|lane| lane.opening == opening) {
            return Some(self.closing.swap_remove(at));
        }
        let index = self.lanes.values().find(|lane| lane.opening == opening)?.index;
        self.lanes.remove(&index)
    }

    /// Takes a job and all that stands behind it off a lane, which gets nothing more. Something
    /// that stays must stand ahead of it. Returns the lane, with what was taken off.
    pub(crate) fn take_off(
        &mut self,
        job: JobId,
        opening: Opening,
    ) -> Option<(&LaneHandle, Vec<JobId>)> {
        let mut lane = self.remove_lane(opening)?;
        let at = lane.jobs.iter().position(|other| *other == job)?;
        let taken = lane.jobs.split_off(at);
        self.closing.push(lane);
        Some((self.closing.last()?, taken))
    }

    /// Ends all lanes, and returns what had not come back from them.
    pub(crate) fn end_lanes(&mut self) -> Vec<JobId> {
        let lanes = self.closing.drain(..).chain(self.lanes.drain().map(|(_, lane)| lane));
        lanes.flat_map(|lane| lane.jobs).collect()
    }

    /// Drops all connections and what was asked over them.
    pub(crate) fn end(&mut self) {
        self.generation.0 += 1;
        self.end_lanes();
        self.tasks.abort_all();
        self.connecting.abort_all();
        self.site = None;
        self.approached = None;
    }
}

/// Whether a job left its lane now or before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    Now,
    Before,
}
