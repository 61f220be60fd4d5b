//! Channels that end, and the roots that others hold from then on.
//!
//! Where channels aren't counted, one that ends is kept until the steady one holds what it held, so that
//! there is no moment at which the server's collector could take it. Where they are, it ends first and
//! another one, at its next turn, is told what it lacks: for that moment nothing holds the roots if it was the
//! only one.

use std::sync::Arc;
use std::time::Duration;

use drover_store::{StoreError, Substitute};
use tokio::runtime::Handle;

use crate::pool::{Permit, Pool, Purpose, locked};
use crate::session::Session;
use crate::turns::Turns;

/// How long a channel that ends is kept for another one to hold its roots. What runs on it, and ends with it, may
/// be a build that was cancelled.
const KEPT: Duration = Duration::from_secs(3);

impl Pool {
    /// Closes a channel, or leaves one that has ended. What it held is held by another one then.
    pub(crate) fn close(self: &Arc<Self>, session: Session) {
        if !session.holds_roots() {
            return;
        }
        match &self.turns {
            Some(turns) => {
                drop(session);
                self.hold_in_turn(turns.clone());
            }
            None if self.steady.would_lose(&session) => self.move_roots(Some(session)),
            None => {}
        }
    }

    /// Moves the roots to the steady channel, in the background; `until_then` stays open meanwhile, for a
    /// moment. If that fails, the next lane's opening tries again.
    pub(crate) fn move_roots(&self, until_then: Option<Session>) {
        let steady = Arc::clone(&self.steady);
        self.in_background(async move {
            let mut moving = std::pin::pin!(steady.take_roots());
            let soon = match &until_then {
                Some(_) => tokio::time::timeout(KEPT, &mut moving).await.ok(),
                None => None,
            };
            drop(until_then);
            match soon {
                Some(moved) => moved,
                None => moving.await,
            }
        });
    }

    /// Has another channel hold the roots at its next turn. If that fails, the next that is opened does.
    fn hold_in_turn(self: &Arc<Self>, turns: Turns) {
        let pool = Arc::downgrade(self);
        self.in_background(async move {
            // whoever closes them is done with the store
            let Ok(turn) = turns.take(Purpose::Question).await else { return Ok(()) };
            let Some(pool) = pool.upgrade() else { return Ok(()) };
            let permit = Permit::Turn { _turn: turn };
            let lease = pool.lease_with(Purpose::Question, permit).await?;
            // what it was told when it was leased is answered first
            let answer = lease.session().valid_paths(&[].into(), Substitute::No).await;
            if answer.is_err() {
                // else this would go on for as long as the server does
                lease.abandon();
            }
            answer.map(drop)
        });
    }

    fn in_background(
        &self,
        holding: impl Future<Output = Result<(), StoreError>> + Send + 'static,
    ) {
        // without a runtime all channels end
        let Ok(runtime) = Handle::try_current() else { return };
        let held = async move {
            if let Err(error) = holding.await {
                tracing::debug!(%error, "no other channel holds the roots yet");
            }
        };
        let mut moving = locked(&self.moving_roots);
        while moving.try_join_next().is_some() {}
        moving.spawn_on(held, &runtime);
    }
}
