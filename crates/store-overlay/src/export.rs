//! Paths on their way out, some from here and some from the store below.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::PathInfo;
use drover_store::{Keeper, PathStream, StoreError};

use crate::kept::Kept;

/// Where a path comes from.
pub(crate) enum Source {
    Kept(Arc<Kept>),
    Below(Box<PathInfo>),
}

/// What comes now.
enum Current {
    Nothing,
    Kept(Arc<Kept>, u64),
    Below(Box<dyn PathStream>),
}

/// Paths of both, in their order.
pub(crate) struct Mixed {
    below: Arc<dyn Keeper>,
    count: usize,
    left: VecDeque<Source>,
    current: Current,
}

impl Mixed {
    pub(crate) fn new(below: Arc<dyn Keeper>, sources: VecDeque<Source>) -> Mixed {
        Mixed { below, count: sources.len(), left: sources, current: Current::Nothing }
    }
}

#[async_trait]
impl PathStream for Mixed {
    fn count(&self) -> usize {
        self.count
    }

    async fn next_path(&mut self) -> Result<Option<PathInfo>, StoreError> {
        match self.left.pop_front() {
            None => {
                self.current = Current::Nothing;
                Ok(None)
            }
            Some(Source::Kept(kept)) => {
                let info = kept.info().clone();
                self.current = Current::Kept(kept, 0);
                Ok(Some(info))
            }
            Some(Source::Below(info)) => {
                let mut stream = self.below.export(vec![*info]).await?;
                let info = stream.next_path().await?;
                self.current = Current::Below(stream);
                Ok(info)
            }
        }
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        match &mut self.current {
            Current::Nothing => Ok(None),
            Current::Kept(kept, at) => {
                let chunk = kept.read(*at, self.below.name()).await?;
                *at += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
                Ok(chunk)
            }
            Current::Below(stream) => stream.chunk().await,
        }
    }
}
