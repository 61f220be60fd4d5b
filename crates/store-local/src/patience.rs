//! Waiting for locks that others hold, without a thread and without a share of the work that may go
//! on at the same time.

use std::time::Duration;

use drover_store_locks::{Delay, LockError, Notice};
use tokio::time::Instant;

use crate::error::LocalError;
use crate::opened::tell;

const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(25);
/// How often a wait is told of.
const NOTICE: Duration = Duration::from_secs(1);

/// A wait for a lock: whoever wants it tries, pauses, and tries again. Dropping a pause ends it.
pub(crate) struct Patience {
    limit: Duration,
    began: Instant,
    pause: Duration,
    next_notice: Duration,
}

impl Patience {
    pub(crate) fn new(limit: Duration) -> Patience {
        Patience { limit, began: Instant::now(), pause: FIRST_PAUSE, next_notice: NOTICE }
    }

    /// Pauses before the next try. `what` is waited for, as `waiting for …`.
    ///
    /// # Errors
    ///
    /// The time is up.
    pub(crate) async fn pause(&mut self, what: &str) -> Result<(), LocalError> {
        let so_far = self.began.elapsed();
        // Also of a wait that then ends, however late that is noticed.
        if self.next_notice <= so_far {
            let notice = if self.next_notice == NOTICE { Notice::First } else { Notice::Another };
            self.next_notice = Duration::from_secs(so_far.as_secs()) + NOTICE;
            tell(Delay { what, so_far, notice });
        }
        if self.limit <= so_far {
            return Err(LockError::TimedOut { what: what.to_owned(), after: so_far }.into());
        }
        tokio::time::sleep(self.pause.min(self.limit - so_far)).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }
}
