//! A machine in memory: a store and lanes that build what they are told, with scripted faults.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use drover_core::{PathInfo, StorePath};
use drover_fleet::{MachineSpec, Site};
use drover_schedule::{Bandwidth, MachineKind};
use drover_store::{BuildFailure, BuildWishes, MemoryStore, Substitute, Trust};
use tokio_util::sync::CancellationToken;

use crate::local::Local;
use crate::site::FakeSite;
use crate::stream::ExportFault;
use crate::world::{Recipes, SYSTEM};

/// What happens when a machine is connected to.
#[derive(Clone, Debug)]
pub(crate) enum Connect {
    Answers,
    Unreachable,
    Never,
    Late(Duration),
    NoNix,
}

/// What happens when a derivation is built.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Builds,
    /// What it builds is another on each machine.
    BuildsItsOwn,
    /// What it builds mentions its inputs.
    Mentions,
    Fails(BuildFailure),
    /// The connection is lost while it builds.
    LosesConnection,
    /// The connection is lost when it's built, before that is told.
    LosesConnectionAfter,
    /// The one who waits for it panics.
    Panics,
    /// It never ends.
    Hangs,
    /// It never ends, and says nine letters each second.
    Chatters,
    OtherPath,
    MissingOutput,
    ExtraOutput,
    /// It names other contents than those that the path follows from.
    OtherContents,
    ForeignReference,
    /// It leaves out what its outputs mention.
    HiddenReference,
    /// It does so too, and says that it had them before.
    HiddenReferenceBefore,
    WrongHash,
}

/// What goes wrong with an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ImportFault {
    LostBefore,
    LostAfter,
    DiskFull,
}

/// What a machine's substituters have.
#[derive(Clone, Debug)]
pub(crate) struct Caches {
    pub(crate) have: BTreeSet<StorePath>,
    /// How long fetching takes.
    pub(crate) take: Duration,
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
    /// Names of the keys that it trusts.
    pub(crate) keys: Mutex<BTreeSet<String>>,
    /// Whether its lanes end when what is sent to them is broken off.
    pub(crate) fragile: Mutex<bool>,
    pub(crate) store: MemoryStore,
    pub(crate) connects: Mutex<VecDeque<Connect>>,
    pub(crate) acts: Mutex<HashMap<String, VecDeque<Act>>>,
    pub(crate) exports: Mutex<VecDeque<ExportFault>>,
    pub(crate) imports: Mutex<VecDeque<ImportFault>>,
    /// What its clock shows, in seconds since 1970, when something is registered there.
    pub(crate) clock: AtomicU64,
    /// How long each chunk takes on its way out.
    pub(crate) pace: Mutex<Duration>,
    /// Names of derivations that were really built, in order.
    pub(crate) made: Mutex<Vec<String>>,
    /// Paths that were added from elsewhere.
    pub(crate) added: Mutex<Vec<StorePath>>,
    /// Its substituters, if it may use any.
    pub(crate) caches: Mutex<Option<Caches>>,
    /// What it was told to fetch from them.
    pub(crate) fetches: Mutex<Vec<BTreeSet<StorePath>>>,
    /// What was asked of builds alone, in order.
    pub(crate) wishes: Mutex<Vec<BuildWishes>>,
    pub(crate) connections: AtomicUsize,
    pub(crate) lanes: AtomicUsize,
    builds: AtomicUsize,
    pub(crate) now: Mutex<CancellationToken>,
}

/// A build that runs.
pub(crate) struct Running<'a>(&'a Machine);

impl<'a> Running<'a> {
    pub(crate) fn on(machine: &'a Machine) -> Running<'a> {
        machine.builds.fetch_add(1, Ordering::SeqCst);
        Running(machine)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.builds.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Machine {
    pub(crate) fn new(name: &str, slots: u32) -> Arc<Machine> {
        Machine::of_kind(name, slots, MachineKind::Remote, SYSTEM)
    }

    pub(crate) fn local(slots: u32) -> Arc<Machine> {
        Machine::of_kind("here", slots, MachineKind::Local, SYSTEM)
    }

    pub(crate) fn of_kind(name: &str, slots: u32, kind: MachineKind, system: &str) -> Arc<Machine> {
        Arc::new(Machine {
            name: name.to_owned(),
            kind,
            slots,
            systems: BTreeSet::from([system.to_owned()]),
            trust: Mutex::new(Trust::Trusted),
            privileged: Mutex::new(true),
            keys: Mutex::default(),
            fragile: Mutex::new(false),
            store: MemoryStore::default(),
            connects: Mutex::default(),
            acts: Mutex::default(),
            exports: Mutex::default(),
            imports: Mutex::default(),
            clock: AtomicU64::new(0),
            pace: Mutex::new(Duration::from_millis(1)),
            made: Mutex::default(),
            added: Mutex::default(),
            caches: Mutex::default(),
            fetches: Mutex::default(),
            wishes: Mutex::default(),
            connections: AtomicUsize::new(0),
            lanes: AtomicUsize::new(0),
            builds: AtomicUsize::new(0),
            now: Mutex::default(),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Says what happens at the next connection attempts.
    /// It's there once, and when that connection is lost not any more.
    pub(crate) fn connects_once(self: Arc<Machine>) -> Arc<Machine> {
        let mut script = vec![Connect::Unreachable; 21];
        script[0] = Connect::Answers;
        self.connects(&script)
    }

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

    pub(crate) fn caches(self: Arc<Self>, have: &[StorePath], take: Duration) -> Arc<Machine> {
        let have = have.iter().cloned().collect();
        *self.caches.lock().unwrap() = Some(Caches { have, take });
        self
    }

    pub(crate) fn distrustful(self: Arc<Self>, says: Trust) -> Arc<Machine> {
        *self.trust.lock().unwrap() = says;
        *self.privileged.lock().unwrap() = false;
        self
    }

    pub(crate) fn trusting(self: Arc<Self>, key: &str) -> Arc<Machine> {
        self.keys.lock().unwrap().insert(key.to_owned());
        self
    }

    /// Whether it adds a path to its store.
    pub(crate) fn takes(&self, info: &PathInfo) -> bool {
        *self.privileged.lock().unwrap()
            || info.content_address.is_some()
            || info.path.name().ends_with(".drv")
            || info.signatures.iter().any(|by| self.keys.lock().unwrap().contains(by.key()))
    }

    /// Returns how many builds run.
    pub(crate) fn live_builds(&self) -> usize {
        self.builds.load(Ordering::SeqCst)
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
            supported_features: BTreeSet::from(["ca-derivations".to_owned()]),
            mandatory_features: BTreeSet::new(),
            round_trip: Duration::from_millis(1),
            bandwidth: Bandwidth(100_000_000),
            other_terms: Vec::new(),
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
        let substitute = match *self.caches.lock().unwrap() {
            Some(_) => Substitute::Yes,
            None => Substitute::No,
        };
        MachineSpec { description, substitute, open: Arc::new(open) }
    }

    pub(crate) fn is_local(&self) -> bool {
        self.kind == MachineKind::Local
    }
}
