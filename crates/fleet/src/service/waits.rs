//! Why jobs wait, as their clients are told when they come.

use drover_schedule::{JobId, JobStatus};
use drover_store::RealiseEvent;

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
