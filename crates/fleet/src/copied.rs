//! Paths on their way from where they were built. Where they arrive they weren't built, and whoever asks for
//! signatures there is to be told so.

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::PathInfo;
use drover_store::{PathStream, StoreError};

/// Such paths.
pub(crate) struct Copied<S>(pub(crate) S);

#[async_trait]
impl<S: PathStream> PathStream for Copied<S> {
    fn count(&self) -> usize {
        self.0.count()
    }

    async fn next_path(&mut self) -> Result<Option<PathInfo>, StoreError> {
        let next = self.0.next_path().await?;
        Ok(next.map(|info| PathInfo { ultimate: false, ..info }))
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        self.0.chunk().await
    }
}
