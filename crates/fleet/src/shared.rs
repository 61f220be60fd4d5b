//! What the driver, the lanes and the transfers share.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use drover_core::{OutputName, PathInfo, StoreDir, StorePath};
use drover_schedule::{JobId, MachineId, Place};
use drover_store::{Description, Store, StoreError};
use tokio::sync::mpsc;

use crate::event::{FleetEvent, Observer};
use crate::lane::JobEnd;
use crate::machine::Site;
use crate::merge::{Sources, Traffic};
use crate::places::Places;

/// Something that happened outside the driver.
pub(crate) enum Happened {
    /// A machine answered, and has these paths.
    Connected {
        machine: MachineId,
        generation: u32,
        description: Description,
        valid: BTreeSet<StorePath>,
        took: Duration,
        round_trip: Duration,
    },
    /// A machine could not be connected to.
    ConnectFailed { machine: MachineId, generation: u32, error: StoreError },
    /// A job ended, one way or another.
    JobEnded { machine: MachineId, generation: u32, job: JobId, end: JobEnd },
    /// Small NARs were fetched, and are kept.
    Kept { path: StorePath },
    /// Paths were added to a place.
    Arrived { paths: Vec<(StorePath, u64)>, place: Place },
}

/// What the driver, the lanes and the transfers share.
pub(crate) struct Shared {
    pub(crate) local: Arc<dyn Store>,
    pub(crate) store_dir: StoreDir,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) places: Places,
    pub(crate) log_lines: usize,
    happened: mpsc::UnboundedSender<Happened>,
    sites: Mutex<HashMap<MachineId, Arc<dyn Site>>>,
    names: Vec<String>,
    traffic: HashMap<Place, Arc<Traffic>>,
    /// The machine whose store is the caller's own.
    local_machine: Option<MachineId>,
    transfers: AtomicU64,
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
        let mut traffic: HashMap<Place, Arc<Traffic>> = HashMap::new();
        traffic.insert(Place::Here, Arc::default());
        for (machine, _) in (0..).map(MachineId).zip(&names) {
            traffic.insert(Place::On(machine), Arc::default());
        }
        Shared {
            store_dir: local.store_dir().clone(),
            local,
            observer,
            places: Places::default(),
            log_lines,
            happened,
            sites: Mutex::default(),
            names,
            traffic,
            local_machine,
            transfers: AtomicU64::new(0),
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
        self.names.get(machine.0 as usize).cloned().unwrap_or_default()
    }

    /// Returns the machine that a store's error speaks of.
    pub(crate) fn machine_named(&self, store: &str) -> Option<MachineId> {
        (0..).map(MachineId).zip(&self.names).find(|(_, name)| *name == store).map(|(id, _)| id)
    }

    pub(crate) fn tell(&self, happened: Happened) {
        // the driver is gone when the run is over, and then nobody wants to know
        drop(self.happened.send(happened));
    }

    pub(crate) fn job_ended(&self, machine: MachineId, generation: u32, job: JobId, end: JobEnd) {
        self.tell(Happened::JobEnded { machine, generation, job, end });
    }

    pub(crate) fn paths_arrived(&self, paths: &[PathInfo], place: Place) {
        let paths = paths.iter().map(|info| (info.path.clone(), info.nar_size.0)).collect();
        self.tell(Happened::Arrived { paths, place });
    }

    pub(crate) fn realised(&self, derivation: &StorePath, output: &OutputName) -> Option<StorePath> {
        self.places.realised(derivation, output)
    }

    pub(crate) fn traffic(&self, place: Place) -> Arc<Traffic> {
        self.traffic.get(&place).cloned().unwrap_or_default()
    }

    pub(crate) fn set_site(&self, machine: MachineId, site: Arc<dyn Site>) {
        self.sites.lock().unwrap_or_else(PoisonError::into_inner).insert(machine, site);
    }

    pub(crate) fn forget_site(&self, machine: MachineId) {
        self.sites.lock().unwrap_or_else(PoisonError::into_inner).remove(&machine);
    }

    /// Announces a transfer and returns its number.
    pub(crate) fn start_transfer(
        &self,
        paths: &[(PathInfo, Place)],
        to: Option<MachineId>,
    ) -> u64 {
        let transfer = self.transfers.fetch_add(1, Ordering::Relaxed);
        let from: BTreeSet<Place> = paths.iter().map(|(_, place)| *place).collect();
        let name = |place: Place| match place {
            Place::Here => None,
            Place::On(machine) => Some(self.name_of(machine)),
        };
        self.observer.event(FleetEvent::CopyStarted {
            transfer,
            from: from.into_iter().map(name).collect(),
            to: to.map(|machine| self.name_of(machine)),
            paths: paths.len(),
            bytes: paths.iter().map(|(info, _)| info.nar_size.0).sum(),
        });
        transfer
    }

    /// Returns a derivation with its closure, all valid here and now known of.
    pub(crate) async fn derivation_closure(
        &self,
        derivation: &StorePath,
    ) -> Result<Vec<StorePath>, StoreError> {
        let mut closure = BTreeSet::from([derivation.clone()]);
        let mut level = vec![derivation.clone()];
        while !level.is_empty() {
            let mut next = Vec::new();
            let infos = self.local.path_infos(&level).await?;
            for (path, info) in level.into_iter().zip(infos) {
                let store = self.local.name().to_owned();
                let info = info.ok_or(StoreError::NotValid { store, path })?;
                next.extend(
                    info.references.iter().filter(|path| closure.insert((*path).clone())).cloned(),
                );
                self.places.add(info, Place::Here);
            }
            level = next;
        }
        Ok(closure.into_iter().collect())
    }
}

impl Sources for Shared {
    fn source(&self, place: Place) -> Result<(Arc<dyn Store>, Arc<Traffic>), StoreError> {
        let store: Arc<dyn Store> = match place {
            Place::Here => Arc::clone(&self.local),
            Place::On(machine) => {
                let sites = self.sites.lock().unwrap_or_else(PoisonError::into_inner);
                match sites.get(&machine) {
                    Some(site) => Arc::clone(site) as Arc<dyn Store>,
                    None => {
                        let store = self.name_of(machine);
                        let reason = "it is not connected any more".to_owned();
                        return Err(StoreError::Lost { store, reason });
                    }
                }
            }
        };
        Ok((store, self.traffic(place)))
    }

    fn kept(&self, path: &StorePath) -> Option<Bytes> {
        self.places.kept(path)
    }
}
