//! What builds for the clients of this process: the machines of `builders`, or those that a client
//! names in their place.
//!
//! Each list of other machines that clients bring has a scheduler of its own: its slots are counted over
//! all clients that bring the same list, and apart from those of the configured one. The daemon
//! takes such a list from trusted clients only; one that comes to the configured machines has their
//! scheduler. Who asks for no builds on this machine, or for none on others, shares the one scheduler
//! with everybody.
//!
//! What was built for somebody who asked for it is signed with the keys of `secret-key-files`.

mod crews;
mod hooked;
mod listed;
mod noting;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use async_trait::async_trait;
use drover_build_local::{LocalBuilder, PostBuildHook};
use drover_core::{SecretKey, StorePath};
use drover_derivation::BasicDerivation;
use drover_fleet::{BuildNumbers, Duty, Service, ServiceOptions, Shutdown};
use drover_store::{
    BuildMode, Keeper, MissingPaths, RealiseObserver, RealiseSettings, Realised, Realiser,
    StoreError, Substitute, Wanted,
};
use drover_store_local::LocalStore;

use self::hooked::{HookRuns, hook_of};
use self::listed::{machine_files, means_the_same};
use self::noting::note_outputs;
use super::ThisMachine;
use super::signer::Signer;
use super::stamps::Stamp;
use crate::after_build::BuiltElsewhere;
use crate::configuration::Configuration;
use crate::host::processors;
use crate::output_trust::service_options;
use crate::signing;

pub(super) use self::crews::Crew;

/// Lists of machines that are remembered while nobody uses them.
const IDLE_LISTS: usize = 8;

/// What builds for the clients of this process.
pub(super) struct Builds {
    machine: ThisMachine,
    askers: Askers,
    /// What is built for, where its files are at hand.
    store: Option<Arc<LocalStore>>,
    state: Mutex<State>,
    service: Arc<Service>,
    numbers: BuildNumbers,
    hooked: HookRuns,
    /// The files that the machines were read from, as they were.
    read: Mutex<Vec<Stamp>>,
}

/// Whose builds they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Askers {
    /// Clients of a daemon, who expect Nix's words on what this machine doesn't build itself.
    Clients,
    /// Hooks: what is built here is the business of the Nix that has started them.
    Hooks,
}

impl Askers {
    /// Returns how a service for their builds works.
    fn options(self, configuration: &Configuration) -> anyhow::Result<ServiceOptions> {
        let options = service_options(configuration)?;
        Ok(match self {
            Askers::Clients => options,
            Askers::Hooks => ServiceOptions { own_kind: None, ..options },
        })
    }
}

/// Has all services give their builds numbers that no other gives.
fn numbered(options: ServiceOptions, numbers: &BuildNumbers) -> ServiceOptions {
    ServiceOptions { numbers: numbers.clone(), ..options }
}

struct State {
    configuration: Arc<Configuration>,
    /// What is built is signed with these.
    keys: Arc<Vec<SecretKey>>,
    /// Builds on this machine.
    builder: Option<LocalBuilder>,
    /// What did so before a reload, and may still have builds.
    earlier: Vec<LocalBuilder>,
    /// By the value of `builders`.
    brought: BTreeMap<String, Arc<Service>>,
    /// What builds with lists that clients had brought, and that are no good any more.
    forgotten: Vec<Weak<Service>>,
    /// Machines that get nothing new.
    drained: BTreeSet<String>,
}

impl Builds {
    /// The store is what is built for, where its files are at hand; the builder builds on this machine, if
    /// anything does.
    pub(super) fn new(
        machine: &ThisMachine,
        askers: Askers,
        configuration: Arc<Configuration>,
        (store, builder): (Option<Arc<LocalStore>>, Option<LocalBuilder>),
    ) -> anyhow::Result<Builds> {
        let by = (store.as_ref(), builder.as_ref());
        let read = Mutex::new(machine_files(&configuration));
        let machines = machine.machines(&configuration, None, by)?;
        let numbers = BuildNumbers::default();
        let options = numbered(askers.options(&configuration)?, &numbers);
        let service = Arc::new(Service::new(machines, options));
        let keys =
            Arc::new(signing::keys(&configuration.settings.secret_key_files, &machine.terminal)?);
        let (brought, drained) = (BTreeMap::new(), BTreeSet::new());
        let (earlier, forgotten) = (Vec::new(), Vec::new());
        let state = State { configuration, keys, builder, earlier, brought, forgotten, drained };
        let (machine, state) = (machine.clone(), Mutex::new(state));
        let hooked = HookRuns::default();
        Ok(Builds { machine, askers, store, state, service, numbers, hooked, read })
    }

    /// Takes over other settings and machines. What is built goes on.
    pub(super) fn reload(
        &self,
        configuration: Arc<Configuration>,
        builder: Option<LocalBuilder>,
    ) -> anyhow::Result<()> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let now = machine_files(&configuration);
        let machines =
            self.machine.machines(&configuration, None, (self.store.as_ref(), builder.as_ref()))?;
        let keys = Arc::new(signing::keys(
            &configuration.settings.secret_key_files,
            &self.machine.terminal,
        )?);
        self.service.reload(machines, self.askers.options(&configuration)?);
        *read = now;
        let mut state = self.state();
        (state.configuration, state.keys) = (configuration, keys);
        let before = std::mem::replace(&mut state.builder, builder);
        state.earlier.extend(before);
        self.reload_brought(&mut state);
        state.earlier.retain(|builder| !builder.is_abandoned());
        Ok(())
    }

    /// Has the lists that clients brought read anew, with what they include. One that is no good any
    /// more is forgotten, and whoever brings it again is told why; what is built with it goes on.
    fn reload_brought(&self, state: &mut State) {
        let State { configuration, builder, brought, forgotten, .. } = state;
        forgotten.retain(|service| service.strong_count() > 0);
        brought.retain(|builders, service| {
            if means_the_same(configuration, builders) {
                forgotten.push(Arc::downgrade(service));
                return false;
            }
            let here = (self.store.as_ref(), builder.as_ref());
            let machines = self.machine.machines(configuration, Some(builders), here);
            let options = self.askers.options(configuration);
            let known = machines.and_then(|list| Ok((list, options?)));
            let reloaded = known.map(|(list, options)| service.reload(list, options));
            if reloaded.is_err() {
                forgotten.push(Arc::downgrade(service));
            }
            reloaded.is_ok()
        });
    }

    /// Ends all that is built; see [`Service::shutdown`].
    pub(super) async fn shutdown(&self, how: Shutdown) {
        let brought: Vec<Arc<Service>> = {
            let mut state = self.state();
            let forgotten = std::mem::take(&mut state.forgotten);
            let forgotten = forgotten.into_iter().filter_map(|service| service.upgrade());
            std::mem::take(&mut state.brought).into_values().chain(forgotten).collect()
        };
        self.service.shutdown(how).await;
        for service in brought {
            service.shutdown(how).await;
        }
        let builders: Vec<_> = {
            let state = self.state();
            state.earlier.iter().chain(&state.builder).cloned().collect()
        };
        for builder in builders {
            builder.ended().await;
        }
    }

    /// Returns what builds on the machines that are configured.
    pub(super) fn configured(&self) -> &Service {
        self.look_at_machines();
        &self.service
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what builds for a client with these settings, of which it takes out what says nothing.
    fn service(
        &self,
        store: &dyn Keeper,
        settings: &mut RealiseSettings,
    ) -> Result<Arc<Service>, StoreError> {
        self.look_at_machines();
        let configuration = Arc::clone(&self.state().configuration);
        // clients always send a number: this machine's own, or by older releases that of its
        // processors, where nobody has asked for one
        let usual = [configuration.settings.cores, processors().get()];
        if settings.build.cores.is_some_and(|cores| usual.contains(&cores)) {
            settings.build.cores = configuration.build_settings().cores;
        }
        let overrides = &settings.build.overrides;
        let mut state = self.state();
        let usual = &state.configuration.settings.builders;
        let builders = overrides.get("builders").unwrap_or(usual).clone();
        // who wants none of them has them left out by the one scheduler
        if builders == *usual || builders.trim().is_empty() {
            return Ok(Arc::clone(&self.service));
        }
        if let Some(service) = state.brought.get(&builders) {
            return Ok(Arc::clone(service));
        }
        if means_the_same(&state.configuration, &builders) {
            return Ok(Arc::clone(&self.service));
        }
        let here = (self.store.as_ref(), state.builder.as_ref());
        let machines = self.machine.machines(&state.configuration, Some(&builders), here);
        let options = self.askers.options(&state.configuration);
        let known = machines.and_then(|list| Ok((list, options?)));
        let (machines, options) =
            known.map_err(|error| StoreError::refused(store.name(), format!("{error:#}")))?;
        if state.brought.len() >= IDLE_LISTS {
            state.brought.retain(|_, service| Arc::strong_count(service) > 1);
        }
        let service = Arc::new(Service::new(machines, numbered(options, &self.numbers)));
        for machine in &state.drained {
            service.set_duty(machine, Duty::Draining);
        }
        state.brought.insert(builders, Arc::clone(&service));
        Ok(service)
    }
}

impl Builds {
    /// Returns the keys that a client wants its builds signed with: its own, if it is one who may say
    /// so, and otherwise those of the configuration.
    fn keys_for(
        &self,
        store: &dyn Keeper,
        settings: &RealiseSettings,
    ) -> Result<Arc<Vec<SecretKey>>, StoreError> {
        let Some(files) = settings.build.overrides.get("secret-key-files") else {
            return Ok(Arc::clone(&self.state().keys));
        };
        let files: Vec<PathBuf> = files.split_whitespace().map(PathBuf::from).collect();
        let keys = signing::keys(&files, &self.machine.terminal)
            .map_err(|error| StoreError::refused(store.name(), format!("{error:#}")))?;
        Ok(Arc::new(keys))
    }

    /// Returns the hook of a client.
    fn hook_for(
        &self,
        store: &dyn Keeper,
        settings: &RealiseSettings,
    ) -> Result<Option<PostBuildHook>, StoreError> {
        hook_of(&self.state().configuration.conf, store, settings)
    }
}

#[async_trait]
impl Realiser for Builds {
    async fn realise(
        &self,
        store: Arc<dyn Keeper>,
        wanted: Vec<Wanted>,
        mut settings: RealiseSettings,
        observer: Arc<dyn RealiseObserver>,
    ) -> Result<Vec<Realised>, StoreError> {
        let service = self.service(store.as_ref(), &mut settings)?;
        let keys = self.keys_for(store.as_ref(), &settings)?;
        let hook = self.hook_for(store.as_ref(), &settings)?;
        let asked = wanted.clone();
        let is_check = settings.mode == BuildMode::Check;
        let signer = Signer::of(&settings);
        let elsewhere = Arc::new(BuiltElsewhere::new(observer));
        let follower = Arc::clone(&elsewhere) as Arc<dyn RealiseObserver>;
        let mut realised = service.realise(Arc::clone(&store), wanted, settings, follower).await?;
        if is_check {
            // nothing has become valid by it
            return Ok(realised);
        }
        if self.state().configuration.settings.experimental_features.contains("ca-derivations") {
            note_outputs(store.as_ref(), &asked, &realised).await?;
        }
        signer.sign(store.as_ref(), &realised, &keys, &elsewhere).await?;
        for (asked, realised) in asked.iter().zip(&mut realised) {
            if let Wanted::AllOutputs(path) | Wanted::Outputs(path, _) = asked {
                self.hooked.run(hook.as_ref(), store.as_ref(), path, realised, &elsewhere).await;
            }
        }
        Ok(realised)
    }

    async fn build_derivation(
        &self,
        store: Arc<dyn Keeper>,
        derivation: (StorePath, BasicDerivation),
        mut settings: RealiseSettings,
        observer: Arc<dyn RealiseObserver>,
    ) -> Result<Realised, StoreError> {
        let service = self.service(store.as_ref(), &mut settings)?;
        let keys = self.keys_for(store.as_ref(), &settings)?;
        let hook = self.hook_for(store.as_ref(), &settings)?;
        let path = derivation.0.clone();
        let signer = Signer::of(&settings);
        let elsewhere = Arc::new(BuiltElsewhere::new(observer));
        let follower = Arc::clone(&elsewhere) as Arc<dyn RealiseObserver>;
        let building = service.build_derivation(Arc::clone(&store), derivation, settings, follower);
        let mut realised = building.await?;
        let built = std::slice::from_ref(&realised);
        signer.sign(store.as_ref(), built, &keys, &elsewhere).await?;
        self.hooked.run(hook.as_ref(), store.as_ref(), &path, &mut realised, &elsewhere).await;
        Ok(realised)
    }

    async fn missing(
        &self,
        store: Arc<dyn Keeper>,
        wanted: Vec<Wanted>,
        substitute: Substitute,
    ) -> Result<MissingPaths, StoreError> {
        self.service.missing(store, wanted, substitute).await
    }
}
