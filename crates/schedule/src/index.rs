//! The index of machines by class. A machine with several terms is in several classes.
//!
//! Invariant: after each change of a machine's link, duty, trust or lanes, `reindex` is called
//! before anything is looked up.

use std::cmp::Reverse;

use crate::id::MachineId;
use crate::machine::{Duty, IdleKey, Indexed, Link, MachineRecord, Room, Sleep, Trust};
use crate::scheduler::Scheduler;
use crate::settings::Policy;

impl Scheduler {
    /// Brings the index of a machine's classes up to date.
    pub(crate) fn reindex(&mut self, machine: MachineId) {
        for face in 0..self.machines.at(machine).faces.len() {
            let record = self.machines.at(machine);
            let slots = record.faces.get(face).map_or(0, |face| face.slots);
            let after = self.indexed(machine, record, slots);
            self.index_as(machine, face, after);
        }
    }

    /// Has a machine stand for this in the index of one of its classes.
    pub(crate) fn index_as(&mut self, machine: MachineId, face: usize, after: Indexed) {
        let Some(face) = self.machines.at_mut(machine).faces.get_mut(face) else { return };
        let class = face.class;
        let before = std::mem::replace(&mut face.indexed, after);
        if before == after {
            return;
        }
        let index = self.classes.at_mut(class);
        match before.room {
            Room::Closed => {}
            Room::Idle(key) => drop(index.idle.remove(&key)),
            Room::Full { free_at, queue_at } => {
                index.full.remove(&(free_at, machine));
                if let Some(queue_at) = queue_at {
                    index.queueable.remove(&(queue_at, machine));
                }
            }
        }
        match after.room {
            Room::Closed => {}
            Room::Idle(key) => drop(index.idle.insert(key)),
            Room::Full { free_at, queue_at } => {
                index.full.insert((free_at, machine));
                if let Some(queue_at) = queue_at {
                    index.queueable.insert((queue_at, machine));
                }
            }
        }
        match after.sleep {
            Sleep::Asleep => drop(index.asleep.insert(machine)),
            Sleep::Awake => drop(index.asleep.remove(&machine)),
        }
        index.hopeful += u32::from(after.hope != 0);
        index.hopeful -= u32::from(before.hope != 0);
        index.lanes += u64::from(after.hope);
        index.lanes -= u64::from(before.hope);
        if after.hope == 0 && before.hope != 0 {
            self.bereft.extend(index.requirements.iter().copied());
        }
    }

    /// Returns what a machine stands for in a class of which it has so many lanes.
    fn indexed(&self, machine: MachineId, record: &MachineRecord, slots: u32) -> Indexed {
        Indexed {
            room: match (record.link, record.duty) {
                (Link::Up, Duty::Working) => self.room(machine, record, slots),
                _ => Room::Closed,
            },
            hope: match record.is_hopeful(self.settings.reconnections) {
                true => record.usable_lanes().min(slots),
                false => 0,
            },
            sleep: match (record.link, record.duty) {
                (Link::Asleep, Duty::Working) => Sleep::Asleep,
                _ => Sleep::Awake,
            },
        }
    }

    fn room(&self, machine: MachineId, record: &MachineRecord, slots: u32) -> Room {
        if record.free_lane(slots).is_some() {
            return Room::Idle(IdleKey {
                speed: Reverse(record.speed.to_bits()),
                load: load(record),
                round_trip: record.round_trip,
                machine,
            });
        }
        let reached = record.lanes.get(..slots as usize).unwrap_or(&record.lanes);
        let occupied = reached.iter().filter(|lane| !lane.queue.is_empty());
        let free_at = occupied.map(|lane| lane.until).min().unwrap_or(self.now);
        let queue_at = match (record.trust, self.settings.policy) {
            (Trust::Full, Policy::EarliestFinish) => {
                let depth = self.settings.prefetch_depth as usize;
                let lanes = reached.iter().filter(|lane| lane.queue.len() < depth);
                lanes.map(|lane| lane.until).min()
            }
            (Trust::Probation, _) | (_, Policy::Stock { .. }) => None,
        };
        Room::Full { free_at, queue_at }
    }

    /// Forgets why requirements are impossible, as a machine was added.
    pub(crate) fn forget_impossible(&mut self) {
        for requirement in self.requirement_ids.values() {
            self.requirements.at_mut(*requirement).impossible = None;
        }
    }
}

/// Returns how much of a machine is taken, in thousandths.
pub(crate) fn load(record: &MachineRecord) -> u32 {
    record.busy_lanes().saturating_mul(1000).checked_div(record.slots).unwrap_or(0)
}
