//! What the driver, the lanes and the transfers share.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use drover_core::{OutputName, PathInfo, StoreDir, StorePath};
use drover_schedule::{JobId, MachineId, Place};
use drover_store::{Description, Store, StoreError};
use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;

use crate::event::{FleetEvent, Observer};
use crate::fleet::total_bytes;
use crate::guess::OutputSizes;
use crate::hidden::Watch;
use crate::job_end::JobEnd;
use crate::machine::Site;
use crate::machine_state::{Generation, Opening};
use crate::merge::{Found, Origin, Sources, Traffic, Transfer};
use crate::places::Places;
use crate::sought::Findings;
use crate::tee::Tees;
use crate::transfer::Destination;
use crate::vouched::OutputTrust;

/// Something that happened outside the driver.
pub(crate) enum Happened {
    /// A machine answered.
    Connected { machine: MachineId, generation: Generation, answer: Answer },
    /// A machine that works already has these outputs of jobs.
    Found { machine: MachineId, generation: Generation, found: Findings },
    /// A machine could not be connected to.
    ConnectFailed { machine: MachineId, generation: Generation, error: StoreError },
    /// A job ended, one way or another.
    JobEnded { machine: MachineId, opening: Opening, job: JobId, end: JobEnd },
    /// Small NARs were fetched, and are kept.
    Kept { path: StorePath },
    /// Paths were added to a machine's store.
    Arrived { machine: MachineId, generation: Generation, paths: Vec<(StorePath, u64)> },
}

/// What a machine said when it was connected to.
pub(crate) struct Answer {
    pub(crate) description: Description,
    /// Paths that jobs need and that it has.
    pub(crate) valid: BTreeSet<StorePath>,
    /// Outputs of jobs that it has.
    pub(crate) found: Findings,
    pub(crate) took: Duration,
    pub(crate) round_trip: Duration,
}

/// A connection, with the generation of its machine.
type Connected = (Generation, Arc<dyn Site>);

/// What the driver, the lanes and the transfers share.
pub(crate) struct Shared {
    pub(crate) local: Arc<dyn Store>,
    pub(crate) store_dir: StoreDir,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) places: Arc<Places>,
    pub(crate) log_lines: usize,
    happened: mpsc::UnboundedSender<Happened>,
    /// What is connected, with the machine's generation.
    sites: Mutex<HashMap<MachineId, Connected>>,
    names: Mutex<Vec<String>>,
    traffic: Mutex<HashMap<Place, Arc<Traffic>>>,
    /// The machine whose store is the caller's own.
    local_machine: Option<MachineId>,
    transfers: AtomicU64,
    /// Names of keys whose signatures machines don't take.
    distrusted: Mutex<HashMap<MachineId, BTreeSet<String>>>,
    pub(crate) output_sizes: OutputSizes,
    pub(crate) tees: Tees,
    /// What outputs of other machines must have.
    output_trust: Mutex<Arc<OutputTrust>>,
    /// Derivations that were asked for.
    pub(crate) targets: OnceLock<BTreeSet<StorePath>>,
    /// Jobs of a run that have no verdict yet.
    left: watch::Sender<usize>,
    /// The tasks of lanes, so that their end can be waited for.
    pub(crate) tracker: TaskTracker,
}

impl Shared {
    pub(crate) fn new(
        local: Arc<dyn Store>,
        observer: Arc<dyn Observer>,
        log_lines: usize,
        names: Vec<String>,
        local_machine: Option<MachineId>,
        happened: mpsc::UnboundedSender<Happened>,
    ) -> Shared {
        Shared {
            store_dir: local.store_dir().clone(),
            local,
            observer,
            places: Arc::default(),
            log_lines,
            happened,
            sites: Mutex::default(),
            names: Mutex::new(names),
            traffic: Mutex::default(),
            local_machine,
            transfers: AtomicU64::new(0),
            distrusted: Mutex::default(),
            output_sizes: OutputSizes::default(),
            tees: Tees::default(),
            output_trust: Mutex::default(),
            targets: OnceLock::new(),
            left: watch::Sender::new(0),
            tracker: TaskTracker::new(),
        }
    }

    pub(crate) fn set_output_trust(&self, trust: OutputTrust) {
        *self.output_trust.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(trust);
    }

    /// Says what an output of a machine at a place must have.
    pub(crate) fn output_trust(&self, place: Place) -> Arc<OutputTrust> {
        match place == Place::Here || self.places.is_twin(place) {
            true => Arc::default(),
            false => Arc::clone(&self.output_trust.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    /// Returns where what a machine builds is valid.
    pub(crate) fn place_of(&self, machine: MachineId) -> Place {
        if self.local_machine == Some(machine) { Place::Here } else { Place::On(machine) }
    }

    pub(crate) fn local_machine(&self) -> Option<MachineId> {
        self.local_machine
    }

    pub(crate) fn name_of(&self, machine: MachineId) -> String {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.get(machine.0 as usize).cloned().unwrap_or_default()
    }

    /// Gives the next machine its name.
    pub(crate) fn add_name(&self, name: String) {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).push(name);
    }

    pub(crate) fn tell(&self, happened: Happened) {
        // the driver is gone when the run is over, and then nobody wants to know
        drop(self.happened.send(happened));
    }

    pub(crate) fn job_ended(&self, machine: MachineId, opening: Opening, job: JobId, end: JobEnd) {
        self.tell(Happened::JobEnded { machine, opening, job, end });
    }

    pub(crate) fn paths_arrived(
        &self,
        machine: MachineId,
        generation: Generation,
        paths: &[PathInfo],
    ) {
        let paths = paths.iter().map(|info| (info.path.clone(), info.nar_size.0)).collect();
        self.tell(Happened::Arrived { machine, generation, paths });
    }

    pub(crate) fn realised(
        &self,
        derivation: &StorePath,
        output: &OutputName,
    ) -> Option<StorePath> {
        self.places.realised(derivation, output)
    }

    pub(crate) fn traffic(&self, place: Place) -> Arc<Traffic> {
        let mut traffic = self.traffic.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(traffic.entry(place).or_default())
    }

    pub(crate) fn set_site(&self, machine: MachineId, generation: Generation, site: Arc<dyn Site>) {
        let mut sites = self.sites.lock().unwrap_or_else(PoisonError::into_inner);
        sites.insert(machine, (generation, site));
    }

    /// Whether a derivation's outputs, and so probably its inputs, will be wanted here.
    pub(crate) fn is_target(&self, derivation: &StorePath) -> bool {
        self.targets.get().is_some_and(|targets| targets.contains(derivation))
    }

    /// Notes how many jobs of a run have no verdict yet.
    pub(crate) fn set_jobs_left(&self, left: usize) {
        self.left.send_replace(left);
    }

    /// Waits until a run has one job left.
    pub(crate) async fn until_one_job_is_left(&self) {
        // the sender lives as long as this does
        drop(self.left.subscribe().wait_for(|left| *left == 1).await);
    }

    /// Whether what is built on one machine may be wanted on another.
    pub(crate) fn has_several_sites(&self) -> bool {
        self.sites.lock().unwrap_or_else(PoisonError::into_inner).len() > 1
    }

    /// Notes that a machine doesn't trust these keys. Returns whether some of that is news.
    pub(crate) fn distrust(&self, machine: MachineId, keys: BTreeSet<String>) -> bool {
        let mut distrusted = self.distrusted.lock().unwrap_or_else(PoisonError::into_inner);
        let known = distrusted.entry(machine).or_default();
        let before = known.len();
        known.extend(keys);
        known.len() != before
    }

    /// Returns the keys that a machine is known not to trust.
    pub(crate) fn distrusted(&self, machine: MachineId) -> BTreeSet<String> {
        let distrusted = self.distrusted.lock().unwrap_or_else(PoisonError::into_inner);
        distrusted.get(&machine).cloned().unwrap_or_default()
    }

    pub(crate) fn forget_site(&self, machine: MachineId) {
        self.sites.lock().unwrap_or_else(PoisonError::into_inner).remove(&machine);
    }

    /// Returns the machines that are connected.
    pub(crate) fn connected(&self) -> Vec<(MachineId, Generation)> {
        let sites = self.sites.lock().unwrap_or_else(PoisonError::into_inner);
        sites.iter().map(|(machine, (generation, _))| (*machine, *generation)).collect()
    }

    /// Announces a transfer, whose end is told when what is returned is dropped.
    pub(crate) fn start_transfer(
        &self,
        paths: &[(PathInfo, Place)],
        to: Option<MachineId>,
    ) -> Transfer {
        let number = self.transfers.fetch_add(1, Ordering::Relaxed);
        let from: BTreeSet<Place> = paths.iter().map(|(_, place)| *place).collect();
        let name = |place: Place| match place {
            Place::Here => None,
            Place::On(machine) => Some(self.name_of(machine)),
        };
        self.observer.event(FleetEvent::CopyStarted {
            transfer: number,
            from: from.into_iter().map(name).collect(),
            to: to.map(|machine| self.name_of(machine)),
            paths: paths.len(),
            bytes: paths.iter().map(|(info, _)| info.nar_size.0).sum(),
        });
        Transfer { number, observer: Arc::clone(&self.observer) }
    }

    /// Announces that a machine fetches paths from its substituters.
    pub(crate) fn start_fetch(&self, machine: MachineId, paths: &[PathInfo]) -> Transfer {
        let number = self.transfers.fetch_add(1, Ordering::Relaxed);
        self.observer.event(FleetEvent::CopyStarted {
            transfer: number,
            from: vec![Some("its substituters".to_owned())],
            to: Some(self.name_of(machine)),
            paths: paths.len(),
            bytes: total_bytes(paths),
        });
        Transfer { number, observer: Arc::clone(&self.observer) }
    }

    /// Lets machines open the connections that streams of their own will take.
    pub(crate) fn expect_streams(&self, to: &Destination, paths: &[(PathInfo, Place)]) {
        /// Streams that a machine is asked for at once.
        const STREAMS: usize = 6;
        let sites = self.sites.lock().unwrap_or_else(PoisonError::into_inner);
        for (machine, (_, site)) in sites.iter() {
            let from = paths.iter().filter(|(_, place)| *place == Place::On(*machine)).count();
            let into = if to.machine == Some(*machine) { paths.len() } else { 0 };
            if from + into > 0 {
                site.expect((from + into).min(STREAMS));
            }
        }
    }

    /// Returns a derivation with its closure, all valid here and now known of.
    pub(crate) async fn derivation_closure(
        &self,
        derivation: &StorePath,
    ) -> Result<Vec<StorePath>, StoreError> {
        let mut closure = BTreeSet::from([derivation.clone()]);
        let mut level = vec![derivation.clone()];
        while !level.is_empty() {
            // many jobs need much the same files, so each is asked for once
            let asked: Vec<StorePath> =
                level.iter().filter(|path| self.places.info(path).is_none()).cloned().collect();
            let infos = self.local.path_infos(&asked).await?;
            for (path, info) in asked.into_iter().zip(infos) {
                let store = self.local.name().to_owned();
                let info = info.ok_or(StoreError::NotValid { store, path })?;
                self.places.add(info, Place::Here);
            }
            let infos = level.iter().filter_map(|path| self.places.info(path));
            let references: Vec<StorePath> = infos.flat_map(|info| info.references).collect();
            level = references.into_iter().filter(|path| closure.insert(path.clone())).collect();
        }
        Ok(closure.into_iter().collect())
    }
}

impl Sources for Shared {
    fn source(&self, place: Place) -> Result<Found, StoreError> {
        let (store, origin): (Arc<dyn Store>, Origin) = match place {
            Place::Here => (Arc::clone(&self.local), Origin::Here),
            Place::On(machine) => {
                let sites = self.sites.lock().unwrap_or_else(PoisonError::into_inner);
                match sites.get(&machine) {
                    Some((generation, site)) => {
                        let origin = Origin::On { machine, generation: *generation };
                        (Arc::clone(site) as Arc<dyn Store>, origin)
                    }
                    None => {
                        let store = self.name_of(machine);
                        let reason = "it is not connected any more".to_owned();
                        return Err(StoreError::Lost { store, reason });
                    }
                }
            }
        };
        let watch = Watch { places: Arc::clone(&self.places), origin };
        Ok(Found { store, traffic: self.traffic(place), watch })
    }

    fn kept(&self, path: &StorePath) -> Option<Bytes> {
        self.places.kept(path)
    }
}
