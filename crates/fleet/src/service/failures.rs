//! How a job failed, as its clients are to read it.

use std::collections::BTreeSet;

use drover_schedule::{JobId, MachineId, MachineKind};
use drover_store::{BuildFailure, FailureCause, Store as _};

use crate::driver::JobPhase;
use crate::service::engine::{Engine, Outcome};
use crate::service::options::OwnKind;
use crate::service::router::ClientId;
use crate::service::table::Progress;

/// What Nix says where nothing is built on this machine.
const LOCAL_BUILDS_DISABLED: &str = "Reason: local builds are disabled (max-jobs = 0)\n\
    Hint: set 'max-jobs' to a non-zero value to enable local builds, or configure remote builders via \
    'builders'\n";

impl OwnKind {
    /// Says in the words of Nix why something isn't for this machine; nothing where it is.
    fn reasons(&self, system: &str, features: &BTreeSet<String>) -> String {
        let list = |features: &BTreeSet<String>| {
            features.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
        };
        let mut reasons = String::new();
        let is_own = system == "builtin" || system == self.system;
        if !is_own && !self.other_systems.contains(system) {
            reasons.push_str(&format!(
                "Reason: platform mismatch\nRequired system: '{system}'\nCurrent system: '{}'\n",
                self.system
            ));
        }
        if !features.is_subset(&self.features) {
            reasons.push_str(&format!(
                "Reason: missing system features\nRequired features: {{{}}}\nAvailable features: {{{}}}\n",
                list(features),
                list(&self.features)
            ));
        }
        reasons
    }
}

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
    pub(crate) fn tell_failure(
        &self,
        client: ClientId,
        job: JobId,
        failure: &BuildFailure,
        role: Role,
    ) {
        let Some(entry) = self.table.get(job) else { return };
        if failure.cause == FailureCause::Dependency {
            return;
        }
        if role == Role::Needed {
            self.router.note(client, format!("\x1b[31;1merror:\x1b[0m {}", failure.message));
        }
        let derivation = entry.key.derivation.clone();
        self.router.failed(client, derivation, failure.cause);
    }

    /// Says how a job failed, as its clients are to read it.
    pub(crate) fn failure(&self, job: JobId) -> BuildFailure {
        let state = self.driver.jobs.get(job.0 as usize).map(|state| &state.state);
        let Some(JobPhase::Failed(report)) = state else {
            return BuildFailure::new(FailureCause::Other, "");
        };
        let message = match report.cause {
            FailureCause::Unsuited | FailureCause::NoMachine => {
                format!("{}{}", self.rejection(job).unwrap_or_default(), report.message)
            }
            _ => report.message.clone(),
        };
        BuildFailure { cause: report.cause, message }
    }

    /// Says as Nix does why this machine doesn't build something itself, if it doesn't: scripts look for
    /// those words. What each machine said goes behind them.
    fn rejection(&self, job: JobId) -> Option<String> {
        let own = self.own_kind.as_ref()?;
        let (state, entry) = (self.driver.jobs.get(job.0 as usize)?, self.table.get(job)?);
        let derivation = &state.plan.derivation;
        let builds_here = self.builds_here() && entry.scopes.let_here();
        let reasons = own.reasons(&derivation.system, &derivation.required_system_features().ok()?);
        let mut words = match builds_here || derivation.is_builtin() {
            true => String::new(),
            false => LOCAL_BUILDS_DISABLED.to_owned(),
        };
        words.push_str(&reasons);
        let shown = self.here.store_dir().display(&state.plan.path);
        (!words.is_empty()).then(|| format!("Cannot build '{shown}'.\n{words}"))
    }

    fn builds_here(&self) -> bool {
        let machines = (0..).map(MachineId).zip(&self.driver.machines);
        let mut kept = machines.filter(|(machine, _)| !self.retired.contains(machine));
        kept.any(|(_, state)| state.spec.description.kind == MachineKind::Local)
    }

    /// Says what became of a job, for one who gets no more than what there is by now; `unfinished` is why.
    pub(crate) fn outcome(&self, job: JobId, unfinished: &str) -> Outcome {
        let failed = |cause, message: &str| Outcome::Failed(BuildFailure::new(cause, message));
        let Some(entry) = self.table.get(job) else {
            return failed(FailureCause::Other, "it depends on itself");
        };
        match &entry.progress {
            Progress::Built => {
                Outcome::Built { outputs: self.outputs_of(job), period: entry.period }
            }
            Progress::Failed(failure) if failure.cause != FailureCause::Dependency => {
                Outcome::Failed(failure.clone())
            }
            Progress::Failed(_) => Outcome::Failed(self.failed_dependencies(job)),
            // it was sent ahead, and its machine has not let go of it yet
            Progress::Open if self.driver.stops_for_dependency(job) => {
                Outcome::Failed(self.failed_dependencies(job))
            }
            // what is asked for is never let be; one that was is opened before
            Progress::Open | Progress::Unneeded => failed(FailureCause::Cancelled, unfinished),
        }
    }

    /// Says of a job that something it depends on failed, as Nix says it; what that was is told by
    /// then.
    pub(crate) fn failed_dependencies(&self, job: JobId) -> BuildFailure {
        let cause = FailureCause::Dependency;
        let Some(entry) = self.table.get(job) else {
            return BuildFailure::new(cause, "");
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
        BuildFailure { cause, message }
    }
}
