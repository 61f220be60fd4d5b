//! What is known of a run: the state that all forms of progress are drawn from.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use drover_fleet::{FleetEvent, NodeId};
use drover_store::FetchEvent;

use super::fetches::Fetches;

/// Over which time the rate of transfers is measured.
const RATE_WINDOW: Duration = Duration::from_secs(3);

/// What is known of a run.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Derivations to build, once that is known.
    pub(crate) to_build: Option<usize>,
    /// Those that were built, unless they are built again because their outputs were lost.
    pub(crate) built: BTreeSet<NodeId>,
    /// Derivations that need no build after all.
    spared: BTreeSet<NodeId>,
    /// Those that failed by themselves or through others.
    pub(crate) failed: usize,
    /// Builds that run.
    pub(crate) building: BTreeMap<NodeId, Building>,
    /// Machines by name, in their order.
    pub(crate) machines: BTreeMap<String, MachineProgress>,
    /// Transfers that run.
    pub(crate) copies: BTreeMap<u64, Copy>,
    /// What the local store fetches.
    pub(crate) fetches: Fetches,
    /// Bytes that came and went lately.
    recent: VecDeque<(Instant, u64)>,
}

/// A build that runs.
#[derive(Clone, Debug)]
pub(crate) struct Building {
    /// Where.
    pub(crate) machine: String,
    /// Since when.
    pub(crate) since: Instant,
    /// The phase it is in.
    pub(crate) phase: Option<String>,
}

/// How a machine does.
#[derive(Clone, Debug)]
pub(crate) struct MachineProgress {
    /// Builds that it can run at a time.
    pub(crate) slots: u32,
    /// Whether it can be used.
    pub(crate) state: MachineState,
}

/// Whether a machine can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MachineState {
    /// Nobody has needed it.
    Unused,
    /// It is being connected to.
    Connecting,
    /// It can.
    Up,
    /// It can't for now.
    Down,
}

/// A transfer that runs.
#[derive(Clone, Debug)]
pub(crate) struct Copy {
    /// Where from; nothing is the local store.
    pub(crate) from: Vec<Option<String>>,
    /// Where to; nothing is the local store.
    pub(crate) to: Option<String>,
    /// Paths.
    pub(crate) paths: usize,
    /// Bytes in all.
    pub(crate) bytes: u64,
    /// Bytes so far.
    pub(crate) done: u64,
    /// Since when.
    pub(crate) since: Instant,
}

impl Progress {
    /// Returns the state before anything happened; machines with their slots.
    pub(crate) fn new(machines: impl IntoIterator<Item = (String, u32)>) -> Progress {
        let machine =
            |(name, slots)| (name, MachineProgress { slots, state: MachineState::Unused });
        Progress {
            to_build: None,
            built: BTreeSet::new(),
            spared: BTreeSet::new(),
            failed: 0,
            building: BTreeMap::new(),
            machines: machines.into_iter().map(machine).collect(),
            copies: BTreeMap::new(),
            fetches: Fetches::default(),
            recent: VecDeque::new(),
        }
    }

    /// Takes notice of an event.
    pub(crate) fn apply(&mut self, event: &FleetEvent, now: Instant) {
        match event {
            FleetEvent::Planned { to_build, .. } => self.to_build = Some(*to_build),
            FleetEvent::Connecting { machine } => self.set(machine, MachineState::Connecting),
            FleetEvent::Connected { machine, .. } => self.set(machine, MachineState::Up),
            FleetEvent::MachineDown { machine, .. } => self.set(machine, MachineState::Down),
            FleetEvent::Building { node, machine } => {
                let building = Building { machine: machine.clone(), since: now, phase: None };
                self.building.insert(*node, building);
                self.built.remove(node);
                self.spared.remove(node);
            }
            FleetEvent::Phase { node, phase } => {
                if let Some(building) = self.building.get_mut(node) {
                    building.phase = Some(phase.clone());
                }
            }
            FleetEvent::Built { node, .. } => {
                self.building.remove(node);
                self.built.insert(*node);
            }
            FleetEvent::Found { node, .. } | FleetEvent::Unneeded { node } => {
                self.spared.insert(*node);
            }
            FleetEvent::Failed { node, .. } => {
                self.building.remove(node);
                self.failed += 1;
            }
            FleetEvent::Retried { node, .. } => {
                self.building.remove(node);
            }
            FleetEvent::CopyStarted { transfer, from, to, paths, bytes } => {
                let (from, to, paths, bytes) = (from.clone(), to.clone(), *paths, *bytes);
                let copy = Copy { from, to, paths, bytes, done: 0, since: now };
                self.copies.insert(*transfer, copy);
            }
            FleetEvent::CopyProgress { transfer, bytes } => {
                if let Some(copy) = self.copies.get_mut(transfer) {
                    copy.done = copy.done.saturating_add(*bytes);
                }
                self.came(*bytes, now);
            }
            FleetEvent::CopyEnded { transfer } => {
                self.copies.remove(transfer);
            }
            FleetEvent::Assigned { .. } | FleetEvent::LogLine { .. } | FleetEvent::Note(_) => {}
        }
    }

    /// Takes notice of what the local store fetches.
    pub(crate) fn apply_fetch(&mut self, event: &FetchEvent, now: Instant) {
        let bytes = self.fetches.apply(event, now);
        if bytes > 0 {
            self.came(bytes, now);
        }
    }

    fn came(&mut self, bytes: u64, now: Instant) {
        self.recent.push_back((now, bytes));
        self.forget(now);
    }

    /// Returns how far the builds are: `3/40 built`; nothing before it is known what to build.
    pub(crate) fn built_of_all(&self) -> Option<String> {
        let to_build = self.to_build?.saturating_sub(self.spared.len());
        Some(format!("{}/{to_build} built", self.built.len()))
    }

    /// Returns how many bytes come and go in a second.
    pub(crate) fn rate(&self, now: Instant) -> u64 {
        let recent = self.recent.iter().filter(|(at, _)| now.duration_since(*at) < RATE_WINDOW);
        let bytes = recent.fold(0_u64, |sum, (_, bytes)| sum.saturating_add(*bytes));
        bytes / RATE_WINDOW.as_secs()
    }

    /// Returns how many builds run on a machine.
    pub(crate) fn building_on(&self, machine: &str) -> usize {
        self.building.values().filter(|building| building.machine == machine).count()
    }

    fn set(&mut self, machine: &str, state: MachineState) {
        if let Some(known) = self.machines.get_mut(machine) {
            known.state = state;
        }
    }

    fn forget(&mut self, now: Instant) {
        while self.recent.front().is_some_and(|(at, _)| now.duration_since(*at) >= RATE_WINDOW) {
            self.recent.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts() {
        let start = Instant::now();
        let mut progress = Progress::new([("b1".to_owned(), 2)]);
        let building = |node| FleetEvent::Building { node: NodeId(node), machine: "b1".to_owned() };
        for event in [building(0), building(1), building(2)] {
            progress.apply(&event, start);
        }
        assert_eq!(progress.building_on("b1"), 3);
        let retried = FleetEvent::Retried {
            node: NodeId(0),
            machine: "b1".to_owned(),
            cause: "lost".to_owned(),
        };
        progress.apply(&retried, start);
        let built = FleetEvent::Built {
            node: NodeId(1),
            machine: "b1".to_owned(),
            took: Duration::ZERO,
            bytes: 0,
        };
        progress.apply(&built, start);
        assert_eq!((progress.building_on("b1"), progress.built.len()), (1, 1));
    }

    #[test]
    fn rate_is_that_of_the_last_seconds() {
        let start = Instant::now();
        let mut progress = Progress::new([]);
        for second in 0..10 {
            let event = FleetEvent::CopyProgress { transfer: 0, bytes: 300 };
            progress.apply(&event, start + Duration::from_secs(second));
        }
        assert_eq!(progress.rate(start + Duration::from_secs(9)), 300);
        assert_eq!(progress.rate(start + Duration::from_secs(20)), 0);
        assert_eq!(progress.recent.len(), 3);
    }
}
