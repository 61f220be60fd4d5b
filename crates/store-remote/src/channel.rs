//! One connection to a server, with requests in flight.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use drover_store::StoreError;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::error::Peer;
use crate::reader::Reader;
use crate::reply::Awaiting;
use crate::writer::{Outgoing, write_all};

/// How long the peer is heard out after it stopped listening.
const AFTER_WRITER: Duration = Duration::from_secs(2);

/// One connection. Dropping it closes it, and what the server does for it ends.
pub(crate) struct Channel {
    queues: Mutex<Queues>,
    owed: Arc<AtomicUsize>,
    end: Arc<OnceLock<StoreError>>,
    peer: Peer,
    /// The tasks of both halves, and the child process behind them; ended with the channel.
    _tasks: JoinSet<()>,
}

struct Queues {
    outgoing: mpsc::UnboundedSender<Outgoing>,
    awaiting: mpsc::UnboundedSender<Awaiting>,
}

impl Channel {
    /// Starts both halves. `keep_alive` lives as long as the channel.
    pub(crate) fn start<R, W, K>(reader: Reader<R>, writer: W, keep_alive: K) -> Channel
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
        K: Send + 'static,
    {
        let (outgoing, to_send) = mpsc::unbounded_channel();
        let (awaiting, to_read) = mpsc::unbounded_channel();
        let end = Arc::new(OnceLock::new());
        let owed = Arc::new(AtomicUsize::new(0));
        let peer = reader.peer().clone();
        let mut tasks = JoinSet::new();
        let (write_peer, write_end) = (peer.clone(), Arc::clone(&end));
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        tasks.spawn(async move {
            if let Err(error) = write_all(writer, write_peer, to_send).await {
                drop(write_end.set(error));
                drop(stop);
            } else {
                // the queue's end; the reader is ended with the channel
                std::future::pending::<()>().await;
            }
        });
        let (read_end, read_owed) = (Arc::clone(&end), Arc::clone(&owed));
        tasks.spawn(async move {
            read_all(reader, to_read, &read_owed, stopped, &read_end).await;
            drop(keep_alive);
        });
        let queues = Mutex::new(Queues { outgoing, awaiting });
        Channel { queues, owed, end, peer, _tasks: tasks }
    }

    /// Queues a request and what is owed for it. Requests are sent, and answered, in this order.
    pub(crate) fn submit(&self, outgoing: Outgoing, awaiting: Awaiting) {
        let queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        self.owed.fetch_add(1, Ordering::AcqRel);
        if let Err(mpsc::error::SendError(awaiting)) = queues.awaiting.send(awaiting) {
            awaiting.answer.finish(Err(self.ending()));
            return;
        }
        // a writer that is gone has told the reader, which fails all that is owed
        drop(queues.outgoing.send(outgoing));
    }

    /// Whether nothing has gone wrong.
    pub(crate) fn is_open(&self) -> bool {
        self.end.get().is_none()
    }

    /// Whether nothing is owed and nothing went wrong: another user may take it over.
    pub(crate) fn is_reusable(&self) -> bool {
        self.is_open() && self.owed.load(Ordering::Acquire) == 0
    }

    /// Returns why the channel ended.
    pub(crate) fn ending(&self) -> StoreError {
        self.end.get().cloned().unwrap_or_else(|| self.peer.lost("the connection was closed"))
    }

    pub(crate) fn peer(&self) -> &Peer {
        &self.peer
    }
}

/// Reads until the connection ends or the writer has; then fails all that is still owed.
async fn read_all<R: AsyncRead + Unpin + Send>(
    mut reader: Reader<R>,
    mut to_read: mpsc::UnboundedReceiver<Awaiting>,
    owed: &AtomicUsize,
    writer_stopped: tokio::sync::oneshot::Receiver<()>,
    end: &OnceLock<StoreError>,
) {
    // What the peer said before it stopped listening is worth more than the writer's error.
    let give_up = async {
        drop(writer_stopped.await);
        tokio::time::sleep(AFTER_WRITER).await;
    };
    tokio::pin!(give_up);
    loop {
        let next = tokio::select! {
            biased;
            next = to_read.recv() => next,
            () = &mut give_up => None,
        };
        let Some(next) = next else { break };
        let served = tokio::select! {
            biased;
            served = reader.serve(next) => served,
            () = &mut give_up => break,
        };
        owed.fetch_sub(1, Ordering::AcqRel);
        if let Err(error) = served {
            drop(end.set(error));
            break;
        }
    }
    to_read.close();
    let ending = end.get().cloned();
    while let Some(awaiting) = to_read.recv().await {
        let error = ending.clone().unwrap_or_else(|| reader.peer().lost("the connection broke"));
        awaiting.answer.finish(Err(error));
    }
}
