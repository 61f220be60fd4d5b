//! Data of a client on its way to the store.
//!
//! The connection's own task reads, and what the store does takes, at both ends of a short queue. A
//! store that has had enough drops its end; a client that goes away leaves a stream without an end,
//! which is an error there and never a short file.
//!
//! Sizes and hashes are not checked here: the store has to look at every byte anyway.

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::PathInfo;
use drover_store::{ByteStream, PathStream, StoreError};
use tokio::sync::mpsc;

/// Pieces on their way at a time.
const QUEUE: usize = 8;

/// A part of what a client sends.
pub(crate) enum Piece {
    /// The next path begins.
    Path(Box<PathInfo>),
    /// Bytes of its NAR, or of what comes alone.
    Bytes(Bytes),
    /// The path is complete.
    EndOfPath,
    /// All is complete.
    End,
}

/// The store's end.
pub(crate) struct Pieces {
    queue: mpsc::Receiver<Piece>,
    /// Paths in all, where they are paths.
    count: usize,
    place: Place,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    InPath,
    Between,
    AtEnd,
}

/// Returns both ends of a queue for `count` paths, or for bytes that come alone.
pub(crate) fn pieces(count: usize) -> (mpsc::Sender<Piece>, Pieces) {
    let (sender, queue) = mpsc::channel(QUEUE);
    (sender, Pieces { queue, count, place: Place::Between })
}

impl Pieces {
    async fn next(&mut self) -> Result<Piece, StoreError> {
        self.queue.recv().await.ok_or_else(|| StoreError::Lost {
            store: "client".to_owned(),
            reason: "it ended in the middle of its data".to_owned(),
        })
    }
}

#[async_trait]
impl PathStream for Pieces {
    fn count(&self) -> usize {
        self.count
    }

    async fn next_path(&mut self) -> Result<Option<PathInfo>, StoreError> {
        while self.place != Place::AtEnd {
            match self.next().await? {
                Piece::Path(info) => {
                    self.place = Place::InPath;
                    return Ok(Some(*info));
                }
                Piece::End => self.place = Place::AtEnd,
                Piece::Bytes(_) | Piece::EndOfPath => {}
            }
        }
        Ok(None)
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        if self.place != Place::InPath {
            return Ok(None);
        }
        match self.next().await? {
            Piece::Bytes(bytes) => Ok(Some(bytes)),
            Piece::Path(_) | Piece::EndOfPath | Piece::End => {
                self.place = Place::Between;
                Ok(None)
            }
        }
    }
}

#[async_trait]
impl ByteStream for Pieces {
    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        if self.place == Place::AtEnd {
            return Ok(None);
        }
        if let Piece::Bytes(bytes) = self.next().await? {
            return Ok(Some(bytes));
        }
        self.place = Place::AtEnd;
        Ok(None)
    }
}
