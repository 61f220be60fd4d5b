//! What becomes of a machine that fails: it is taken out, with its lanes and what was at it.

use std::sync::Arc;

use drover_core::{StorePath, with_causes};
use drover_schedule::{Event, MachineFault, MachineId, Place};
use drover_store::StoreError;

use crate::driver::{Driver, Lasting};
use crate::event::FleetEvent;
use crate::fault::{fault_of, is_own_limit};
use crate::merge::Origin;

impl Driver {
    /// Takes a machine out; the scheduler decides when it's tried again.
    pub(crate) fn machine_failed(
        &mut self,
        machine: MachineId,
        cause: String,
        fault: MachineFault,
    ) {
        let place = self.shared.place_of(machine);
        let Some(state) = self.machines.get_mut(machine.0 as usize) else { return };
        if state.site.is_none() {
            return;
        }
        let jobs = state.end_lanes();
        state.end();
        self.shared.forget_site(machine);
        let name = self.shared.name_of(machine);
        self.shared.observer.event(FleetEvent::MachineDown { machine: name, cause: cause.clone() });
        for job in jobs {
            self.retried(job, &cause);
            self.came_back(job);
        }
        if place != Place::Here {
            let gone = self.gone_from(place);
            if fault == MachineFault::Lost {
                // most of it will be there when the machine is back
                Arc::make_mut(&mut self.interesting).extend(gone);
            }
        }
        let chance = self.chance(machine);
        self.tell_scheduler(Event::MachineFailed { machine, cause, fault, chance });
    }

    /// Takes the machine out from which paths could not be had, unless it failed since.
    pub(crate) fn source_failed(&mut self, origin: Origin, error: &StoreError) {
        if let Origin::On { machine, generation } = origin
            && self.is_current(machine, generation)
            && !is_own_limit(error)
        {
            self.machine_failed(machine, with_causes(error), fault_of(error));
        }
    }

    /// Forgets all that was at a place; returns the paths.
    pub(crate) fn gone_from(&mut self, place: Place) -> Vec<StorePath> {
        let mut gone = self.shared.places.forget_place(place);
        // what jobs need stays known, as it may be kept in memory or built again
        let mut unused = Vec::new();
        for path in &gone {
            match self.path_id_if_used(path) {
                Some(path) => self.tell_scheduler(Event::PathGone { path, place }),
                None => unused.push(path.clone()),
            }
        }
        for path in self.shared.places.drop_broken() {
            if let Some(path) = self.path_id_if_used(&path) {
                self.tell_scheduler(Event::PathGone { path, place: Place::Here });
            }
        }
        if self.lasting == Lasting::Shared {
            self.shared.places.drop_homeless(&unused);
            gone.clear();
        }
        gone
    }
}
