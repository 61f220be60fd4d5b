//! Machines that are described anew, removed, or not needed for now.
//!
//! Invariant: a machine that was removed is in no class, so that nothing is placed there, waits
//! for it, or has it connected to; its record stays, as jobs may still run there.

use crate::description::{Machine, Terms};
use crate::id::MachineId;
use crate::machine::{ClassKey, Duty, Face, Indexed, LaneState, Link, Past};
use crate::scheduler::Scheduler;

impl Scheduler {
    /// Takes a new description of a machine.
    pub(crate) fn change_machine(&mut self, machine: MachineId, description: Machine) {
        let Some(record) = self.machines.get(machine) else { return };
        if record.duty == Duty::Removed || record.description.kind != description.kind {
            return;
        }
        self.leave_class(machine);
        let record = self.machines.at_mut(machine);
        if let Link::BackingOff { until } = record.link {
            self.backing_off.remove(&(until, machine));
        }
        if matches!(record.link, Link::BackingOff { .. } | Link::Refused) {
            // whatever was wrong may have been put right
            (record.link, record.strikes, record.past) = (Link::Asleep, 0, Past::NeverUp);
        }
        record.speed = description.speed();
        record.description = Machine { round_trip: record.description.round_trip, ..description };
        self.settle_in(machine);
    }

    /// Gives a machine its lanes and its place among those of its class, and connects to it if
    /// something waits for it.
    pub(crate) fn settle_in(&mut self, machine: MachineId) {
        let record = self.machines.at_mut(machine);
        let slots = record.description.all_slots().min(super::connection::MAX_SLOTS);
        record.slots = slots;
        let terms: Vec<Terms> = record.description.all_terms().collect();
        let lanes = record.lanes.len().max(slots as usize);
        record.lanes.resize_with(lanes, LaneState::default);
        let empty = record.lanes.iter().zip(0_u32..).filter(|(lane, _)| lane.queue.is_empty());
        record.free = empty.map(|(_, index)| index).collect();
        self.forget_impossible();
        if slots == 0 {
            return;
        }
        for terms in terms.iter().filter(|terms| terms.slots != 0) {
            self.take_on(machine, terms);
        }
        if self.machines.at(machine).faces.len() > 1 {
            self.many_faced.insert(machine);
        }
        self.reindex(machine);
        if self.machines.at(machine).link == Link::Asleep && self.is_needed(machine) {
            self.connect(machine);
        }
    }

    /// Puts a machine into the class of some of its terms; of two that are alike the more generous
    /// one counts.
    fn take_on(&mut self, machine: MachineId, terms: &Terms) {
        let key = ClassKey::of(self.machines.at(machine).description.kind, terms);
        let known = self.class_ids.get(&key).copied();
        let slots = terms.slots.min(super::connection::MAX_SLOTS);
        let faces = &mut self.machines.at_mut(machine).faces;
        if let Some(face) = faces.iter_mut().find(|face| Some(face.class) == known) {
            face.slots = face.slots.max(slots);
            return;
        }
        let (class, speed) = (self.class(key, machine), terms.speed());
        let face = Face { class, slots, speed, indexed: Indexed::default() };
        self.machines.at_mut(machine).faces.push(face);
    }

    /// Takes a machine out of use.
    pub(crate) fn remove_machine(&mut self, machine: MachineId) {
        if self.machines.get(machine).is_none() {
            return;
        }
        self.leave_class(machine);
        self.machines.at_mut(machine).duty = Duty::Removed;
        self.locals.retain(|local| *local != machine);
        self.forget_impossible();
    }

    fn leave_class(&mut self, machine: MachineId) {
        for face in 0..self.machines.at(machine).faces.len() {
            self.index_as(machine, face, Indexed::default());
        }
        self.many_faced.remove(&machine);
        for Face { class, .. } in std::mem::take(&mut self.machines.at_mut(machine).faces) {
            let left = self.classes.at_mut(class);
            left.members.retain(|member| *member != machine);
            if left.members.is_empty() {
                // one that is like this machine finds out anew what it can take
                for requirement in std::mem::take(&mut left.requirements) {
                    self.requirements.at_mut(requirement).classes.retain(|other| *other != class);
                }
                self.class_ids.retain(|_, id| *id != class);
            }
        }
    }

    /// Takes the end of a connection that nobody needed.
    pub(crate) fn disconnected(&mut self, machine: MachineId) {
        let Some(record) = self.machines.get_mut(machine) else { return };
        if record.link != Link::Up || record.busy_lanes() != 0 {
            return;
        }
        record.link = Link::Asleep;
        record.epoch = record.epoch.wrapping_add(1);
        self.reindex(machine);
        self.mourn(machine);
        if self.is_needed(machine) {
            self.connect(machine);
        }
    }
}
