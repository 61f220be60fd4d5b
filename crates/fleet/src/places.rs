//! Where paths are, what is known of them, and which are on their way.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use drover_core::{OutputName, PathInfo, StorePath};
use drover_schedule::Place;
use drover_store::closure_order;
use tokio::sync::watch;

use crate::hidden::Mentionable;

mod acceptable;
mod forget;
mod made;

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
    lane: u64,
    way: Way,
    state: watch::Receiver<Flight>,
}

/// How a path comes to a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// It's only a matter of bytes.
    Free,
    /// The machine will not read it before a build has ended, however long that takes. It's small:
    /// who needs it sooner had better bring it, too.
    BehindBuild,
}

impl Carrier {
    /// How far it has come. One whose lane has ended will not come any more.
    fn flight(&self) -> Flight {
        let flight = *self.state.borrow();
        match flight {
            Flight::Flying if self.state.has_changed().is_err() => Flight::Failed,
            flight => flight,
        }
    }
}

/// A lane's berth at a place. What a lane says of a place counts until the place is forgotten.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Berth {
    pub(crate) place: Place,
    /// How often the place had been forgotten when the lane was opened.
    epoch: u32,
    /// The lane, by a number that no other lane has.
    lane: u64,
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
    /// How often each place was forgotten.
    epochs: HashMap<Place, u32>,
    lanes: u64,
    realised: HashMap<(StorePath, OutputName), StorePath>,
    /// What was built on machines and not searched yet, and where.
    made: HashMap<StorePath, (Place, Mentionable)>,
    /// Small NARs that are kept, as they will probably be sent on.
    kept: HashMap<StorePath, Bytes>,
    kept_bytes: usize,
    /// A machine that builds into the caller's store: what is here is there, too.
    twin: Option<Place>,
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

    /// Has a machine count as one that builds into the caller's store.
    pub(crate) fn set_twin(&self, machine: Place) {
        self.inner().twin = Some(machine);
    }

    /// Whether a place is that of such a machine.
    pub(crate) fn is_twin(&self, place: Place) -> bool {
        self.inner().twin == Some(place)
    }

    /// Notes what is known of a path that is valid at a place.
    pub(crate) fn add(&self, info: PathInfo, place: Place) {
        self.inner().add(info, place);
    }

    /// Notes what is known of a path that was built at a berth.
    pub(crate) fn built(&self, info: PathInfo, berth: Berth) {
        let mut inner = self.inner();
        if inner.is_current(berth) {
            inner.add(info, berth.place);
        }
    }

    /// Returns a berth for a new lane.
    pub(crate) fn berth(&self, place: Place) -> Berth {
        let mut inner = self.inner();
        inner.lanes += 1;
        let epoch = inner.epochs.get(&place).copied().unwrap_or_default();
        Berth { place, epoch, lane: inner.lanes }
    }

    /// Returns what is known of a path.
    pub(crate) fn info(&self, path: &StorePath) -> Option<PathInfo> {
        self.inner().infos.get(path).cloned()
    }

    /// Notes that a path is valid at a place.
    pub(crate) fn add_place(&self, path: &StorePath, place: Place) {
        self.inner().at.entry(path.clone()).or_default().insert(place);
    }

    /// Forgets all that was at a place. Returns the paths.
    pub(crate) fn forget_place(&self, place: Place) -> Vec<StorePath> {
        let mut inner = self.inner();
        *inner.epochs.entry(place).or_default() += 1;
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
    pub(crate) fn realised(
        &self,
        derivation: &StorePath,
        output: &OutputName,
    ) -> Option<StorePath> {
        self.inner().realised.get(&(derivation.clone(), output.clone())).cloned()
    }

    /// Returns what is known of a path that is valid somewhere, and one of the places: the one that
    /// has the least to send by `load`, which then has more.
    pub(crate) fn somewhere(
        &self,
        path: &StorePath,
        load: &mut HashMap<Place, u64>,
    ) -> Option<(PathInfo, Place)> {
        let inner = self.inner();
        let info = inner.infos.get(path)?.clone();
        if inner.kept.contains_key(path) {
            return Some((info, Place::Here));
        }
        let places = inner.at.get(path)?;
        let place = *places.iter().min_by_key(|place| load.get(place).copied().unwrap_or(0))?;
        *load.entry(place).or_default() += info.nar_size.0;
        Some((info, place))
    }

    /// Whether a path is at a place and can't be had from another.
    pub(crate) fn is_only_at(&self, path: &StorePath, place: Place) -> bool {
        let inner = self.inner();
        let there = inner.at.get(path).is_some_and(|at| at.len() == 1 && at.contains(&place));
        there && !inner.kept.contains_key(path)
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
        berth: Berth,
        state: &watch::Receiver<Flight>,
    ) {
        let mut inner = self.inner();
        for path in paths {
            let way = Way::Free;
            let carrier = Carrier { lane: berth.lane, way, state: state.clone() };
            inner.coming.insert((berth.place, path.clone()), carrier);
        }
    }

    /// Finds what a lane still has to bring so that `wanted` are valid at `place`, and notes that it
    /// brings it, in the `way` that is chosen then. What is on its way on the same lane is there in
    /// time, as a lane keeps the order.
    pub(crate) fn claim(
        &self,
        wanted: &[StorePath],
        berth: Berth,
        state: &watch::Receiver<Flight>,
        way: impl FnOnce(&[PathInfo]) -> Way,
    ) -> Needs {
        let Berth { place, lane, .. } = berth;
        let inner = &mut *self.inner();
        let mut needs = Needs::default();
        let mut seen: BTreeSet<StorePath> = BTreeSet::new();
        let mut stack: Vec<StorePath> = wanted.to_vec();
        let mut bring = Vec::new();
        let mut flying: HashMap<StorePath, watch::Receiver<Flight>> = HashMap::new();
        while let Some(path) = stack.pop() {
            if !seen.insert(path.clone()) || inner.is_at(&path, place) {
                continue;
            }
            let coming = inner.coming.get(&(place, path.clone()));
            match coming.map(|carrier| (carrier, carrier.flight())) {
                Some((_, Flight::Landed)) => continue,
                Some((carrier, Flight::Flying)) if carrier.lane == lane => continue,
                Some((carrier, Flight::Flying)) if carrier.way == Way::Free => {
                    flying.insert(path, carrier.state.clone());
                    continue;
                }
                Some((_, Flight::Flying | Flight::Failed)) | None => {}
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
        let way = way(&bring);
        inner.take_on(closure_order(bring), way, berth, state, &mut needs);
        needs
    }

    /// Notes that transfers to a place ended.
    pub(crate) fn landed(&self, paths: &[PathInfo], berth: Berth) {
        let mut inner = self.inner();
        if !inner.is_current(berth) {
            return;
        }
        for info in paths {
            inner.coming.remove(&(berth.place, info.path.clone()));
            inner.at.entry(info.path.clone()).or_default().insert(berth.place);
        }
    }

    /// Notes that paths won't come to a berth any more, or have come.
    pub(crate) fn not_coming<'a>(&self, paths: impl Iterator<Item = &'a StorePath>, berth: Berth) {
        let mut inner = self.inner();
        for path in paths {
            let key = (berth.place, path.clone());
            if inner.coming.get(&key).is_some_and(|carrier| carrier.lane == berth.lane) {
                inner.coming.remove(&key);
            }
        }
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
        let is_twin = self.twin == Some(place);
        let counts = |places: &BTreeSet<Place>| {
            places.contains(&place) || is_twin && places.contains(&Place::Here)
        };
        self.at.get(path).is_some_and(counts)
    }

    /// Notes that a lane brings paths, from where each is best had.
    fn take_on(
        &mut self,
        paths: Vec<PathInfo>,
        way: Way,
        Berth { place, lane, .. }: Berth,
        state: &watch::Receiver<Flight>,
        needs: &mut Needs,
    ) {
        for info in paths {
            match self.nearest(&info.path) {
                Some(from) => {
                    let carrier = Carrier { lane, way, state: state.clone() };
                    self.coming.insert((place, info.path.clone()), carrier);
                    needs.bring.push((info, from));
                }
                None => needs.lost.push(info.path),
            }
        }
    }

    fn is_current(&self, berth: Berth) -> bool {
        self.epochs.get(&berth.place).copied().unwrap_or_default() == berth.epoch
    }

    /// Notes a path. Where two machines made different contents for it, the later one counts, and
    /// what is elsewhere is not taken for it. When it was registered there only the clock there knows: whichever
    /// store it comes to has its own.
    fn add(&mut self, mut info: PathInfo, place: Place) {
        info.registration_time = 0;
        let places = self.at.entry(info.path.clone()).or_default();
        let known = self.infos.get(&info.path);
        if known.is_some_and(|known| known.nar_hash != info.nar_hash) {
            places.clear();
            if let Some(nar) = self.kept.remove(&info.path) {
                self.kept_bytes = self.kept_bytes.saturating_sub(nar.len());
            }
        }
        places.insert(place);
        self.infos.insert(info.path.clone(), info);
    }
}

#[cfg(test)]
mod tests {
    use drover_core::{NarHash, NarSize};
    use drover_schedule::MachineId;

    use super::*;

    const THERE: Place = Place::On(MachineId(0));

    fn info(name: &str, references: &[&PathInfo], contents: u8) -> PathInfo {
        let path = format!("{}-{name}", "0".repeat(32));
        PathInfo {
            path: StorePath::from_base_name(&path).expect("a good name"),
            deriver: None,
            nar_hash: NarHash([contents; 32]),
            nar_size: NarSize(1),
            references: references.iter().map(|info| info.path.clone()).collect(),
            registration_time: 0,
            ultimate: false,
            signatures: BTreeSet::new(),
            content_address: None,
        }
    }

    fn brought(needs: &Needs) -> Vec<&str> {
        needs.bring.iter().map(|(info, _)| info.path.name()).collect()
    }

    #[test]
    fn what_one_lane_brings_others_await() {
        let free = |_: &[PathInfo]| Way::Free;
        let (places, low) = (Places::default(), info("low", &[], 0));
        let high = info("high", &[&low], 0);
        places.add(low.clone(), Place::Here);
        places.add(high.clone(), Place::Here);
        let (one, two) = (places.berth(THERE), places.berth(THERE));
        let (sender, flight) = watch::channel(Flight::Flying);
        let first = places.claim(std::slice::from_ref(&high.path), one, &flight, free);
        assert_eq!(brought(&first), ["low", "high"]);
        let (_, other) = watch::channel(Flight::Flying);
        let second = places.claim(std::slice::from_ref(&low.path), two, &other, free);
        assert!(second.bring.is_empty() && second.await_others.len() == 1);
        let again = places.claim(std::slice::from_ref(&high.path), one, &flight, free);
        assert!(again.bring.is_empty() && again.await_others.is_empty(), "a lane keeps the order");
        drop(sender);
        let after = places.claim(std::slice::from_ref(&low.path), two, &other, free);
        assert_eq!(brought(&after), ["low"], "nobody awaits a lane that has ended");
    }

    #[test]
    fn what_waits_behind_a_build_others_bring_themselves() {
        let (places, path) = (Places::default(), info("path", &[], 0));
        places.add(path.clone(), Place::Here);
        let wanted = std::slice::from_ref(&path.path);
        let [one, two, three] = [(); 3].map(|()| places.berth(THERE));
        let (_flying, flight) = watch::channel(Flight::Flying);
        let behind = places.claim(wanted, one, &flight, |_| Way::BehindBuild);
        assert_eq!(brought(&behind), ["path"]);
        let again = places.claim(wanted, one, &flight, |_| Way::BehindBuild);
        assert!(again.bring.is_empty() && again.await_others.is_empty());
        let sooner = places.claim(wanted, two, &flight, |_| Way::Free);
        assert_eq!(brought(&sooner), ["path"]);
        let third = places.claim(wanted, three, &flight, |_| Way::Free);
        assert!(third.bring.is_empty() && third.await_others.len() == 1);
    }

    #[test]
    fn what_a_lane_says_of_a_forgotten_place_is_passed_over() {
        let (places, path) = (Places::default(), info("path", &[], 0));
        let berth = places.berth(THERE);
        places.built(path.clone(), berth);
        assert!(places.is_at(&path.path, THERE));
        assert_eq!(places.forget_place(THERE), std::slice::from_ref(&path.path));
        places.built(path.clone(), berth);
        places.landed(std::slice::from_ref(&path), berth);
        assert!(!places.is_at(&path.path, THERE));
        places.built(path.clone(), places.berth(THERE));
        assert!(places.is_at(&path.path, THERE));
    }

    #[test]
    fn other_contents_of_the_same_path_are_not_mixed() {
        let (places, elsewhere) = (Places::default(), Place::On(MachineId(1)));
        places.add(info("path", &[], 1), THERE);
        let path = info("path", &[], 2);
        places.keep(&path.path, Bytes::from_static(b"1"));
        places.add(path.clone(), elsewhere);
        assert!(!places.is_at(&path.path, THERE) && places.is_at(&path.path, elsewhere));
        assert_eq!(places.kept(&path.path), None);
    }
}
