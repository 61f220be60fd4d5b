//! What waits for builds in the place of those who have gone.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use drover_core::StorePath;
use drover_store::{
    Keeper, RealiseObserver, RealiseSettings, Realised, Realiser, StoreError, Wanted,
};
use futures::FutureExt as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::asker::Asker;
use crate::entry::{DetachedView, Ending, Entry};
use crate::error::HoldError;
use crate::id::DetachedId;
use crate::limits::Limits;
use crate::log::Said;

/// What is to be held.
pub struct Order {
    /// Whose it is.
    pub owner: String,
    /// What is wanted.
    pub wanted: Vec<Wanted>,
    /// How it is to be done.
    pub settings: RealiseSettings,
    /// A view of the store of its own, which keeps what is wanted and what comes of it.
    pub keeper: Arc<dyn Keeper>,
}

/// What an order has said since, and whether it is over.
#[derive(Clone, Debug)]
pub struct Followed {
    /// The order.
    pub view: DetachedView,
    /// How many that were asked for are not kept any more.
    pub dropped: u64,
    /// What was said; more is to be asked for where it is much.
    pub said: Vec<Said>,
    /// The number of the next.
    pub next: u64,
    /// How it ended, where all that was said is in here or was before.
    pub ending: Option<Arc<Ending>>,
}

/// Holds orders.
pub struct Holder {
    realiser: Arc<dyn Realiser>,
    limits: Limits,
    started: SystemTime,
    entries: Arc<Mutex<Entries>>,
    tasks: TaskTracker,
    stopping: CancellationToken,
    /// Nothing new is taken.
    closed: CancellationToken,
    /// How many run.
    running: watch::Sender<usize>,
}

type Entries = BTreeMap<DetachedId, Arc<Entry>>;

fn locked(entries: &Mutex<Entries>) -> MutexGuard<'_, Entries> {
    entries.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Holder {
    /// Returns a holder whose orders are done by `realiser`.
    pub fn new(realiser: Arc<dyn Realiser>, limits: Limits) -> Holder {
        Holder {
            realiser,
            limits,
            started: SystemTime::now(),
            entries: Arc::default(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            closed: CancellationToken::new(),
            running: watch::Sender::new(0),
        }
    }

    /// Takes an order, which begins at once.
    ///
    /// # Errors
    ///
    /// [`HoldError`]: it is too large, there are too many, or the holder ends.
    pub fn accept(&self, order: Order) -> Result<DetachedView, HoldError> {
        let Order { owner, wanted, settings, keeper } = order;
        // held to the end: who waits for all orders sees this one counted, or it's refused
        let mut entries = locked(&self.entries);
        self.check(&entries, &owner, wanted.len())?;
        let id = DetachedId::random().ok_or(HoldError::NoRandomness)?;
        let derivations = wanted.iter().map(|wanted| path_of(wanted).clone()).collect();
        let named = (id.clone(), owner);
        let entry = Entry::new(named, derivations, Arc::clone(&keeper), self.limits.log);
        let entry = Arc::new(entry);
        entries.insert(id, Arc::clone(&entry));
        self.running.send_modify(|count| *count += 1);
        let view = entry.view(SystemTime::now());
        let task = Task {
            realiser: Arc::clone(&self.realiser),
            entries: Arc::clone(&self.entries),
            stopping: self.stopping.clone(),
            running: self.running.clone(),
            limits: self.limits,
            entry,
        };
        self.tasks.spawn(task.run(wanted, settings, keeper));
        Ok(view)
    }

    /// Takes nothing new any more. What was taken goes on.
    pub fn refuse_new(&self) {
        // whoever is just being taken in is counted when this is had
        let _entries = locked(&self.entries);
        self.closed.cancel();
    }

    /// Says whether one more order may be taken.
    fn check(&self, entries: &Entries, owner: &str, count: usize) -> Result<(), HoldError> {
        let Limits { running_per_user, running, derivations, .. } = self.limits;
        if self.stopping.is_cancelled() || self.closed.is_cancelled() {
            return Err(HoldError::Stopping);
        }
        match count {
            0 => return Err(HoldError::Nothing),
            _ if count > derivations => {
                return Err(HoldError::TooLarge { count, most: derivations });
            }
            _ => {}
        }
        let held: Vec<&Arc<Entry>> = entries.values().filter(|entry| entry.is_running()).collect();
        if held.len() >= running {
            return Err(HoldError::TooMany { most: running });
        }
        if held.iter().filter(|entry| entry.owner == owner).count() >= running_per_user {
            let user = owner.to_owned();
            return Err(HoldError::TooManyOfUser { user, most: running_per_user });
        }
        Ok(())
    }

    /// Returns all orders that run or are remembered, the oldest first.
    pub fn list(&self) -> Vec<DetachedView> {
        let mut entries: Vec<_> = locked(&self.entries).values().cloned().collect();
        entries.sort_by(|one, other| (one.taken, &one.id).cmp(&(other.taken, &other.id)));
        let now = SystemTime::now();
        entries.iter().map(|entry| entry.view(now)).collect()
    }

    /// Returns what an order has said from a number on. Where there is nothing new it is waited for, as
    /// long as `patience` lasts.
    ///
    /// # Errors
    ///
    /// There is no such order, or it is somebody else's.
    pub async fn follow(
        &self,
        asker: &Asker,
        id: &str,
        from: u64,
        patience: Duration,
    ) -> Result<Followed, HoldError> {
        let entry = self.find(asker, id)?;
        let mut news = entry.news();
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            news.mark_unchanged();
            let (part, ending) = entry.look(from);
            let is_late = tokio::time::Instant::now() >= deadline;
            if !part.said.is_empty() || part.dropped != 0 || ending.is_some() || is_late {
                return Ok(Followed {
                    view: entry.view(SystemTime::now()),
                    dropped: part.dropped,
                    said: part.said,
                    next: part.next,
                    ending: ending.filter(|_| part.is_all),
                });
            }
            // whether there is news or the time is up is seen above
            drop(tokio::time::timeout_at(deadline, news.changed()).await);
        }
    }

    /// Ends an order. What it has begun and nobody else waits for is ended soon after.
    ///
    /// # Errors
    ///
    /// There is no such order, it is somebody else's, or it is over.
    pub fn cancel(&self, asker: &Asker, id: &str) -> Result<(), HoldError> {
        let entry = self.find(asker, id)?;
        match entry.cancel(Some(asker.user.clone())) {
            true => Ok(()),
            false => Err(HoldError::Over { id: id.to_owned() }),
        }
    }

    fn find(&self, asker: &Asker, id: &str) -> Result<Arc<Entry>, HoldError> {
        let known = id.parse().ok().and_then(|id| locked(&self.entries).get(&id).cloned());
        let unknown = || HoldError::Unknown {
            id: id.to_owned(),
            started: self.started,
            remembered: self.limits.remembered,
        };
        let entry = known.ok_or_else(unknown)?;
        if !asker.may_touch(&entry.owner) {
            let owner = entry.owner.clone();
            return Err(HoldError::NotYours { id: id.to_owned(), owner });
        }
        Ok(entry)
    }

    /// Waits until no order runs.
    pub async fn idle(&self) {
        let mut running = self.running.subscribe();
        // the sender lives as long as this
        drop(running.wait_for(|count| *count == 0).await);
    }

    /// Takes nothing new and ends all orders; returns when nothing of them is left here.
    pub async fn shutdown(&self) {
        self.stopping.cancel();
        for entry in locked(&self.entries).values() {
            entry.cancel(None);
        }
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn path_of(wanted: &Wanted) -> &StorePath {
    match wanted {
        Wanted::Path(path) | Wanted::AllOutputs(path) | Wanted::Outputs(path, _) => path,
    }
}

fn bug() -> StoreError {
    let reason = "this is a bug of drover: what works on builds has panicked".to_owned();
    StoreError::Lost { store: "the daemon".to_owned(), reason }
}

/// What sees one order to its end, and remembers it for a while.
struct Task {
    realiser: Arc<dyn Realiser>,
    entries: Arc<Mutex<Entries>>,
    stopping: CancellationToken,
    running: watch::Sender<usize>,
    limits: Limits,
    entry: Arc<Entry>,
}

impl Task {
    async fn run(self, wanted: Vec<Wanted>, settings: RealiseSettings, keeper: Arc<dyn Keeper>) {
        let observer = Arc::clone(&self.entry) as Arc<dyn RealiseObserver>;
        let building = AssertUnwindSafe(self.build(wanted, settings, keeper, observer));
        let outcome = tokio::select! {
            outcome = building.catch_unwind() => Some(outcome.unwrap_or_else(|_| Err(bug()))),
            () = self.entry.cancelled() => None,
        };
        self.entry.end(outcome);
        self.running.send_modify(|count| *count = count.saturating_sub(1));
        self.forget_oldest();
        tokio::select! {
            () = tokio::time::sleep(self.limits.remembered) => {}
            () = self.entry.forgotten.cancelled() => {}
            () = self.stopping.cancelled() => {}
        }
        locked(&self.entries).remove(&self.entry.id);
    }

    /// Builds, and keeps what comes of it from the collector.
    async fn build(
        &self,
        wanted: Vec<Wanted>,
        settings: RealiseSettings,
        keeper: Arc<dyn Keeper>,
        observer: Arc<dyn RealiseObserver>,
    ) -> Result<Vec<Realised>, StoreError> {
        let store = Arc::clone(&keeper);
        let realised = self.realiser.realise(store, wanted, settings, observer).await?;
        for path in realised.iter().flat_map(|each| each.outputs.values()) {
            keeper.add_temporary_root(path).await?;
        }
        Ok(realised)
    }

    /// Forgets those that ended first where more are remembered than may be.
    fn forget_oldest(&self) {
        let Limits { ended, ended_per_user, .. } = self.limits;
        let mut entries = locked(&self.entries);
        for (owner, most) in [(Some(&self.entry.owner), ended_per_user), (None, ended)] {
            let is_counted = |entry: &&Arc<Entry>| owner.is_none_or(|owner| entry.owner == *owner);
            let counted = entries.values().filter(is_counted);
            let ended = counted.filter_map(|entry| Some((entry.ended_at()?, entry.id.clone())));
            let mut ended: Vec<(Instant, DetachedId)> = ended.collect();
            ended.sort();
            let surplus = ended.len().saturating_sub(most);
            for (_, id) in ended.into_iter().take(surplus) {
                if let Some(entry) = entries.remove(&id) {
                    entry.forgotten.cancel();
                }
            }
        }
    }
}
