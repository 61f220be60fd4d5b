//! Paths from several stores in one stream, in an order in which they can be added.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::{PathInfo, StorePath};
use drover_schedule::{MachineId, Place};
use drover_store::{PathStream, Store, StoreError};
use futures::FutureExt as _;
use futures::stream::{BoxStream, StreamExt as _};

use crate::event::{FleetEvent, Observer};
use crate::hidden::Watch;
use crate::machine_state::Generation;

/// Bytes that went through, by machine and direction.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) up: AtomicU64,
    pub(crate) down: AtomicU64,
}

/// One source of a merged stream.
struct Source {
    place: Place,
    stream: Box<dyn PathStream>,
    traffic: Arc<Traffic>,
    origin: Origin,
}

/// NARs of at most so many bytes are asked for side by side on one connection, and may be kept.
pub(crate) const SMALL: u64 = 64 * 1024;

/// Small NARs that are asked for ahead of what is being sent.
const SMALL_AHEAD: usize = 128;

/// How the next path comes.
enum Next {
    /// As one of the small ones.
    Small(PathInfo),
    /// From a stream.
    From(Place),
}

/// Paths from several stores. Each store's are asked for in the order in which they are needed, so
/// that none waits for another.
pub(crate) struct Merged {
    sources: Vec<Source>,
    /// The small ones, in the order in which they are needed.
    small: BoxStream<'static, (Origin, Result<Bytes, StoreError>)>,
    /// How each path comes that is still to come, last first.
    order: Vec<Next>,
    count: usize,
    current: Current,
    to: Arc<Traffic>,
    transfer: Transfer,
    /// Where it's told which source broke off.
    pub(crate) culprit: Culprit,
}

/// Where the bytes of the current path come from.
enum Current {
    Nothing,
    Small(Option<Bytes>),
    Source(usize),
}

/// A store that paths come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The caller's own.
    Here,
    /// A machine, in one of its connections.
    On { machine: MachineId, generation: Generation },
    /// A machine that is not connected any more.
    Gone,
}

/// The source that broke transfers off, if it was one of the sources, and its error.
#[derive(Clone, Debug, Default)]
pub(crate) struct Culprit(Arc<OnceLock<(Origin, StoreError)>>);

impl Culprit {
    pub(crate) fn get(&self) -> Option<&(Origin, StoreError)> {
        self.0.get()
    }

    /// Takes note of whose error it is.
    fn blame<T>(&self, origin: Origin, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(error) = &result {
            // the first one counts, as it may have caused the others
            self.0.get_or_init(|| (origin, error.clone()));
        }
        result
    }
}

/// Tells the observer of a transfer's end when it's dropped.
pub(crate) struct Transfer {
    pub(crate) number: u64,
    pub(crate) observer: Arc<dyn Observer>,
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.observer.event(FleetEvent::CopyEnded { transfer: self.number });
    }
}

/// A store that paths can be had from.
#[derive(Clone)]
pub(crate) struct Found {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) watch: Watch,
}

/// Where the stores are, by place.
pub(crate) trait Sources: Send + Sync {
    /// Returns the store at a place.
    fn source(&self, place: Place) -> Result<Found, StoreError>;

    /// Returns the NAR of a small path if it's at hand.
    fn kept(&self, path: &StorePath) -> Option<Bytes>;
}

impl Merged {
    /// Opens the streams, in the order of the places so that two that need the same can't wait for
    /// each other.
    pub(crate) async fn open(
        sources: &dyn Sources,
        paths: Vec<(PathInfo, Place)>,
        to: Arc<Traffic>,
        transfer: Transfer,
        culprit: Culprit,
    ) -> Result<Merged, StoreError> {
        let count = paths.len();
        let mut order = Vec::with_capacity(count);
        let mut small = Vec::new();
        let mut by_place: BTreeMap<Place, Vec<PathInfo>> = BTreeMap::new();
        let find = |place| culprit.blame(Origin::Gone, sources.source(place));
        for (info, place) in paths {
            if let Some(nar) = sources.kept(&info.path) {
                order.push(Next::Small(info));
                small.push(futures::future::ready((Origin::Here, Ok(nar))).boxed());
            } else if info.nar_size.0 <= SMALL {
                let found = find(place)?;
                let origin = found.watch.origin;
                order.push(Next::Small(info.clone()));
                let fetched = fetch_small(found, info);
                small.push(fetched.map(move |nar| (origin, nar)).boxed());
            } else {
                order.push(Next::From(place));
                by_place.entry(place).or_default().push(info);
            }
        }
        order.reverse();
        let small = futures::stream::iter(small).buffered(SMALL_AHEAD).boxed();
        let mut open = Vec::with_capacity(by_place.len());
        for (place, infos) in by_place {
            let Found { store, traffic, watch } = find(place)?;
            let origin = watch.origin;
            let stream = culprit.blame(origin, store.export(infos).await)?;
            let stream = watch.all(store.name(), stream);
            open.push(Source { place, stream, traffic, origin });
        }
        let current = Current::Nothing;
        Ok(Merged { sources: open, small, order, count, current, to, transfer, culprit })
    }

    fn sent(&self, bytes: u64) {
        self.to.up.fetch_add(bytes, Ordering::Relaxed);
        let transfer = self.transfer.number;
        self.transfer.observer.event(FleetEvent::CopyProgress { transfer, bytes });
    }
}

/// Fetches a small NAR whole, counts it, and looks through it.
pub(crate) async fn fetch_small(found: Found, info: PathInfo) -> Result<Bytes, StoreError> {
    let Found { store, traffic, watch } = found;
    let nar = store.small_nar(info.clone()).await?;
    watch.whole(store.name(), &info, &nar)?;
    traffic.down.fetch_add(nar.len() as u64, Ordering::Relaxed);
    Ok(nar)
}

#[async_trait]
impl PathStream for Merged {
    fn count(&self) -> usize {
        self.count
    }

    async fn next_path(&mut self) -> Result<Option<PathInfo>, StoreError> {
        match self.order.pop() {
            None => Ok(None),
            Some(Next::Small(info)) => {
                self.current = match self.small.next().await {
                    Some((origin, nar)) => Current::Small(Some(self.culprit.blame(origin, nar)?)),
                    None => Current::Nothing,
                };
                Ok(Some(info))
            }
            Some(Next::From(place)) => {
                let at = self.sources.iter().position(|source| source.place == place);
                self.current = at.map_or(Current::Nothing, Current::Source);
                match at.and_then(|at| self.sources.get_mut(at)) {
                    Some(source) => {
                        let next = source.stream.next_path().await;
                        self.culprit.blame(source.origin, next)
                    }
                    None => Ok(None),
                }
            }
        }
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        let chunk = match &mut self.current {
            Current::Nothing => None,
            Current::Small(nar) => nar.take(),
            Current::Source(at) => match self.sources.get_mut(*at) {
                Some(source) => {
                    let chunk = source.stream.chunk().await;
                    let chunk = self.culprit.blame(source.origin, chunk)?;
                    let bytes = chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
                    source.traffic.down.fetch_add(bytes, Ordering::Relaxed);
                    chunk
                }
                None => None,
            },
        };
        if let Some(chunk) = &chunk {
            self.sent(chunk.len() as u64);
        }
        Ok(chunk)
    }
}
