//! The books of a channel: what is owed on it, how it ended, and when it last took something.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use drover_store::StoreError;
use tokio::time::Instant;

/// What is owed on a channel, and how it ended.
///
/// Both are written down before anybody is told, so that who has got the last answer finds the
/// channel in order.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    owed: AtomicUsize,
    deaf: AtomicBool,
    end: OnceLock<StoreError>,
}

impl Ledger {
    /// One more answer is owed.
    pub(crate) fn owe(&self) {
        self.owed.fetch_add(1, Ordering::AcqRel);
    }

    /// One answer less is owed.
    pub(crate) fn pay(&self) {
        self.owed.fetch_sub(1, Ordering::AcqRel);
    }

    /// The peer takes nothing more; what it still says may tell why.
    pub(crate) fn close_writing(&self) {
        self.deaf.store(true, Ordering::Release);
    }

    /// The channel is of no use any more. The first reason stays.
    pub(crate) fn close(&self, error: StoreError) {
        drop(self.end.set(error));
    }

    /// Returns why the channel is of no use any more.
    pub(crate) fn end(&self) -> Option<&StoreError> {
        self.end.get()
    }

    /// Whether nothing is owed and nothing went wrong.
    pub(crate) fn is_settled(&self) -> bool {
        self.end.get().is_none()
            && !self.deaf.load(Ordering::Acquire)
            && self.owed.load(Ordering::Acquire) == 0
    }
}

/// When the peer last took something of what it is sent.
///
/// A peer that is being sent gigabytes over a slow link says nothing for as long as that takes, and
/// is not silent.
#[derive(Debug)]
pub(crate) struct Progress {
    begun: Instant,
    /// Milliseconds after the beginning.
    last: AtomicU64,
    /// Whether it is our side that has nothing to send yet.
    waits_for_us: AtomicBool,
}

impl Progress {
    pub(crate) fn new() -> Progress {
        let (last, waits_for_us) = (AtomicU64::new(0), AtomicBool::new(false));
        Progress { begun: Instant::now(), last, waits_for_us }
    }

    /// The peer took something.
    pub(crate) fn took(&self) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Release);
        self.waits_for_us.store(false, Ordering::Release);
    }

    /// Data was promised that we have to get from elsewhere first.
    pub(crate) fn waits_for_us(&self) {
        self.waits_for_us.store(true, Ordering::Release);
    }

    /// Returns how much longer a peer may be silent that may be silent for `limit`.
    pub(crate) fn patience_left(&self, limit: Duration) -> Option<Duration> {
        if self.waits_for_us.load(Ordering::Acquire) {
            return Some(limit);
        }
        let last = Duration::from_millis(self.last.load(Ordering::Acquire));
        let quiet = self.begun.elapsed().saturating_sub(last);
        limit.checked_sub(quiet).filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_data_is_not_silent() {
        let limit = Duration::from_secs(10);
        let progress = Progress::new();
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(progress.patience_left(limit), None);
        progress.took();
        tokio::time::advance(Duration::from_secs(4)).await;
        assert_eq!(progress.patience_left(limit), Some(Duration::from_secs(6)));
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(progress.patience_left(limit), None);
        progress.waits_for_us();
        assert_eq!(progress.patience_left(limit), Some(limit));
    }
}
