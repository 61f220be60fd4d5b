//! Watches servers that may be silent for long.
//!
//! A build may say nothing for hours, and its channel can't tell that from a server that hangs: it
//! reads no question before the build has ended, and SSH only watches the link. So while a build is
//! silent its server is asked a question that costs nothing, on the steady channel. A server that
//! doesn't answer in time is lost, whatever its machine says of being alive.
//!
//! That tells nothing of a single process that stands still. Where it owes anything but the words of a
//! build that runs, it is given up by the clock: the answer to a question, the next piece of a path, the
//! first word of a build that has its turn. A build that has begun may be silent for as long as the user
//! allows, which is for ever by default.

use std::sync::{Mutex, PoisonError, Weak};
use std::time::Duration;

use drover_store::{Pending, StoreError};
use tokio::time::Instant;

use crate::pool::Pool;
use crate::steady::Steady;

/// Where a sign of life is asked for.
pub(crate) enum Asked {
    /// On the steady channel.
    Steady(Weak<Steady>),
    /// On any channel, when it's its turn.
    Pool(Weak<Pool>),
}

impl Asked {
    fn lives(&self) -> bool {
        match self {
            Asked::Steady(steady) => steady.strong_count() > 0,
            Asked::Pool(pool) => pool.strong_count() > 0,
        }
    }

    /// Begins to ask, unless the store is gone.
    fn sign_of_life(&self, limit: Duration) -> Option<Pending<()>> {
        match self {
            Asked::Steady(steady) => Some(steady.upgrade()?.sign_of_life(limit)),
            Asked::Pool(pool) => Some(pool.upgrade()?.sign_of_life(limit)),
        }
    }
}

/// Connect timeouts after which a silent server is asked for a sign of life, and that it has to give
/// one: a minute each, unless the user is less patient.
const TIMEOUTS: u32 = 6;

/// The connect timeout by default.
const USUAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Watches the channels to one server.
pub(crate) struct Watch {
    connect_timeout: Duration,
    patience: Duration,
    /// Where to ask, the best first.
    asked: Mutex<Vec<Asked>>,
}

impl Watch {
    pub(crate) fn new(connect_timeout: Duration) -> Watch {
        let patience = connect_timeout.saturating_mul(TIMEOUTS).max(Duration::from_millis(100));
        Watch { connect_timeout, patience, asked: Mutex::default() }
    }

    /// Returns how long a server may be silent for which `usual` is meant: less, if the user is less
    /// patient than by default.
    pub(crate) fn limit(&self, usual: Duration) -> Duration {
        let share = self.connect_timeout.as_secs_f64() / USUAL_TIMEOUT.as_secs_f64();
        usual.min(usual.mul_f64(share.min(1.0)).max(self.patience))
    }

    /// Returns how long a build that has its turn may take to begin, and how long a server may need
    /// to end one that has gone beyond its limits.
    pub(crate) fn beginning(&self) -> Duration {
        self.patience.saturating_mul(2)
    }

    /// Says on which channel to ask. The first one stays as long as it lives.
    pub(crate) fn ask_on(&self, asked: Asked) {
        let mut all = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(Asked::lives);
        all.push(asked);
    }

    /// Begins to ask, where there is a channel to ask on.
    fn sign_of_life(&self) -> Option<Pending<()>> {
        let all = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().find_map(|asked| asked.sign_of_life(self.patience))
    }

    /// Returns when the server gives no sign of life any more. Dropped as soon as it gives one by
    /// itself.
    ///
    /// A server that is asked and says nothing hangs. Where no channel to ask on comes about in time
    /// that has to happen twice; and a server that refuses one at once is alive.
    pub(crate) async fn until_it_hangs(&self) -> StoreError {
        let mut too_late = 0;
        loop {
            tokio::time::sleep(self.patience).await;
            let Some(asking) = self.sign_of_life() else { continue };
            let asked = Instant::now();
            match asking.await {
                Err(error @ StoreError::Silent { .. }) => return error,
                // nobody could be asked, for a reason that isn't the server's
                Err(StoreError::OwnLimit { .. }) => too_late = 0,
                Err(error) if self.connect_timeout <= asked.elapsed() => {
                    too_late += 1;
                    if too_late == 2 {
                        return error;
                    }
                }
                Ok(()) | Err(_) => too_late = 0,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_patience_is_the_users() {
        let seconds = Duration::from_secs;
        let watch = |timeout| Watch::new(seconds(timeout));
        assert_eq!(watch(10).limit(seconds(120)), seconds(120));
        assert_eq!(watch(60).limit(seconds(120)), seconds(120), "never longer than it's meant");
        assert_eq!(watch(1).limit(seconds(300)), seconds(30));
        assert_eq!(watch(1).limit(seconds(6)), seconds(6), "the sign of life is as it is");
        assert_eq!(watch(5).beginning(), seconds(60));
    }
}
