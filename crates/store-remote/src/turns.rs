//! A bound on the channels to a server that are open at once (`max-connections`), and taking turns on
//! them.
//!
//! Each use of a channel takes a turn and gives it back when it's over, builds as well; nothing is sent
//! ahead. Invariant: who holds a turn waits for this server only, or for who takes what it sends,
//! never for another server's turn; so nobody waits in a circle, however few channels there are. What
//! is sent there is therefore fetched whole before a turn is taken for it ([`crate::spool`]), and what
//! is fetched from there takes a turn for each path.
//!
//! Follows the pool of Nix (`src/libutil/include/nix/util/pool.hh`), whose bound counts for each
//! opened store, and is 1 at the least (`src/libstore/remote-store.cc`).

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use drover_store::{Pending, Substitute};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use crate::log::Listener;
use crate::pool::{Pool, Purpose};
use crate::reply::Patience;

/// The turns at one server. Clones are of the same.
#[derive(Clone)]
pub(crate) struct Turns {
    all: Arc<Semaphore>,
    /// Those that builds may take: one is left for what doesn't take long, if there are several.
    builds: Arc<Semaphore>,
    bound: NonZeroU32,
}

/// A turn, given back when it's dropped.
pub(crate) struct Turn {
    _turn: OwnedSemaphorePermit,
    _build: Option<OwnedSemaphorePermit>,
}

impl Turns {
    pub(crate) fn new(bound: NonZeroU32) -> Turns {
        let permits = |count: u32| Arc::new(Semaphore::new(usize::try_from(count).unwrap_or(1)));
        Turns { all: permits(bound.get()), builds: permits(builds_at_once(bound).get()), bound }
    }

    pub(crate) fn bound(&self) -> NonZeroU32 {
        self.bound
    }

    /// Whether a build leaves no channel for anything else.
    pub(crate) fn is_single(&self) -> bool {
        self.bound == NonZeroU32::MIN
    }

    /// Waits for a turn.
    pub(crate) async fn take(&self, purpose: Purpose) -> Result<Turn, AcquireError> {
        let build = match purpose {
            Purpose::Lane => Some(Arc::clone(&self.builds).acquire_owned().await?),
            Purpose::Read | Purpose::Write | Purpose::Question => None,
        };
        Ok(Turn { _turn: Arc::clone(&self.all).acquire_owned().await?, _build: build })
    }
}

impl Pool {
    /// Asks the server a question that costs it nothing, and that it has so long to answer. Where all
    /// turns are taken nobody can ask, and nothing is known.
    pub(crate) fn sign_of_life(self: Arc<Self>, limit: Duration) -> Pending<()> {
        let only = self.turns.as_ref().is_some_and(Turns::is_single);
        if only {
            return Box::pin(std::future::ready(Ok(())));
        }
        // to the end, whoever waits for it: a channel that is owed an answer is of no use
        let asking = self.tasks.spawn({
            let pool = Arc::clone(&self);
            async move {
                let leased = tokio::time::timeout(limit, pool.lease(Purpose::Question)).await;
                let Ok(lease) = leased else { return Ok(()) };
                let (lease, nothing) = (lease?, BTreeSet::new());
                let patience = Patience::Limited(limit, "asked for a sign of life");
                let session = lease.session();
                session
                    .which_are_valid(&nothing, Substitute::No, patience, Listener::nobody())
                    .await
                    .map(drop)
            }
        });
        Box::pin(async move { asking.await.unwrap_or(Ok(())) })
    }
}

/// Returns how many builds run at once at a server to which so many connections may be open: one is
/// kept for questions and transfers, unless it's the only one.
pub fn builds_at_once(connections: NonZeroU32) -> NonZeroU32 {
    NonZeroU32::new(connections.get() - 1).unwrap_or(NonZeroU32::MIN)
}
