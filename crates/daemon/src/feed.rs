//! Reads the data behind a request, in each of the forms that versions have for it.
//!
//! Follows `FramedSource` in `src/libutil/serialise.hh` (1.23 and newer), `TunnelSource` in
//! `src/libstore/daemon.cc` (1.21 and 1.22), and `parseDump` for bare NARs, whose end only a parser
//! finds, of Nix.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Buf as _, Bytes, BytesMut};
use drover_core::{PathInfo, StoreDir};
use drover_nar::{Limits as NarLimits, Parser, Progress, Visitor};
use drover_wire::{DecodeError, Decoder, LogMessage, decode_keyed_path_info, read_frame_header};
use tokio::sync::mpsc;

use crate::connection::{Input, bounded};
use crate::error::DaemonError;
use crate::log_queue::{LogQueue, Loss};
use crate::stream::Piece;

/// Bytes that a client before 1.23 is asked for at a time.
const TUNNEL: u64 = 64 * 1024;

/// The connection's end of the queue to the store.
pub(crate) struct Feeder {
    pub(crate) queue: mpsc::Sender<Piece>,
    /// Set once the operation has failed: what comes from then on is thrown away, within limits.
    pub(crate) failed: Arc<AtomicBool>,
    pub(crate) drain: u64,
}

impl Feeder {
    /// Hands a piece over, or throws it away where the store has had enough.
    async fn send(&mut self, piece: Piece) -> Result<(), DaemonError> {
        let len = if let Piece::Bytes(bytes) = &piece { bytes.len() as u64 } else { 0 };
        if self.queue.send(piece).await.is_err() && self.failed.load(Ordering::Relaxed) {
            self.drain = self.drain.saturating_sub(len);
            if self.drain == 0 {
                return Err(DaemonError::TooSlow { doing: "ending data that nobody takes" });
            }
        }
        Ok(())
    }
}

/// Data in frames.
#[derive(Default)]
pub(crate) struct Frames {
    left: u64,
    ended: bool,
    /// What was read of the data and not looked at.
    rest: Bytes,
}

impl Frames {
    async fn next(&mut self, input: &mut Input) -> Result<Option<Bytes>, DaemonError> {
        if !self.rest.is_empty() {
            return Ok(Some(std::mem::take(&mut self.rest)));
        }
        if self.left == 0 && !self.ended {
            self.left = input.message(read_frame_header).await?;
            self.ended = self.left == 0;
        }
        if self.ended {
            return Ok(None);
        }
        let bytes = input.bytes(self.left).await?;
        self.left -= bytes.len() as u64;
        Ok(Some(bytes))
    }

    /// Returns between one and `max` bytes.
    async fn up_to(&mut self, input: &mut Input, max: u64) -> Result<Bytes, DaemonError> {
        let Some(mut bytes) = self.next(input).await? else {
            return Err(DecodeError::Incomplete { missing: 1 }.into());
        };
        let max = usize::try_from(max).unwrap_or(usize::MAX);
        if bytes.len() > max {
            self.rest = bytes.split_off(max);
        }
        Ok(bytes)
    }

    /// Reads one message that travels within the data.
    pub(crate) async fn message<T>(
        &mut self,
        input: &mut Input,
        mut decode: impl FnMut(&mut Decoder<'_>) -> Result<T, DecodeError>,
    ) -> Result<T, DaemonError> {
        let mut gathered = BytesMut::new();
        loop {
            let bytes = if gathered.is_empty() { &self.rest[..] } else { &gathered[..] };
            let mut decoder = Decoder::new(bytes);
            let missing = match decode(&mut decoder) {
                Ok(value) => {
                    let consumed = decoder.consumed();
                    if !gathered.is_empty() {
                        self.rest = gathered.freeze();
                    }
                    self.rest.advance(consumed);
                    return Ok(value);
                }
                Err(DecodeError::Incomplete { missing }) => missing,
                Err(error) => return Err(error.into()),
            };
            if gathered.is_empty() {
                gathered.extend_from_slice(&std::mem::take(&mut self.rest));
            }
            let wanted = gathered.len().saturating_add(missing);
            bounded(wanted)?;
            while gathered.len() < wanted {
                let Some(bytes) = self.next(input).await? else {
                    return Err(DecodeError::Incomplete { missing }.into());
                };
                gathered.extend_from_slice(&bytes);
            }
        }
    }
}

/// Feeds bytes that come alone, in frames.
pub(crate) async fn framed_bytes(input: &mut Input, mut feeder: Feeder) -> Result<(), DaemonError> {
    let mut frames = Frames::default();
    while let Some(bytes) = frames.next(input).await? {
        feeder.send(Piece::Bytes(bytes)).await?;
    }
    feeder.send(Piece::End).await
}

/// Feeds one path whose NAR comes in frames.
pub(crate) async fn framed_nar(
    input: &mut Input,
    mut feeder: Feeder,
    info: PathInfo,
) -> Result<(), DaemonError> {
    feeder.send(Piece::Path(Box::new(info))).await?;
    let mut frames = Frames::default();
    while let Some(bytes) = frames.next(input).await? {
        feeder.send(Piece::Bytes(bytes)).await?;
    }
    feeder.send(Piece::EndOfPath).await?;
    feeder.send(Piece::End).await
}

/// Feeds `count` paths, each with its info before its NAR.
pub(crate) async fn framed_paths(
    input: &mut Input,
    mut frames: Frames,
    mut feeder: Feeder,
    count: usize,
    store_dir: &StoreDir,
) -> Result<(), DaemonError> {
    for _path in 0..count {
        let mut info =
            frames.message(input, |from| decode_keyed_path_info(from, store_dir)).await?;
        // nobody built it here, whatever the client says
        info.ultimate = false;
        let mut left = info.nar_size.0;
        feeder.send(Piece::Path(Box::new(info))).await?;
        while left > 0 {
            let bytes = frames.up_to(input, left).await?;
            left -= bytes.len() as u64;
            feeder.send(Piece::Bytes(bytes)).await?;
        }
        feeder.send(Piece::EndOfPath).await?;
    }
    while frames.next(input).await?.is_some() {}
    feeder.send(Piece::End).await
}

/// Feeds one path whose NAR the client is asked for piece by piece.
pub(crate) async fn tunnelled_nar(
    input: &mut Input,
    mut feeder: Feeder,
    info: PathInfo,
    log: &LogQueue,
) -> Result<(), DaemonError> {
    let mut left = info.nar_size.0;
    feeder.send(Piece::Path(Box::new(info))).await?;
    while left > 0 && !feeder.queue.is_closed() {
        let wanted = left.min(TUNNEL);
        log.push(&LogMessage::Read(wanted), Loss::Never);
        let max = usize::try_from(wanted).unwrap_or(usize::MAX);
        let bytes = input.message(|from| from.bytes(max).map(Bytes::copy_from_slice)).await?;
        if bytes.is_empty() {
            return Err(DaemonError::Gone { doing: "sending a NAR" });
        }
        left -= bytes.len() as u64;
        feeder.send(Piece::Bytes(bytes)).await?;
    }
    feeder.send(Piece::EndOfPath).await?;
    feeder.send(Piece::End).await
}

/// Feeds one path whose bare NAR has the size that its info says (serve protocol).
pub(crate) async fn sized_nar(
    input: &mut Input,
    mut feeder: Feeder,
    info: PathInfo,
) -> Result<(), DaemonError> {
    let mut left = info.nar_size.0;
    feeder.send(Piece::Path(Box::new(info))).await?;
    while left > 0 {
        let bytes = input.bytes(left).await?;
        left -= bytes.len() as u64;
        feeder.send(Piece::Bytes(bytes)).await?;
    }
    feeder.send(Piece::EndOfPath).await?;
    feeder.send(Piece::End).await
}

/// Whether a NAR is passed on whole, or as the contents of the file that it has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BareForm {
    Nar,
    File,
}

/// Feeds a bare NAR, which ends where its grammar says.
pub(crate) async fn bare_nar(
    input: &mut Input,
    mut feeder: Feeder,
    form: BareForm,
) -> Result<(), DaemonError> {
    let mut parser = Parser::new(NarLimits::default());
    let mut file = FileContents::default();
    loop {
        let mut bytes = input.bytes(u64::MAX).await?;
        let progress = match form {
            BareForm::Nar => parser.feed(&bytes, &mut ())?,
            BareForm::File => parser.feed(&bytes, &mut file)?,
        };
        if let Progress::Done { consumed } = progress {
            input.put_back(&bytes.split_off(consumed));
        }
        if form == BareForm::File {
            bytes = std::mem::take(&mut file.contents).freeze();
        }
        if !bytes.is_empty() {
            feeder.send(Piece::Bytes(bytes)).await?;
        }
        if progress != Progress::More {
            break;
        }
    }
    if form == BareForm::File && !file.is_file {
        // without an end, the store takes nothing
        return Ok(());
    }
    feeder.send(Piece::End).await
}

#[derive(Default)]
struct FileContents {
    is_file: bool,
    depth: usize,
    contents: BytesMut,
}

impl Visitor for FileContents {
    fn directory(&mut self) {
        self.depth += 1;
    }

    fn regular(&mut self, _: drover_nar::Executable, _: u64) {
        self.is_file = self.depth == 0;
    }

    fn contents(&mut self, chunk: &[u8]) {
        if self.is_file {
            self.contents.extend_from_slice(chunk);
        }
    }
}
