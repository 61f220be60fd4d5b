//! The channels to one server: opened as needed, reused, bounded.
//!
//! A channel is used by one at a time. Reading and writing paths have permits, and nobody waits for
//! one in a circle: who holds a writer's permit holds all the readers' that he needs, readers'
//! permits of several stores are taken in one order, and small paths need none. Where the user bounds
//! the number of channels they are used by turns instead ([`Turns`]).

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use drover_core::StorePath;
use drover_store::{StoreError, Substitute, Trust};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::master::Need;
use crate::opener::{Known, Opener};
use crate::session::Session;
use crate::steady::{Questions, Steady};
use crate::turns::{Turn, Turns};
use crate::watch::Asked;

/// Transfers out of one machine at once; each has a flow-control window of its own.
const READS: usize = 6;
/// Transfers into one machine at once, those on lanes apart.
const WRITES: usize = 16;

/// What a channel is taken for, and so which permit that takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A transfer out of the machine, which ends the channel when it's given up.
    Read,
    /// A transfer into the machine, the same.
    Write,
    /// Builds, whose number is the scheduler's affair; dropping the lane ends the channel.
    Lane,
    /// Questions.
    Question,
}

/// The channels to one server.
pub(crate) struct Pool {
    opener: Arc<Opener>,
    /// Channels that nobody uses.
    idle: Mutex<Vec<Session>>,
    /// Channels that are being opened before somebody asks.
    warming: Mutex<Vec<AbortOnDropHandle<Option<Session>>>>,
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
    /// Where the number of channels is bounded, what stands in the place of those permits.
    pub(crate) turns: Option<Turns>,
    pub(crate) steady: Arc<Steady>,
    /// What has other channels hold the roots of those that end.
    pub(crate) moving_roots: Mutex<JoinSet<()>>,
    /// What the first connection found out.
    known: OnceCell<Known>,
    /// Starts tasks. Each has an owner that ends it, the pool or who waits for it.
    pub(crate) tasks: TaskTracker,
}

/// A channel that is in use. Dropped, it goes back if it is in order and for everybody, and is closed
/// otherwise.
pub(crate) struct Lease {
    session: Option<Session>,
    pool: Arc<Pool>,
    afterwards: Afterwards,
    _permit: Permit,
}

/// What becomes of a channel that was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Afterwards {
    Reused,
    Closed,
}

/// What has to be held while a channel is used.
pub(crate) enum Permit {
    Nothing,
    Transfer { _permit: OwnedSemaphorePermit },
    Turn { _turn: Turn },
}

impl Lease {
    pub(crate) fn session(&self) -> &Session {
        match &self.session {
            Some(session) => session,
            None => unreachable!("the session is taken when the lease is dropped"),
        }
    }

    /// Closes the channel, and leaves it to the next one that's opened to hold what it held.
    pub(crate) fn abandon(mut self) {
        self.session = None;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(session) = self.session.take() else { return };
        match self.afterwards {
            // whoever waits for a place may have a pool of his own
            Afterwards::Reused
                if session.channel.is_reusable() && !self.pool.opener().is_crowded() =>
            {
                locked(&self.pool.idle).push(session);
            }
            Afterwards::Reused | Afterwards::Closed => self.pool.close(session),
        }
    }
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    pub(crate) fn new(opener: Opener) -> Arc<Pool> {
        Pool::of(Arc::new(opener), None)
    }

    /// Returns a pool of channels of its own to the same server, as many at the most.
    pub(crate) fn apart(&self) -> Arc<Pool> {
        let bound = self.turns.as_ref().map(Turns::bound);
        Pool::of(Arc::clone(&self.opener), bound)
    }

    /// Returns a pool of at most so many channels to the same server.
    pub(crate) fn bounded(&self, bound: NonZeroU32) -> Arc<Pool> {
        Pool::of(Arc::clone(&self.opener), Some(bound))
    }

    fn of(opener: Arc<Opener>, bound: Option<NonZeroU32>) -> Arc<Pool> {
        let steady = Arc::new(Steady::new(Arc::clone(&opener)));
        let pool = Arc::new(Pool {
            turns: bound.map(Turns::new),
            steady,
            opener,
            idle: Mutex::default(),
            warming: Mutex::default(),
            reads: Arc::new(Semaphore::new(READS)),
            writes: Arc::new(Semaphore::new(WRITES)),
            moving_roots: Mutex::default(),
            known: OnceCell::new(),
            tasks: TaskTracker::new(),
        });
        match bound {
            None => pool.opener.watch.ask_on(Asked::Steady(Arc::downgrade(&pool.steady))),
            Some(_) => pool.opener.watch.ask_on(Asked::Pool(Arc::downgrade(&pool))),
        }
        pool
    }

    /// Whether channels are used by turns.
    pub(crate) fn takes_turns(&self) -> bool {
        self.turns.is_some()
    }

    pub(crate) fn name(&self) -> &str {
        &self.opener.name
    }

    pub(crate) fn opener(&self) -> &Opener {
        &self.opener
    }

    pub(crate) fn round_trip(&self) -> Option<std::time::Duration> {
        self.known.get().map(|known| known.round_trip)
    }

    pub(crate) fn trust(&self) -> Trust {
        self.known.get().map_or(Trust::Unknown, |known| known.info.trust)
    }

    /// Begins to connect.
    pub(crate) fn approach(&self) {
        self.opener.approach();
    }

    /// Connects, unless that was done before.
    pub(crate) async fn connect(&self) -> Result<Known, StoreError> {
        let known = self.known.get_or_try_init(|| async {
            let (session, known) = self.opener.open(Need::Other).await?;
            locked(&self.idle).push(session);
            Ok::<Known, StoreError>(known)
        });
        known.await.cloned()
    }

    /// Takes a channel that nobody uses, or opens one.
    pub(crate) async fn lease(self: &Arc<Self>, purpose: Purpose) -> Result<Lease, StoreError> {
        let permit = self.permit(purpose).await?;
        self.lease_with(purpose, permit).await
    }

    pub(crate) async fn lease_with(
        self: &Arc<Self>,
        purpose: Purpose,
        permit: Permit,
    ) -> Result<Lease, StoreError> {
        self.connect().await?;
        let mut found = self.take_idle(purpose);
        while found.is_none() {
            let Some(opening) = self.take_warming() else { break };
            found = opening.await.ok().flatten().filter(|session| session.channel.is_reusable());
        }
        let session = match found {
            Some(session) => session,
            None => self.open_or_take(purpose).await?,
        };
        if self.takes_turns() {
            // the next to end may be the only one that holds what came since
            drop(self.steady.hold_unheard(&session));
        } else if purpose != Purpose::Question
            && (self.steady.would_lose(&session) || self.steady.is_lost())
        {
            self.move_roots(None);
        }
        Ok(self.leased(session, Afterwards::Reused, permit))
    }

    fn leased(self: &Arc<Self>, session: Session, afterwards: Afterwards, permit: Permit) -> Lease {
        let (session, pool) = (Some(session), Arc::clone(self));
        Lease { session, pool, afterwards, _permit: permit }
    }

    async fn permit(&self, purpose: Purpose) -> Result<Permit, StoreError> {
        let closed = |_| StoreError::Lost {
            store: self.name().to_owned(),
            reason: "it was closed".to_owned(),
        };
        if let Some(turns) = &self.turns {
            return turns.take(purpose).await.map(|_turn| Permit::Turn { _turn }).map_err(closed);
        }
        let semaphore = match purpose {
            Purpose::Read => &self.reads,
            Purpose::Write => &self.writes,
            Purpose::Lane | Purpose::Question => return Ok(Permit::Nothing),
        };
        let permit = Arc::clone(semaphore).acquire_owned().await;
        permit.map(|_permit| Permit::Transfer { _permit }).map_err(closed)
    }

    /// Takes a channel that nobody has used, and that nobody will use again: it takes an idle one's
    /// place where their number is bounded.
    pub(crate) async fn lease_fresh(self: &Arc<Self>) -> Result<Lease, StoreError> {
        let permit = self.permit(Purpose::Lane).await?;
        if self.takes_turns() {
            drop(self.take_idle(Purpose::Lane));
        }
        let session = self.open_one_more(Need::Other).await?;
        Ok(self.leased(session, Afterwards::Closed, permit))
    }

    /// Opens channels in the background, unless so many are there or on their way, so that nobody
    /// waits for them later.
    pub(crate) fn warm(&self, channels: usize) {
        if self.takes_turns() {
            return;
        }
        let idle = locked(&self.idle).len();
        let mut warming = locked(&self.warming);
        for _ in idle + warming.len()..channels {
            let opener = Arc::clone(&self.opener);
            let open =
                async move { opener.open(Need::Ahead).await.ok().map(|(session, _)| session) };
            warming.push(AbortOnDropHandle::new(self.tasks.spawn(open)));
        }
    }

    fn take_warming(&self) -> Option<AbortOnDropHandle<Option<Session>>> {
        let mut warming = locked(&self.warming);
        let ready = warming.iter().position(AbortOnDropHandle::is_finished);
        match ready {
            Some(at) => Some(warming.swap_remove(at)),
            None => warming.pop(),
        }
    }

    /// Takes an idle channel: for questions one that holds roots, for all else one that doesn't,
    /// if there's a choice.
    pub(crate) fn take_idle(self: &Arc<Self>, purpose: Purpose) -> Option<Session> {
        let mut idle = locked(&self.idle);
        let ended: Vec<_> = idle.extract_if(.., |session| !session.channel.is_reusable()).collect();
        ended.into_iter().for_each(|session| self.close(session));
        let question = purpose == Purpose::Question;
        let fits = idle.iter().rposition(|session| session.holds_roots() == question);
        fits.map(|at| idle.swap_remove(at)).or_else(|| idle.pop())
    }

    /// Connects with these questions, unless there is a connection.
    async fn connect_asking(
        self: &Arc<Self>,
        paths: &BTreeSet<StorePath>,
        sought: &BTreeSet<StorePath>,
        substitute: Substitute,
    ) -> Result<Option<BTreeSet<StorePath>>, StoreError> {
        let mut first = None;
        // before the others wait for us, who may hold it
        let permit = match (&self.turns, self.known.initialized()) {
            (Some(_), false) => self.permit(Purpose::Question).await?,
            _ => Permit::Nothing,
        };
        let known = self.known.get_or_try_init(|| async {
            let (roots, held) = self.steady.note(paths);
            let asked = paths.union(sought).cloned().collect();
            let questions = Questions { roots, asked, substitute: Some(substitute) };
            let (session, known, answered) =
                self.opener.open_asking(&questions, Need::Other).await?;
            session.mark_roots(held);
            first = Some((self.leased(session, Afterwards::Reused, permit), answered));
            Ok::<Known, StoreError>(known)
        });
        known.await?;
        match first {
            Some((_lease, answered)) => answered.await.map(Some),
            None => Ok(None),
        }
    }

    /// Keeps paths from the garbage collector until the pool is dropped, whatever else is given up
    /// meanwhile.
    pub(crate) async fn hold_for_good(
        self: &Arc<Self>,
        paths: &BTreeSet<StorePath>,
    ) -> Result<(), StoreError> {
        let asked = paths.clone();
        if self.takes_turns() {
            let lease = self.lease(Purpose::Question).await?;
            let roots = self.steady.add(paths, lease.session());
            let questions = Questions { roots, asked, substitute: None };
            return questions.ask(lease.session()).await.map(drop);
        }
        let steady = self.steady().await?;
        let roots = self.steady.add(paths, &steady);
        let questions = Questions { roots, asked, substitute: None };
        questions.ask(&steady).await.map(drop)
    }

    /// Keeps paths from the garbage collector, and returns which are valid.
    pub(crate) async fn hold_valid(
        self: &Arc<Self>,
        paths: &BTreeSet<StorePath>,
        substitute: Substitute,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        self.hold_and_seek(paths, &BTreeSet::new(), substitute).await
    }

    /// The same, and returns which of `sought` are valid, too, which aren't kept.
    pub(crate) async fn hold_and_seek(
        self: &Arc<Self>,
        paths: &BTreeSet<StorePath>,
        sought: &BTreeSet<StorePath>,
        substitute: Substitute,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        if let Some(valid) = self.connect_asking(paths, sought, substitute).await? {
            return Ok(valid);
        }
        let asked: BTreeSet<StorePath> = paths.union(sought).cloned().collect();
        let all = asked.len();
        let Some(steady) = self.steady.opened().await else {
            let lease = self.lease(Purpose::Question).await?;
            let roots = self.steady.add(paths, lease.session());
            let questions = Questions { roots, asked, substitute: Some(substitute) };
            return questions.ask(lease.session()).await;
        };
        let roots = self.steady.add(paths, &steady);
        let questions = Questions { roots, asked, substitute: None };
        let valid = questions.ask(&steady).await?;
        if substitute == Substitute::No || valid.len() == all {
            return Ok(valid);
        }
        // what others wait for on the steady channel shall not wait for substituters
        let lease = self.lease(Purpose::Question).await?;
        lease.session().valid_paths(paths, substitute).await
    }

    /// Returns the channel that nobody ends.
    pub(crate) async fn steady(self: &Arc<Self>) -> Result<Arc<Session>, StoreError> {
        self.connect().await?;
        self.steady.open(|| self.take_idle(Purpose::Question)).await
    }
}
