//! NARs on their way out of a cache, several at once.
//!
//! They are handed on in the order of the question, and those behind are fetched ahead, each as far
//! as its bounded queue takes. Decompressing and hashing is done on threads that may block. A
//! transfer that breaks off is begun anew; what has been handed on is passed over then, and the hash
//! goes on over both.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::{Compression, NarInfo, NarSize, PathInfo};
use drover_nar::Blocks;
use drover_store::{PathStream, StoreError, Verified};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::cache::Cache;
use crate::error::TransferError;
use crate::retry::Attempts;
use crate::small::fetch_small;
use crate::transport::Body;
use drover_codec::{decoder, read_full};

/// Bytes that are handed on at once.
const PIECE: usize = 128 * 1024;
/// Pieces of a NAR that wait to be taken.
const PIECES: usize = 8;
/// NARs that are fetched ahead at the most.
const AHEAD: usize = 16;
/// Pieces whose memory is kept for the next ones.
const KEPT: usize = 16;

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
    memory: Blocks,
    tasks: JoinSet<()>,
}

/// One that is being fetched.
struct Coming {
    info: PathInfo,
    pieces: mpsc::Receiver<Result<Piece, StoreError>>,
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
            memory: Blocks::new(PIECE, KEPT),
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
            let (check, memory) = (self.check, self.memory.clone());
            self.tasks.spawn(async move {
                let _turn = tokio::select! {
                    biased;
                    _ = wait => None,
                    turn = cache.ahead.clone().acquire_owned() => turn.ok(),
                };
                if let Err(error) = fetch(&cache, given, &narinfo, check, memory, &sender).await {
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
            Some(Ok(Piece::More(bytes))) => Ok(Some(bytes)),
            Some(Ok(Piece::Last(bytes))) => {
                self.current = None;
                Ok((!bytes.is_empty()).then_some(bytes))
            }
            Some(Err(error)) => Err(error),
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
        sender.blocking_send(Ok(Piece::More(piece))).map_err(|_| Stop::Nobody)
    }
}

/// A piece of a NAR.
enum Piece {
    /// Others follow. It is never empty.
    More(Bytes),
    /// With it the NAR is whole, and as it was announced. It may be empty.
    Last(Bytes),
}

type Pieces = mpsc::Sender<Result<Piece, StoreError>>;

async fn hand_on_whole(nar: Bytes, progress: Progress, sender: &Pieces) -> Result<(), StoreError> {
    if let Some(mut verified) = progress.verified {
        verified.pass(&nar)?;
        verified.finish()?;
    }
    // nobody may want it any more
    sender.send(Ok(Piece::Last(nar))).await.unwrap_or_default();
    Ok(())
}

async fn fetch(
    cache: &Arc<Cache>,
    info: PathInfo,
    narinfo: &NarInfo,
    check: HashCheck,
    memory: Blocks,
    sender: &Pieces,
) -> Result<(), StoreError> {
    let here = check == HashCheck::Here;
    let verified = here.then(|| Verified::new(cache.name.clone(), info.clone()));
    let mut progress = Progress { verified, size: 0 };
    if let Some(nar) = fetch_small(cache, &info, narinfo).await? {
        return hand_on_whole(nar, progress, sender).await;
    }
    let mut attempts = Attempts::new(cache.settings.download_attempts, cache.settings.pauses);
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
                let (url, cache) = (cache.transport.url(narinfo.url.as_str()), cache.clone());
                let (narinfo, info, memory) = (narinfo.clone(), info.clone(), memory.clone());
                let way = Way { url, narinfo, info, cache, memory };
                let (back, done) = way.go(body, progress, sender.clone()).await;
                progress = back;
                match done {
                    Ok(()) | Err(Stop::Nobody) => return Ok(()),
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
    memory: Blocks,
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
        reader: Box<dyn BufRead + Send>,
        encoding: Compression,
        progress: &mut Progress,
        sender: &Pieces,
    ) -> Result<(), Stop> {
        let bad = |error: io::Error| self.broken(&error);
        let plain: Box<dyn BufRead + Send> = match encoding {
            Compression::None => reader,
            encoding => Box::new(BufReader::new(decoder(reader, encoding).map_err(bad)?)),
        };
        let over = Arc::new(AtomicBool::new(false));
        let bounded = Bounded { inner: plain, left: self.most_compressed(), over: over.clone() };
        let mut nar = decoder(bounded, self.narinfo.compression).map_err(bad)?;
        let announced = self.info.nar_size.0;
        let mut skip = progress.size;
        let mut read = 0u64;
        loop {
            // One byte more than announced is enough to know that there are too many.
            let left = usize::try_from(announced.saturating_sub(read)).unwrap_or(usize::MAX);
            let mut piece = self.memory.take();
            piece.resize(left.saturating_add(1).min(PIECE), 0);
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
            progress.hand_on(self.memory.share(piece), &mut skip, sender)?;
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
        sender.blocking_send(Ok(Piece::Last(Bytes::new()))).map_err(|_| Stop::Nobody)
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

impl<R: BufRead> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

impl<R: BufRead> BufRead for Bounded<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let ahead = self.inner.fill_buf()?;
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        if most == 0 && !ahead.is_empty() {
            self.over.store(true, Ordering::Relaxed);
            return Err(io::Error::other("there is more than was announced"));
        }
        Ok(ahead.get(..most).unwrap_or(ahead))
    }

    fn consume(&mut self, count: usize) {
        self.inner.consume(count);
        self.left = self.left.saturating_sub(count as u64);
    }
}
