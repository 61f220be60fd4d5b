//! One channel that nobody ends as long as the store object lives: it holds the roots that keep
//! paths from the garbage collector, and brings small NARs, which many ask for at once.
//!
//! Until the first lane or transfer, any channel holds the roots; when one that does is put to a use that
//! may end it, they move here, in the background. So it costs no channel before a machine's first build.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use drover_core::StorePath;
use drover_store::{Pending, StoreError, Substitute};
use drover_wire::{Dialect, Request};

use crate::held::{First, Held};
use crate::log::Listener;
use crate::master::Need;
use crate::opener::Opener;
use crate::reply::Patience;
use crate::session::{Language, Session};

/// The steady channel of a store, opened when it's needed.
pub(crate) struct Steady {
    opener: Arc<Opener>,
    session: tokio::sync::Mutex<Option<Arc<Session>>>,
    held: Mutex<Held>,
    /// That the roots could not be moved here.
    is_wanting: AtomicBool,
}

impl Steady {
    pub(crate) fn new(opener: Arc<Opener>) -> Steady {
        let (session, held) = (tokio::sync::Mutex::default(), Mutex::default());
        Steady { opener, session, held, is_wanting: AtomicBool::new(false) }
    }

    /// Returns the channel if there is one and it lives.
    pub(crate) async fn opened(&self) -> Option<Arc<Session>> {
        let session = self.session.lock().await;
        session.as_ref().filter(|session| !session.channel.has_ended()).cloned()
    }

    /// Returns the channel, which becomes `candidate` or a new one if there is none. It holds all
    /// roots then.
    pub(crate) async fn open(
        &self,
        candidate: impl FnOnce() -> Option<Session>,
    ) -> Result<Arc<Session>, StoreError> {
        let mut place = self.session.lock().await;
        if let Some(session) = place.as_ref().filter(|session| !session.channel.has_ended()) {
            return Ok(Arc::clone(session));
        }
        let session = match candidate() {
            Some(session) => session,
            None => self.opener.open(Need::Other).await?.0,
        };
        self.hold_all(&session).await?;
        Ok(Arc::clone(place.insert(Arc::new(session))))
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of paths that are to be held by a channel that isn't open yet, and returns all that
    /// it has to register, and that it holds then.
    pub(crate) fn note(&self, paths: &BTreeSet<StorePath>) -> (BTreeSet<StorePath>, First) {
        let mut held = self.held();
        held.note(paths);
        (held.lacking(First::default()), held.all())
    }

    /// Takes note of paths that are to be held, and returns those that `session` has to register:
    /// these, and all that others have registered, whose channels may be gone.
    pub(crate) fn add(
        &self,
        paths: &BTreeSet<StorePath>,
        session: &Session,
    ) -> BTreeSet<StorePath> {
        let mut held = self.held();
        held.note(paths);
        let mut lacking = held.lacking(session.roots());
        session.mark_roots(held.all());
        lacking.extend(paths.iter().cloned());
        lacking
    }

    /// Whether what this channel holds would be held by none that nobody ends if it were closed now.
    pub(crate) fn would_lose(&self, session: &Session) -> bool {
        let Ok(place) = self.session.try_lock() else { return session.holds_roots() };
        let steady = place.as_ref().filter(|steady| !steady.channel.has_ended());
        steady.map_or(First::default(), |steady| steady.roots()) < session.roots()
    }

    /// Whether the channel that nobody ends has ended, and has held anything; or it could not be had when it
    /// was to hold something.
    pub(crate) fn is_lost(&self) -> bool {
        let Ok(place) = self.session.try_lock() else { return false };
        if self.is_wanting.load(Ordering::Relaxed) {
            return true;
        }
        let ended = place.as_ref().filter(|steady| steady.channel.has_ended());
        ended.is_some_and(|steady| steady.holds_roots())
    }

    /// Asks the server a question that costs it nothing, and that it has so long to answer.
    pub(crate) fn sign_of_life(self: Arc<Self>, limit: Duration) -> Pending<()> {
        Box::pin(async move {
            let session = self.open(|| None).await?;
            let patience = Patience::Limited(limit, "asked for a sign of life");
            session
                .which_are_valid(&BTreeSet::new(), Substitute::No, patience, Listener::nobody())
                .await
                .map(drop)
        })
    }

    /// Moves the roots here.
    pub(crate) async fn take_roots(&self) -> Result<(), StoreError> {
        let taken = match self.opened().await {
            Some(session) => self.hold_all(&session).await,
            None => self.open(|| None).await.map(drop),
        };
        self.is_wanting.store(taken.is_err(), Ordering::Relaxed);
        taken
    }

    /// Has a channel hold all that is held, and waits until it does.
    pub(crate) async fn hold_all(&self, session: &Session) -> Result<(), StoreError> {
        match self.hold_unheard(session) {
            Some(held) => held.await.map(drop),
            None => Ok(()),
        }
    }

    /// Has a channel hold all that is held. Whatever it's asked next comes after that. Where it has to
    /// be told, the answer can be waited for.
    pub(crate) fn hold_unheard(
        &self,
        session: &Session,
    ) -> Option<impl Future<Output = Result<BTreeSet<StorePath>, StoreError>> + Send + use<>> {
        let roots = {
            let held = self.held();
            let lacking = held.lacking(session.roots());
            session.mark_roots(held.all());
            lacking
        };
        (!roots.is_empty()).then(|| Questions { roots, ..Questions::default() }.ask(session))
    }
}

/// Paths that a server is to keep from its garbage collector, and paths that it's asked about.
#[derive(Default)]
pub(crate) struct Questions {
    pub(crate) roots: BTreeSet<StorePath>,
    pub(crate) asked: BTreeSet<StorePath>,
    pub(crate) substitute: Option<Substitute>,
}

/// Bytes of requests that are sent with the greeting. A server that answers more than fits on its
/// way here would wait for a reader, and so would we.
const MAX_AHEAD: usize = 64 * 1024;

impl Questions {
    pub(crate) fn is_empty(&self) -> bool {
        self.roots.is_empty() && self.asked.is_empty()
    }

    fn substitute(&self) -> Substitute {
        self.substitute.unwrap_or(Substitute::No)
    }

    /// Returns how many requests [`Questions::ask`] makes in the worker protocol.
    pub(crate) fn requests(&self) -> usize {
        self.roots.len() + 1
    }

    /// Returns the requests that [`Questions::ask`] will make, where they may go with the greeting.
    pub(crate) fn ahead(&self, dialect: &Dialect) -> Vec<u8> {
        if self.is_empty() {
            return Vec::new();
        }
        let mut bytes = Vec::new();
        for path in &self.roots {
            bytes.extend(Request::AddTempRoot(path.clone()).encode(dialect));
            if bytes.len() > MAX_AHEAD {
                return Vec::new();
            }
        }
        bytes.extend(
            Request::QueryValidPaths(self.asked.clone(), self.substitute()).encode(dialect),
        );
        if bytes.len() > MAX_AHEAD { Vec::new() } else { bytes }
    }

    /// Registers the roots, and asks which paths are valid; all of it is sent at once, and in this
    /// order, so that what is valid stays.
    pub(crate) fn ask(
        &self,
        session: &Session,
    ) -> impl Future<Output = Result<BTreeSet<StorePath>, StoreError>> + Send + use<> {
        match &session.language {
            Language::Worker(dialect) => {
                for path in &self.roots {
                    drop(session.ask(dialect, Request::AddTempRoot(path.clone())));
                }
            }
            // there, asking with a lock is what registers roots
            Language::Serve(_) if self.roots != self.asked => {
                drop(session.valid_paths(&self.roots, Substitute::No));
            }
            Language::Serve(_) => {}
        }
        session.valid_paths(&self.asked, self.substitute())
    }
}
