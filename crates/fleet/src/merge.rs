//! Paths from several stores in one stream, in an order in which they can be added.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::PathInfo;
use drover_schedule::Place;
use drover_store::{PathStream, Store, StoreError};

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

/// Paths from several stores. Each store's are asked for in the order in which they are needed, so
/// that none waits for another.
pub(crate) struct Merged {
    sources: Vec<Source>,
    /// The source of each path that is still to come, last first.
    order: Vec<Place>,
    count: usize,
    current: Option<usize>,
    to: Arc<Traffic>,
    transfer: u64,
    observer: Arc<dyn Observer>,
}

/// Where the stores are, by place.
pub(crate) trait Sources: Send + Sync {
    /// Returns the store at a place and the count of what it sends.
    fn source(&self, place: Place) -> Result<(Arc<dyn Store>, Arc<Traffic>), StoreError>;
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
        let mut order: Vec<Place> = paths.iter().map(|(_, place)| *place).collect();
        let count = order.len();
        order.reverse();
        let mut by_place: std::collections::BTreeMap<Place, Vec<PathInfo>> =
            std::collections::BTreeMap::new();
        for (info, place) in paths {
            by_place.entry(place).or_default().push(info);
        }
        let mut open = Vec::with_capacity(by_place.len());
        for (place, infos) in by_place {
            let (store, traffic) = sources.source(place)?;
            open.push(Source { place, stream: store.export(infos).await?, traffic });
        }
        Ok(Merged { sources: open, order, count, current: None, to, transfer, observer })
    }
}

#[async_trait]
impl PathStream for Merged {
    fn count(&self) -> usize {
        self.count
    }

    async fn next_path(&mut self) -> Result<Option<PathInfo>, StoreError> {
        let Some(place) = self.order.pop() else { return Ok(None) };
        self.current = self.sources.iter().position(|source| source.place == place);
        match self.current.and_then(|at| self.sources.get_mut(at)) {
            Some(source) => source.stream.next_path().await,
            None => Ok(None),
        }
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        let Some(source) = self.current.and_then(|at| self.sources.get_mut(at)) else {
            return Ok(None);
        };
        let chunk = source.stream.chunk().await?;
        if let Some(chunk) = &chunk {
            let bytes = chunk.len() as u64;
            source.traffic.down.fetch_add(bytes, Ordering::Relaxed);
            self.to.up.fetch_add(bytes, Ordering::Relaxed);
            self.observer.event(FleetEvent::CopyProgress { transfer: self.transfer, bytes });
        }
        Ok(chunk)
    }
}

impl Drop for Merged {
    fn drop(&mut self) {
        self.observer.event(FleetEvent::CopyEnded { transfer: self.transfer });
    }
}
