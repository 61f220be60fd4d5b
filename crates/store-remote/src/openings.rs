//! Channels that are opened, or had from others where places for sessions are few.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use drover_store::StoreError;
use tokio::time::sleep;

use crate::master::Need;
use crate::pool::{Pool, Purpose};
use crate::session::Session;

/// How often a channel that others give back is looked for while one is being opened.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

impl Pool {
    /// Opens a channel; where that has to wait, one that is given back meanwhile will do.
    pub(crate) async fn open_or_take(
        self: &Arc<Self>,
        purpose: Purpose,
    ) -> Result<Session, StoreError> {
        let need = match purpose {
            Purpose::Lane => Need::Build,
            Purpose::Read | Purpose::Write | Purpose::Question => Need::Other,
        };
        let mut opening = pin!(self.open_one_more(need));
        loop {
            tokio::select! {
                opened = &mut opening => return opened,
                () = sleep(LOOK_AGAIN) => {}
            }
            if self.opener().is_crowded()
                && let Some(session) = self.take_idle(purpose)
            {
                return Ok(session);
            }
        }
    }

    pub(crate) async fn open_one_more(&self, need: Need) -> Result<Session, StoreError> {
        let (session, _) = self.opener().open(need).await?;
        if self.takes_turns() {
            // the one whose place it takes may have held them
            self.steady.hold_all(&session).await?;
        }
        Ok(session)
    }
}
