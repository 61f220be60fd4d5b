//! A machine in memory: a store and lanes that build what they are told, with scripted faults.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use drover_core::{PathInfo, StoreDir, StorePath};
use drover_fleet::{MachineSpec, Site};
use drover_schedule::{Bandwidth, MachineKind};
use drover_store::{
    BuildFailure, BuildLog, BuildOutcome, BuildRequest, Builder, Description, Lane, MemoryStore,
    Missing, PathStream, Pending, Store, StoreError, Substitute, Trust,
};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::local::Local;
use crate::making::{Workshop, make};
use crate::stream::{ExportFault, Outgoing};
use crate::world::{Recipes, SYSTEM};

/// What happens when a machine is connected to.
#[derive(Clone, Debug)]
pub(crate) enum Connect {
    Answers,
    Unreachable,
    Never,
    NoNix,
}

/// What happens when a derivation is built.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Builds,
    Fails(BuildFailure),
    /// The connection is lost while it builds.
    LosesConnection,
    /// The connection is lost when it's built, before that is told.
    LosesConnectionAfter,
    /// It never ends.
    Hangs,
    OtherPath,
    MissingOutput,
    ExtraOutput,
    ForeignReference,
    WrongHash,
}

/// What goes wrong with an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ImportFault {
    LostBefore,
    LostAfter,
    DiskFull,
}

/// A machine, which outlives its connections.
pub(crate) struct Machine {
    name: String,
    kind: MachineKind,
    slots: u32,
    systems: BTreeSet<String>,
    pub(crate) trust: Mutex<Trust>,
    /// Whether it takes derivations at our word, whatever it says.
    pub(crate) privileged: Mutex<bool>,
    /// Whether its lanes end when what is sent to them is broken off.
    pub(crate) fragile: Mutex<bool>,
    pub(crate) store: MemoryStore,
    pub(crate) connects: Mutex<VecDeque<Connect>>,
    pub(crate) acts: Mutex<HashMap<String, VecDeque<Act>>>,
    pub(crate) exports: Mutex<VecDeque<ExportFault>>,
    pub(crate) imports: Mutex<VecDeque<ImportFault>>,
    /// How long each chunk takes on its way out.
    pub(crate) pace: Mutex<Duration>,
    /// Names of derivations that were really built, in order.
    pub(crate) made: Mutex<Vec<String>>,
    /// Paths that were added from elsewhere.
    pub(crate) added: Mutex<Vec<StorePath>>,
    pub(crate) connections: AtomicUsize,
    lanes: AtomicUsize,
    pub(crate) now: Mutex<CancellationToken>,
}

impl Machine {
    pub(crate) fn new(name: &str, slots: u32) -> Arc<Machine> {
        Machine::of_kind(name, slots, MachineKind::Remote, SYSTEM)
    }

    pub(crate) fn local(slots: u32) -> Arc<Machine> {
        Machine::of_kind("here", slots, MachineKind::Local, SYSTEM)
    }

    pub(crate) fn of_kind(
        name: &str,
        slots: u32,
        kind: MachineKind,
        system: &str,
    ) -> Arc<Machine> {
        Arc::new(Machine {
            name: name.to_owned(),
            kind,
            slots,
            systems: BTreeSet::from([system.to_owned()]),
            trust: Mutex::new(Trust::Trusted),
            privileged: Mutex::new(true),
            fragile: Mutex::new(false),
            store: MemoryStore::default(),
            connects: Mutex::default(),
            acts: Mutex::default(),
            exports: Mutex::default(),
            imports: Mutex::default(),
            pace: Mutex::new(Duration::from_millis(1)),
            made: Mutex::default(),
            added: Mutex::default(),
            connections: AtomicUsize::new(0),
            lanes: AtomicUsize::new(0),
            now: Mutex::default(),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Says what happens at the next connection attempts.
    pub(crate) fn connects(self: Arc<Self>, script: &[Connect]) -> Arc<Machine> {
        self.connects.lock().unwrap().extend(script.iter().cloned());
        self
    }

    /// Says what happens when a derivation is built there, time after time; the last stays.
    pub(crate) fn does(self: Arc<Self>, name: &str, script: &[Act]) -> Arc<Machine> {
        let script = script.iter().cloned().collect();
        self.acts.lock().unwrap().insert(name.to_owned(), script);
        self
    }

    pub(crate) fn exports(self: Arc<Self>, script: &[ExportFault]) -> Arc<Machine> {
        self.exports.lock().unwrap().extend(script);
        self
    }

    pub(crate) fn imports(self: Arc<Self>, script: &[ImportFault]) -> Arc<Machine> {
        self.imports.lock().unwrap().extend(script);
        self
    }

    pub(crate) fn distrustful(self: Arc<Self>, says: Trust) -> Arc<Machine> {
        *self.trust.lock().unwrap() = says;
        *self.privileged.lock().unwrap() = false;
        self
    }

    pub(crate) fn live_lanes(&self) -> usize {
        self.lanes.load(Ordering::SeqCst)
    }

    pub(crate) fn made(&self) -> Vec<String> {
        self.made.lock().unwrap().clone()
    }

    pub(crate) fn spec(self: &Arc<Self>, recipes: &Recipes, local: &Arc<Local>) -> MachineSpec {
        let description = drover_schedule::Machine {
            name: self.name.clone(),
            kind: self.kind,
            systems: self.systems.clone(),
            slots: self.slots,
            speed_factor: 1.0,
            supported_features: BTreeSet::new(),
            mandatory_features: BTreeSet::new(),
            round_trip: Duration::from_millis(1),
            bandwidth: Bandwidth(100_000_000),
        };
        let (machine, recipes) = (Arc::clone(self), Arc::clone(recipes));
        let local = Arc::clone(local);
        let open = move || -> Arc<dyn Site> {
            let dead = CancellationToken::new();
            *machine.now.lock().unwrap() = dead.clone();
            machine.connections.fetch_add(1, Ordering::SeqCst);
            Arc::new(FakeSite {
                machine: Arc::clone(&machine),
                recipes: Arc::clone(&recipes),
                local: Arc::clone(&local),
                dead,
            })
        };
        MachineSpec { description, substitute: Substitute::No, open: Arc::new(open) }
    }

    pub(crate) fn is_local(&self) -> bool {
        self.kind == MachineKind::Local
    }
}

/// One connection to a machine.
#[derive(Clone)]
pub(crate) struct FakeSite {
    pub(crate) machine: Arc<Machine>,
    pub(crate) recipes: Recipes,
    pub(crate) local: Arc<Local>,
    pub(crate) dead: CancellationToken,
}

impl FakeSite {
    pub(crate) fn store(&self) -> &dyn Store {
        match self.machine.is_local() {
            true => &self.local.store,
            false => &self.machine.store,
        }
    }

    pub(crate) fn lost(&self) -> StoreError {
        let reason = "the connection broke".to_owned();
        StoreError::Lost { store: self.machine.name.clone(), reason }
    }

    /// Does something unless the connection ends.
    async fn alive<T>(
        &self,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        tokio::select! {
            biased;
            () = self.dead.cancelled() => Err(self.lost()),
            done = work => done,
        }
    }

    async fn add(&self, paths: Box<dyn PathStream>) -> Result<(), StoreError> {
        let fault = self.machine.imports.lock().unwrap().pop_front();
        if fault == Some(ImportFault::LostBefore) {
            self.dead.cancel();
            return Err(self.lost());
        }
        if fault == Some(ImportFault::DiskFull) {
            let message = "writing file: No space left on device".to_owned();
            return Err(StoreError::Refused { store: self.machine.name.clone(), message });
        }
        let mut noted = Noted { paths, seen: Vec::new(), machine: Arc::clone(&self.machine) };
        noted.seen.clear();
        let added = self.store().import(Box::new(noted)).await;
        if fault == Some(ImportFault::LostAfter) {
            self.dead.cancel();
            return Err(self.lost());
        }
        added
    }
}

/// A stream whose paths are noted when they end.
struct Noted {
    paths: Box<dyn PathStream>,
    seen: Vec<StorePath>,
    machine: Arc<Machine>,
}

#[async_trait]
impl PathStream for Noted {
    fn count(&self) -> usize {
        self.paths.count()
    }

    async fn next_path(&mut self) -> Result<Option<PathInfo>, StoreError> {
        let next = self.paths.next_path().await?;
        self.machine.added.lock().unwrap().extend(next.iter().map(|info| info.path.clone()));
        Ok(next)
    }

    async fn chunk(&mut self) -> Result<Option<bytes::Bytes>, StoreError> {
        self.paths.chunk().await
    }
}

#[async_trait]
impl Store for FakeSite {
    fn name(&self) -> &str {
        &self.machine.name
    }

    fn store_dir(&self) -> &StoreDir {
        self.machine.store.store_dir()
    }

    async fn connect(&self) -> Result<Description, StoreError> {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let next = self.machine.connects.lock().unwrap().pop_front();
        let store = self.machine.name.clone();
        match next.unwrap_or(Connect::Answers) {
            Connect::Answers => {}
            Connect::Unreachable => {
                let reason = "No route to host".to_owned();
                return Err(StoreError::Unreachable { store, reason });
            }
            Connect::NoNix => {
                let reason = "nix-daemon: command not found".to_owned();
                return Err(StoreError::Protocol { store, reason });
            }
            Connect::Never => std::future::pending().await,
        }
        let trust = *self.machine.trust.lock().unwrap();
        Ok(Description { protocol: "fake".to_owned(), nix_version: None, trust })
    }

    async fn hold_valid(
        &self,
        paths: &BTreeSet<StorePath>,
        substitute: Substitute,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        self.alive(self.store().hold_valid(paths, substitute)).await
    }

    async fn path_infos(
        &self,
        paths: &[StorePath],
    ) -> Result<Vec<Option<PathInfo>>, StoreError> {
        self.alive(self.store().path_infos(paths)).await
    }

    async fn export(&self, infos: Vec<PathInfo>) -> Result<Box<dyn PathStream>, StoreError> {
        let inner = self.alive(self.store().export(infos.clone())).await?;
        Ok(Box::new(Outgoing {
            store: self.machine.name.clone(),
            infos: infos.into_iter(),
            inner,
            current: None,
            fault: self.machine.exports.lock().unwrap().pop_front(),
            dead: self.dead.clone(),
            pace: *self.machine.pace.lock().unwrap(),
        }))
    }

    async fn import(&self, paths: Box<dyn PathStream>) -> Result<(), StoreError> {
        self.alive(self.add(paths)).await
    }

    async fn substitute(&self, paths: &BTreeSet<StorePath>) -> Result<(), StoreError> {
        self.store().substitute(paths).await
    }

    async fn missing(&self, derivations: &BTreeSet<StorePath>) -> Result<Missing, StoreError> {
        self.store().missing(derivations).await
    }

    async fn add_indirect_root(&self, link: &str) -> Result<(), StoreError> {
        self.store().add_indirect_root(link).await
    }
}

#[async_trait]
impl Builder for FakeSite {
    fn expect(&self, _: usize) {}

    async fn open_lane(&self) -> Result<Box<dyn Lane>, StoreError> {
        self.alive(async { Ok(()) }).await?;
        self.machine.lanes.fetch_add(1, Ordering::SeqCst);
        let site = self.clone();
        let inner = Inner { site, tail: Mutex::default(), broken: CancellationToken::new() };
        Ok(Box::new(FakeLane(Arc::new(inner))))
    }
}

/// A lane: what is asked of it is done in order, by whoever awaits it.
struct FakeLane(Arc<Inner>);

struct Inner {
    site: FakeSite,
    tail: Mutex<Option<oneshot::Receiver<()>>>,
    /// The lane alone is of no use any more.
    broken: CancellationToken,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.site.machine.lanes.fetch_sub(1, Ordering::SeqCst);
    }
}

impl FakeLane {
    fn queue<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Pending<T> {
        let inner = Arc::clone(&self.0);
        let (done, behind) = oneshot::channel();
        let ahead = inner.tail.lock().unwrap().replace(behind);
        Box::pin(async move {
            let in_turn = async {
                if let Some(ahead) = ahead {
                    ahead.await.map_err(|_| inner.site.lost())?;
                }
                work.await
            };
            let result = tokio::select! {
                biased;
                () = inner.site.dead.cancelled() => Err(inner.site.lost()),
                () = inner.broken.cancelled() => Err(inner.site.lost()),
                result = in_turn => result,
            };
            drop(done.send(()));
            result
        })
    }
}

impl Lane for FakeLane {
    fn import(&self, paths: Box<dyn PathStream>) -> Pending<()> {
        let inner = Arc::clone(&self.0);
        self.queue(async move {
            let added = inner.site.add(paths).await;
            if added.is_err() && *inner.site.machine.fragile.lock().unwrap() {
                inner.broken.cancel();
            }
            added
        })
    }

    fn build(&self, request: BuildRequest, log: Arc<dyn BuildLog>) -> Pending<BuildOutcome> {
        let inner = Arc::clone(&self.0);
        self.queue(async move {
            let workshop = Workshop { site: &inner.site, log: &*log };
            make(&workshop, request).await
        })
    }
}

/// Outputs by name.
pub(crate) type Outputs = BTreeMap<String, PathInfo>;
