//! Begins to connect as soon as it's known that something must be built, while the rest is found
//! out.
//!
//! Invariant: a machine is approached only when some derivation of the run must be built that it
//! could build.

use std::sync::{Arc, Mutex, PoisonError};

use drover_derivation::Derivation;
use drover_schedule::MachineKind;

use crate::machine::{MachineSpec, Site};

/// With more machines elsewhere than this the choice is left to the scheduler.
const MOST: usize = 8;

/// Machines that are being approached.
#[derive(Default)]
pub(crate) struct Approach {
    machines: Mutex<Vec<Approached>>,
}

struct Approached {
    machine: MachineSpec,
    site: Option<Arc<dyn Site>>,
}

impl Approach {
    /// Returns the approach to these machines, which is not begun yet.
    pub(crate) fn new(machines: &[MachineSpec]) -> Approach {
        let is_remote = |spec: &MachineSpec| spec.description.kind == MachineKind::Remote;
        let remote = machines.iter().filter(|spec| is_remote(spec)).count();
        let machines = machines.iter().filter(|spec| remote <= MOST || !is_remote(spec)).cloned();
        let approached = machines.map(|machine| Approached { machine, site: None });
        Approach { machines: Mutex::new(approached.collect()) }
    }

    /// Approaches the machines that could build a derivation, unless that has begun.
    pub(crate) fn begin_for(&self, derivation: &Derivation) {
        let mut machines = self.machines.lock().unwrap_or_else(PoisonError::into_inner);
        let asleep = machines.iter_mut().filter(|machine| machine.site.is_none());
        let mut asleep = asleep.peekable();
        if asleep.peek().is_none() {
            return;
        }
        let features = derivation.required_system_features().unwrap_or_default();
        for Approached { machine, site } in asleep {
            if machine.description.refusal(&derivation.system, &features).is_none() {
                let opened = (machine.open)();
                opened.approach();
                *site = Some(opened);
            }
        }
    }

    /// Takes a machine, if it was approached.
    pub(crate) fn take(&self, machine: &MachineSpec) -> Option<Arc<dyn Site>> {
        let mut machines = self.machines.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |other: &&mut Approached| Arc::ptr_eq(&other.machine.open, &machine.open);
        machines.iter_mut().find(is_it)?.site.take()
    }
}
