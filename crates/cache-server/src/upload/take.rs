//! An uploaded file on its way into the store: decompressed, cut off at the size that was announced, and
//! checked there like all that comes in.

use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use drover_codec::{decoder, read_full};
use drover_core::{Compression, NarInfo, NarSize, PathInfo};
use drover_store::{Keeper, PathStream, SignatureCheck, StoreError, WhenValid};
use tokio::sync::mpsc;

use super::spool::Spooled;

/// Bytes that are decompressed at once.
const PIECE: usize = 256 * 1024;
/// Pieces that wait to be taken.
const PIECES: usize = 4;

/// Adds the path of a narinfo, whose file this is.
pub(super) async fn take_path(
    store: &dyn Keeper,
    narinfo: NarInfo,
    file: Arc<Spooled>,
    check: SignatureCheck,
) -> Result<(), StoreError> {
    let (sender, pieces) = mpsc::channel(PIECES);
    let info = narinfo.info.clone();
    let name = store.name().to_owned();
    let work = tokio::task::spawn_blocking(move || {
        // who has heard enough has gone
        if let Err(error) = decompress(&narinfo, file, &name, &sender) {
            sender.blocking_send(Err(error)).unwrap_or_default();
        }
    });
    let stream = Uploaded { info: Some(info), pieces, state: State::Whole };
    let taken = store.add_paths(Box::new(stream), check, WhenValid::Keep).await;
    // it ends with its reader
    drop(work.await);
    taken
}

fn decompress(
    narinfo: &NarInfo,
    file: Arc<Spooled>,
    store: &str,
    sender: &mpsc::Sender<Result<Bytes, StoreError>>,
) -> Result<(), StoreError> {
    let NarInfo { info, compression, .. } = narinfo;
    let bad = |error: io::Error| broken(*compression, info, store, &error);
    let mut nar = decoder(BufReader::with_capacity(PIECE, FromStart { file, at: 0 }), *compression)
        .map_err(bad)?;
    let announced = info.nar_size.0;
    let mut read = 0u64;
    loop {
        // one byte more than announced is enough to know that there are too many
        let left = usize::try_from(announced.saturating_sub(read)).unwrap_or(usize::MAX);
        let mut piece = vec![0; left.saturating_add(1).min(PIECE)];
        let count = read_full(&mut *nar, &mut piece).map_err(bad)?;
        let ended = count < piece.len();
        piece.truncate(count);
        read = read.saturating_add(count as u64);
        if read > announced || (ended && read != announced) {
            return Err(StoreError::SizeMismatch {
                store: store.to_owned(),
                path: info.path.clone(),
                expected: info.nar_size,
                actual: NarSize(read),
            });
        }
        if !piece.is_empty() && sender.blocking_send(Ok(Bytes::from(piece))).is_err() {
            return Ok(());
        }
        if ended {
            // an empty piece is the end
            sender.blocking_send(Ok(Bytes::new())).unwrap_or_default();
            return Ok(());
        }
    }
}

fn broken(compression: Compression, info: &PathInfo, store: &str, error: &io::Error) -> StoreError {
    let path = &info.path;
    tracing::warn!("the uploaded file of {path} can't be decompressed: {error}");
    let reason = format!("the file of '{path}' is not good {compression}");
    StoreError::Protocol { store: store.to_owned(), reason }
}

/// Reads a file from its start, wherever others read it.
struct FromStart {
    file: Arc<Spooled>,
    at: u64,
}

impl Read for FromStart {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.file.read_at(buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

/// One path on its way into the store.
struct Uploaded {
    info: Option<PathInfo>,
    pieces: mpsc::Receiver<Result<Bytes, StoreError>>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Whole,
    Ended,
}

#[async_trait]
impl PathStream for Uploaded {
    fn count(&self) -> usize {
        1
    }

    async fn next_path(&mut self) -> Result<Option<PathInfo>, StoreError> {
        Ok(self.info.take())
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        if self.state == State::Ended {
            return Ok(None);
        }
        match self.pieces.recv().await {
            Some(Ok(piece)) if piece.is_empty() => {
                self.state = State::Ended;
                Ok(None)
            }
            Some(piece) => piece.map(Some),
            None => Err(StoreError::Lost {
                store: "client".to_owned(),
                reason: "the upload ended".to_owned(),
            }),
        }
    }
}
