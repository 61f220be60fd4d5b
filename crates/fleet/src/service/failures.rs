//! How a job failed, as its clients are to read it.

use drover_schedule::{JobId, Verdict};
use drover_store::{RealiseStatus, Store as _};

use crate::driver::JobPhase;
use crate::event::FailureKind;
use crate::service::engine::Engine;
use crate::service::table::{Failure, Progress};

impl Engine {
    /// Says how a job failed, as its clients are to read it.
    pub(crate) fn failure(&self, job: JobId, verdict: &Verdict) -> Failure {
        let state = self.driver.jobs.get(job.0 as usize).map(|state| &state.state);
        let (kind, message) = match state {
            Some(JobPhase::Failed(report)) => (Some(report.kind), report.message.clone()),
            _ => (None, String::new()),
        };
        let status = match (verdict, kind) {
            (Verdict::Impossible { .. }, _) => RealiseStatus::InputRejected,
            (Verdict::NoMachineLeft { .. }, _) => RealiseStatus::TransientFailure,
            (Verdict::DependencyFailed { .. }, _) => RealiseStatus::DependencyFailed,
            (_, Some(FailureKind::Build)) => RealiseStatus::PermanentFailure,
            (_, Some(FailureKind::TimedOut)) => RealiseStatus::TimedOut,
            (_, Some(FailureKind::LogLimit)) => RealiseStatus::LogLimitExceeded,
            (_, Some(FailureKind::HashMismatch)) => RealiseStatus::OutputRejected,
            (_, Some(FailureKind::NotDeterministic)) => RealiseStatus::NotDeterministic,
            _ => RealiseStatus::MiscFailure,
        };
        Failure { status, message }
    }

    /// Says of a job that something it depends on failed, as Nix says it; what that was is told by
    /// then.
    pub(crate) fn failed_dependencies(&self, job: JobId) -> Failure {
        let status = RealiseStatus::DependencyFailed;
        let Some(entry) = self.table.get(job) else {
            return Failure { status, message: String::new() };
        };
        let failed = |job: &&JobId| {
            self.table.get(**job).is_some_and(|entry| matches!(entry.progress, Progress::Failed(_)))
        };
        let counted = match entry.dependencies.iter().filter(failed).count() {
            0 | 1 => "1 dependency".to_owned(),
            several => format!("{several} dependencies"),
        };
        let store_dir = self.here.store_dir();
        let derivation = store_dir.display(&entry.key.derivation);
        let mut message = format!("Cannot build '{derivation}'.\nReason: {counted} failed.");
        let outputs = self.outputs_of(job);
        if !outputs.is_empty() {
            message.push_str("\nOutput paths:");
        }
        for path in outputs.values() {
            message.push_str(&format!("\n  {}", store_dir.display(path)));
        }
        Failure { status, message }
    }
}
