//! Why jobs wait, as their clients are told when they come.

use drover_schedule::{Choice, JobId, JobStatus, Reason};
use drover_store::{RealiseEvent, THIS_MACHINE};

use crate::service::engine::Engine;

/// New jobs of one client that are looked at to say why they wait.
const EXPLAINED: usize = 64;

impl Engine {
    /// Says why jobs wait that could begin.
    pub(crate) fn explain_waits(&mut self, jobs: &[JobId]) {
        self.driver.let_scheduler_decide();
        for job in jobs.iter().take(EXPLAINED) {
            let Some(entry) = self.table.get(*job) else { continue };
            let Some(explanation) = self.driver.scheduler.explain(*job) else { continue };
            if explanation.status != JobStatus::Ready {
                continue;
            }
            let is_starting = explanation.machines.iter().any(|machine| {
                machine.name == THIS_MACHINE
                    && machine.choice == Choice::NotChosen(Reason::Connecting)
            });
            if is_starting {
                // this machine's first build is about to begin
                continue;
            }
            let reasons: Vec<String> = explanation
                .machines
                .iter()
                .map(|machine| format!("{}: {}", machine.name, machine.choice))
                .collect();
            let reason = reasons.join("; ");
            self.router.tell(entry.node, |derivation| RealiseEvent::Waiting {
                derivation,
                reason: reason.clone(),
            });
        }
    }
}
