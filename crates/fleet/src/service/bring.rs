//! Brings what was built into the store, with its closure.
//!
//! Invariant: what is here is asked of the store each time; nothing is taken for valid because it
//! was fetched once. A path is on its way here once at a time, however many want it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use drover_core::{PathInfo, StorePath};
use drover_schedule::Place;
use drover_store::{Keeper, Store, StoreError, Substitute, closure_order};
use tokio::sync::{oneshot, watch};

use crate::attempts::{Earlier, Mixed};
use crate::fault::not_fetched;
use crate::merge::{Culprit, Origin};
use crate::places::Places;
use crate::service::Handle;
use crate::service::engine::Command;
use crate::service::here::Adding;
use crate::transfer::{AlsoHere, Destination, copy_all};

/// How often sources may fail before what they have is given up.
const ATTEMPTS: usize = 3;

/// How it went.
pub(crate) enum Brought {
    /// All that was wanted is valid.
    All,
    /// Some of it is nowhere.
    Lost(BTreeSet<StorePath>),
    /// It could not be had.
    Failed(String),
    /// Some of it doesn't belong to what is valid here.
    Mixed(Mixed),
}

/// Paths on their way into the store.
#[derive(Default)]
pub(crate) struct Arrivals(Mutex<HashMap<StorePath, watch::Receiver<()>>>);

/// Paths that somebody brings, until this is dropped.
struct Claim<'a> {
    arrivals: &'a Arrivals,
    paths: BTreeSet<StorePath>,
    _done: watch::Sender<()>,
}

impl Arrivals {
    /// Claims paths, or returns what tells when somebody else is done who brings one of them.
    fn claim(&self, paths: BTreeSet<StorePath>) -> Result<Claim<'_>, watch::Receiver<()>> {
        let mut coming = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = paths.iter().find_map(|path| coming.get(path)) {
            return Err(other.clone());
        }
        let (done, waiting) = watch::channel(());
        for path in &paths {
            coming.insert(path.clone(), waiting.clone());
        }
        Ok(Claim { arrivals: self, paths, _done: done })
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut coming = self.arrivals.0.lock().unwrap_or_else(PoisonError::into_inner);
        for path in &self.paths {
            coming.remove(path);
        }
    }
}

/// The closure of paths, as far as it isn't known to be here.
#[derive(Default)]
struct Needed {
    /// What machines have.
    there: BTreeMap<StorePath, (PathInfo, Place)>,
    /// What it refers to and others found here.
    here: BTreeSet<StorePath>,
    nowhere: BTreeSet<StorePath>,
}

fn needed(places: &Places, wanted: &BTreeSet<StorePath>) -> Needed {
    let mut needed = Needed::default();
    let mut load: HashMap<Place, u64> = HashMap::new();
    let mut seen = wanted.clone();
    let mut left: Vec<StorePath> = wanted.iter().cloned().collect();
    while let Some(path) = left.pop() {
        if places.is_at(&path, Place::Here) {
            needed.here.insert(path);
            continue;
        }
        let Some((info, place)) = places.somewhere(&path, &mut load) else {
            needed.nowhere.insert(path);
            continue;
        };
        left.extend(info.references.iter().filter(|path| seen.insert((*path).clone())).cloned());
        needed.there.insert(path, (info, place));
    }
    needed
}

/// Makes paths valid in a client's view of the store, and protects them there.
pub(crate) async fn bring(
    handle: &Handle,
    store: &Arc<dyn Keeper>,
    wanted: &BTreeSet<StorePath>,
    earlier: &mut Earlier,
) -> Result<Brought, StoreError> {
    let (places, mut failures) = (&handle.shared.places, 0);
    loop {
        if store.hold_valid(wanted, Substitute::No).await?.len() == wanted.len() {
            return Ok(Brought::All);
        }
        let Needed { mut there, here, nowhere } = needed(places, wanted);
        let asked = there.keys().chain(&here).chain(&nowhere).cloned().collect();
        let valid = store.hold_valid(&asked, Substitute::No).await?;
        let lost: BTreeSet<StorePath> = nowhere.difference(&valid).cloned().collect();
        if !lost.is_empty() {
            return Ok(Brought::Lost(lost));
        }
        let mut vanished = here.difference(&valid).peekable();
        if vanished.peek().is_some() {
            vanished.for_each(|path| places.not_here(path));
            continue;
        }
        there.retain(|path, _| !valid.contains(path));
        let coming: BTreeSet<StorePath> = there.keys().cloned().collect();
        if let Some(mixed) = earlier.begin(places, store.as_ref(), coming.clone()).await? {
            return Ok(Brought::Mixed(mixed));
        }
        let claim = match handle.arrivals.claim(coming.clone()) {
            Ok(claim) => claim,
            Err(mut other) => {
                // it never changes: its end is what is waited for
                drop(other.changed().await);
                continue;
            }
        };
        let copied = copy(handle, store, there).await;
        drop(claim);
        let Err((origin, error)) = copied else {
            earlier.arrived(places, &coming);
            continue;
        };
        let Some(origin) = origin else { return Err(error) };
        failures += 1;
        blame(handle, origin, error.clone()).await;
        if failures >= ATTEMPTS {
            return Ok(Brought::Failed(not_fetched(&error)));
        }
    }
}

/// Copies paths here; where that fails, says whose fault it was if it was a machine's.
async fn copy(
    handle: &Handle,
    store: &Arc<dyn Keeper>,
    mut there: BTreeMap<StorePath, (PathInfo, Place)>,
) -> Result<(), (Option<Origin>, StoreError)> {
    let infos = there.values().map(|(info, _)| info.clone()).collect();
    let ordered = closure_order(infos).into_iter();
    let paths = ordered.filter_map(|info| there.remove(&info.path)).collect();
    let culprit = Culprit::default();
    let to = Destination {
        store: Arc::new(Adding(Arc::clone(store))) as Arc<dyn Store>,
        berth: handle.nowhere,
        machine: None,
        culprit: culprit.clone(),
        also_here: AlsoHere::No,
    };
    copy_all(&handle.shared, to, paths).await.map_err(|error| match culprit.get() {
        Some((Origin::Here, _)) | None => (None, error),
        Some((origin, error)) => (Some(*origin), error.clone()),
    })
}

/// Tells of a source that failed, and waits until that is known.
async fn blame(handle: &Handle, origin: Origin, error: StoreError) {
    let (done, known) = oneshot::channel();
    handle.send(Command::SourceFailed { origin, error, done });
    // where the service has ended there is nothing to wait for
    drop(known.await);
}
