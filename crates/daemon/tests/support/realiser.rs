//! Builds by script: the output is a file with the derivation's `text`; `fail` and `hang` do so.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use drover_core::StorePath;
use drover_derivation::{BasicDerivation, Derivation, derivation_name};
use drover_store::contract::{Given, flat_file};
use drover_store::{
    FailureCause, Keeper, MissingPaths, RealiseEvent, RealiseObserver, RealiseSettings,
    RealiseStatus, Realised, Realiser, SignatureCheck, StoreError, Substitute, Wanted, WhenValid,
};

#[derive(Default)]
pub struct Scripted {
    /// Builds that run now.
    pub running: Arc<AtomicUsize>,
    /// The settings of the last request.
    pub settings: Mutex<Option<RealiseSettings>>,
    /// The derivations that were to be built, as they were named.
    pub built: Mutex<Vec<StorePath>>,
}

struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn ended(status: RealiseStatus, message: &str) -> Realised {
    let (message, outputs) = (message.to_owned(), BTreeMap::new());
    Realised { status, message, outputs, period: None }
}

impl Scripted {
    fn variable(derivation: &BasicDerivation, name: &str) -> Option<String> {
        derivation.environment.get(name).map(|value| String::from_utf8_lossy(value).into_owned())
    }

    async fn build(
        &self,
        store: &Arc<dyn Keeper>,
        path: &StorePath,
        derivation: &BasicDerivation,
        observer: &dyn RealiseObserver,
    ) -> Result<Realised, StoreError> {
        self.running.fetch_add(1, Ordering::SeqCst);
        let _running = Running(Arc::clone(&self.running));
        self.built.lock().expect("no panic").push(path.clone());
        let told = || path.clone();
        let reason = Self::variable(derivation, "waits").unwrap_or_default();
        observer.event(RealiseEvent::Waiting { derivation: told(), reason });
        observer.event(RealiseEvent::Started { derivation: told(), machine: "ssh://b1".into() });
        observer.event(RealiseEvent::Phase { derivation: told(), phase: "buildPhase".into() });
        observer.event(RealiseEvent::Line { derivation: told(), line: "hello from b1".into() });
        if let Some(lines) = Self::variable(derivation, "lines") {
            for number in 0..lines.parse::<u64>().expect("a number") {
                let line = format!("line {number} {}", "x".repeat(100));
                observer.event(RealiseEvent::Line { derivation: told(), line });
            }
        }
        if Self::variable(derivation, "hang").is_some() {
            std::future::pending::<()>().await;
        }
        if Self::variable(derivation, "fail").is_some() {
            observer.event(RealiseEvent::Ended { derivation: told() });
            let path = store.store_dir().display(path);
            let message = format!("builder for '{path}' failed with exit code 1");
            return Ok(ended(RealiseStatus::Failed(FailureCause::Build), &message));
        }
        let text = Self::variable(derivation, "text").unwrap_or_default();
        let mut outputs = BTreeMap::new();
        for (name, output) in &derivation.outputs {
            let output = output.path().expect("a known path").clone();
            let (mut info, nar) = flat_file(output.name(), text.as_bytes(), &[]);
            info.path = output.clone();
            info.deriver = Some(path.clone());
            let given = Given::boxed([(info, nar)]);
            store.add_paths(given, SignatureCheck::Skip, WhenValid::Keep).await?;
            outputs.insert(name.to_string(), output);
        }
        observer.event(RealiseEvent::Ended { derivation: told() });
        Ok(Realised { outputs, ..ended(RealiseStatus::Built, "") })
    }
}

#[async_trait]
impl Realiser for Scripted {
    async fn realise(
        &self,
        store: Arc<dyn Keeper>,
        wanted: Vec<Wanted>,
        settings: RealiseSettings,
        observer: Arc<dyn RealiseObserver>,
    ) -> Result<Vec<Realised>, StoreError> {
        *self.settings.lock().expect("no panic") = Some(settings);
        let mut realised = Vec::new();
        for wanted in wanted {
            realised.push(match wanted {
                Wanted::Path(path) => match store.ensure(&path, Substitute::Yes).await {
                    Ok(()) => ended(RealiseStatus::AlreadyValid, ""),
                    Err(error) => ended(
                        RealiseStatus::Failed(FailureCause::NoSubstituters),
                        &error.to_string(),
                    ),
                },
                Wanted::AllOutputs(path) | Wanted::Outputs(path, _) => {
                    let files = store.read_files(std::slice::from_ref(&path)).await?;
                    let name = derivation_name(&path).expect("a derivation");
                    let derivation = Derivation::parse_aterm(store.store_dir(), &name, &files[0])
                        .expect("a good derivation");
                    self.build(&store, &path, &derivation, &*observer).await?
                }
            });
        }
        Ok(realised)
    }

    async fn build_derivation(
        &self,
        store: Arc<dyn Keeper>,
        (path, derivation): (StorePath, BasicDerivation),
        settings: RealiseSettings,
        observer: Arc<dyn RealiseObserver>,
    ) -> Result<Realised, StoreError> {
        *self.settings.lock().expect("no panic") = Some(settings);
        self.build(&store, &path, &derivation, &*observer).await
    }

    async fn missing(
        &self,
        store: Arc<dyn Keeper>,
        wanted: Vec<Wanted>,
        _: Substitute,
    ) -> Result<MissingPaths, StoreError> {
        let mut missing = MissingPaths::default();
        for wanted in wanted {
            match wanted {
                Wanted::Path(path) => {
                    if store.path_infos(std::slice::from_ref(&path)).await?[0].is_none() {
                        missing.unknown.insert(path);
                    }
                }
                Wanted::AllOutputs(path) | Wanted::Outputs(path, _) => {
                    missing.build.insert(path);
                }
            }
        }
        Ok(missing)
    }
}
