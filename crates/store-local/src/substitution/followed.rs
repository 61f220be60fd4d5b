//! Paths on their way from a substituter.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::PathInfo;
use drover_store::{FetchEvent, FetchObserver, PathStream, StoreError};

use crate::substitution::Supply;

/// Paths on their way here, with what was decided on of each, and told of.
pub(super) struct Followed {
    infos: std::vec::IntoIter<PathInfo>,
    contents: Box<dyn PathStream>,
    supply: Arc<Supply>,
    /// Who else is told, of this session's alone.
    follower: Option<Arc<dyn FetchObserver>>,
    from: String,
    current: Option<Current>,
}

struct Current {
    number: u64,
    done: u64,
    size: u64,
}

impl Followed {
    /// `contents` are those of `infos`; `supply` is told of what comes, and so is who follows the session.
    pub(super) fn new(
        infos: Vec<PathInfo>,
        contents: Box<dyn PathStream>,
        from: String,
        (supply, follower): (Arc<Supply>, Option<Arc<dyn FetchObserver>>),
    ) -> Followed {
        Followed { infos: infos.into_iter(), contents, supply, follower, from, current: None }
    }

    fn event(&self, event: FetchEvent) {
        if let Some(follower) = &self.follower {
            follower.event(event.clone());
        }
        self.supply.event(event);
    }

    fn end_current(&mut self) {
        if let Some(Current { number, .. }) = self.current.take() {
            self.event(FetchEvent::Ended { number });
        }
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.end_current();
    }
}

#[async_trait]
impl PathStream for Followed {
    fn count(&self) -> usize {
        self.contents.count()
    }

    async fn next_path(&mut self) -> Result<Option<PathInfo>, StoreError> {
        self.end_current();
        let theirs = self.contents.next_path().await?;
        let Some(info) = self.infos.next().filter(|_| theirs.is_some()) else { return Ok(None) };
        let number = self.supply.number();
        let (path, substituter) = (info.path.clone(), self.from.clone());
        self.event(FetchEvent::Started { number, path, substituter });
        self.current = Some(Current { number, done: 0, size: info.nar_size.0 });
        Ok(Some(info))
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        let chunk = self.contents.chunk().await?;
        if let (Some(current), Some(bytes)) = (&mut self.current, &chunk) {
            current.done += bytes.len() as u64;
            let Current { number, done, size } = *current;
            self.event(FetchEvent::Progress { number, done, size });
        }
        Ok(chunk)
    }
}
