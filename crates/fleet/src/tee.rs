//! Paths that will probably be wanted here: what goes from one machine to another is fed to the
//! caller's store on its way, so that it crosses the link from where it was built once; and what the
//! last build is made of is fetched while it runs.
//!
//! Such a path is not registered before it's known that it is wanted: its last bytes are held back
//! until then, and given up if it isn't.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::{PathInfo, StorePath};
use drover_store::{PathStream, Store, StoreError};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::copied::Copied;
use crate::merge::Merged;
use crate::transfer::{Landing, broken_off, landed};

/// Paths that are held at once. Each has a connection to the caller's store.
const AT_ONCE: usize = 8;

/// Pieces on their way to the caller's store. The other machine gets them no faster.
const QUEUE: usize = 4;

/// How long a path is held. Meanwhile nobody else can add it to the caller's store.
const HELD: Duration = Duration::from_secs(60);

/// Paths that were fed to the caller's store, and wait to be wanted.
#[derive(Default)]
pub(crate) struct Tees {
    held: Mutex<HashMap<StorePath, Tee>>,
    /// Not those of lanes, whose end is waited for before anything is known to be wanted.
    tracker: TaskTracker,
}

struct Tee {
    wanted: oneshot::Sender<Vec<Landing>>,
    added: AbortOnDropHandle<Result<(), StoreError>>,
}

impl Tees {
    /// Feeds a path to `store` while it passes through `stream`, unless too many are held.
    pub(crate) fn feed(&self, store: &Arc<dyn Store>, info: &PathInfo, stream: Merged) -> Teed {
        let (to, pieces) = mpsc::channel(QUEUE);
        let is_taken = self.begin(store, info, pieces, async {});
        Teed { stream, to: is_taken.then_some(to) }
    }

    /// Fetches a path into `store`, unless too many are held.
    pub(crate) fn fetch(
        &self,
        store: &Arc<dyn Store>,
        info: &PathInfo,
        open: impl Future<Output = Result<Merged, StoreError>> + Send + 'static,
    ) {
        let (to, pieces) = mpsc::channel(QUEUE);
        self.begin(store, info, pieces, async move {
            // where it fails, whoever wants the path finds out why
            if let Ok(stream) = open.await {
                drain(Teed { stream, to: Some(to) }).await.ok();
            }
        });
    }

    /// Begins to add a path from its pieces, and works on `source` meanwhile. Returns whether it's
    /// held.
    fn begin(
        &self,
        store: &Arc<dyn Store>,
        info: &PathInfo,
        pieces: mpsc::Receiver<Piece>,
        source: impl Future<Output = ()> + Send + 'static,
    ) -> bool {
        let mut tees = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if tees.len() >= AT_ONCE || tees.contains_key(&info.path) {
            return false;
        }
        let (wanted, is_wanted) = oneshot::channel();
        let held =
            Held { info: Some(info.clone()), pieces, last: None, is_wanted: Some(is_wanted) };
        let store = Arc::clone(store);
        let import = async move { store.import(Box::new(Copied(held))).await };
        let added = AbortOnDropHandle::new(self.tracker.spawn(alongside(import, source)));
        tees.insert(info.path.clone(), Tee { wanted, added });
        true
    }

    /// Whether a path was fed to the store.
    pub(crate) fn holds(&self, path: &StorePath) -> bool {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).contains_key(path)
    }

    /// Has a path registered when all of `gates` have landed, if it was fed to the store. Where it
    /// was not, or that failed, it has to be copied.
    pub(crate) async fn register(&self, path: &StorePath, gates: Vec<Landing>) -> Registered {
        let tee = self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(path);
        let Some(Tee { wanted, added }) = tee else { return Registered::No };
        if wanted.send(gates).is_err() {
            return Registered::No;
        }
        match added.await {
            Ok(Ok(())) => Registered::Yes,
            // copying it again says what is wrong, if something is
            Ok(Err(_)) | Err(_) => Registered::No,
        }
    }

    /// Gives up all that is held.
    pub(crate) fn clear(&self) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Waits for `work`, and works on `side` until it's done.
pub(crate) async fn alongside<T>(
    work: impl Future<Output = T>,
    side: impl Future<Output = ()>,
) -> T {
    let never_done = async {
        side.await;
        std::future::pending().await
    };
    tokio::select! {
        biased;
        done = work => done,
        never = never_done => never,
    }
}

/// Reads one path to its end, for those who are fed with it.
async fn drain(mut path: Teed) -> Result<(), StoreError> {
    path.next_path().await?;
    while path.to.is_some() && path.chunk().await?.is_some() {}
    Ok(())
}

/// Whether a path was registered from what had been held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Registered {
    Yes,
    No,
}

/// A piece of a path.
enum Piece {
    Bytes(Bytes),
    /// It is whole, and what it was announced to be.
    End,
}

/// One path on its way to a machine, that also goes here.
pub(crate) struct Teed {
    stream: Merged,
    to: Option<mpsc::Sender<Piece>>,
}

impl Teed {
    async fn feed(&mut self, piece: Piece) {
        if let Some(to) = &self.to
            && to.send(piece).await.is_err()
        {
            // the store here didn't take it; what is on its way elsewhere goes on
            self.to = None;
        }
    }
}

#[async_trait]
impl PathStream for Teed {
    fn count(&self) -> usize {
        self.stream.count()
    }

    async fn next_path(&mut self) -> Result<Option<PathInfo>, StoreError> {
        self.stream.next_path().await
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        let chunk = self.stream.chunk().await?;
        match &chunk {
            Some(bytes) => self.feed(Piece::Bytes(bytes.clone())).await,
            None => self.feed(Piece::End).await,
        }
        Ok(chunk)
    }
}

/// What the caller's store is fed: one path, whose last piece waits until it's wanted.
struct Held {
    info: Option<PathInfo>,
    pieces: mpsc::Receiver<Piece>,
    last: Option<Bytes>,
    is_wanted: Option<oneshot::Receiver<Vec<Landing>>>,
}

impl Held {
    /// Waits until the path is wanted and all that it refers to is there.
    async fn wanted(&mut self) -> Result<(), StoreError> {
        let Some(is_wanted) = self.is_wanted.take() else { return Ok(()) };
        let mut gates = match tokio::time::timeout(HELD, is_wanted).await {
            Ok(Ok(gates)) => gates,
            Ok(Err(_)) => return Err(broken_off("it was not wanted")),
            Err(_) => return Err(broken_off("it was not wanted in time")),
        };
        landed(&mut gates).await
    }
}

#[async_trait]
impl PathStream for Held {
    fn count(&self) -> usize {
        1
    }

    async fn next_path(&mut self) -> Result<Option<PathInfo>, StoreError> {
        Ok(self.info.take())
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        loop {
            match self.pieces.recv().await {
                Some(Piece::Bytes(bytes)) => {
                    if let Some(held) = self.last.replace(bytes) {
                        return Ok(Some(held));
                    }
                }
                Some(Piece::End) => {
                    self.wanted().await?;
                    return Ok(self.last.take());
                }
                None if self.last.is_none() && self.is_wanted.is_none() => return Ok(None),
                None => return Err(broken_off("it did not arrive whole")),
            }
        }
    }
}
