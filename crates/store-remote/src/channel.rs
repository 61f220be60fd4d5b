//! One connection to a server, with requests in flight.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use drover_store::StoreError;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::error::Peer;
use crate::ledger::Ledger;
use crate::reader::Reader;
use crate::reply::Awaiting;
use crate::writer::{Outgoing, write_all};

/// How long the peer is heard out after it stopped listening.
const AFTER_WRITER: Duration = Duration::from_secs(2);

/// One connection. Dropping it closes it, and what the server does for it ends.
pub(crate) struct Channel {
    queues: Mutex<Queues>,
    ledger: Arc<Ledger>,
    peer: Peer,
    /// The tasks of both halves, and the child process behind them; ended with the channel.
    _tasks: JoinSet<()>,
}

struct Queues {
    outgoing: mpsc::UnboundedSender<Outgoing>,
    awaiting: mpsc::UnboundedSender<Awaiting>,
}

impl Channel {
    /// Starts both halves. So many requests were sent with the greeting, and will be submitted as
    /// the first; until then their answers are not taken for something that nobody asked for.
    /// `keep_alive` lives as long as the channel.
    pub(crate) fn start<R, W, K>(
        reader: Reader<R>,
        writer: W,
        sent_ahead: usize,
        keep_alive: K,
    ) -> Channel
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
        K: Send + 'static,
    {
        let (outgoing, to_send) = mpsc::unbounded_channel();
        let (awaiting, to_read) = mpsc::unbounded_channel();
        let ledger = Arc::new(Ledger::default());
        let peer = reader.peer().clone();
        let progress = Arc::clone(reader.progress());
        let mut tasks = JoinSet::new();
        let (write_peer, write_ledger) = (peer.clone(), Arc::clone(&ledger));
        let (stop, stopped) = oneshot::channel();
        tasks.spawn(async move {
            if let Err(error) = write_all(writer, write_peer, &progress, to_send).await {
                write_ledger.close_writing();
                drop(stop.send(error));
            } else {
                // the queue's end; the reader is ended with the channel
                std::future::pending::<()>().await;
            }
        });
        let read_ledger = Arc::clone(&ledger);
        tasks.spawn(async move {
            read_all(reader, to_read, sent_ahead, &read_ledger, stopped).await;
            drop(keep_alive);
        });
        Channel { queues: Mutex::new(Queues { outgoing, awaiting }), ledger, peer, _tasks: tasks }
    }

    /// Queues a request and what is owed for it. Requests are sent, and answered, in this order.
    pub(crate) fn submit(&self, outgoing: Outgoing, awaiting: Awaiting) {
        let queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        self.ledger.owe();
        if let Err(mpsc::error::SendError(awaiting)) = queues.awaiting.send(awaiting) {
            awaiting.fail(self.ending());
            return;
        }
        // a writer that is gone has told the reader, which fails all that is owed
        drop(queues.outgoing.send(outgoing));
    }

    /// Whether nothing is owed and nothing went wrong: another user may take it over.
    pub(crate) fn is_reusable(&self) -> bool {
        self.ledger.is_settled()
    }

    /// Whether it is of no use any more.
    pub(crate) fn has_ended(&self) -> bool {
        self.ledger.end().is_some()
    }

    /// Says that what came over this channel was wrong in a way that the channel can't see itself:
    /// nobody else shall use it.
    pub(crate) fn condemn(&self, error: &StoreError) {
        self.ledger.close(error.clone());
    }

    /// Returns why the channel ended.
    pub(crate) fn ending(&self) -> StoreError {
        let unknown = || self.peer.lost("the connection was closed");
        self.ledger.end().cloned().unwrap_or_else(unknown)
    }

    pub(crate) fn peer(&self) -> &Peer {
        &self.peer
    }
}

/// Reads until the connection ends or the writer has; then fails all that is still owed.
async fn read_all<R: AsyncRead + Unpin + Send>(
    mut reader: Reader<R>,
    mut to_read: mpsc::UnboundedReceiver<Awaiting>,
    mut sent_ahead: usize,
    ledger: &Ledger,
    writer_stopped: oneshot::Receiver<StoreError>,
) {
    let peer = reader.peer().clone();
    // What the peer said before it stopped listening is worth more than the writer's error.
    let give_up = async {
        let error = writer_stopped.await;
        tokio::time::sleep(AFTER_WRITER).await;
        error.unwrap_or_else(|_| peer.lost("the connection broke"))
    };
    tokio::pin!(give_up);
    let error = loop {
        let next = tokio::select! {
            biased;
            next = to_read.recv() => next,
            error = reader.unasked(), if sent_ahead == 0 => match to_read.try_recv() {
                Ok(next) => Some(next),
                Err(_) => break Some(error),
            },
            error = &mut give_up => break Some(error),
        };
        let Some(next) = next else { break None };
        sent_ahead = sent_ahead.saturating_sub(1);
        let served = tokio::select! {
            biased;
            served = reader.serve(next, ledger) => served,
            error = &mut give_up => break Some(error),
        };
        if let Err(error) = served {
            break Some(error);
        }
    };
    let error = error.unwrap_or_else(|| reader.peer().lost("the connection was closed"));
    ledger.close(error.clone());
    to_read.close();
    while let Some(awaiting) = to_read.recv().await {
        awaiting.fail(error.clone());
    }
}
