//! The machines of a service: asked, replaced, given up when nobody needs them.

use std::collections::BTreeSet;

use drover_schedule::{Event, MachineId, MachineKind, Place};

use crate::machine::MachineSpec;
use crate::machine_state::MachineState;
use crate::service::Census;
use crate::service::engine::{Engine, Reachable};
use crate::service::options::ServiceOptions;
use crate::service::table::{Key, Progress};
use crate::service::vanished::Doubts;

impl Engine {
    /// Returns what is to be looked at before jobs with these keys join.
    pub(crate) fn doubts(&self, keys: &[Key]) -> Doubts {
        Doubts { machines: self.worth_asking(keys), made_here: self.made_here(keys) }
    }

    /// Returns the machines that should be asked what they have, if any of these jobs is new.
    fn worth_asking(&self, keys: &[Key]) -> Vec<Reachable> {
        if keys.iter().all(|key| self.table.has(key)) {
            return Vec::new();
        }
        let machines = (0..).map(MachineId).zip(&self.driver.machines);
        let live = machines.filter(|(machine, _)| !self.retired.contains(machine));
        live.filter_map(|(machine, state)| {
            let site = state.site.clone()?;
            let generation = state.generation;
            let description = state.spec.description.clone();
            Some(Reachable { machine, description, generation, site })
        })
        .collect()
    }

    /// Adds a machine.
    pub(crate) fn add_machine(&mut self, spec: MachineSpec) {
        let number = u32::try_from(self.driver.machines.len()).unwrap_or(u32::MAX);
        let description = spec.description.clone();
        let is_drained = self.control.drained.contains(&description.name);
        if description.kind == MachineKind::Local {
            self.driver.shared.places.set_twin(Place::On(MachineId(number)));
        }
        self.driver.shared.add_name(description.name.clone());
        self.driver.machines.push(MachineState::new(spec));
        let machine = MachineId(number);
        self.tell_scheduler(Event::MachineAdded { machine, description });
        if is_drained {
            self.tell_scheduler(Event::Drain { machine });
        }
    }

    /// Replaces the list of machines. One of the same name and kind stays, with its connection and
    /// its builds; the new way to open it is used from the next connection on, and one that was
    /// given up gets another chance.
    pub(crate) fn reload(&mut self, machines: Vec<MachineSpec>, options: &ServiceOptions) {
        self.idle = options.idle;
        self.own_kind = options.own_kind.clone();
        self.driver.shared.set_output_trust(options.outputs.clone());
        let known = (0..).map(MachineId).zip(&self.driver.machines);
        let mut left: Vec<(MachineId, String, drover_schedule::MachineKind)> = known
            .filter(|(machine, _)| !self.retired.contains(machine))
            .map(|(machine, state)| {
                let description = &state.spec.description;
                (machine, description.name.clone(), description.kind)
            })
            .collect();
        for spec in machines {
            let same = left.iter().position(|(_, name, kind)| {
                *name == spec.description.name && *kind == spec.description.kind
            });
            match same {
                None => self.add_machine(spec),
                Some(at) => {
                    let (machine, ..) = left.remove(at);
                    let description = spec.description.clone();
                    if let Some(state) = self.driver.machines.get_mut(machine.0 as usize) {
                        state.spec = spec;
                    }
                    self.tell_scheduler(Event::MachineChanged { machine, description });
                }
            }
        }
        for (machine, ..) in left {
            self.retired.insert(machine);
            self.tell_scheduler(Event::MachineRemoved { machine });
        }
        self.driver.let_scheduler_decide();
        self.close_retired();
    }

    /// Disconnects machines that are not in the configuration any more, when what ran there has
    /// ended and nobody waits for what it made.
    pub(crate) fn close_retired(&mut self) {
        let is_open = |machine: &MachineId| {
            let state = self.driver.machines.get(machine.0 as usize);
            state.is_some_and(|state| state.site.is_some())
        };
        let open: BTreeSet<MachineId> = self.retired.iter().copied().filter(is_open).collect();
        if open.is_empty() {
            return;
        }
        let waited_for = self.table.iter().filter(|(_, entry)| !entry.waiters.is_empty());
        let jobs = waited_for.filter_map(|(job, _)| self.driver.jobs.get(job.0 as usize));
        let used: BTreeSet<MachineId> =
            jobs.filter_map(|state| Some(state.lane?.machine)).collect();
        for machine in open.difference(&used) {
            self.disconnect(*machine);
        }
    }

    /// Disconnects what is connected, as nobody has needed it for long.
    pub(crate) fn disconnect_idle(&mut self) {
        self.alone_since = None;
        for (machine, ..) in self.driver.shared.connected() {
            self.disconnect(machine);
        }
    }

    /// Disconnects a machine unless something runs there; what is known to be there is forgotten.
    fn disconnect(&mut self, machine: MachineId) {
        let place = self.driver.shared.place_of(machine);
        let Some(state) = self.driver.machines.get_mut(machine.0 as usize) else { return };
        let is_busy = state.all_lanes().any(|lane| !lane.jobs.is_empty());
        if is_busy || place == Place::Here {
            return;
        }
        state.end();
        self.driver.shared.forget_site(machine);
        self.driver.gone_from(place);
        self.tell_scheduler(Event::Disconnected { machine });
    }

    /// Counts what is kept.
    pub(crate) fn census(&self) -> Census {
        let entries = || self.table.iter();
        Census {
            clients: self.clients.len(),
            open: entries().filter(|(_, entry)| entry.progress == Progress::Open).count(),
            retained: self.table.retained(),
            jobs: entries().count(),
            bundles: self.bundles.len(),
            paths: self
                .paths_here
                .len()
                .max(self.paths_of_jobs.len())
                .max(self.driver.paths.len())
                .max(self.realised.len())
                .max(self.driver.shared.places.known()),
            logs: self.router.open_channels(),
            connected: self.driver.shared.connected().len(),
        }
    }
}
