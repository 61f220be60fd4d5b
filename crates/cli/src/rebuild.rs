//! `drover build --rebuild`: what is valid is built once more on this machine, and compared.
//!
//! Nothing of that is distributed, as in Nix. Where drover has opened the store itself it builds, else
//! the daemon does that keeps the store.

use std::sync::Arc;
use std::time::Instant;

use drover_fleet::{
    FleetEvent, Graph, JobFailureReport, NodeId, Observer, Report, Service, ServiceOptions,
    Shutdown, Target, TargetResult,
};
use drover_store::{
    AfterFailure, BuildMode, BuildSettings, FailureCause, Keeper, RealiseEvent, RealiseObserver,
    RealiseSettings, RealiseStatus, Realised, Realiser, Substitute, Wanted,
};

use crate::builders::{LOCAL, MachineList};
use crate::configuration::Configuration;
use crate::connector::Connector;
use crate::local_store::LocalStore;

/// Who builds once more, and with which settings.
pub(crate) struct Rebuilder {
    by: By,
    settings: BuildSettings,
}

enum By {
    /// This program.
    Own(Box<Service>),
    /// The daemon that keeps the store.
    Daemon(Arc<dyn Realiser>),
}

impl Rebuilder {
    pub(crate) fn own(machines: &MachineList, configuration: &Configuration) -> Rebuilder {
        let service = Service::new(machines.machines.clone(), ServiceOptions::default());
        Rebuilder { by: By::Own(Box::new(service)), settings: configuration.build_settings() }
    }

    pub(crate) fn daemon(
        configuration: &Configuration,
        connector: &Connector,
        local: &LocalStore,
    ) -> Rebuilder {
        let settings = configuration.client_settings();
        let store = connector.open_local(local, &settings);
        Rebuilder { by: By::Daemon(Arc::new(store.realiser())), settings }
    }

    /// Ends what it has begun.
    pub(crate) async fn end(&self) {
        if let By::Own(service) = &self.by {
            service.shutdown(Shutdown::Cancel).await;
        }
    }

    fn realiser(&self) -> &dyn Realiser {
        match &self.by {
            By::Own(service) => &**service,
            By::Daemon(realiser) => &**realiser,
        }
    }
}

/// What is to be built once more.
pub(crate) struct Rebuild<'a> {
    pub(crate) rebuilder: &'a Rebuilder,
    pub(crate) store: Arc<dyn Keeper>,
    pub(crate) graph: Arc<Graph>,
    pub(crate) targets: &'a [Target],
    pub(crate) substitute: Substitute,
    pub(crate) keep_going: AfterFailure,
}

impl Rebuild<'_> {
    /// Builds and compares; what differs is a failure in the report.
    ///
    /// # Errors
    ///
    /// The store; and what couldn't be compared, as it's not valid.
    pub(crate) async fn run(&self, observer: Arc<dyn Observer>) -> anyhow::Result<Report> {
        let began = Instant::now();
        observer.event(FleetEvent::Planned {
            to_build: self.targets.len(),
            to_substitute: 0,
            in_graph: self.graph.len(),
        });
        let wanted = self.targets.iter().map(wanted).collect();
        let settings = RealiseSettings {
            mode: BuildMode::Check,
            after_failure: self.keep_going,
            substitute: self.substitute,
            build: self.rebuilder.settings.clone(),
            client: None,
        };
        let shower = Arc::new(Shower { graph: Arc::clone(&self.graph), to: Arc::clone(&observer) });
        let realiser = self.rebuilder.realiser();
        let store = Arc::clone(&self.store);
        let realised = realiser.realise(store, wanted, settings, shower.clone()).await?;
        let mut targets = Vec::new();
        let (mut failures, mut built) = (Vec::new(), 0);
        let mut refused = Vec::new();
        for (target, realised) in self.targets.iter().zip(realised) {
            let outcome = match outcome(target, realised) {
                Ok(outcome) => outcome,
                Err(error) => {
                    refused.push(error);
                    continue;
                }
            };
            let node = self.graph.find(&target.derivation).unwrap_or(NodeId(0));
            match &outcome {
                Ok(_) => {
                    built += 1;
                    let (machine, took) = (LOCAL.to_owned(), began.elapsed());
                    observer.event(FleetEvent::Built { node, machine, took, bytes: 0 });
                }
                Err(failure) => {
                    observer.event(FleetEvent::Failed { node, failure: failure.clone() });
                    failures.push((**failure).clone());
                }
            }
            targets.push(TargetResult { target: target.clone(), outcome });
        }
        tell_of_refused(refused, &failures, &*observer)?;
        let took = began.elapsed();
        Ok(Report { targets, failures, machines: Vec::new(), built, found: 0, took })
    }
}

/// Tells of targets that could not be built again, where others could: what became of those counts more.
fn tell_of_refused(
    refused: Vec<anyhow::Error>,
    failures: &[JobFailureReport],
    observer: &dyn Observer,
) -> anyhow::Result<()> {
    for error in refused {
        if failures.is_empty() {
            return Err(error);
        }
        observer.event(FleetEvent::Note(format!("error: {error:#}")));
    }
    Ok(())
}

fn wanted(target: &Target) -> Wanted {
    let names = target.outputs.iter().map(ToString::to_string);
    match target.outputs.is_empty() {
        true => Wanted::AllOutputs(target.derivation.clone()),
        false => Wanted::Outputs(target.derivation.clone(), names.collect()),
    }
}

type Outcome = Result<
    std::collections::BTreeMap<drover_core::OutputName, drover_core::StorePath>,
    Box<JobFailureReport>,
>;

/// Returns what became of a target; what isn't a build's doing is an error.
fn outcome(target: &Target, realised: Realised) -> anyhow::Result<Outcome> {
    let Realised { status, message, outputs, .. } = realised;
    let cause = match status {
        RealiseStatus::Built | RealiseStatus::Substituted | RealiseStatus::AlreadyValid => {
            let named = outputs.into_iter().map(|(name, path)| anyhow::Ok((name.parse()?, path)));
            return Ok(Ok(named.collect::<anyhow::Result<_>>()?));
        }
        // what failed is told nowhere else
        RealiseStatus::Failed(FailureCause::Build | FailureCause::Dependency) => {
            FailureCause::Build
        }
        RealiseStatus::Failed(
            cause @ (FailureCause::HashMismatch
            | FailureCause::Rejected
            | FailureCause::TimedOut
            | FailureCause::LogLimit
            | FailureCause::NotDeterministic
            | FailureCause::Cancelled),
        ) => cause,
        RealiseStatus::Failed(_) => anyhow::bail!(message),
    };
    let (derivation, machine) = (target.derivation.clone(), Some(LOCAL.to_owned()));
    let log_tail = Vec::new();
    Ok(Err(Box::new(JobFailureReport { derivation, cause, machine, message, log_tail })))
}

/// Shows what happens in the way in which a run of builds is shown.
struct Shower {
    graph: Arc<Graph>,
    to: Arc<dyn Observer>,
}

impl RealiseObserver for Shower {
    fn event(&self, event: RealiseEvent) {
        let node = |derivation| self.graph.find(derivation);
        let told = match event {
            RealiseEvent::Started { derivation, machine } => node(&derivation).map(|node| {
                let machine = if machine.is_empty() { LOCAL.to_owned() } else { machine };
                FleetEvent::Building { node, machine }
            }),
            RealiseEvent::Line { derivation, line } => {
                node(&derivation).map(|node| FleetEvent::LogLine { node, line })
            }
            RealiseEvent::Phase { derivation, phase } => {
                node(&derivation).map(|node| FleetEvent::Phase { node, phase })
            }
            RealiseEvent::Note(text) => Some(FleetEvent::Note(text)),
            RealiseEvent::Waiting { .. }
            | RealiseEvent::Fetch(_)
            | RealiseEvent::Ended { .. }
            | RealiseEvent::Failed { .. } => None,
        };
        if let Some(event) = told {
            self.to.event(event);
        }
    }
}
