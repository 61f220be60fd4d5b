//! A queue of builds on this machine.

use std::any::Any;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use drover_store::{
    BuildLog, BuildOutcome, BuildRequest, Keeper as _, Lane, OwnSetting, PathStream, Pending,
    Store as _, StoreError,
};
use drover_store_local::{LocalStore, in_place};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::builder::{Inner, Queue};
use crate::failure::{Trouble, of_bug};
use crate::job::Purpose;
use crate::places::Places;
use crate::references::References;

/// What is queued.
enum Work {
    Import(Box<dyn PathStream>, oneshot::Sender<Result<(), StoreError>>),
    Build(Box<Task>, oneshot::Sender<Result<BuildOutcome, StoreError>>),
}

/// A build, and what it's for.
struct Task {
    purpose: Purpose,
    request: BuildRequest,
    log: Arc<dyn BuildLog>,
}

/// A queue. Dropping it kills what runs in it and forgets the rest; what is killed is gone when the
/// builder's [`ended`](crate::LocalBuilder::ended) says so.
pub(crate) struct LocalLane {
    queue: mpsc::UnboundedSender<Work>,
    name: String,
    _end: DropGuard,
}

impl LocalLane {
    /// Opens a queue, which has a thread of its own: a build is a hundred small things one after
    /// another that block, and to hand each to another thread took longer than to do it.
    ///
    /// # Errors
    /// The thread can't be started.
    pub(crate) fn open(
        inner: &Arc<Inner>,
        store: &Arc<LocalStore>,
    ) -> Result<LocalLane, StoreError> {
        let (queue, works) = mpsc::unbounded_channel();
        let cancel = CancellationToken::new();
        let worker = Worker {
            inner: Arc::clone(inner),
            store: Arc::new(store.new_session()),
            cancel: cancel.clone(),
            elsewhere: None,
            places: Places::default(),
            references: References::default(),
        };
        let name = store.layout().name.clone();
        let (runtime, running) = (Handle::current(), inner.tracker.token());
        let work = move || {
            runtime.block_on(worker.run(works));
            drop(running);
        };
        let started = std::thread::Builder::new().name("builds".to_owned()).spawn(work);
        if let Err(error) = started {
            let message = format!("cannot start a thread for builds: {error}");
            return Err(StoreError::refused(name, message));
        }
        Ok(LocalLane { queue, name, _end: cancel.drop_guard() })
    }

    /// Queues something, and returns its answer to come.
    fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Work,
    ) -> Pending<T> {
        let (answer, answered) = oneshot::channel();
        // where nobody works any more, nobody answers
        self.queue.send(work(answer)).ok();
        let store = self.name.clone();
        let ended = move |_| Err(StoreError::LaneEnded { store });
        Box::pin(async move { answered.await.unwrap_or_else(ended) })
    }
}

impl Lane for LocalLane {
    fn import(&self, paths: Box<dyn PathStream>) -> Pending<()> {
        self.ask(|answer| Work::Import(paths, answer))
    }

    fn build(&self, request: BuildRequest, log: Arc<dyn BuildLog>) -> Pending<BuildOutcome> {
        let task = Task { purpose: Purpose::Build, request, log };
        self.ask(|answer| Work::Build(Box::new(task), answer))
    }

    fn check(&self, request: BuildRequest, log: Arc<dyn BuildLog>) -> Pending<BuildOutcome> {
        let task = Task { purpose: Purpose::Check, request, log };
        self.ask(|answer| Work::Build(Box::new(task), answer))
    }

    fn repair(&self, request: BuildRequest, log: Arc<dyn BuildLog>) -> Pending<BuildOutcome> {
        let task = Task { purpose: Purpose::Repair, request, log };
        self.ask(|answer| Work::Build(Box::new(task), answer))
    }
}

/// Works through a queue.
struct Worker {
    inner: Arc<Inner>,
    /// Its temporary roots are on what was needed and made, until the queue ends.
    store: Arc<LocalStore>,
    cancel: CancellationToken,
    /// A queue at the builder that takes what isn't done here.
    elsewhere: Option<Box<dyn Lane>>,
    places: Places,
    references: References,
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.places.clear();
    }
}

impl Worker {
    async fn run(mut self, mut works: mpsc::UnboundedReceiver<Work>) {
        let cancel = self.cancel.clone();
        loop {
            let work = tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                work = works.recv() => match work {
                    Some(work) => work,
                    None => return,
                },
            };
            match work {
                Work::Import(paths, answer) => {
                    let imported = tokio::select! {
                        imported = self.store.import(paths) => imported,
                        () = cancel.cancelled() => return,
                    };
                    answer.send(imported).ok();
                }
                Work::Build(task, answer) => {
                    if let Some(outcome) = self.build(*task).await {
                        answer.send(outcome).ok();
                    }
                }
            }
        }
    }

    /// Builds, here or elsewhere; nothing where nobody wants to know any more.
    async fn build(
        &mut self,
        Task { purpose, request, log }: Task,
    ) -> Option<Result<BuildOutcome, StoreError>> {
        if let Some(other) = self.inner.other_for(&request) {
            let lane = match &self.elsewhere {
                Some(lane) => lane,
                None => match other.open_lane().await {
                    Ok(lane) => self.elsewhere.insert(lane),
                    Err(error) => return Some(Err(error)),
                },
            };
            let outcome = match purpose {
                Purpose::Build => lane.build(request, log),
                Purpose::Check => lane.check(request, log),
                Purpose::Repair => lane.repair(request, log),
            };
            return tokio::select! {
                outcome = outcome => Some(outcome),
                () = self.cancel.cancelled() => None,
            };
        }
        let own = request.wishes.optimise.map(OwnSetting::Optimise);
        self.store.set_own(own.as_slice());
        let shown = self.store.store_dir().display(&request.derivation);
        let Worker { store, places, references, cancel, .. } = &*self;
        let queue = Queue { store, places, references, cancel };
        let building = in_place(self.inner.build(queue, purpose, request, log));
        let built = unless_it_panics(building).await;
        let built = built.unwrap_or_else(|panic| Err(of_bug(&shown, &panic).into()));
        match built.map_err(|trouble| Trouble::with(trouble, &shown)) {
            Ok(outcome) => Some(Ok(outcome)),
            Err(Trouble::Failure(failure)) => Some(Ok(BuildOutcome::Failed(failure))),
            Err(Trouble::Store(error)) => Some(Err(error)),
            Err(Trouble::Derivation(_) | Trouble::Cancelled) => None,
        }
    }
}

/// Waits for some work. Where it panics, what it said is returned: a queue that vanished would have
/// nobody to blame, and what was asked of it would be asked again.
async fn unless_it_panics<T>(work: impl Future<Output = T>) -> Result<T, String> {
    let mut work = pin!(work);
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))) {
        Ok(Poll::Ready(done)) => Poll::Ready(Ok(done)),
        Ok(Poll::Pending) => Poll::Pending,
        Err(panic) => Poll::Ready(Err(words(panic.as_ref()))),
    })
    .await
}

pub(crate) fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it panicked without a word").to_owned()
}
