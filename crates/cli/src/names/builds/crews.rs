//! The lists of machines that builds go to, all together.

use std::sync::Arc;

use drover_fleet::{Duty, MachineCondition, Service};

use super::Builds;

/// A list of machines, with what schedules for it.
pub(in crate::names) struct Crew {
    pub(in crate::names) service: Arc<Service>,
    /// What the list is that a client has brought, unless it is the daemon's own.
    pub(in crate::names) brought: Option<String>,
}

impl Builds {
    /// Returns all lists of machines, the daemon's own first.
    pub(in crate::names) fn crews(&self) -> Vec<Crew> {
        self.look_at_machines();
        let state = self.state();
        let brought = state.brought.iter().map(|(builders, service)| Crew {
            service: Arc::clone(service),
            brought: Some(builders.clone()),
        });
        let own = Crew { service: Arc::clone(&self.service), brought: None };
        std::iter::once(own).chain(brought).collect()
    }

    /// Whether a machine gets nothing new, as somebody wants it so.
    pub(in crate::names) async fn is_draining(&self) -> bool {
        for Crew { service, .. } in self.crews() {
            let views = service.machines().await;
            if views.iter().any(|view| view.condition == MachineCondition::Draining) {
                return true;
            }
        }
        false
    }

    /// Sets whether the machines of a name take jobs, in whichever list they are or will be.
    pub(in crate::names) fn set_duty(&self, machine: &str, duty: Duty) {
        let mut state = self.state();
        match duty {
            Duty::Draining => state.drained.insert(machine.to_owned()),
            Duty::Working => state.drained.remove(machine),
        };
        drop(state);
        for Crew { service, .. } in self.crews() {
            service.set_duty(machine, duty);
        }
    }
}
