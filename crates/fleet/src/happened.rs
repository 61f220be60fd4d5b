//! What the driver makes of what it is told by those who work for it.

use std::collections::BTreeSet;
use std::sync::Arc;

use drover_core::{StorePath, with_causes};
use drover_schedule::{Event, MachineId, Place};

use crate::driver::Driver;
use crate::event::FleetEvent;
use crate::fault::fault_of_connecting;
use crate::machine_state::{Generation, Left};
use crate::shared::{Answer, Happened};

impl Driver {
    pub(crate) fn take(&mut self, happened: Happened) {
        match happened {
            Happened::Connected { machine, generation, answer } => {
                if self.is_current(machine, generation) {
                    self.connected(machine, generation, answer);
                }
            }
            Happened::Found { machine, generation, found } => {
                if self.is_current(machine, generation) {
                    self.take_found(machine, found);
                }
            }
            Happened::ConnectFailed { machine, generation, error } => {
                if self.is_current(machine, generation) {
                    self.machine_failed(machine, with_causes(&error), fault_of_connecting(&error));
                }
            }
            Happened::Kept { path } => match self.path_id_if_used(&path) {
                Some(path) => {
                    self.tell_scheduler(Event::PathAt { path, place: Place::Here, size: None });
                }
                None => self.shared.places.unused(&path),
            },
            Happened::Arrived { machine, generation, paths } => {
                if self.is_current(machine, generation) {
                    let place = self.shared.place_of(machine);
                    for (path, size) in paths {
                        if self.path_id_if_used(&path).is_some() {
                            self.path_at(&path, place, Some(size));
                        }
                    }
                }
            }
            Happened::JobEnded { machine, opening, job, end } => {
                if self.leave_lane(machine, opening, job) == Left::Now {
                    self.job_ended(machine, opening, job, end);
                }
            }
        }
    }

    fn connected(&mut self, machine: MachineId, generation: Generation, answer: Answer) {
        let Answer { description, valid, found, took, round_trip } = answer;
        if let Some(state) = self.machines.get_mut(machine.0 as usize) {
            state.note_trust(description.trust);
            if let Some(site) = &state.site {
                self.shared.set_site(machine, generation, Arc::clone(site));
            }
        }
        self.found_at(&valid, self.shared.place_of(machine));
        self.tell_scheduler(Event::Connected { machine, round_trip });
        let name = self.shared.name_of(machine);
        self.shared.observer.event(FleetEvent::Connected { machine: name, took });
        self.take_found(machine, found);
    }

    pub(crate) fn is_current(&self, machine: MachineId, generation: Generation) -> bool {
        self.machines.get(machine.0 as usize).is_some_and(|state| state.generation == generation)
    }

    /// Notes what a machine was found to have.
    pub(crate) fn found_at(&mut self, valid: &BTreeSet<StorePath>, place: Place) {
        for path in valid {
            self.shared.places.add_place(path, place);
            if self.path_id_if_used(path).is_some() {
                self.path_at(path, place, None);
            }
        }
    }
}
