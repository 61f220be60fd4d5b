//! Streams of paths with scripted faults.

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::PathInfo;
use drover_store::{PathStream, StoreError, Verified};
use tokio_util::sync::CancellationToken;

/// One path.
pub(crate) struct OnePath {
    path: Option<PathInfo>,
    nar: Option<Bytes>,
}

impl OnePath {
    pub(crate) fn new(info: PathInfo, nar: Vec<u8>) -> OnePath {
        OnePath { path: Some(info), nar: Some(nar.into()) }
    }
}

#[async_trait]
impl PathStream for OnePath {
    fn count(&self) -> usize {
        1
    }

    async fn next_path(&mut self) -> Result<Option<PathInfo>, StoreError> {
        Ok(self.path.take())
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        Ok(self.nar.take())
    }
}

/// What goes wrong with a stream out of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExportFault {
    /// The connection is lost before the first path.
    LostAtOnce,
    /// The connection is lost in the middle of a NAR.
    LostMidway,
    /// The connection is lost in the middle of the last NAR.
    LostInTheLast,
    /// A bit flips on the way.
    Corrupted,
    /// It says nothing any more, until the connection ends.
    Stalled,
}

/// A stream out of a machine: the infos as asked for, and NARs that are checked against them.
pub(crate) struct Outgoing {
    pub(crate) store: String,
    pub(crate) infos: std::vec::IntoIter<PathInfo>,
    pub(crate) inner: Box<dyn PathStream>,
    pub(crate) current: Option<Verified>,
    pub(crate) fault: Option<ExportFault>,
    pub(crate) dead: CancellationToken,
    pub(crate) pace: std::time::Duration,
}

impl Outgoing {
    fn lost(&self) -> StoreError {
        let reason = "the connection broke".to_owned();
        StoreError::Lost { store: self.store.clone(), reason }
    }

    fn alive(&self) -> Result<(), StoreError> {
        if self.dead.is_cancelled() { Err(self.lost()) } else { Ok(()) }
    }
}

#[async_trait]
impl PathStream for Outgoing {
    fn count(&self) -> usize {
        self.inner.count()
    }

    async fn next_path(&mut self) -> Result<Option<PathInfo>, StoreError> {
        self.alive()?;
        if self.fault == Some(ExportFault::LostAtOnce) {
            self.dead.cancel();
            return Err(self.lost());
        }
        let Some(info) = self.infos.next() else { return Ok(None) };
        self.inner.next_path().await?;
        self.current = Some(Verified::new(self.store.clone(), info.clone()));
        Ok(Some(info))
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        tokio::select! {
            biased;
            () = self.dead.cancelled() => {}
            () = tokio::time::sleep(self.pace) => {}
        }
        self.alive()?;
        match self.inner.chunk().await? {
            Some(chunk) => {
                let mut bytes = chunk.to_vec();
                match self.fault {
                    Some(ExportFault::LostInTheLast) if self.infos.len() > 0 => {}
                    Some(ExportFault::LostMidway | ExportFault::LostInTheLast) => {
                        self.dead.cancel();
                        return Err(self.lost());
                    }
                    Some(ExportFault::Stalled) => {
                        self.dead.cancelled().await;
                        return Err(self.lost());
                    }
                    Some(ExportFault::Corrupted) => bytes[0] ^= 1,
                    _ => {}
                }
                if let Some(current) = &mut self.current {
                    current.pass(&bytes)?;
                }
                Ok(Some(bytes.into()))
            }
            None => {
                if let Some(current) = self.current.take() {
                    current.finish()?;
                }
                Ok(None)
            }
        }
    }
}
