//! One channel that nobody ends as long as the store object lives: it holds the roots that keep
//! paths from the garbage collector, and brings small NARs, which many ask for at once.
//!
//! A server forgets a temporary root with the connection that registered it. Until the first lane or
//! transfer, any channel holds them; when one that does is put to a use that may end it, they move
//! here, in the background. So it costs no channel before a machine's first build.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use drover_core::StorePath;
use drover_store::StoreError;
use drover_wire::{Request, Substitute};

use crate::opener::Opener;
use crate::session::{Language, Session};

/// The steady channel of a store, opened when it's needed.
pub(crate) struct Steady {
    opener: Arc<Opener>,
    session: tokio::sync::Mutex<Option<Arc<Session>>>,
    held: Mutex<BTreeSet<StorePath>>,
}

impl Steady {
    pub(crate) fn new(opener: Arc<Opener>) -> Steady {
        Steady { opener, session: tokio::sync::Mutex::default(), held: Mutex::default() }
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
            None => self.opener.open().await?.0,
        };
        self.hold_all(&session).await?;
        Ok(Arc::clone(place.insert(Arc::new(session))))
    }

    /// Takes note of paths that are to be held, and returns those that `session` has to register:
    /// all of them if it holds none yet, as those of a channel that was lost are held anew.
    pub(crate) fn add(
        &self,
        paths: &BTreeSet<StorePath>,
        session: &Session,
    ) -> BTreeSet<StorePath> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.extend(paths.iter().cloned());
        let all = !session.holds_roots();
        session.mark_roots();
        if all { held.clone() } else { paths.clone() }
    }

    /// Moves the roots here.
    pub(crate) async fn take_roots(&self) -> Result<(), StoreError> {
        match self.opened().await {
            Some(session) => self.hold_all(&session).await,
            None => self.open(|| None).await.map(drop),
        }
    }

    async fn hold_all(&self, session: &Session) -> Result<(), StoreError> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if !held.is_empty() {
            hold(session, &held, &BTreeSet::new(), Substitute::No).await?;
            session.mark_roots();
        }
        Ok(())
    }
}

/// Registers roots, and asks which of `asked` are valid; all of it is sent at once, and in this
/// order, so that what is valid stays.
pub(crate) fn hold(
    session: &Session,
    roots: &BTreeSet<StorePath>,
    asked: &BTreeSet<StorePath>,
    substitute: Substitute,
) -> impl Future<Output = Result<BTreeSet<StorePath>, StoreError>> + Send + use<> {
    match &session.language {
        Language::Worker(dialect) => {
            for path in roots {
                drop(session.ask(dialect, Request::AddTempRoot(path.clone())));
            }
        }
        // there, asking with a lock is what registers roots
        Language::Serve(_) if roots != asked => drop(session.valid_paths(roots, Substitute::No)),
        Language::Serve(_) => {}
    }
    session.valid_paths(asked, substitute)
}
