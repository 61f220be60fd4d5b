//! Unpacks a NAR and hashes it on the way, on two threads if it is worth that.

use std::os::fd::BorrowedFd;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use bytes::{Bytes, BytesMut};
use drover_core::{HashAlgorithm, Hasher, NarSize};
use drover_nar::{Limits, Parser, Progress};

use crate::measure::{Measured, sha256};
use crate::{FileName, FilesError, Unpacker};

/// From this many bytes on another thread unpacks while the caller's hashes. For less, it costs more
/// than it saves.
const WORTH_A_THREAD: u64 = 1 << 20;

/// Smaller pieces are put together before they are handed over.
const PIECE: usize = 256 << 10;

/// Pieces from this size on are handed over as they are; copying them costs a tenth of hashing them.
/// Smaller ones would keep more memory from being freed than they have bytes.
const SHARED: usize = 16 << 10;

/// Handovers of at most twice [`PIECE`] that may wait for the disk: 4 MiB at most.
const WAITING: usize = 8;

/// Unpacks one NAR as an [`Unpacker`] does, and measures it.
///
/// Archives of up to 1 MiB are unpacked on the caller's thread; longer ones on another from then on,
/// which may be up to 4 MiB behind. If it is dropped before its end, it waits until that has stopped:
/// after that, nothing more is made.
#[derive(Debug)]
pub struct HashingUnpacker {
    hasher: Hash,
    size: u64,
    stage: Stage,
}

struct Hash(Hasher);

impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hasher")
    }
}

#[derive(Debug)]
enum Stage {
    Here(Unpacker),
    There(Worker),
    Failed,
}

impl HashingUnpacker {
    /// Begins to unpack an archive to `name` in `dir`.
    ///
    /// # Errors
    ///
    /// As [`Unpacker::new`].
    pub fn new(
        dir: BorrowedFd<'_>,
        name: &FileName,
        limits: Limits,
    ) -> Result<HashingUnpacker, FilesError> {
        let hasher = Hash(Hasher::new(HashAlgorithm::Sha256));
        let stage = Stage::Here(Unpacker::new(dir, name, limits)?);
        Ok(HashingUnpacker { hasher, size: 0, stage })
    }

    /// Unpacks the next bytes, now or later.
    ///
    /// # Errors
    ///
    /// The first rule that the archive breaks, or what the system refused, if that is known already:
    /// [`HashingUnpacker::finish`] may tell more. The unpacker is of no use from then on.
    pub fn push(&mut self, bytes: &Bytes) -> Result<Progress, FilesError> {
        let outcome = self.unpack(bytes);
        match &outcome {
            Ok(Progress::More) => self.count(bytes),
            Ok(Progress::Done { consumed }) => self.count(bytes.get(..*consumed).unwrap_or(bytes)),
            Err(_) => self.stage = Stage::Failed,
        }
        outcome
    }

    fn count(&mut self, bytes: &[u8]) {
        self.hasher.0.update(bytes);
        self.size += bytes.len() as u64;
    }

    fn unpack(&mut self, bytes: &Bytes) -> Result<Progress, FilesError> {
        let long = WORTH_A_THREAD <= self.size + bytes.len() as u64;
        self.stage = match std::mem::replace(&mut self.stage, Stage::Failed) {
            Stage::Here(unpacker) if long => Stage::There(Worker::start(unpacker)?),
            stage => stage,
        };
        match &mut self.stage {
            Stage::Here(unpacker) => unpacker.push(bytes),
            Stage::There(worker) => worker.push(bytes),
            Stage::Failed => Err(drover_nar::NarError::AlreadyFailed.into()),
        }
    }

    /// Waits until the archive is unpacked, and returns its hash and size.
    ///
    /// # Errors
    ///
    /// As [`HashingUnpacker::push`], or the archive is not complete.
    pub fn finish(self) -> Result<Measured, FilesError> {
        match self.stage {
            Stage::Here(unpacker) => unpacker.finish()?,
            Stage::There(worker) => worker.finish()?,
            Stage::Failed => return Err(drover_nar::NarError::AlreadyFailed.into()),
        }
        Ok(Measured { hash: sha256(&self.hasher.0.finish()), size: NarSize(self.size) })
    }
}

/// A thread that unpacks what it is sent.
#[derive(Debug)]
struct Worker {
    /// Goes ahead of the one that unpacks, to find the end of the archive.
    scout: Parser,
    /// What is too little to be sent; the end of it comes in small pieces.
    gathered: Vec<Bytes>,
    gathered_size: usize,
    end: BytesMut,
    /// Absent once nothing more will come.
    queue: Option<SyncSender<Vec<Bytes>>>,
    thread: Option<JoinHandle<Result<(), FilesError>>>,
}

impl Worker {
    fn start(unpacker: Unpacker) -> Result<Worker, FilesError> {
        let scout = unpacker.parser().clone();
        let (queue, pieces) = sync_channel(WAITING);
        let thread = std::thread::Builder::new()
            .name("nar-unpack".to_owned())
            .spawn(move || unpack_all(unpacker, &pieces))
            .map_err(FilesError::Thread)?;
        let (queue, thread) = (Some(queue), Some(thread));
        let (gathered, end) = (Vec::new(), BytesMut::new());
        Ok(Worker { scout, gathered, gathered_size: 0, end, queue, thread })
    }

    fn push(&mut self, bytes: &Bytes) -> Result<Progress, FilesError> {
        let progress = self.scout.feed(bytes, &mut ())?;
        let mut used = match progress {
            Progress::More => bytes.clone(),
            Progress::Done { consumed } => bytes.slice(..consumed),
        };
        while !used.is_empty() {
            self.gather(used.split_to(used.len().min(PIECE)));
            if PIECE <= self.gathered_size {
                self.send()?;
            }
        }
        Ok(progress)
    }

    fn gather(&mut self, piece: Bytes) {
        self.gathered_size += piece.len();
        if piece.len() < SHARED {
            self.end.extend_from_slice(&piece);
            return;
        }
        self.seal();
        self.gathered.push(piece);
    }

    /// Ends what comes in small pieces.
    fn seal(&mut self) {
        if !self.end.is_empty() {
            self.gathered.push(self.end.split().freeze());
        }
    }

    /// Hands over what was gathered.
    fn send(&mut self) -> Result<(), FilesError> {
        self.seal();
        self.gathered_size = 0;
        let pieces = std::mem::take(&mut self.gathered);
        match &self.queue {
            Some(queue) if queue.send(pieces).is_ok() => Ok(()),
            // It takes no more since it has failed.
            _ => self.join(),
        }
    }

    fn finish(mut self) -> Result<(), FilesError> {
        self.scout.finish()?;
        if self.gathered_size != 0 {
            self.send()?;
        }
        self.join()
    }

    /// Waits until it has unpacked what it was sent, and returns how that went.
    fn join(&mut self) -> Result<(), FilesError> {
        self.queue = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(outcome)) => outcome,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => Err(drover_nar::NarError::AlreadyFailed.into()),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // How it went is of no interest, only that it is over.
            thread.join().ok();
        }
    }
}

fn unpack_all(mut unpacker: Unpacker, handed: &Receiver<Vec<Bytes>>) -> Result<(), FilesError> {
    let mut complete = false;
    while let Ok(pieces) = handed.recv() {
        for piece in pieces {
            unpacker.push(&piece)?;
        }
        complete = unpacker.parser().finish().is_ok();
    }
    // Nobody waits for one that was given up.
    if complete { unpacker.finish() } else { Ok(()) }
}
