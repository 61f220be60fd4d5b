//! What becomes of jobs in the end, and what is reported of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use drover_core::StorePath;
use drover_derivation::{Derivation, DerivationKind};
use drover_schedule::{Afterwards, JobId, JobStatus, MachineId, Outcome, Reason, Reasons, Verdict};
use drover_store::{BuildFailure, FailureCause};

use crate::driver::{Driver, JobPhase};
use crate::event::{FleetEvent, JobFailureReport, MachineTotals};
use crate::fleet::{Report, TargetResult};
use crate::graph::NodeId;
use crate::machine_state::MachineState;

/// What stands above the reasons of the machines where none of them could build something.
pub const NO_MACHINE: &str = "no machine could build it";

impl Driver {
    /// Keeps what is known of a failure until the scheduler has its verdict.
    pub(crate) fn report(
        &mut self,
        machine: MachineId,
        job: JobId,
        failure: BuildFailure,
        log_tail: Vec<String>,
    ) {
        let Some(state) = self.jobs.get(job.0 as usize) else { return };
        let derivation = state.plan.path.clone();
        let machine = Some(self.shared.name_of(machine));
        let BuildFailure { cause, message } = failure;
        let report = JobFailureReport { derivation, cause, machine, message, log_tail };
        self.reports.insert(job, report);
    }

    /// Whether a machine is the one that this runs on, and there is no other.
    pub(crate) fn is_alone_here(&self, machine: MachineId) -> bool {
        self.shared.local_machine() == Some(machine) && self.machines.len() == 1
    }

    /// Takes note of a verdict.
    pub(crate) fn decided(&mut self, job: JobId, verdict: Verdict) {
        self.news.push((job, verdict.clone()));
        let Some(state) = self.jobs.get(job.0 as usize) else { return };
        let (node, derivation) = (state.plan.node, state.plan.path.clone());
        let known = self.reports.remove(&job);
        let report = |cause, message| JobFailureReport {
            derivation,
            cause,
            machine: None,
            message,
            log_tail: Vec::new(),
        };
        let nowhere = without_machine(&verdict);
        let phase = match verdict {
            Verdict::Built => JobPhase::Built,
            Verdict::Unneeded => JobPhase::Unneeded,
            Verdict::Failed => {
                let known = known.unwrap_or_else(|| report(FailureCause::Build, String::new()));
                JobPhase::Failed(Box::new(known))
            }
            Verdict::DependencyFailed { because } => {
                let cause = self.jobs.get(because.0 as usize).map(|state| state.plan.path.clone());
                let message = dependency_text(cause);
                JobPhase::Failed(Box::new(report(FailureCause::Dependency, message)))
            }
            Verdict::Impossible { reasons } | Verdict::NoMachineLeft { reasons } => {
                let message = self.reasons_text(&reasons);
                JobPhase::Failed(Box::new(match known {
                    // it failed, and could not be tried once more
                    Some(known) => {
                        let message = format!("{}\n{message}", known.message);
                        JobFailureReport { message, ..known }
                    }
                    None => report(nowhere, message),
                }))
            }
            Verdict::Cancelled => {
                let message = "cancelled because another build failed".to_owned();
                // one that could not even begin was cancelled for a reason of its own
                let own = known.filter(|known| known.cause == FailureCause::NotFetched);
                let own = own.unwrap_or_else(|| report(FailureCause::Cancelled, message));
                JobPhase::Failed(Box::new(own))
            }
        };
        self.tell_end(node, &phase);
        if let Some(state) = self.jobs.get_mut(job.0 as usize) {
            state.state = phase;
        }
    }

    /// Tells that a job ended in another way than by being built.
    fn tell_end(&self, node: NodeId, phase: &JobPhase) {
        let event = match phase {
            JobPhase::Failed(failure) => FleetEvent::Failed { node, failure: failure.clone() },
            JobPhase::Unneeded => FleetEvent::Unneeded { node },
            _ => return,
        };
        self.shared.observer.event(event);
    }

    fn reasons_text(&self, reasons: &Reasons) -> String {
        if reasons.is_empty() {
            return "no machine is configured that could build it: give one with --builders, or \
                    allow local builds with --max-jobs"
                .to_owned();
        }
        let lines: Vec<String> = reasons
            .iter()
            .map(|(machine, reason)| {
                format!("{}: {}", self.shared.name_of(*machine), in_one_line(reason))
            })
            .collect();
        format!("{NO_MACHINE}\n{}", lines.join("\n"))
    }

    pub(crate) fn into_report(mut self, targets: Vec<TargetResult>, took: Duration) -> Report {
        let mut failures = Vec::new();
        let (mut built, mut found) = (0, 0);
        for (id, job) in (0..).map(JobId).zip(std::mem::take(&mut self.jobs)) {
            match job.state {
                JobPhase::Built if self.found.contains(&id) => found += 1,
                JobPhase::Built => built += 1,
                JobPhase::Failed(failure) if !failure.cause.is_consequence() => {
                    failures.push(*failure)
                }
                _ => {}
            }
        }
        let totals = |(machine, state): (MachineId, &MachineState)| {
            let traffic = self.shared.traffic(self.shared.place_of(machine));
            let local = self.shared.local_machine() == Some(machine);
            let count = |bytes: &AtomicU64| match local {
                true => 0,
                false => bytes.load(Ordering::Relaxed),
            };
            MachineTotals {
                machine: self.shared.name_of(machine),
                builds: state.builds,
                failures: state.failures,
                bytes_up: count(&traffic.up),
                bytes_down: count(&traffic.down),
                busy: state.busy,
            }
        };
        let machines = (0..).map(MachineId).zip(&self.machines).map(totals).collect();
        Report { targets, failures, machines, built, found, took }
    }
}

/// Returns a machine's reason as one line among those of others. What Nix says of a build that it refuses has several,
/// of which the first only names the derivation.
fn in_one_line(reason: &Reason) -> String {
    let Reason::FailedThere { cause } = reason else { return reason.when_over() };
    let cause = match cause.split_once("\nReason: ") {
        Some((named, why)) if !named.contains('\n') => why,
        _ => cause,
    };
    let lines = cause.lines().map(str::trim).filter(|line| !line.is_empty());
    let cause = lines.collect::<Vec<_>>().join("; ");
    Reason::FailedThere { cause }.when_over()
}

/// Says why no machine has built it.
fn without_machine(verdict: &Verdict) -> FailureCause {
    match verdict {
        Verdict::Impossible { .. } => FailureCause::Unsuited,
        _ => FailureCause::NoMachine,
    }
}

/// Says why a build failed, as Nix does: what had the network may come to another end next time.
pub(crate) fn lasting(cause: FailureCause, derivation: &Derivation) -> FailureCause {
    match (cause, derivation.kind()) {
        (FailureCause::Build, Ok(DerivationKind::Fixed | DerivationKind::Impure)) => {
            FailureCause::Passing
        }
        (cause, _) => cause,
    }
}

fn dependency_text(cause: Option<StorePath>) -> String {
    match cause {
        Some(cause) => format!("it depends on '{cause}', which was not built"),
        None => "something that it depends on was not built".to_owned(),
    }
}

/// What becomes of a job whose outputs are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Renewal {
    /// Its verdict will come, by itself or as it's built once more.
    Awaited,
    /// It won't be built, and nothing more will be heard of it.
    Cancelled,
}

/// Whether a job is being stopped because something it depends on failed.
pub(crate) fn stops_for_dependency(status: &JobStatus) -> bool {
    matches!(
        status,
        JobStatus::Stopping { then: Afterwards::End(Outcome::DependencyFailed { .. }), .. }
    )
}

/// Says what becomes of a job that had been built and is wanted again, from what the scheduler says of it.
pub(crate) fn renewal(status: Option<&JobStatus>) -> Renewal {
    match status {
        None => Renewal::Cancelled,
        Some(JobStatus::Stopping { then: Afterwards::End(Outcome::Cancelled), .. }) => {
            Renewal::Cancelled
        }
        // it goes elsewhere, or what it needs has failed, which is told when it has stopped
        Some(JobStatus::Stopping { then: Afterwards::Again | Afterwards::End(_), .. }) => {
            Renewal::Awaited
        }
        Some(JobStatus::Done(Outcome::Built | Outcome::Unneeded)) => Renewal::Awaited,
        Some(JobStatus::Done(_)) => Renewal::Cancelled,
        Some(
            JobStatus::Waiting { .. }
            | JobStatus::Ready
            | JobStatus::Queued { .. }
            | JobStatus::Running { .. },
        ) => Renewal::Awaited,
    }
}

#[cfg(test)]
mod tests {
    use drover_schedule::Lane;

    use super::*;

    /// Recorded from Nix 2.34 and 2.26.
    #[test]
    fn what_a_machine_said_is_one_line() {
        let told = |cause: &str| in_one_line(&Reason::FailedThere { cause: cause.to_owned() });
        let there = "the job was tried there already: ";
        let refused = "Cannot build '/nix/store/x.drv'.\nReason: missing system features\n\
                       Required features: {kvm}\nAvailable features: {}";
        let expected = "missing system features; Required features: {kvm}; Available features: {}";
        assert_eq!(told(refused), format!("{there}{expected}"));
        let required = "a 'x86_64-linux' with features {kvm} is required to build 'x'";
        assert_eq!(told(required), format!("{there}{required}"));
    }

    #[test]
    fn what_stops_is_given_up_only_where_it_was_cancelled() {
        let lane = Lane { machine: MachineId(0), index: 0 };
        let stopping = |then| renewal(Some(&JobStatus::Stopping { lane, then }));
        let because = JobId(1);
        assert_eq!(stopping(Afterwards::Again), Renewal::Awaited);
        let failed = Outcome::DependencyFailed { because };
        assert_eq!(stopping(Afterwards::End(failed)), Renewal::Awaited);
        assert_eq!(stopping(Afterwards::End(Outcome::Cancelled)), Renewal::Cancelled);
        let done = |outcome| renewal(Some(&JobStatus::Done(outcome)));
        assert_eq!(done(Outcome::Built), Renewal::Awaited);
        assert_eq!(done(failed), Renewal::Cancelled);
        assert_eq!(renewal(None), Renewal::Cancelled);
    }
}
