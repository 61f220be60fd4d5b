//! One order that is held: what it says, and what became of it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use drover_core::StorePath;
use drover_store::{
    FailureCause, Keeper, RealiseEvent, RealiseObserver, RealiseStatus, Realised, StoreError,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::id::DetachedId;
use crate::log::{Log, Part};

/// How an order is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It isn't over.
    Running,
    /// All that was wanted is valid.
    Succeeded,
    /// Something isn't.
    Failed,
    /// Somebody has ended it.
    Cancelled,
}

/// How an order ended.
#[derive(Debug)]
pub enum Outcome {
    /// This became of what was wanted, in its order.
    Realised(Vec<Realised>),
    /// The store could not be used.
    Store(StoreError),
    /// Somebody has ended it.
    Cancelled {
        /// Who; the holder where nobody did.
        by: Option<String>,
    },
}

/// An order that is over.
#[derive(Debug)]
pub struct Ending {
    /// When that was.
    pub at: SystemTime,
    /// How it ended.
    pub outcome: Outcome,
    /// How those ended that failed themselves, be they wanted or only needed, as far as that is known.
    pub causes: BTreeSet<FailureCause>,
}

/// An order, as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetachedView {
    /// Its name.
    pub id: DetachedId,
    /// Whose it is.
    pub owner: String,
    /// The derivations, in the order in which they were named.
    pub derivations: Vec<StorePath>,
    /// How it is.
    pub condition: Condition,
    /// How long ago it was handed over.
    pub age: Duration,
    /// How long ago it ended.
    pub ended: Option<Duration>,
}

/// One order.
pub(crate) struct Entry {
    pub(crate) id: DetachedId,
    pub(crate) owner: String,
    pub(crate) derivations: Vec<StorePath>,
    began: SystemTime,
    /// The same by a clock that nobody sets, for the order of all.
    pub(crate) taken: Instant,
    cancel: CancellationToken,
    /// It is remembered no longer.
    pub(crate) forgotten: CancellationToken,
    state: Mutex<State>,
    /// Changes whenever something was said or it has ended.
    news: watch::Sender<u64>,
}

struct State {
    log: Log,
    cancelled_by: Option<String>,
    ending: Option<Arc<Ending>>,
    /// When it ended, by a clock that nobody sets.
    ended: Option<Instant>,
    causes: BTreeSet<FailureCause>,
    /// The view of the store whose temporary roots keep what was built, for as long as this is
    /// remembered.
    _roots: Arc<dyn Keeper>,
}

impl Entry {
    pub(crate) fn new(
        (id, owner): (DetachedId, String),
        derivations: Vec<StorePath>,
        keeper: Arc<dyn Keeper>,
        log: usize,
    ) -> Entry {
        let log = Log::new(log);
        let causes = BTreeSet::new();
        let (cancelled_by, ending, ended) = (None, None, None);
        let state = State { log, cancelled_by, ending, ended, causes, _roots: keeper };
        Entry {
            id,
            owner,
            derivations,
            began: SystemTime::now(),
            taken: Instant::now(),
            cancel: CancellationToken::new(),
            forgotten: CancellationToken::new(),
            state: Mutex::new(state),
            news: watch::Sender::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        self.news.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Returns what says that it is to end.
    pub(crate) fn cancelled(&self) -> impl Future<Output = ()> {
        self.cancel.clone().cancelled_owned()
    }

    /// Has it end, at the wish of somebody; whether it could be ended still.
    pub(crate) fn cancel(&self, by: Option<String>) -> bool {
        let mut state = self.state();
        if state.ending.is_some() {
            return false;
        }
        if state.cancelled_by.is_none() {
            state.cancelled_by = by;
        }
        drop(state);
        self.cancel.cancel();
        true
    }

    /// Notes that it is over; without an outcome it was ended.
    pub(crate) fn end(&self, outcome: Option<Result<Vec<Realised>, StoreError>>) {
        self.end_at(SystemTime::now(), outcome);
    }

    /// The same, where the clock shows this.
    pub(crate) fn end_at(
        &self,
        at: SystemTime,
        outcome: Option<Result<Vec<Realised>, StoreError>>,
    ) {
        let mut state = self.state();
        let outcome = match outcome {
            Some(Ok(realised)) => Outcome::Realised(realised),
            Some(Err(error)) => Outcome::Store(error),
            None => Outcome::Cancelled { by: state.cancelled_by.clone() },
        };
        let causes = state.causes.clone();
        state.ended = Some(Instant::now());
        state.ending = Some(Arc::new(Ending { at, outcome, causes }));
        drop(state);
        self.tell();
    }

    /// Returns when it ended, by a clock that nobody sets.
    pub(crate) fn ended_at(&self) -> Option<Instant> {
        self.state().ended
    }

    pub(crate) fn is_running(&self) -> bool {
        self.state().ending.is_none()
    }

    /// Returns what was said from a number on, and how it ended.
    pub(crate) fn look(&self, from: u64) -> (Part, Option<Arc<Ending>>) {
        let state = self.state();
        (state.log.from(from), state.ending.clone())
    }

    pub(crate) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Returns how it is seen at a time.
    pub(crate) fn view(&self, now: SystemTime) -> DetachedView {
        let since = |then: SystemTime| now.duration_since(then).unwrap_or_default();
        let ending = self.state().ending.clone();
        DetachedView {
            id: self.id.clone(),
            owner: self.owner.clone(),
            derivations: self.derivations.clone(),
            condition: ending.as_deref().map_or(Condition::Running, Ending::condition),
            age: since(self.began),
            ended: ending.map(|ending| since(ending.at)),
        }
    }
}

impl Ending {
    /// Returns how an order is that ended like this.
    pub fn condition(&self) -> Condition {
        let is_valid = |each: &Realised| RealiseStatus::is_success(each.status);
        match &self.outcome {
            Outcome::Realised(all) if all.iter().all(is_valid) => Condition::Succeeded,
            Outcome::Realised(_) | Outcome::Store(_) => Condition::Failed,
            Outcome::Cancelled { .. } => Condition::Cancelled,
        }
    }
}

impl RealiseObserver for Entry {
    fn event(&self, event: RealiseEvent) {
        let mut state = self.state();
        if let RealiseEvent::Failed { cause, .. } = &event {
            state.causes.insert(*cause);
        }
        let said = state.log.push(event);
        drop(state);
        if said {
            self.tell();
        }
    }
}

#[cfg(test)]
mod tests {
    use drover_store_local::{Access, Layout, LocalOptions, LocalStore};

    use super::*;

    fn entry() -> Entry {
        let real = std::path::PathBuf::from("/nix/store");
        let layout = Layout {
            name: "local".to_owned(),
            store_dir: Default::default(),
            real,
            state: "/nowhere".into(),
            log: "/nowhere".into(),
            access: Access::ReadOnly,
        };
        let keeper = Arc::new(LocalStore::new(layout, LocalOptions::default()));
        let id = DetachedId::random().expect("randomness");
        Entry::new((id, "alice".to_owned()), Vec::new(), keeper, 1000)
    }

    /// T45: a clock that is set meanwhile has nothing forgotten before its time, and no age below nothing.
    #[test]
    fn what_ended_first_is_told_by_no_clock() {
        const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
        let now = SystemTime::now();
        let (first, second, third) = (entry(), entry(), entry());
        first.end_at(now + YEAR, None);
        second.end_at(now, None);
        third.end_at(now - YEAR, None);
        assert!(first.ended_at() <= second.ended_at() && second.ended_at() <= third.ended_at());
        assert_eq!(first.view(now).ended, Some(Duration::ZERO));
        assert_eq!(second.view(now - YEAR).age, Duration::ZERO);
        assert_eq!(third.view(now).ended, Some(YEAR));
    }
}
