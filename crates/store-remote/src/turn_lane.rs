//! Lanes and streams where channels are few: each build, import and path takes a turn.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::PathInfo;
use drover_store::{BuildLog, BuildOutcome, BuildRequest, Lane, PathStream, Pending, StoreError};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::import::Addition;
use crate::lane::RemoteLane;
use crate::nar_stream::{Hashed, NarStream};
use crate::pool::{Pool, Purpose};
use crate::spool::spooled;

/// A queue of builds without a channel of its own. Dropped, it ends what runs for it.
pub(crate) struct TurnLane {
    pool: Arc<Pool>,
    /// Cancelled before the first of what is queued ends by that, or the next one would begin.
    given_up: CancellationToken,
    queue: Mutex<Queue>,
}

impl Drop for TurnLane {
    fn drop(&mut self) {
        self.given_up.cancel();
    }
}

#[derive(Default)]
struct Queue {
    running: JoinSet<()>,
    /// Comes when the last one that was queued has ended.
    last: Option<oneshot::Receiver<()>>,
}

impl TurnLane {
    pub(crate) fn new(pool: Arc<Pool>) -> TurnLane {
        TurnLane { pool, given_up: CancellationToken::new(), queue: Mutex::default() }
    }

    /// Does something when all that was queued before has ended, however that went.
    fn queue<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Pending<T> {
        let (ended, until_ended) = oneshot::channel();
        let (to, arrives) = oneshot::channel();
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let ahead = queue.last.replace(until_ended);
        let given_up = self.given_up.clone();
        queue.running.spawn(async move {
            if let Some(ahead) = ahead {
                // its end is all that counts, be it a sudden one
                drop(ahead.await);
            }
            if given_up.is_cancelled() {
                return;
            }
            // nobody may be waiting any more, which is no error
            drop(to.send(work.await));
            drop(ended);
        });
        while queue.running.try_join_next().is_some() {}
        let given_up = StoreError::Lost {
            store: self.pool.name().to_owned(),
            reason: "the queue was given up".to_owned(),
        };
        Box::pin(async move { arrives.await.unwrap_or(Err(given_up)) })
    }
}

impl Lane for TurnLane {
    fn import(&self, paths: Box<dyn PathStream>) -> Pending<()> {
        let pool = Arc::clone(&self.pool);
        self.queue(async move { import(&pool, paths, Addition::PLAIN).await })
    }

    fn build(&self, request: BuildRequest, log: Arc<dyn BuildLog>) -> Pending<BuildOutcome> {
        let pool = Arc::clone(&self.pool);
        // a wrong guess would cost the channel
        let request = BuildRequest { bring: None, ..request };
        self.queue(async move {
            let lease = pool.lease(Purpose::Lane).await?;
            RemoteLane::alone(lease, Arc::clone(&pool)).build(request, log).await
        })
    }
}

/// Fetches paths, then sends them when it's their turn.
pub(crate) async fn import(
    pool: &Arc<Pool>,
    paths: Box<dyn PathStream>,
    addition: Addition,
) -> Result<(), StoreError> {
    let paths = spooled(paths, pool.name()).await?;
    let lease = pool.lease(Purpose::Write).await?;
    crate::import::import(lease.session(), paths, addition).await
}

/// Paths on their way out of a server, each when it's its turn.
pub(crate) struct TurnStream {
    pool: Arc<Pool>,
    count: usize,
    waiting: VecDeque<PathInfo>,
    current: Option<NarStream>,
    hashed: Hashed,
}

impl TurnStream {
    pub(crate) fn new(pool: Arc<Pool>, infos: Vec<PathInfo>, hashed: Hashed) -> TurnStream {
        TurnStream { pool, count: infos.len(), waiting: infos.into(), current: None, hashed }
    }
}

#[async_trait]
impl PathStream for TurnStream {
    fn count(&self) -> usize {
        self.count
    }

    async fn next_path(&mut self) -> Result<Option<PathInfo>, StoreError> {
        self.current = None;
        let Some(info) = self.waiting.pop_front() else { return Ok(None) };
        let lease = self.pool.lease(Purpose::Read).await?;
        let name = self.pool.name().to_owned();
        let stream = self.current.insert(NarStream::new(name, lease, vec![info], self.hashed));
        stream.next_path().await
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        let Some(stream) = &mut self.current else { return Ok(None) };
        let chunk = stream.chunk().await;
        if !matches!(chunk, Ok(Some(_))) {
            self.current = None;
        }
        chunk
    }
}
