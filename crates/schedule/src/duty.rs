//! Machines that are told to take nothing new for a while, and such that are connected to before
//! any job needs them.
//!
//! Invariant: a machine that drains is neither given jobs nor connected to; what runs there ends,
//! and what stands behind that goes elsewhere or waits.

use crate::id::{JobId, Lane, MachineId};
use crate::job::{Afterwards, State};
use crate::machine::{Duty, Link};
use crate::scheduler::Scheduler;

impl Scheduler {
    /// Has a machine take nothing new.
    pub(crate) fn drain(&mut self, machine: MachineId) {
        let Some(record) = self.machines.get_mut(machine) else { return };
        if record.duty != Duty::Working {
            return;
        }
        record.duty = Duty::Draining;
        let lanes = record.lanes.iter().zip(0_u32..);
        let behind = lanes.flat_map(|(lane, index)| {
            let queued = lane.queue.iter().skip(1).copied();
            queued.map(move |job| (job, Lane { machine, index }))
        });
        let behind: Vec<(JobId, Lane)> = behind.collect();
        for (job, lane) in behind {
            self.prefetched.remove(&job);
            if matches!(self.jobs.at(job).state, State::Started { .. }) {
                self.stop(job, lane, Afterwards::Again);
            }
        }
        self.reindex(machine);
    }

    /// Has a machine that drains take jobs again.
    pub(crate) fn resume(&mut self, machine: MachineId) {
        let Some(record) = self.machines.get_mut(machine) else { return };
        if record.duty != Duty::Draining {
            return;
        }
        record.duty = Duty::Working;
        self.reindex(machine);
        if self.machines.at(machine).link == Link::Asleep && self.is_needed(machine) {
            self.connect(machine);
        }
    }

    /// Has a machine connected to that nobody has asked for so far, or that has been left alone for long
    /// enough.
    pub(crate) fn bring_up(&mut self, machine: MachineId) {
        let Some(record) = self.machines.get(machine) else { return };
        if record.duty != Duty::Working || record.slots == 0 {
            return;
        }
        match record.link {
            Link::Asleep => self.connect(machine),
            Link::BackingOff { until } if until <= self.now => {
                self.backing_off.remove(&(until, machine));
                self.connect(machine);
            }
            Link::Up | Link::Refused | Link::Connecting | Link::BackingOff { .. } => {}
        }
    }
}
