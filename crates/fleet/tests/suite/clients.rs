//! Clients of a service, over fake machines.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use drover_core::StorePath;
use drover_fleet::{Census, Service, ServiceOptions, Shutdown};
use drover_store::{
    AfterFailure, BuildMode, BuildSettings, RealiseEvent, RealiseObserver, RealiseSettings,
    RealiseStatus, Realised, Realiser, StoreError, Substitute, Wanted,
};
use tokio::task::JoinSet;

use crate::keeper::Kept;
use crate::machine::Machine;
use crate::world::{Drv, World};

/// After so much (paused) time a client is taken to hang.
const HANGS: Duration = Duration::from_secs(24 * 3600);

/// A service with its store.
pub(crate) struct Daemon {
    pub(crate) service: Arc<Service>,
    pub(crate) kept: Arc<Kept>,
}

/// What a client heard.
#[derive(Default)]
pub(crate) struct Heard(Mutex<Vec<RealiseEvent>>);

impl RealiseObserver for Heard {
    fn event(&self, event: RealiseEvent) {
        self.0.lock().unwrap().push(event);
    }
}

impl Heard {
    pub(crate) fn events(&self) -> Vec<RealiseEvent> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        let lines = self.events().into_iter().filter_map(|event| match event {
            RealiseEvent::Line { line, .. } => Some(line),
            _ => None,
        });
        lines.collect()
    }

    /// Asserts that what began ended, and nothing ended or spoke that had not begun.
    pub(crate) fn check(&self) {
        let mut running = BTreeSet::new();
        for event in self.events() {
            match &event {
                RealiseEvent::Started { derivation, .. } => {
                    assert!(running.insert(derivation.clone()), "{event:?} twice");
                }
                RealiseEvent::Line { derivation, .. } | RealiseEvent::Phase { derivation, .. } => {
                    assert!(running.contains(derivation), "{event:?} of nothing");
                }
                RealiseEvent::Ended { derivation } => {
                    assert!(running.remove(derivation), "{event:?} of nothing");
                }
                RealiseEvent::Waiting { .. }
                | RealiseEvent::Failed { .. }
                | RealiseEvent::Fetch(_)
                | RealiseEvent::Note(_) => {}
            }
        }
    }
}

pub(crate) fn settings(after_failure: AfterFailure) -> RealiseSettings {
    RealiseSettings {
        mode: BuildMode::Normal,
        after_failure,
        substitute: Substitute::No,
        build: BuildSettings::default(),
        client: None,
    }
}

pub(crate) type Answer = Result<Vec<Realised>, StoreError>;

impl Daemon {
    pub(crate) fn new(world: &World, machines: &[&Arc<Machine>]) -> Daemon {
        Daemon::with(world, machines, ServiceOptions::default())
    }

    pub(crate) fn with(
        world: &World,
        machines: &[&Arc<Machine>],
        options: ServiceOptions,
    ) -> Daemon {
        let specs = machines.iter().map(|machine| machine.spec(&world.recipes, &world.local));
        let service = Arc::new(Service::new(specs.collect(), options));
        Daemon { service, kept: Kept::new(&world.local) }
    }

    /// Asks for all outputs of derivations.
    pub(crate) async fn ask(&self, drvs: &[&Drv]) -> Vec<Realised> {
        self.ask_with(drvs, AfterFailure::Stop, Arc::default()).await.expect("the store is sound")
    }

    pub(crate) fn ask_with(
        &self,
        drvs: &[&Drv],
        after_failure: AfterFailure,
        heard: Arc<Heard>,
    ) -> impl Future<Output = Answer> + Send + 'static {
        self.ask_on(drvs, settings(after_failure), heard)
    }

    /// Asks for all outputs of derivations, with settings.
    pub(crate) fn ask_on(
        &self,
        drvs: &[&Drv],
        settings: RealiseSettings,
        heard: Arc<Heard>,
    ) -> impl Future<Output = Answer> + Send + 'static {
        let wanted = drvs.iter().map(|drv| Wanted::AllOutputs(drv.path.clone())).collect();
        let (service, view) = (Arc::clone(&self.service), self.kept.view());
        async move {
            let asking = service.realise(view, wanted, settings, heard);
            tokio::time::timeout(HANGS, asking).await.expect("it ends")
        }
    }

    /// Returns those of a derivation's outputs that are valid here.
    pub(crate) async fn valid_of(&self, drv: &Drv, outputs: &[&str]) -> Vec<StorePath> {
        let mut valid = Vec::new();
        for path in outputs.iter().map(|output| drv.output(output)) {
            if self.kept.is_valid(&path).await {
                valid.push(path);
            }
        }
        valid
    }

    /// Waits until nothing happens any more.
    pub(crate) async fn quiet(&self) -> Census {
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.service.census().await
    }

    /// Ends it, and asserts that nothing is left anywhere.
    pub(crate) async fn end(self, machines: &[&Arc<Machine>]) {
        let ending = self.service.shutdown(Shutdown::Drain);
        tokio::time::timeout(HANGS, ending).await.expect("it ends");
        for machine in machines {
            assert_eq!(machine.live_lanes(), 0, "lanes of {} are left", machine.name());
        }
    }
}

/// Several clients that ask at once.
#[derive(Default)]
pub(crate) struct Crowd(JoinSet<Answer>);

impl Crowd {
    pub(crate) fn add(
        &mut self,
        client: impl Future<Output = Answer> + Send + 'static,
    ) -> tokio::task::AbortHandle {
        self.0.spawn(client)
    }

    /// Returns the answers of those that were not dropped.
    pub(crate) async fn all(mut self) -> Vec<Vec<Realised>> {
        let mut answers = Vec::new();
        while let Some(answer) = self.0.join_next().await {
            match answer {
                Ok(answer) => answers.push(answer.expect("the store is sound")),
                Err(error) => assert!(error.is_cancelled(), "{error}"),
            }
        }
        answers
    }
}

#[track_caller]
pub(crate) fn built(answers: &[Realised]) {
    for answer in answers {
        assert_eq!(answer.status, RealiseStatus::Built, "{answer:?}");
    }
}
