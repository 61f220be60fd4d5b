//! What builds for the clients of this process: the machines of `builders`, or those that a client
//! names in their place.
//!
//! Each list of machines that clients bring has a scheduler of its own: its slots are counted over
//! all clients that bring the same list, and apart from those of the configured one. The daemon
//! takes such a list from trusted clients only; everybody may bring the empty one.
//!
//! What was built for somebody who asked for it is signed with the keys of `secret-key-files`.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use drover_build_local::LocalBuilder;
use drover_core::{DrvOutput, Realisation, SecretKey, StorePath};
use drover_derivation::{BasicDerivation, Derivation, DerivationKind, derivation_name};
use drover_fleet::{Service, ServiceOptions, Shutdown};
use drover_store::{
    Keeper, MissingPaths, RealiseEvent, RealiseMode, RealiseObserver, RealiseSettings,
    RealiseStatus, Realised, Realiser, SignatureCheck, StoreError, Substitute, Wanted,
};
use drover_store_local::LocalStore;
use tokio::sync::OnceCell;

use super::ThisMachine;
use crate::after_build::{self, BuiltElsewhere};
use crate::configuration::Configuration;
use crate::host::processors;
use crate::{own_builder, signing};

/// Lists of machines that are remembered while nobody uses them.
const IDLE_LISTS: usize = 8;

/// Builds that are remembered as those that the hook has run for.
const HOOKED: usize = 1024;

/// What builds for the clients of this process.
pub(super) struct Builds {
    machine: ThisMachine,
    state: Mutex<State>,
    service: Arc<Service>,
}

/// A build: of which derivation, and when.
type Hooked = (StorePath, Option<(SystemTime, SystemTime)>);

/// A run of the hook for a build, with what went wrong with it, if anything did.
type HookRun = OnceCell<Result<(), String>>;

struct State {
    configuration: Arc<Configuration>,
    /// What is built is signed with these.
    keys: Arc<Vec<SecretKey>>,
    /// Builds on this machine.
    builder: Option<LocalBuilder>,
    /// What other machines have built and the hook has run for, and when it was built: the latest.
    hooked: VecDeque<(Hooked, Arc<HookRun>)>,
    /// By the value of `builders`, and whether this machine is meant, too.
    brought: BTreeMap<(String, Here), Arc<Service>>,
}

/// Whether a client has something built on this machine, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Here {
    Builds,
    /// It has asked for no builds here (`max-jobs = 0`).
    No,
}

impl Builds {
    pub(super) fn new(
        machine: &ThisMachine,
        configuration: Arc<Configuration>,
        store: &Arc<LocalStore>,
    ) -> anyhow::Result<Builds> {
        let builder = machine.builder(&configuration, store)?;
        let machines = machine.machines(&configuration, None, builder.as_ref())?;
        let service = Arc::new(Service::new(machines, ServiceOptions::default()));
        let keys =
            Arc::new(signing::keys(&configuration.settings.secret_key_files, &machine.terminal)?);
        let (brought, hooked) = (BTreeMap::new(), VecDeque::new());
        let state = Mutex::new(State { configuration, keys, builder, hooked, brought });
        Ok(Builds { machine: machine.clone(), state, service })
    }

    /// Takes over other settings and machines. What is built goes on.
    pub(super) fn reload(
        &self,
        configuration: Arc<Configuration>,
        store: &Arc<LocalStore>,
    ) -> anyhow::Result<()> {
        let builder = self.machine.builder(&configuration, store)?;
        let machines = self.machine.machines(&configuration, None, builder.as_ref())?;
        let keys = Arc::new(signing::keys(
            &configuration.settings.secret_key_files,
            &self.machine.terminal,
        )?);
        self.service.reload(machines, ServiceOptions::default());
        let mut state = self.state();
        (state.configuration, state.keys) = (configuration, keys);
        state.builder = builder;
        self.reload_brought(&mut state);
        Ok(())
    }

    /// Has the lists that clients brought read anew, with what they include. One that is no good any
    /// more is forgotten, and whoever brings it again is told why.
    fn reload_brought(&self, state: &mut State) {
        let State { configuration, builder, brought, .. } = state;
        let usual = &configuration.settings.builders;
        brought.retain(|(builders, here), service| {
            let builder = builder.as_ref().filter(|_| *here == Here::Builds);
            let given = Some(builders.as_str()).filter(|given| given != usual);
            let machines = self.machine.machines(configuration, given, builder);
            machines.map(|list| service.reload(list, ServiceOptions::default())).is_ok()
        });
    }

    /// Ends all that is built; see [`Service::shutdown`].
    pub(super) async fn shutdown(&self, how: Shutdown) {
        let brought = std::mem::take(&mut self.state().brought);
        self.service.shutdown(how).await;
        for service in brought.into_values() {
            service.shutdown(how).await;
        }
        let builder = self.state().builder.clone();
        if let Some(builder) = builder {
            builder.ended().await;
        }
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
        let configuration = Arc::clone(&self.state().configuration);
        // clients always send a number: this machine's own, or by older releases that of its
        // processors, where nobody has asked for one
        let usual = [configuration.settings.cores, processors().get()];
        if settings.build.cores.is_some_and(|cores| usual.contains(&cores)) {
            settings.build.cores = configuration.build_settings().cores;
        }
        let overrides = &settings.build.overrides;
        let here = match overrides.get("max-jobs").map(String::as_str) {
            Some("0") => Here::No,
            _ => Here::Builds,
        };
        let mut state = self.state();
        let usual = &state.configuration.settings.builders;
        let builders = overrides.get("builders").unwrap_or(usual).clone();
        let builds_here = state.builder.is_some();
        if builders == *usual && (here == Here::Builds || !builds_here) {
            return Ok(Arc::clone(&self.service));
        }
        let key = (builders, here);
        if let Some(service) = state.brought.get(&key) {
            return Ok(Arc::clone(service));
        }
        let builder = state.builder.as_ref().filter(|_| here == Here::Builds);
        let given = Some(key.0.as_str()).filter(|given| given != usual);
        let machines = self.machine.machines(&state.configuration, given, builder);
        let machines = machines.map_err(|error| StoreError::Refused {
            store: store.name().to_owned(),
            message: format!("{error:#}"),
        })?;
        if state.brought.len() >= IDLE_LISTS {
            state.brought.retain(|_, service| Arc::strong_count(service) > 1);
        }
        let service = Arc::new(Service::new(machines, ServiceOptions::default()));
        state.brought.insert(key, Arc::clone(&service));
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
        let keys = signing::keys(&files, &self.machine.terminal).map_err(|error| {
            StoreError::Refused { store: store.name().to_owned(), message: format!("{error:#}") }
        })?;
        Ok(Arc::new(keys))
    }

    /// Runs the post-build hook for what another machine has built, once for all clients that have
    /// waited for it. Where the hook fails, so does the build for this client, as in Nix.
    async fn run_hook(
        &self,
        store: &dyn Keeper,
        derivation: &StorePath,
        realised: &mut Realised,
        elsewhere: &BuiltElsewhere<dyn RealiseObserver, StorePath>,
    ) -> Result<(), StoreError> {
        if realised.status != RealiseStatus::Built || !elsewhere.has_seen(derivation) {
            return Ok(());
        }
        let (hook, ran) = {
            let mut state = self.state();
            let key = (derivation.clone(), realised.period);
            let known = state.hooked.iter().find(|(known, _)| *known == key);
            let ran = match known {
                Some((_, ran)) => Arc::clone(ran),
                None => {
                    let ran = Arc::new(OnceCell::new());
                    state.hooked.push_back((key, Arc::clone(&ran)));
                    ran
                }
            };
            if HOOKED < state.hooked.len() {
                state.hooked.pop_front();
            }
            (own_builder::post_build_hook(&state.configuration.conf), ran)
        };
        let hook = hook.map_err(|error| StoreError::Refused {
            store: store.name().to_owned(),
            message: format!("{error:#}"),
        })?;
        let Some(hook) = hook else { return Ok(()) };
        let outputs = realised.outputs.values().cloned().collect();
        let tell = |line| elsewhere.event(RealiseEvent::Note(line));
        // who comes second waits for it, and runs it where the first has left meanwhile
        let run = || after_build::run(&hook, store, derivation, &outputs, tell);
        if let Err(message) = ran.get_or_init(run).await {
            (realised.status, realised.message) =
                (RealiseStatus::PermanentFailure, message.clone());
        }
        Ok(())
    }

    /// Signs what was built, in the store where it is valid now.
    async fn sign(
        &self,
        store: &dyn Keeper,
        realised: &[Realised],
        keys: &[SecretKey],
    ) -> Result<(), StoreError> {
        let built = realised.iter().filter(|each| each.status == RealiseStatus::Built);
        let paths: Vec<StorePath> = built.flat_map(|each| each.outputs.values().cloned()).collect();
        if keys.is_empty() || paths.is_empty() {
            return Ok(());
        }
        for info in store.path_infos(&paths).await?.into_iter().flatten() {
            let fingerprint = info.fingerprint(store.store_dir());
            let signatures = keys.iter().map(|key| key.sign(&fingerprint)).collect();
            store.add_signatures(&info.path, &signatures).await?;
        }
        Ok(())
    }
}

/// Notes what the outputs of derivations are, where floating ones are in use: a client with
/// `ca-derivations` asks for that of every derivation, be its outputs' paths known from the beginning
/// or not, and ends with an assertion where it gets no answer.
///
/// Follows `registerOutputs` in `src/libstore/unix/build/derivation-builder.cc` of Nix.
async fn note_outputs(
    store: &dyn Keeper,
    wanted: &[Wanted],
    realised: &[Realised],
) -> Result<(), StoreError> {
    for (wanted, realised) in wanted.iter().zip(realised) {
        let (Wanted::AllOutputs(path) | Wanted::Outputs(path, _)) = wanted else { continue };
        if !realised.status.is_success() || is_impure(store, path).await? {
            continue;
        }
        let hash = store.realisation_hash(path).await?;
        for (name, out_path) in &realised.outputs {
            let Ok(output) = name.parse() else { continue };
            let id = DrvOutput { hash: hash.clone(), output };
            if store.realisation(&id).await?.is_none() {
                let (out_path, signatures) = (out_path.clone(), Default::default());
                let realisation = Realisation { id, out_path, signatures };
                store.register_realisation(&realisation, SignatureCheck::Skip).await?;
            }
        }
    }
    Ok(())
}

/// Whether a derivation's outputs are others each time. One that can't be read has none to note.
async fn is_impure(store: &dyn Keeper, path: &StorePath) -> Result<bool, StoreError> {
    let Some(name) = derivation_name(path) else { return Ok(true) };
    let files = store.read_files(std::slice::from_ref(path)).await?;
    let parsed = files.iter().map(|file| {
        let derivation = Derivation::parse_aterm(store.store_dir(), &name, file).ok()?;
        derivation.kind().ok()
    });
    Ok(parsed.flatten().all(|kind| kind == DerivationKind::Impure))
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
        let asked = wanted.clone();
        let is_check = settings.mode == RealiseMode::Check;
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
        self.sign(store.as_ref(), &realised, &keys).await?;
        for (asked, realised) in asked.iter().zip(&mut realised) {
            if let Wanted::AllOutputs(path) | Wanted::Outputs(path, _) = asked {
                self.run_hook(store.as_ref(), path, realised, &elsewhere).await?;
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
        let path = derivation.0.clone();
        let elsewhere = Arc::new(BuiltElsewhere::new(observer));
        let follower = Arc::clone(&elsewhere) as Arc<dyn RealiseObserver>;
        let building = service.build_derivation(Arc::clone(&store), derivation, settings, follower);
        let mut realised = building.await?;
        self.sign(store.as_ref(), std::slice::from_ref(&realised), &keys).await?;
        self.run_hook(store.as_ref(), &path, &mut realised, &elsewhere).await?;
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
