//! Paths on their way into a cache.
//!
//! Several NARs are compressed at once, on threads that may block. A NAR's file takes its name when
//! it is whole and is what was announced; the narinfo follows in the order of the stream when the
//! file is on disk, so that whoever reads a narinfo finds the file, and the paths that it refers to.

mod job;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use drover_core::{NarInfo, PathInfo, StorePath};
use drover_store::{PathStream, StoreError};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use self::job::{Input, Job, Piece, Written};
use crate::cache::Cache;
use crate::destination::Destination;

/// Pieces of a NAR that wait to be compressed.
const PIECES: usize = 16;
/// Narinfos that wait for their NARs to be on disk.
const BATCH: usize = 1024;
/// Jobs that run at once at the most.
const MOST_AT_ONCE: usize = 16;
/// A NAR that is no larger is given to its job whole, and shares it with others.
const SMALL: u64 = 64 * 1024;
/// Small NARs of a job.
const TOGETHER: usize = 32;

/// Adds paths to a cache, whose files are put there.
pub(crate) async fn push(
    cache: &Arc<Cache>,
    destination: &Destination,
    mut paths: Box<dyn PathStream>,
) -> Result<(), StoreError> {
    cache.info_or_new(destination).await?;
    let processors = std::thread::available_parallelism().map_or(2, usize::from);
    let at_once = match destination {
        Destination::Folder(_) => processors.min(MOST_AT_ONCE),
        // most of them wait for the server
        Destination::Server(_) => {
            cache.settings.connections().min(MOST_AT_ONCE).max(processors.min(MOST_AT_ONCE))
        }
    };
    let mut push = Push {
        cache,
        destination,
        there: BTreeSet::new(),
        small: Vec::new(),
        running: VecDeque::new(),
        done: Vec::new(),
        state: State::Good,
        at_once,
    };
    let taken = push.take_all(&mut *paths).await;
    // What came whole before something went wrong is kept.
    let finished = push.finish().await;
    taken.and(finished)
}

struct Push<'a> {
    cache: &'a Arc<Cache>,
    destination: &'a Destination,
    /// Paths that are in the cache, or will be by the end.
    there: BTreeSet<StorePath>,
    /// Small NARs that wait for a job.
    small: Vec<(PathInfo, Input)>,
    running: VecDeque<JoinHandle<Written>>,
    done: Vec<NarInfo>,
    at_once: usize,
    state: State,
}

/// Whether everything has gone well so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Good,
    /// Something failed; what came behind it may refer to it, and isn't told of.
    Failed,
}

impl Push<'_> {
    async fn take_all(&mut self, paths: &mut dyn PathStream) -> Result<(), StoreError> {
        while let Some(info) = paths.next_path().await? {
            let references: Vec<StorePath> =
                info.references.iter().filter(|path| **path != info.path).cloned().collect();
            if let Some(path) = self.lacks(&references).await? {
                return Err(StoreError::NotValid { store: self.cache.name.clone(), path });
            }
            let path = info.path.clone();
            if self.there.contains(&path) {
                while paths.chunk().await?.is_some() {}
            } else if info.nar_size.0 <= SMALL {
                self.take_small(info, paths).await?;
            } else {
                self.take_large(info, paths).await?;
            }
            self.there.insert(path);
        }
        Ok(())
    }

    /// Returns the first of these paths that the cache doesn't have.
    async fn lacks(&mut self, paths: &[StorePath]) -> Result<Option<StorePath>, StoreError> {
        let unknown = paths.iter().filter(|path| !self.there.contains(path));
        let unknown: Vec<StorePath> = unknown.cloned().collect();
        if unknown.is_empty() {
            return Ok(None);
        }
        let answers = match self.destination {
            Destination::Folder(_) => self.cache.ask(&unknown).await?,
            Destination::Server(_) => self.cache.ask_anew(&unknown).await?,
        };
        let mut missing = None;
        for (path, answer) in unknown.into_iter().zip(answers) {
            match answer {
                Some(_) => drop(self.there.insert(path)),
                None => missing = missing.or(Some(path)),
            }
        }
        Ok(missing)
    }

    async fn take_small(
        &mut self,
        info: PathInfo,
        paths: &mut dyn PathStream,
    ) -> Result<(), StoreError> {
        let mut pieces = Vec::new();
        let mut size = 0u64;
        while let Some(bytes) = paths.chunk().await? {
            size = size.saturating_add(bytes.len() as u64);
            // What is more than was announced is refused when it is hashed.
            if size <= 2 * SMALL {
                pieces.push(bytes);
            }
        }
        self.small.push((info, Input::Whole(pieces)));
        if self.small.len() >= TOGETHER { self.start_small().await } else { Ok(()) }
    }

    async fn start_small(&mut self) -> Result<(), StoreError> {
        let small = std::mem::take(&mut self.small);
        if small.is_empty() { Ok(()) } else { self.start(small).await }
    }

    async fn take_large(
        &mut self,
        info: PathInfo,
        paths: &mut dyn PathStream,
    ) -> Result<(), StoreError> {
        // Those that came before are written before.
        self.start_small().await?;
        let (sender, pieces) = mpsc::channel(PIECES);
        self.start(vec![(info, Input::Pieces(pieces))]).await?;
        while let Some(bytes) = paths.chunk().await? {
            if sender.send(Piece::Bytes(bytes)).await.is_err() {
                // It failed, and the reason comes when it is reaped; or the path is there already.
                while paths.chunk().await?.is_some() {}
                break;
            }
        }
        drop(sender.send(Piece::End).await);
        Ok(())
    }

    async fn start(&mut self, nars: Vec<(PathInfo, Input)>) -> Result<(), StoreError> {
        while self.running.len() >= self.at_once {
            self.reap().await?;
        }
        let job = Job::new(self.cache.clone(), self.destination.clone());
        self.running.push_back(tokio::task::spawn_blocking(move || job.run(nars)));
        Ok(())
    }

    /// Waits for the first that is running.
    async fn reap(&mut self) -> Result<(), StoreError> {
        let Some(first) = self.running.pop_front() else { return Ok(()) };
        let written = match first.await {
            Ok(written) => written,
            Err(error) => {
                self.state = State::Failed;
                let reason = format!("compressing a path failed: {error}");
                return Err(self.cache.speaks_badly(reason));
            }
        };
        if self.state == State::Failed {
            return Ok(());
        }
        self.done.extend(written.narinfos);
        if let Some(error) = written.failed {
            self.state = State::Failed;
            return Err(error);
        }
        if self.done.len() >= BATCH { self.publish().await } else { Ok(()) }
    }

    async fn finish(&mut self) -> Result<(), StoreError> {
        let mut finished = match self.state {
            State::Good => self.start_small().await,
            State::Failed => Ok(()),
        };
        while !self.running.is_empty() {
            finished = finished.and(self.reap().await);
        }
        finished.and(self.publish().await)
    }

    /// Writes the narinfos of NARs that are there.
    async fn publish(&mut self) -> Result<(), StoreError> {
        if self.done.is_empty() {
            return Ok(());
        }
        let done = std::mem::take(&mut self.done);
        self.destination.publish(self.cache, done).await
    }
}
