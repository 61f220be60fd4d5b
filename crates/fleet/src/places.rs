//! Where paths are, what is known of them, and which are on their way.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use drover_core::{OutputName, PathInfo, StorePath};
use drover_schedule::Place;
use drover_store::closure_order;
use tokio::sync::watch;

/// How far a transfer of a path to a machine has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flight {
    /// On its way.
    Flying,
    /// Valid there.
    Landed,
    /// It won't come.
    Failed,
}

/// Who brings a path to a machine.
#[derive(Clone, Debug)]
struct Carrier {
    lane: u32,
    state: watch::Receiver<Flight>,
}

/// Where paths are. Shared between the driver and the lanes.
#[derive(Default)]
pub(crate) struct Places(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    infos: HashMap<StorePath, PathInfo>,
    at: HashMap<StorePath, BTreeSet<Place>>,
    /// Paths on their way to a place, or being built there.
    coming: HashMap<(Place, StorePath), Carrier>,
    realised: HashMap<(StorePath, OutputName), StorePath>,
    /// Small NARs that are kept, as they will probably be sent on.
    kept: HashMap<StorePath, Bytes>,
    kept_bytes: usize,
}

/// Bytes of small NARs that are kept.
const KEPT: usize = 16 * 1024 * 1024;

/// What has to happen before a job can be started on a lane.
#[derive(Default)]
pub(crate) struct Needs {
    /// Paths that this lane has to bring, references first, with where they are.
    pub(crate) bring: Vec<(PathInfo, Place)>,
    /// Paths that others bring.
    pub(crate) await_others: Vec<watch::Receiver<Flight>>,
    /// Paths that others bring and to which some that this lane brings refer: those must be valid
    /// before anything is sent.
    pub(crate) await_first: Vec<watch::Receiver<Flight>>,
    /// Paths that are nowhere.
    pub(crate) lost: Vec<StorePath>,
}

impl Places {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what is known of a path that is valid at a place.
    pub(crate) fn add(&self, info: PathInfo, place: Place) {
        let mut inner = self.inner();
        inner.at.entry(info.path.clone()).or_default().insert(place);
        inner.infos.insert(info.path.clone(), info);
    }

    /// Notes that a path is valid at a place.
    pub(crate) fn add_place(&self, path: &StorePath, place: Place) {
        self.inner().at.entry(path.clone()).or_default().insert(place);
    }

    /// Forgets all that was at a place. Returns the paths.
    pub(crate) fn forget_place(&self, place: Place) -> Vec<StorePath> {
        let mut inner = self.inner();
        inner.coming.retain(|(at, _), _| *at != place);
        inner
            .at
            .iter_mut()
            .filter_map(|(path, places)| places.remove(&place).then(|| path.clone()))
            .collect()
    }

    /// Notes the path of an output.
    pub(crate) fn realise(&self, derivation: &StorePath, output: OutputName, path: StorePath) {
        self.inner().realised.insert((derivation.clone(), output), path);
    }

    /// Returns the path of an output.
    pub(crate) fn realised(&self, derivation: &StorePath, output: &OutputName) -> Option<StorePath> {
        self.inner().realised.get(&(derivation.clone(), output.clone())).cloned()
    }

    /// Returns what is known of a path that is valid somewhere, and one of the places.
    pub(crate) fn somewhere(&self, path: &StorePath) -> Option<(PathInfo, Place)> {
        let inner = self.inner();
        let place = inner.nearest(path)?;
        Some((inner.infos.get(path)?.clone(), place))
    }

    /// Keeps a small NAR, unless many are kept already. Returns whether it did.
    pub(crate) fn keep(&self, path: &StorePath, nar: Bytes) -> Kept {
        let mut inner = self.inner();
        if inner.kept_bytes + nar.len() > KEPT {
            return Kept::No;
        }
        inner.kept_bytes += nar.len();
        inner.kept.insert(path.clone(), nar);
        Kept::Yes
    }

    pub(crate) fn kept(&self, path: &StorePath) -> Option<Bytes> {
        self.inner().kept.get(path).cloned()
    }

    pub(crate) fn is_at(&self, path: &StorePath, place: Place) -> bool {
        self.inner().at.get(path).is_some_and(|places| places.contains(&place))
    }

    /// Notes that a lane will build these paths at a place.
    pub(crate) fn will_be_built<'a>(
        &self,
        paths: impl Iterator<Item = &'a StorePath>,
        place: Place,
        lane: u32,
        state: &watch::Receiver<Flight>,
    ) {
        let mut inner = self.inner();
        for path in paths {
            let carrier = Carrier { lane, state: state.clone() };
            inner.coming.insert((place, path.clone()), carrier);
        }
    }

    /// Finds what a lane still has to bring so that `wanted` are valid at `place`, and notes that it
    /// brings it. What is on its way on the same lane is there in time, as a lane keeps the order.
    pub(crate) fn claim(
        &self,
        wanted: &[StorePath],
        place: Place,
        lane: u32,
        state: &watch::Receiver<Flight>,
    ) -> Needs {
        let mut inner = self.inner();
        let mut needs = Needs::default();
        let mut seen: BTreeSet<StorePath> = BTreeSet::new();
        let mut stack: Vec<StorePath> = wanted.to_vec();
        let mut bring = Vec::new();
        let mut flying: HashMap<StorePath, watch::Receiver<Flight>> = HashMap::new();
        while let Some(path) = stack.pop() {
            if !seen.insert(path.clone()) || inner.is_at(&path, place) {
                continue;
            }
            match inner.coming.get(&(place, path.clone())) {
                Some(carrier) if *carrier.state.borrow() == Flight::Landed => continue,
                Some(carrier) if *carrier.state.borrow() == Flight::Flying => {
                    if carrier.lane != lane {
                        flying.insert(path, carrier.state.clone());
                    }
                    continue;
                }
                _ => {}
            }
            match inner.infos.get(&path) {
                Some(info) => {
                    stack.extend(info.references.iter().cloned());
                    bring.push(info.clone());
                }
                None => needs.lost.push(path),
            }
        }
        for info in &bring {
            let first = info.references.iter().filter_map(|path| flying.remove(path));
            needs.await_first.extend(first);
        }
        needs.await_others.extend(flying.into_values());
        for info in closure_order(bring) {
            match inner.nearest(&info.path) {
                Some(from) => {
                    let carrier = Carrier { lane, state: state.clone() };
                    inner.coming.insert((place, info.path.clone()), carrier);
                    needs.bring.push((info, from));
                }
                None => needs.lost.push(info.path),
            }
        }
        needs
    }

    /// Notes that transfers to a place ended.
    pub(crate) fn landed(&self, paths: &[PathInfo], place: Place) {
        let mut inner = self.inner();
        for info in paths {
            inner.coming.remove(&(place, info.path.clone()));
            inner.at.entry(info.path.clone()).or_default().insert(place);
        }
    }

    /// Notes that paths won't come to a place.
    pub(crate) fn not_coming<'a>(
        &self,
        paths: impl Iterator<Item = &'a StorePath>,
        place: Place,
    ) {
        let mut inner = self.inner();
        for path in paths {
            inner.coming.remove(&(place, path.clone()));
        }
    }

    /// Whether `path` is in the closure of `inputs`.
    pub(crate) fn outside_closure(
        &self,
        inputs: &[StorePath],
        wanted: &BTreeSet<StorePath>,
    ) -> Option<StorePath> {
        let inner = self.inner();
        let mut left: BTreeSet<&StorePath> = wanted.iter().collect();
        let mut seen: BTreeSet<&StorePath> = BTreeSet::new();
        let mut stack: Vec<&StorePath> = inputs.iter().collect();
        while let Some(path) = stack.pop() {
            left.remove(path);
            if left.is_empty() {
                return None;
            }
            if seen.insert(path)
                && let Some(info) = inner.infos.get(path)
            {
                stack.extend(&info.references);
            }
        }
        left.into_iter().next().cloned()
    }
}

/// Whether something was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    Yes,
    No,
}

impl Inner {
    /// Returns where a path is best had from: what is kept is as good as here.
    fn nearest(&self, path: &StorePath) -> Option<Place> {
        if self.kept.contains_key(path) {
            return Some(Place::Here);
        }
        self.at.get(path)?.iter().next().copied()
    }

    fn is_at(&self, path: &StorePath, place: Place) -> bool {
        self.at.get(path).is_some_and(|places| places.contains(&place))
    }
}
