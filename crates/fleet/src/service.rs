//! A fleet for many clients at a time: one scheduler, one set of connections.
//!
//! Clients that want the same derivation share one build: all hear its log, those who come later
//! from what is kept of it, and all get its result. A job lives as long as somebody waits for it,
//! and machines' slots are respected over all clients. One task owns all of it (`engine`); what
//! takes long, the store's own work, is done by the clients' futures.
//!
//! Jobs of all clients are ordered together by the critical path behind them, and each second that
//! a job has waited counts like a second of that path: none waits for ever.

mod bring;
mod builds;
mod check;
mod control;
mod engine;
mod failures;
mod forgetting;
mod given;
mod here;
mod joining;
mod machines;
mod missing;
mod options;
mod owners;
mod questions;
mod repair;
mod request;
mod revival;
mod router;
mod survey;
mod table;
mod vanished;
mod view;
mod waits;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use drover_core::StorePath;
use drover_derivation::BasicDerivation;
use drover_schedule::{MachineId, MachineKind, OnFailure, Place, Settings};
use drover_store::{
    BuildMode, Keeper, MissingPaths, RealiseObserver, RealiseSettings, Realised, Realiser, Store,
    StoreError, Substitute, Wanted,
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::attempts::Halves;
use crate::driver::{ASK, Driver, Lasting};
use crate::event::Observer;
use crate::fleet::{CopyBack, Fallback, FleetOptions};
use crate::machine::MachineSpec;
use crate::places::Berth;
use crate::service::bring::Arrivals;
use crate::service::check::Bench;
use crate::service::control::Control;
use crate::service::engine::{Command, Engine};
use crate::service::here::Here;
use crate::service::owners::Owners;
use crate::service::request::{Request, scope_of};
use crate::service::router::{ClientId, Router};
use crate::service::table::{Table, Uses};
use crate::shared::{Happened, Shared};
pub use builds::{
    BuildEnding, BuildExplanation, BuildId, BuildList, BuildState, BuildView, KeptLog,
    MachineChoice,
};
pub use control::Duty;
pub use options::{BuildNumbers, OwnKind, ServiceOptions, Shutdown};
pub use view::{MachineCondition, MachineFailure, MachineView};

/// What those are told who ask a service that ends.
pub(crate) const STOPPING: &str = "the daemon is stopping";

/// How much a service keeps, for metrics and tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Clients that wait for builds or fetch what was built.
    pub clients: usize,
    /// Jobs without a verdict.
    pub open: usize,
    /// Built jobs that nobody waits for, kept as their outputs are on machines.
    pub retained: usize,
    /// All jobs.
    pub jobs: usize,
    /// Views of the store that are kept open for jobs.
    pub bundles: usize,
    /// Paths about which something is known: the longest of the lists.
    pub paths: usize,
    /// Logs that are kept or followed.
    pub logs: usize,
    /// Machines that are connected.
    pub connected: usize,
}

/// Builds for many clients, on machines. Nothing is connected before somebody asks.
///
/// Dropping it ends the builds that nobody waits for; [`Service::shutdown`] waits for that.
pub struct Service {
    state: Mutex<State>,
    tasks: TaskTracker,
    /// Where builds are repeated.
    bench: Mutex<Option<Bench>>,
}

enum State {
    /// Nobody has asked yet, so the store isn't known.
    Asleep {
        machines: Vec<MachineSpec>,
        options: ServiceOptions,
        drained: BTreeSet<String>,
    },
    Running(Arc<Handle>),
    Stopped,
}

/// What clients reach the engine by.
pub(crate) struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) arrivals: Arrivals,
    /// What came here without the rest of its build.
    pub(crate) halves: Arc<Halves>,
    /// What arrives here is nowhere noted: whether it's valid is the store's to say.
    pub(crate) nowhere: Berth,
    /// Everything is being cancelled.
    pub(crate) stopped: CancellationToken,
    clients: AtomicU64,
}

impl Handle {
    pub(crate) fn send(&self, command: Command) {
        // an engine that has ended answers nothing, and who waits for an answer notices
        drop(self.commands.send(command));
    }

    pub(crate) fn new_client(&self) -> ClientId {
        ClientId(self.clients.fetch_add(1, Ordering::Relaxed))
    }
}

impl Service {
    /// Returns a service; nothing runs before somebody asks.
    pub fn new(machines: Vec<MachineSpec>, options: ServiceOptions) -> Service {
        let bench = Mutex::new(Bench::among(&machines));
        let state = Mutex::new(State::Asleep { machines, options, drained: BTreeSet::new() });
        Service { state, tasks: TaskTracker::new(), bench }
    }

    /// Replaces the machines. What is built goes on: a machine of the same name stays connected,
    /// one that is gone from the list gets nothing new and is left when nobody needs it any more.
    pub fn reload(&self, machines: Vec<MachineSpec>, options: ServiceOptions) {
        *self.bench.lock().unwrap_or_else(PoisonError::into_inner) = Bench::among(&machines);
        let mut state = self.state();
        match &mut *state {
            State::Asleep { machines: before, options: options_before, .. } => {
                *before = machines;
                let numbers = options_before.numbers.clone();
                *options_before = ServiceOptions { numbers, ..options };
            }
            State::Running(handle) => handle.send(Command::Reload { machines, options }),
            State::Stopped => {}
        }
    }

    /// Ends the service: nothing new is taken, and what is asked for is done or cancelled. Returns
    /// when nothing of it runs any more, here or on a machine.
    pub async fn shutdown(&self, how: Shutdown) {
        let before = std::mem::replace(&mut *self.state(), State::Stopped);
        if let State::Running(handle) = before {
            let (done, ended) = oneshot::channel();
            handle.send(Command::Shutdown { how, done });
            if how == Shutdown::Cancel {
                handle.stopped.cancel();
            }
            // it may have ended already
            drop(ended.await);
        }
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Counts what is kept.
    pub async fn census(&self) -> Census {
        let handle = match &*self.state() {
            State::Running(handle) => Arc::clone(handle),
            State::Asleep { .. } | State::Stopped => return Census::default(),
        };
        let (reply, census) = oneshot::channel();
        handle.send(Command::Census { reply });
        census.await.unwrap_or_default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the way to the engine, which is started for the first who asks.
    fn handle(&self, store: &dyn Keeper) -> Result<Arc<Handle>, StoreError> {
        let mut state = self.state();
        match &mut *state {
            State::Running(handle) if handle.shared.store_dir != *store.store_dir() => {
                let what = "share a builder service with a store in another directory";
                Err(StoreError::Unsupported { store: store.name().to_owned(), what })
            }
            State::Running(handle) => Ok(Arc::clone(handle)),
            State::Stopped => Err(StoreError::refused(store.name(), STOPPING)),
            State::Asleep { machines, options, drained } => {
                let (machines, drained) = (std::mem::take(machines), std::mem::take(drained));
                let handle = self.start(store, machines, options, drained);
                *state = State::Running(Arc::clone(&handle));
                Ok(handle)
            }
        }
    }

    fn start(
        &self,
        store: &dyn Keeper,
        machines: Vec<MachineSpec>,
        options: &ServiceOptions,
        drained: BTreeSet<String>,
    ) -> Arc<Handle> {
        let (send, commands) = mpsc::unbounded_channel();
        let (tell, happened) = mpsc::unbounded_channel();
        let (here, router) = (Arc::new(Here::new(store)), Arc::new(Router::default()));
        let shared = Arc::new(Shared::new(
            Arc::clone(&here) as Arc<dyn Store>,
            Arc::clone(&router) as Arc<dyn Observer>,
            options.log_lines,
            Vec::new(),
            None,
            tell,
        ));
        let driver = driver_of_many(Arc::clone(&shared), happened, options);
        let mut engine = Engine {
            driver,
            here,
            router,
            table: Table::numbered_by(options.numbers.clone()),
            clients: HashMap::new(),
            bundles: HashMap::new(),
            next_bundle: 0,
            paths_here: Uses::default(),
            paths_of_jobs: Uses::default(),
            realised: Uses::default(),
            commands,
            idle: options.idle,
            own_kind: options.own_kind.clone(),
            alone_since: None,
            retired: BTreeSet::new(),
            past: VecDeque::new(),
            losses: 0,
            control: Control { drained, reaching: Vec::new() },
            owners: Owners::default(),
            ending: Vec::new(),
        };
        for machine in machines {
            engine.add_machine(machine);
        }
        self.tasks.spawn(engine.run());
        let nowhere = nowhere(&shared);
        let (arrivals, stopped) = (Arrivals::default(), CancellationToken::new());
        let (clients, halves) = (AtomicU64::new(0), Arc::default());
        Arc::new(Handle { commands: send, shared, arrivals, halves, nowhere, stopped, clients })
    }

    fn request(
        &self,
        store: Arc<dyn Keeper>,
        settings: RealiseSettings,
        observer: Arc<dyn RealiseObserver>,
    ) -> Result<Request, StoreError> {
        let handle = self.handle(store.as_ref())?;
        Ok(Request { handle, store, settings, observer })
    }
}

/// Returns a berth at a place that is forgotten.
fn nowhere(shared: &Shared) -> Berth {
    let unknown = Place::On(MachineId(u32::MAX));
    let nowhere = shared.places.berth(unknown);
    shared.places.forget_place(unknown);
    nowhere
}

/// Returns a driver for many clients, which knows no machine yet.
fn driver_of_many(
    shared: Arc<Shared>,
    happened: mpsc::UnboundedReceiver<Happened>,
    options: &ServiceOptions,
) -> Driver {
    let fleet_options = FleetOptions {
        keep_going: true,
        substitute: drover_store::Substitute::No,
        fallback: Fallback::Build,
        copy_back: CopyBack::Wanted,
        outputs: options.outputs.clone(),
        log_lines: options.log_lines,
        policy: options.policy,
    };
    let on_failure = OnFailure::KeepGoing;
    let settings = Settings { policy: options.policy, on_failure, ask: ASK, ..Settings::default() };
    let mut driver = Driver::idle(shared, happened, fleet_options, settings);
    driver.lasting = Lasting::Shared;
    driver
}

#[async_trait]
impl Realiser for Service {
    async fn realise(
        &self,
        store: Arc<dyn Keeper>,
        wanted: Vec<Wanted>,
        settings: RealiseSettings,
        observer: Arc<dyn RealiseObserver>,
    ) -> Result<Vec<Realised>, StoreError> {
        let request = self.request(store, settings, observer)?;
        let bench = || {
            let bench = self.bench.lock().unwrap_or_else(PoisonError::into_inner).clone();
            bench.filter(|_| scope_of(&request.settings).includes(MachineKind::Local))
        };
        match request.settings.mode {
            BuildMode::Normal => request.realise(&wanted).await,
            BuildMode::Check => request.check(&wanted, bench().as_ref()).await,
            BuildMode::Repair => request.repair(&wanted, bench().as_ref()).await,
        }
    }

    async fn build_derivation(
        &self,
        store: Arc<dyn Keeper>,
        (path, derivation): (StorePath, BasicDerivation),
        settings: RealiseSettings,
        observer: Arc<dyn RealiseObserver>,
    ) -> Result<Realised, StoreError> {
        let what = match settings.mode {
            BuildMode::Normal => None,
            BuildMode::Check => Some("check a build by repeating it that it has no derivation of"),
            BuildMode::Repair => Some("repair what a build makes that it has no derivation of"),
        };
        if let Some(what) = what {
            return Err(StoreError::Unsupported { store: store.name().to_owned(), what });
        }
        self.request(store, settings, observer)?.build_given(path, derivation).await
    }

    async fn missing(
        &self,
        store: Arc<dyn Keeper>,
        wanted: Vec<Wanted>,
        substitute: Substitute,
    ) -> Result<MissingPaths, StoreError> {
        missing::missing(&store, &wanted, substitute).await
    }
}
