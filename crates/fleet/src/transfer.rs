//! Copies paths to a store, as many at once as the links bear.
//!
//! Small paths go in one stream, references first. A bulky one has a stream of its own, as each
//! connection has a flow-control window that limits it on a long way. A store registers a path when
//! its NAR has ended, so a bulky path may be on its way before what it refers to is there: only its
//! last chunk is held back until then ([`Gated`]).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::{PathInfo, StorePath};
use drover_schedule::{MachineId, Place};
use drover_store::{PathStream, Store, StoreError};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::copied::Copied;
use crate::merge::{Culprit, Merged};
use crate::places::Berth;
use crate::shared::Shared;
use crate::tee::Registered;

/// Bytes from which on a path gets a stream of its own.
pub(crate) const BULKY: u64 = 1024 * 1024;

/// Bulky paths on their way to one place at once. Fewer than a store takes, so that small ones
/// never wait for a bulky one that waits for them.
const BULKY_AT_ONCE: usize = 12;

/// Where paths are copied to.
#[derive(Clone)]
pub(crate) struct Destination {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) berth: Berth,
    pub(crate) machine: Option<MachineId>,
    /// Where it's told which source broke a transfer off.
    pub(crate) culprit: Culprit,
    pub(crate) also_here: AlsoHere,
}

/// Whether what passes will probably be wanted here, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AlsoHere {
    Yes,
    No,
}

/// The caller's own store.
pub(crate) fn here(shared: &Shared, culprit: &Culprit) -> Destination {
    Destination {
        store: Arc::clone(&shared.local),
        berth: shared.places.berth(Place::Here),
        machine: None,
        culprit: culprit.clone(),
        also_here: AlsoHere::No,
    }
}

/// Tells when something is there.
pub(crate) type Landing = watch::Receiver<bool>;

/// Copies paths, which are given references first, and whose other references are at the
/// destination. Each becomes known as being there when it is.
pub(crate) async fn copy_all(
    shared: &Arc<Shared>,
    to: Destination,
    paths: Vec<(PathInfo, Place)>,
) -> Result<(), StoreError> {
    let (bulky, groups) = stages(paths);
    let mut landings: HashMap<StorePath, Landing> = HashMap::new();
    let mut senders = HashMap::new();
    for (info, _) in &bulky {
        let (landed, landing) = watch::channel(false);
        senders.insert(info.path.clone(), landed);
        landings.insert(info.path.clone(), landing);
    }
    let mut small = Vec::new();
    for group in groups.into_values() {
        let (landed, landing) = watch::channel(false);
        let waits = group.iter().flat_map(|(info, _)| gates(info, &landings)).collect();
        for (info, _) in &group {
            landings.entry(info.path.clone()).or_insert_with(|| landing.clone());
        }
        small.push((group, waits, landed));
    }
    let mut tasks = JoinSet::new();
    let (of_shared, of_to) = (Arc::clone(shared), to.clone());
    let groups = async move { copy_groups(&of_shared, &of_to, small).await };
    tasks.spawn(shared.tracker.track_future(groups));
    let (of_shared, of_to) = (Arc::clone(shared), to);
    let bulky = async move { copy_bulky(&of_shared, &of_to, bulky, senders, landings).await };
    tasks.spawn(shared.tracker.track_future(bulky));
    join_all(&mut tasks).await
}

/// Waits for transfers until one fails. One that was only broken off because of another is not what
/// is to be told, so that one is waited for.
async fn join_all(tasks: &mut JoinSet<Result<(), StoreError>>) -> Result<(), StoreError> {
    let mut outcome = Ok(());
    while let Some(done) = tasks.join_next().await {
        match done.unwrap_or_else(|error| Err(broken_off(&error.to_string()))) {
            Ok(()) => {}
            Err(error @ StoreError::BrokenOff { .. }) => outcome = Err(error),
            Err(error) => return Err(error),
        }
    }
    outcome
}

pub(crate) fn broken_off(reason: &str) -> StoreError {
    StoreError::BrokenOff { reason: reason.to_owned() }
}

/// A path, and where it is.
type Sourced = (PathInfo, Place);

/// Splits paths into bulky ones and groups of small ones: a group only refers to groups before it
/// and to bulky paths that don't wait for it.
fn stages(paths: Vec<Sourced>) -> (Vec<Sourced>, BTreeMap<usize, Vec<Sourced>>) {
    let mut stage_of: HashMap<StorePath, (usize, Size)> = HashMap::new();
    let mut bulky = Vec::new();
    let mut groups: BTreeMap<usize, Vec<Sourced>> = BTreeMap::new();
    for (info, place) in paths {
        let size = if info.nar_size.0 >= BULKY { Size::Bulky } else { Size::Small };
        let after = |(stage, of): &(usize, Size)| match (of, size) {
            (Size::Bulky, Size::Small) => stage + 1,
            _ => *stage,
        };
        let stage = info.references.iter().filter_map(|path| stage_of.get(path)).map(after).max();
        let stage = stage.unwrap_or(0);
        stage_of.insert(info.path.clone(), (stage, size));
        match size {
            Size::Bulky => bulky.push((info, place)),
            Size::Small => groups.entry(stage).or_default().push((info, place)),
        }
    }
    (bulky, groups)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Size {
    Small,
    Bulky,
}

/// Returns what has to land before a path is registered.
fn gates(info: &PathInfo, landings: &HashMap<StorePath, Landing>) -> Vec<Landing> {
    let others = info.references.iter().filter(|path| **path != info.path);
    others.filter_map(|path| landings.get(path).cloned()).collect()
}

/// Waits until all of it has landed.
pub(crate) async fn landed(gates: &mut [Landing]) -> Result<(), StoreError> {
    for gate in gates {
        let there = gate.wait_for(|there| *there).await;
        there.map_err(|_| broken_off("something that a path refers to did not arrive"))?;
    }
    Ok(())
}

/// Copies the groups of small paths, one after another.
async fn copy_groups(
    shared: &Arc<Shared>,
    to: &Destination,
    groups: Vec<(Vec<Sourced>, Vec<Landing>, watch::Sender<bool>)>,
) -> Result<(), StoreError> {
    for (group, mut waits, done) in groups {
        landed(&mut waits).await?;
        let infos: Vec<PathInfo> = group.iter().map(|(info, _)| info.clone()).collect();
        let merged = open(shared, to, group).await?;
        to.store.import(Box::new(Copied(merged))).await?;
        shared.places.landed(&infos, to.berth);
        done.send_replace(true);
    }
    Ok(())
}

/// Copies bulky paths, several at once. Each has what it needs to move on before the next begins,
/// so that none waits for one that waits for it.
async fn copy_bulky(
    shared: &Arc<Shared>,
    to: &Destination,
    bulky: Vec<Sourced>,
    mut senders: HashMap<StorePath, watch::Sender<bool>>,
    landings: HashMap<StorePath, Landing>,
) -> Result<(), StoreError> {
    shared.expect_streams(to, &bulky);
    let at_once = Arc::new(Semaphore::new(BULKY_AT_ONCE));
    let mut running: JoinSet<Result<(), StoreError>> = JoinSet::new();
    for (info, place) in bulky {
        let permit = loop {
            let permit = Arc::clone(&at_once).acquire_owned();
            tokio::select! {
                biased;
                Some(done) = running.join_next() => {
                    done.unwrap_or_else(|error| Err(broken_off(&error.to_string())))?;
                }
                permit = permit => break permit,
            }
        };
        let gates = gates(&info, &landings);
        let held = to.berth.place == Place::Here && shared.tees.holds(&info.path);
        let stream = match held {
            true => None,
            false => Some(open_one(shared, to, (info.clone(), place)).await?),
        };
        let done = senders.remove(&info.path);
        let (of_shared, to) = (Arc::clone(shared), to.clone());
        running.spawn(shared.tracker.track_future(async move {
            let _permit = permit;
            copy_one(&of_shared, &to, (info.clone(), place), stream, gates).await?;
            of_shared.places.landed(std::slice::from_ref(&info), to.berth);
            if let Some(done) = done {
                done.send_replace(true);
            }
            Ok(())
        }));
    }
    join_all(&mut running).await
}

/// Copies one path from `stream`; where there is none the path was fed to the destination already,
/// and is only copied if that went wrong.
async fn copy_one(
    shared: &Arc<Shared>,
    to: &Destination,
    path: Sourced,
    stream: Option<Box<dyn PathStream>>,
    gates: Vec<Landing>,
) -> Result<(), StoreError> {
    let stream = match stream {
        Some(stream) => stream,
        None => match shared.tees.register(&path.0.path, gates.clone()).await {
            Registered::Yes => return Ok(()),
            Registered::No => open_one(shared, to, path).await?,
        },
    };
    to.store.import(Box::new(Copied(Gated { stream, gates, held: None }))).await
}

pub(crate) async fn open(
    shared: &Arc<Shared>,
    to: &Destination,
    paths: Vec<Sourced>,
) -> Result<Merged, StoreError> {
    let transfer = shared.start_transfer(&paths, to.machine);
    let traffic = shared.traffic(to.berth.place);
    Merged::open(shared.as_ref(), paths, traffic, transfer, to.culprit.clone()).await
}

/// Opens the stream of one bulky path.
async fn open_one(
    shared: &Arc<Shared>,
    to: &Destination,
    path: Sourced,
) -> Result<Box<dyn PathStream>, StoreError> {
    let (info, place) = (path.0.clone(), path.1);
    let stream = open(shared, to, vec![path]).await?;
    if to.also_here == AlsoHere::No || place == Place::Here {
        return Ok(Box::new(stream));
    }
    Ok(Box::new(shared.tees.feed(&shared.local, &info, stream)))
}

/// One path whose last chunk waits until what it refers to is there.
struct Gated {
    stream: Box<dyn PathStream>,
    gates: Vec<Landing>,
    held: Option<Bytes>,
}

#[async_trait]
impl PathStream for Gated {
    fn count(&self) -> usize {
        self.stream.count()
    }

    async fn next_path(&mut self) -> Result<Option<PathInfo>, StoreError> {
        self.stream.next_path().await
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        loop {
            match (self.stream.chunk().await?, self.held.take()) {
                (Some(next), None) => self.held = Some(next),
                (Some(next), Some(held)) => {
                    self.held = Some(next);
                    return Ok(Some(held));
                }
                (None, Some(last)) => {
                    landed(&mut self.gates).await?;
                    return Ok(Some(last));
                }
                (None, None) => return Ok(None),
            }
        }
    }
}
