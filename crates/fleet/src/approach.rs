//! Begins to connect as soon as it's known that something must be built, while the rest is found
//! out.

use std::sync::{Arc, Mutex, PoisonError};

use drover_schedule::MachineKind;

use crate::machine::{MachineSpec, Site};

/// With more machines than this the choice is left to the scheduler.
const MOST: usize = 8;

/// Machines that are being approached.
#[derive(Default)]
pub(crate) struct Approach {
    machines: Vec<MachineSpec>,
    sites: Mutex<Vec<(String, Arc<dyn Site>)>>,
}

impl Approach {
    /// Returns the approach to these machines, which is not begun yet.
    pub(crate) fn new(machines: &[MachineSpec]) -> Approach {
        let remote = |spec: &&MachineSpec| spec.description.kind == MachineKind::Remote;
        let machines: Vec<MachineSpec> = machines.iter().filter(remote).cloned().collect();
        let machines = if machines.len() > MOST { Vec::new() } else { machines };
        Approach { machines, sites: Mutex::default() }
    }

    /// Begins, unless it has begun.
    pub(crate) fn begin(&self) {
        let mut sites = self.sites.lock().unwrap_or_else(PoisonError::into_inner);
        if !sites.is_empty() {
            return;
        }
        for machine in &self.machines {
            let site = (machine.open)();
            site.approach();
            sites.push((machine.description.name.clone(), site));
        }
    }

    /// Takes a machine that was approached.
    pub(crate) fn take(&self, machine: &str) -> Option<Arc<dyn Site>> {
        let mut sites = self.sites.lock().unwrap_or_else(PoisonError::into_inner);
        // of two with one name the first one comes first
        let at = sites.iter().position(|(name, _)| name == machine)?;
        Some(sites.remove(at).1)
    }
}
