//! The scheduler's record of one machine, and the classes that index machines.
//!
//! Invariant: what a machine contributes to its class is what [`Indexed`] remembers, and only
//! `Scheduler::reindex` changes both.

use std::cmp::Reverse;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::description::{Machine, MachineKind, Scope, Terms};
use crate::event::MachineFault;
use crate::explanation::Trouble;
use crate::id::{JobId, MachineId, Moment, OwnerId, PathId};
use crate::job::ReadyKey;
use crate::reason::Reason;
use crate::table::{ClassId, RequirementId};

/// All that is known of one machine.
#[derive(Debug)]
pub(crate) struct MachineRecord {
    pub(crate) description: Machine,
    pub(crate) speed: f64,
    /// How many there are for all of its terms together.
    pub(crate) slots: u32,
    /// What it is in its classes, one for each of its terms; nothing if it has no slots, or was
    /// removed.
    pub(crate) faces: Vec<Face>,
    pub(crate) link: Link,
    pub(crate) duty: Duty,
    pub(crate) past: Past,
    /// Its last failure.
    pub(crate) trouble: Option<Trouble>,
    /// Failures since a job last succeeded there.
    pub(crate) strikes: u32,
    /// Jobs in a row that came back because of it.
    pub(crate) returns: u32,
    pub(crate) trust: Trust,
    pub(crate) grace: Grace,
    /// When it was asked for a connection last.
    pub(crate) asked: Moment,
    pub(crate) round_trip: Duration,
    pub(crate) lanes: Vec<LaneState>,
    /// Lanes without any job.
    pub(crate) free: BTreeSet<u32>,
    /// Until when inputs are being moved there, by the estimate.
    pub(crate) moving_until: Moment,
    /// Grows with each failure.
    pub(crate) epoch: u32,
    /// Paths that jobs made there.
    pub(crate) made: BTreeSet<PathId>,
}

/// What a machine is in a class.
#[derive(Debug)]
pub(crate) struct Face {
    pub(crate) class: ClassId,
    /// Jobs of this class use lanes below this.
    pub(crate) slots: u32,
    pub(crate) speed: f64,
    pub(crate) indexed: Indexed,
}

/// Whether a machine is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// No job needed it so far, or none did when its back-off was over.
    Asleep,
    Connecting,
    Up,
    BackingOff {
        until: Moment,
    },
    Refused,
}

/// Whether a machine may be given jobs at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Duty {
    Working,
    Draining,
    /// It is not to be used any more.
    Removed,
}

/// Whether a machine was ever connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Past {
    NeverUp,
    WasUp,
}

/// How much of a machine is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    Full,
    /// One job at a time until one succeeds.
    Probation,
}

/// Whether a machine that used up its attempts gets one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grace {
    Denied,
    /// New jobs came that only it could take.
    Granted,
}

/// One lane.
#[derive(Debug, Default)]
pub(crate) struct LaneState {
    pub(crate) queue: VecDeque<JobId>,
    /// When the job at the head got there.
    pub(crate) head_since: Moment,
    /// When its last job is done, by the estimate.
    pub(crate) until: Moment,
}

impl LaneState {
    /// Returns when it will be free, taking into account that estimates can be wrong: a job that
    /// is overdue is expected to take half as long again as it has taken so far.
    pub(crate) fn free_at(&self, now: Moment) -> Moment {
        match self.queue.is_empty() {
            true => now,
            false if now < self.until => self.until,
            false => {
                let overdue = now.since(self.head_since) / 2;
                now.plus(overdue.max(Duration::from_millis(10)))
            }
        }
    }
}

/// What a machine stands for in the index of its class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Indexed {
    pub(crate) room: Room,
    /// Lanes that jobs may hope for.
    pub(crate) hope: u32,
    pub(crate) sleep: Sleep,
}

/// Whether a machine has room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Room {
    /// It takes no jobs.
    #[default]
    Closed,
    /// It has a free lane.
    Idle(IdleKey),
    /// Each of its lanes has a job.
    Full {
        /// When its first lane is free.
        free_at: Moment,
        /// When its first lane is free in which another job may be queued.
        queue_at: Option<Moment>,
    },
}

/// Whether a machine waits to be connected to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Sleep {
    Asleep,
    #[default]
    Awake,
}

/// The order of machines with a free lane: the faster, the emptier, the nearer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct IdleKey {
    /// The bits of a positive number are in the order of the number.
    pub(crate) speed: Reverse<u64>,
    pub(crate) load: u32,
    pub(crate) round_trip: Duration,
    pub(crate) machine: MachineId,
}

/// What tells classes apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ClassKey {
    /// The speed in quarters of octaves, fastest first.
    pub(crate) pace: Reverse<u64>,
    pub(crate) features: BTreeSet<String>,
    pub(crate) mandatory: BTreeSet<String>,
    pub(crate) systems: BTreeSet<String>,
    pub(crate) kind: MachineKind,
}

impl ClassKey {
    pub(crate) fn of(kind: MachineKind, terms: &Terms) -> ClassKey {
        ClassKey {
            kind,
            pace: Reverse(terms.speed().to_bits() >> 50),
            features: terms.supported_features.clone(),
            mandatory: terms.mandatory_features.clone(),
            systems: terms.systems.clone(),
        }
    }

    /// Returns whether machines of this class take jobs with such needs.
    pub(crate) fn meets(&self, needs: &Needs) -> bool {
        let terms = Terms {
            systems: self.systems.clone(),
            slots: 1,
            speed_factor: 1.0,
            supported_features: self.features.clone(),
            mandatory_features: self.mandatory.clone(),
        };
        needs.scope.includes(self.kind) && terms.refusal(&needs.system, &needs.features).is_none()
    }
}

/// Machines that take the same jobs at about the same speed.
#[derive(Debug, Default)]
pub(crate) struct Class {
    /// Machines with a free lane, best first.
    pub(crate) idle: BTreeSet<IdleKey>,
    /// Machines without, by when their first lane is free.
    pub(crate) full: BTreeSet<(Moment, MachineId)>,
    /// Those of them where a job may be queued, by when that lane is free.
    pub(crate) queueable: BTreeSet<(Moment, MachineId)>,
    /// Machines that nobody has asked for.
    pub(crate) asleep: BTreeSet<MachineId>,
    pub(crate) members: Vec<MachineId>,
    /// Machines that jobs may hope for.
    pub(crate) hopeful: u32,
    /// Their lanes.
    pub(crate) lanes: u64,
    /// The requirements it meets.
    pub(crate) requirements: Vec<RequirementId>,
}

/// What some jobs ask of a machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Needs {
    /// Jobs of different owners stand in queues of their own.
    pub(crate) owner: OwnerId,
    pub(crate) scope: Scope,
    pub(crate) system: String,
    pub(crate) features: BTreeSet<String>,
}

/// Those of the jobs with the same needs that are ready.
#[derive(Debug)]
pub(crate) struct Requirement {
    pub(crate) needs: Needs,
    /// The classes that meet it, fastest first.
    pub(crate) classes: Vec<ClassId>,
    pub(crate) ready: BTreeSet<ReadyKey>,
    /// Jobs that are neither built nor ended.
    pub(crate) open: usize,
    /// Why no machine meets it, once that was worked out.
    pub(crate) impossible: Option<Arc<[(MachineId, Reason)]>>,
}

impl MachineRecord {
    /// Returns whether jobs may wait for it: it is up, or has attempts left.
    pub(crate) fn is_hopeful(&self, reconnections: u32) -> bool {
        let unready = |trouble: &Trouble| trouble.fault == MachineFault::Unready;
        let allowed = match self.past {
            Past::NeverUp if !self.trouble.as_ref().is_some_and(unready) => 0,
            Past::NeverUp | Past::WasUp => reconnections,
        };
        match self.link {
            Link::Up => true,
            Link::Refused => false,
            Link::Asleep | Link::Connecting | Link::BackingOff { .. } => {
                self.strikes <= allowed || self.grace == Grace::Granted
            }
        }
    }

    /// Returns whether it is connected and may be given jobs.
    pub(crate) fn takes_jobs(&self) -> bool {
        self.link == Link::Up && self.duty == Duty::Working
    }

    /// Returns how many lanes may be used.
    pub(crate) fn usable_lanes(&self) -> u32 {
        match self.trust {
            Trust::Full => self.slots,
            Trust::Probation => 1.min(self.slots),
        }
    }

    /// Returns how many lanes have a job.
    pub(crate) fn busy_lanes(&self) -> u32 {
        // where it had more slots before, there are more lanes than slots
        let busy = self.lanes.len().saturating_sub(self.free.len());
        u32::try_from(busy).unwrap_or(u32::MAX)
    }

    /// Returns how many lanes below `reach` have a job.
    pub(crate) fn busy_lanes_below(&self, reach: u32) -> u32 {
        let below = reach.min(u32::try_from(self.lanes.len()).unwrap_or(u32::MAX));
        let free = self.free.range(..below).count();
        below.saturating_sub(u32::try_from(free).unwrap_or(u32::MAX))
    }

    /// Returns a lane below `reach` without any job that may be used.
    pub(crate) fn free_lane(&self, reach: u32) -> Option<u32> {
        match self.busy_lanes() < self.usable_lanes() {
            true => self.free.first().copied().filter(|lane| *lane < reach),
            false => None,
        }
    }

    /// Returns the lane below `reach` that is free first of those with fewer than `depth` jobs.
    pub(crate) fn first_lane(
        &self,
        depth: usize,
        now: Moment,
        reach: u32,
    ) -> Option<(u32, Moment)> {
        let lanes = self.lanes.iter().zip(0..reach);
        lanes
            .filter(|(lane, _)| !lane.queue.is_empty() && lane.queue.len() < depth)
            .map(|(lane, index)| (index, lane.free_at(now)))
            .min_by_key(|(index, free_at)| (*free_at, *index))
    }

    /// Returns the lane with this number.
    ///
    /// # Panics
    /// If there is none, which is a bug of this crate.
    pub(crate) fn lane(&self, index: u32) -> &LaneState {
        self.lanes.get(index as usize).expect("a lane of a job is one of its machine's")
    }

    /// Returns the lane with this number.
    ///
    /// # Panics
    /// If there is none, which is a bug of this crate.
    pub(crate) fn lane_mut(&mut self, index: u32) -> &mut LaneState {
        self.lanes.get_mut(index as usize).expect("a lane of a job is one of its machine's")
    }
}
