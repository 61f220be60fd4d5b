//! How a run over fake machines went.

use std::sync::Arc;
use std::time::Duration;

use drover_fleet::{BuildError, FleetEvent, Graph, Report};

use crate::world::Drv;

/// How a run went.
pub(crate) struct Run {
    pub(crate) result: Result<Report, BuildError>,
    pub(crate) events: Vec<FleetEvent>,
    pub(crate) graph: Arc<Graph>,
    pub(crate) took: Duration,
}

impl Run {
    pub(crate) fn report(&self) -> &Report {
        self.result.as_ref().expect("the run comes to a report")
    }

    /// Names of derivations that were built, with the machines.
    pub(crate) fn built(&self) -> Vec<(String, String)> {
        let built = self.events.iter().filter_map(|event| match event {
            FleetEvent::Built { node, machine, .. } => Some((self.name(*node), machine.clone())),
            _ => None,
        });
        built.collect()
    }

    pub(crate) fn name(&self, node: drover_fleet::NodeId) -> String {
        self.graph.node(node).expect("a node").derivation.name.to_string()
    }

    /// Asserts that all targets were built.
    #[track_caller]
    pub(crate) fn all_built(&self) {
        for target in &self.report().targets {
            assert!(target.outcome.is_ok(), "{:?}", target.outcome);
        }
    }

    /// The kind of failure of a target.
    #[track_caller]
    pub(crate) fn failure(&self, drv: &Drv) -> drover_fleet::JobFailureReport {
        let target =
            self.report().targets.iter().find(|target| target.target.derivation == drv.path);
        *target.expect("a target").outcome.clone().expect_err("it fails")
    }

    pub(crate) fn downs(&self) -> Vec<(String, String)> {
        let downs = self.events.iter().filter_map(|event| match event {
            FleetEvent::MachineDown { machine, cause } => Some((machine.clone(), cause.clone())),
            _ => None,
        });
        downs.collect()
    }

    pub(crate) fn totals(&self, machine: &str) -> &drover_fleet::MachineTotals {
        let totals = self.report().machines.iter().find(|totals| totals.machine == machine);
        totals.expect("a machine")
    }
}
