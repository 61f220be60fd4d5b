//! Paths from several stores in one stream, in an order in which they can be added.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::{PathInfo, StorePath};
use drover_schedule::Place;
use drover_store::{PathStream, Store, StoreError};
use futures::stream::{BoxStream, StreamExt as _, TryStreamExt as _};
use futures::FutureExt as _;

use crate::event::{FleetEvent, Observer};

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
    small: BoxStream<'static, Result<Bytes, StoreError>>,
    /// How each path comes that is still to come, last first.
    order: Vec<Next>,
    count: usize,
    current: Current,
    to: Arc<Traffic>,
    transfer: u64,
    observer: Arc<dyn Observer>,
}

/// Where the bytes of the current path come from.
enum Current {
    Nothing,
    Small(Option<Bytes>),
    Source(usize),
}

/// Where the stores are, by place.
pub(crate) trait Sources: Send + Sync {
    /// Returns the store at a place and the count of what it sends.
    fn source(&self, place: Place) -> Result<(Arc<dyn Store>, Arc<Traffic>), StoreError>;

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
        transfer: u64,
        observer: Arc<dyn Observer>,
    ) -> Result<Merged, StoreError> {
        let count = paths.len();
        let mut order = Vec::with_capacity(count);
        let mut small = Vec::new();
        let mut by_place: BTreeMap<Place, Vec<PathInfo>> = BTreeMap::new();
        for (info, place) in paths {
            if let Some(nar) = sources.kept(&info.path) {
                order.push(Next::Small(info));
                small.push(futures::future::ready(Ok(nar)).boxed());
            } else if info.nar_size.0 <= SMALL {
                let (store, traffic) = sources.source(place)?;
                order.push(Next::Small(info.clone()));
                small.push(fetch_small(store, traffic, info).boxed());
            } else {
                order.push(Next::From(place));
                by_place.entry(place).or_default().push(info);
            }
        }
        order.reverse();
        let small = futures::stream::iter(small).buffered(SMALL_AHEAD).boxed();
        let mut open = Vec::with_capacity(by_place.len());
        for (place, infos) in by_place {
            let (store, traffic) = sources.source(place)?;
            open.push(Source { place, stream: store.export(infos).await?, traffic });
        }
        let current = Current::Nothing;
        Ok(Merged { sources: open, small, order, count, current, to, transfer, observer })
    }

    fn sent(&self, bytes: u64) {
        self.to.up.fetch_add(bytes, Ordering::Relaxed);
        self.observer.event(FleetEvent::CopyProgress { transfer: self.transfer, bytes });
    }
}

/// Fetches a small NAR whole, and counts it.
pub(crate) async fn fetch_small(
    store: Arc<dyn Store>,
    traffic: Arc<Traffic>,
    info: PathInfo,
) -> Result<Bytes, StoreError> {
    let nar = store.small_nar(info).await?;
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
                let nar = self.small.try_next().await?;
                self.current = Current::Small(nar);
                Ok(Some(info))
            }
            Some(Next::From(place)) => {
                let at = self.sources.iter().position(|source| source.place == place);
                self.current = at.map_or(Current::Nothing, Current::Source);
                match at.and_then(|at| self.sources.get_mut(at)) {
                    Some(source) => source.stream.next_path().await,
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
                    let chunk = source.stream.chunk().await?;
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

impl Drop for Merged {
    fn drop(&mut self) {
        self.observer.event(FleetEvent::CopyEnded { transfer: self.transfer });
    }
}
