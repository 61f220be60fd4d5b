//! From an asynchronous stream to blocking work and back.
//!
//! No thread waits for a client: what has arrived is handed over, worked on, and the thread goes
//! back. What waits to be worked on is bounded in bytes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use drover_core::PathInfo;
use drover_store::{PathStream, StoreError, WhenValid};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, timeout_at};

use super::batch::commit;
use super::unpacking::{Stop, Unpacking};
use super::{Checks, check};
use crate::LocalStore;
use crate::error::LocalError;

/// Bytes of a stream that may wait to be worked on.
const BUDGET: u32 = 8 * 1024 * 1024;

/// Parts of a stream that may wait to be worked on.
const QUEUE: usize = 1024;

/// How long it's waited for more of a stream that brings little.
const MOMENT: Duration = Duration::from_millis(1);
/// What isn't little any more.
const ENOUGH_PARTS: usize = 128;
const ENOUGH_BYTES: usize = 128 * 1024;

/// A part of a stream.
pub(super) enum Part {
    /// The next path begins.
    Path(Box<PathInfo>),
    /// Bytes of its NAR.
    Bytes(Bytes),
    /// Its NAR is whole.
    EndOfPath,
    /// There are no more paths.
    End,
}

/// A part, and its share of the budget.
pub(super) struct Parcel {
    pub(super) part: Part,
    _share: Option<OwnedSemaphorePermit>,
}

/// Why paths could not be added.
pub(crate) enum ImportFailure {
    /// It's the stream, or what came with it.
    Sender(StoreError),
    /// It's this store, which would fare no better with another stream.
    Store(StoreError),
}

impl ImportFailure {
    fn of(error: LocalError, store: &LocalStore) -> ImportFailure {
        match error.is_of_the_store() {
            true => ImportFailure::Store(store.told(error)),
            false => ImportFailure::Sender(store.told(error)),
        }
    }

    pub(crate) fn into_error(self) -> StoreError {
        let (ImportFailure::Sender(error) | ImportFailure::Store(error)) = self;
        error
    }
}

/// Adds all paths of a stream. Those that were whole when it failed or was dropped are added.
pub(crate) async fn import(
    store: &LocalStore,
    stream: Box<dyn PathStream>,
    checks: Checks,
    when_valid: WhenValid,
) -> Result<(), StoreError> {
    let imported = import_and_blame(store, stream, checks, when_valid).await;
    imported.map_err(ImportFailure::into_error)
}

/// The same, saying whose fault it is.
pub(crate) async fn import_and_blame(
    store: &LocalStore,
    stream: Box<dyn PathStream>,
    checks: Checks,
    when_valid: WhenValid,
) -> Result<(), ImportFailure> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let produce = produce(stream, sender);
    let consume = consume(store, receiver, checks, when_valid);
    tokio::pin!(produce, consume);
    let read = tokio::select! {
        biased;
        // Done before the stream's end: it failed, and the rest isn't read.
        done = &mut consume => return done,
        read = &mut produce => read,
    };
    let done = consume.await;
    read.map_err(ImportFailure::Sender).and(done)
}

async fn produce(
    mut stream: Box<dyn PathStream>,
    sender: mpsc::Sender<Parcel>,
) -> Result<(), StoreError> {
    let budget = Arc::new(Semaphore::new(BUDGET as usize));
    let send = async |part: Part| {
        let share = match &part {
            Part::Bytes(bytes) => {
                let share = u32::try_from(bytes.len()).unwrap_or(BUDGET).min(BUDGET);
                budget.clone().acquire_many_owned(share).await.ok()
            }
            _ => None,
        };
        // Nobody listens any more where the work failed, which is told from there.
        sender.send(Parcel { part, _share: share }).await.is_ok()
    };
    while let Some(info) = stream.next_path().await? {
        if !send(Part::Path(Box::new(info))).await {
            return Ok(());
        }
        while let Some(bytes) = stream.chunk().await? {
            if !send(Part::Bytes(bytes)).await {
                return Ok(());
            }
        }
        if !send(Part::EndOfPath).await {
            return Ok(());
        }
    }
    send(Part::End).await;
    Ok(())
}

async fn consume(
    store: &LocalStore,
    mut receiver: mpsc::Receiver<Parcel>,
    checks: check::Checks,
    when_valid: WhenValid,
) -> Result<(), ImportFailure> {
    let begun = store.job(move |view| Unpacking::new(view.clone(), checks, when_valid)).await;
    let mut unpacking = begun.map_err(ImportFailure::Store)?;
    loop {
        let mut parcels = Vec::new();
        let ended = receiver.recv_many(&mut parcels, QUEUE).await == 0;
        gather(&mut receiver, &mut parcels).await;
        let mut left = parcels.into_iter();
        let stop = loop {
            let (taken, rest, stop) = store
                .job(move |_| {
                    let stop = match ended {
                        true => unpacking.give_up(),
                        false => unpacking.take(&mut left),
                    };
                    Ok((unpacking, left, stop))
                })
                .await
                .map_err(ImportFailure::Store)?;
            (unpacking, left) = (taken, rest);
            if let Ok(Stop::Starved) = stop {
                break stop;
            }
            if let Some(batch) = unpacking.batch() {
                commit(store, batch).await.map_err(ImportFailure::Store)?;
            }
            if !matches!(stop, Ok(Stop::Full)) {
                break stop;
            }
        };
        match stop {
            Ok(Stop::Starved | Stop::Full) => {}
            Ok(Stop::Ended) => return Ok(()),
            Err(error) => return Err(ImportFailure::of(error, store)),
        }
    }
}

/// Takes what comes within a moment, unless there is enough to work on: to hand a few small files to
/// another thread and back takes longer than to write them.
async fn gather(receiver: &mut mpsc::Receiver<Parcel>, parcels: &mut Vec<Parcel>) {
    let until = Instant::now() + MOMENT;
    let mut looked_at = 0;
    let mut bytes = 0;
    loop {
        for Parcel { part, .. } in parcels.iter().skip(looked_at) {
            match part {
                Part::End => return,
                Part::Bytes(some) => bytes += some.len(),
                Part::Path(_) | Part::EndOfPath => {}
            }
        }
        looked_at = parcels.len();
        if parcels.is_empty() || looked_at >= ENOUGH_PARTS || bytes >= ENOUGH_BYTES {
            return;
        }
        match timeout_at(until, receiver.recv_many(parcels, QUEUE)).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}
