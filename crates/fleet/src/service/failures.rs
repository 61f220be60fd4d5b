//! How a job failed, as its clients are to read it.

use drover_schedule::{JobId, Verdict};
use drover_store::{RealiseStatus, Store as _};

use crate::driver::JobPhase;
use crate::event::FailureKind;
use crate::service::engine::{Engine, Outcome};
use crate::service::router::ClientId;
use crate::service::table::{Failure, Progress};

/// What a job is to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It was asked for, and its answer says how it ended.
    Wanted,
    /// Something that was asked for depends on it.
    Needed,
}

impl Role {
    /// Returns what a job is to a client with such targets.
    pub(crate) fn of(job: JobId, targets: &[JobId]) -> Role {
        match targets.contains(&job) {
            true => Role::Wanted,
            false => Role::Needed,
        }
    }
}

impl Engine {
    /// Tells a client of a job that failed itself.
    pub(crate) fn tell_failure(&self, client: ClientId, job: JobId, failure: &Failure, role: Role) {
        let Some(entry) = self.table.get(job) else { return };
        if failure.status == RealiseStatus::DependencyFailed {
            return;
        }
        if role == Role::Needed {
            self.router.note(client, format!("\x1b[31;1merror:\x1b[0m {}", failure.message));
        }
        let derivation = entry.key.derivation.clone();
        self.router.failed(client, derivation, failure.status);
    }

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
            (_, Some(FailureKind::Passing)) => RealiseStatus::TransientFailure,
            (_, Some(FailureKind::TimedOut)) => RealiseStatus::TimedOut,
            (_, Some(FailureKind::LogLimit)) => RealiseStatus::LogLimitExceeded,
            (_, Some(FailureKind::Rejected)) => RealiseStatus::OutputRejected,
            (_, Some(FailureKind::HashMismatch)) => RealiseStatus::HashMismatch,
            (_, Some(FailureKind::NotDeterministic)) => RealiseStatus::NotDeterministic,
            _ => RealiseStatus::MiscFailure,
        };
        Failure { status, message }
    }

    /// Says what became of a job, for one who gets no more than what there is by now; `unfinished` is why.
    pub(crate) fn outcome(&self, job: JobId, unfinished: &str) -> Outcome {
        let failed = |status, message: &str| {
            Outcome::Failed(Failure { status, message: message.to_owned() })
        };
        let Some(entry) = self.table.get(job) else {
            return failed(RealiseStatus::MiscFailure, "it depends on itself");
        };
        match &entry.progress {
            Progress::Built => {
                Outcome::Built { outputs: self.outputs_of(job), period: entry.period }
            }
            Progress::Failed(failure) if failure.status != RealiseStatus::DependencyFailed => {
                Outcome::Failed(failure.clone())
            }
            Progress::Failed(_) => Outcome::Failed(self.failed_dependencies(job)),
            // it was sent ahead, and its machine has not let go of it yet
            Progress::Open if self.driver.stops_for_dependency(job) => {
                Outcome::Failed(self.failed_dependencies(job))
            }
            // what is asked for is never let be; one that was is opened before
            Progress::Open | Progress::Unneeded => failed(RealiseStatus::Cancelled, unfinished),
        }
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
