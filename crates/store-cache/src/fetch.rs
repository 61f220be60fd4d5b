//! NARs on their way out of a cache, several at once.
//!
//! They are handed on in the order of the question, and those behind are fetched ahead, each as far
//! as its bounded queue takes. Decompressing and hashing is done on threads that may block. A
//! transfer that breaks off is begun anew; what has been handed on is passed over then, and the hash
//! goes on over both.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::{Compression, NarInfo, NarSize, PathInfo};
use drover_store::{PathStream, StoreError, Verified};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::cache::Cache;
use crate::decode::{decoder, read_full};
use crate::error::TransferError;
use crate::retry::Attempts;
use crate::transport::Body;

/// Bytes that are handed on at once.
const PIECE: usize = 128 * 1024;
/// Pieces of a NAR that wait to be taken.
const PIECES: usize = 8;
/// NARs that are fetched ahead at the most.
const AHEAD: usize = 16;

/// Who checks that a NAR has the hash that was announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HashCheck {
    /// It is done here.
    Here,
    /// Whoever takes it does.
    There,
}

/// NARs on their way.
pub(crate) struct NarStream {
    cache: Arc<Cache>,
    check: HashCheck,
    waiting: VecDeque<(PathInfo, Arc<NarInfo>)>,
    ahead: VecDeque<Coming>,
    current: Option<Coming>,
    count: usize,
    tasks: JoinSet<()>,
}

/// One that is being fetched.
struct Coming {
    info: PathInfo,
    pieces: mpsc::Receiver<Result<Bytes, StoreError>>,
    /// Tells that it is awaited now, so that it needs no turn.
    awaited: Option<oneshot::Sender<()>>,
}

impl NarStream {
    pub(crate) fn new(
        cache: Arc<Cache>,
        paths: Vec<(PathInfo, Arc<NarInfo>)>,
        check: HashCheck,
    ) -> NarStream {
        NarStream {
            cache,
            check,
            count: paths.len(),
            waiting: paths.into(),
            ahead: VecDeque::new(),
            current: None,
            tasks: JoinSet::new(),
        }
    }

    fn start(&mut self) {
        let most = AHEAD.min(self.cache.settings.connections());
        while self.ahead.len() < most
            && let Some((info, narinfo)) = self.waiting.pop_front()
        {
            let (sender, pieces) = mpsc::channel(PIECES);
            let (awaited, wait) = oneshot::channel();
            let cache = self.cache.clone();
            let given = info.clone();
            let check = self.check;
            self.tasks.spawn(async move {
                let _turn = tokio::select! {
                    biased;
                    _ = wait => None,
                    turn = cache.ahead.clone().acquire_owned() => turn.ok(),
                };
                if let Err(error) = fetch(&cache, given, &narinfo, check, &sender).await {
                    // Nobody may be listening any more.
                    drop(sender.send(Err(error)).await);
                }
            });
            self.ahead.push_back(Coming { info, pieces, awaited: Some(awaited) });
        }
        while self.tasks.try_join_next().is_some() {}
    }
}

#[async_trait]
impl PathStream for NarStream {
    fn count(&self) -> usize {
        self.count
    }

    async fn next_path(&mut self) -> Result<Option<PathInfo>, StoreError> {
        self.current = None;
        self.start();
        let Some(mut coming) = self.ahead.pop_front() else { return Ok(None) };
        // Dropping it tells. It may have got its turn before; then nobody hears this.
        drop(coming.awaited.take());
        let info = coming.info.clone();
        self.current = Some(coming);
        self.start();
        Ok(Some(info))
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        let Some(current) = &mut self.current else { return Ok(None) };
        match current.pieces.recv().await {
            Some(Ok(piece)) if piece.is_empty() => {
                self.current = None;
                Ok(None)
            }
            Some(piece) => piece.map(Some),
            // A whole NAR ends with an empty piece.
            None => Err(StoreError::Lost {
                store: self.cache.name.clone(),
                reason: format!("the transfer of '{}' ended", current.info.path),
            }),
        }
    }
}

/// How far a NAR has come.
struct Progress {
    verified: Option<Verified>,
    size: u64,
}

impl Progress {
    /// Hands on a piece, but for what was handed on before.
    fn hand_on(&mut self, piece: Bytes, skip: &mut u64, sender: &Pieces) -> Result<(), Stop> {
        let passed = usize::try_from(*skip).unwrap_or(usize::MAX).min(piece.len());
        *skip = skip.saturating_sub(passed as u64);
        let piece = piece.slice(passed..);
        if piece.is_empty() {
            return Ok(());
        }
        if let Some(verified) = &mut self.verified {
            verified.pass(&piece).map_err(Stop::Bad)?;
        }
        self.size = self.size.saturating_add(piece.len() as u64);
        sender.blocking_send(Ok(piece)).map_err(|_| Stop::Nobody)
    }
}

type Pieces = mpsc::Sender<Result<Bytes, StoreError>>;

async fn fetch(
    cache: &Arc<Cache>,
    info: PathInfo,
    narinfo: &NarInfo,
    check: HashCheck,
    sender: &Pieces,
) -> Result<(), StoreError> {
    let name = cache.name.clone();
    let verified = (check == HashCheck::Here).then(|| Verified::new(name, info.clone()));
    let mut progress = Progress { verified, size: 0 };
    let mut attempts = Attempts::new(cache.settings.download_attempts, cache.settings.first_pause);
    loop {
        let opened = match cache.transport.open(narinfo.url.as_str()).await {
            Ok(Some(body)) => Ok(body),
            Ok(None) => {
                cache.forget(&info.path).await;
                Err(TransferError::Gone { url: cache.transport.url(narinfo.url.as_str()) })
            }
            Err(error) => Err(error),
        };
        let failed = match opened {
            Err(error) => error,
            Ok(body) => {
                let way = Way {
                    url: cache.transport.url(narinfo.url.as_str()),
                    narinfo: narinfo.clone(),
                    info: info.clone(),
                    cache: cache.clone(),
                };
                let (back, done) = way.go(body, progress, sender.clone()).await;
                progress = back;
                match done {
                    Ok(()) => return Ok(()),
                    Err(Stop::Nobody) => return Ok(()),
                    Err(Stop::Bad(error)) => return Err(error),
                    Err(Stop::Transfer(error)) => error,
                }
            }
        };
        if matches!(failed, TransferError::Decode { .. }) {
            // perhaps it was put there once more, under another name
            cache.forget(&info.path).await;
        }
        let given_up = attempts.after(failed).await;
        given_up.map_err(|error| error.of_nar(&cache.name, &info.path))?;
    }
}

/// Why a NAR came no further.
enum Stop {
    /// Nobody wants it any more.
    Nobody,
    /// It isn't what was announced.
    Bad(StoreError),
    /// The transfer failed.
    Transfer(TransferError),
}

/// One NAR from its file to whoever wants it.
struct Way {
    url: String,
    narinfo: NarInfo,
    info: PathInfo,
    cache: Arc<Cache>,
}

impl Way {
    async fn go(
        self,
        body: Body,
        progress: Progress,
        sender: Pieces,
    ) -> (Progress, Result<(), Stop>) {
        let Body { reader, pump, encoding } = body;
        let store = self.cache.name.clone();
        let work = tokio::task::spawn_blocking(move || {
            let mut progress = progress;
            let done = self.pass(reader, encoding, &mut progress, &sender);
            (progress, done)
        });
        let (pumped, worked) = futures::join!(pump, work);
        match (pumped, worked) {
            // What brought the bytes knows best why there were no more.
            (Err(error), Ok((progress, Err(Stop::Transfer(_))))) => {
                (progress, Err(Stop::Transfer(error)))
            }
            (_, Ok(done)) => done,
            (_, Err(error)) => {
                let reason = format!("decompressing failed: {error}");
                let progress = Progress { verified: None, size: 0 };
                (progress, Err(Stop::Bad(StoreError::Protocol { store, reason })))
            }
        }
    }

    /// Decompresses, checks and hands on.
    fn pass(
        &self,
        reader: Box<dyn Read + Send>,
        encoding: Compression,
        progress: &mut Progress,
        sender: &Pieces,
    ) -> Result<(), Stop> {
        let bad = |error: io::Error| self.broken(&error);
        let plain = decoder(reader, encoding).map_err(bad)?;
        let over = Arc::new(AtomicBool::new(false));
        let bounded = Bounded { inner: plain, left: self.most_compressed(), over: over.clone() };
        let mut nar = decoder(bounded, self.narinfo.compression).map_err(bad)?;
        let announced = self.info.nar_size.0;
        let mut skip = progress.size;
        let mut read = 0u64;
        loop {
            // One byte more than announced is enough to know that there are too many.
            let left = usize::try_from(announced.saturating_sub(read)).unwrap_or(usize::MAX);
            let mut piece = vec![0; left.saturating_add(1).min(PIECE)];
            let count = match read_full(&mut *nar, &mut piece) {
                Ok(count) => count,
                Err(_) if over.load(Ordering::Relaxed) => return Err(self.too_large()),
                Err(error) => return Err(bad(error)),
            };
            let whole = count == piece.len();
            piece.truncate(count);
            read = read.saturating_add(count as u64);
            if read > announced {
                return Err(Stop::Bad(self.wrong_size(read)));
            }
            progress.hand_on(Bytes::from(piece), &mut skip, sender)?;
            if !whole {
                break;
            }
        }
        if read != announced {
            return Err(Stop::Bad(self.wrong_size(read)));
        }
        if let Some(verified) = progress.verified.take() {
            verified.finish().map_err(Stop::Bad)?;
        }
        sender.blocking_send(Ok(Bytes::new())).map_err(|_| Stop::Nobody)
    }

    /// Returns how many bytes the file may have: what the narinfo says, or what a NAR that can't be
    /// compressed takes.
    fn most_compressed(&self) -> u64 {
        let nar = self.info.nar_size.0;
        let most = nar.saturating_add(nar / 8).saturating_add(1 << 20);
        // nobody has signed what a narinfo says of the file
        self.narinfo.file_size.map_or(most, |said| said.min(most))
    }

    fn broken(&self, error: &io::Error) -> Stop {
        let (url, compression) = (self.url.clone(), self.narinfo.compression);
        Stop::Transfer(TransferError::Decode { url, compression, reason: error.to_string() })
    }

    fn too_large(&self) -> Stop {
        let (url, limit) = (self.url.clone(), self.most_compressed());
        Stop::Transfer(TransferError::TooLarge { url, limit })
    }

    fn wrong_size(&self, actual: u64) -> StoreError {
        StoreError::SizeMismatch {
            store: self.cache.name.clone(),
            path: self.info.path.clone(),
            expected: self.info.nar_size,
            actual: NarSize(actual),
        }
    }
}

/// Reads no more than a number of bytes, and fails where there are more.
struct Bounded<R> {
    inner: R,
    left: u64,
    over: Arc<AtomicBool>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        match self.left.checked_sub(count as u64) {
            Some(left) => self.left = left,
            None => {
                self.over.store(true, Ordering::Relaxed);
                return Err(io::Error::other("there is more than was announced"));
            }
        }
        Ok(count)
    }
}
