//! Turns at work that costs far more than it gives: a whole NAR is read for a listing of it, or for its
//! last bytes. Few have a turn at one time, so that whoever asks for much of that slows down only those
//! who ask for the same.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::refusal::Refusal;

/// Turns at one kind of work.
pub(crate) struct Turns {
    free: Arc<Semaphore>,
    patience: Duration,
}

/// A turn, which ends when this is dropped.
pub(crate) struct Turn {
    _permit: OwnedSemaphorePermit,
}

impl Turns {
    /// Returns so many turns at one time. Nobody waits for one for longer than `patience`.
    pub(crate) fn new(at_once: usize, patience: Duration) -> Turns {
        Turns { free: Arc::new(Semaphore::new(at_once)), patience }
    }

    /// Waits for a turn; those who came before have theirs before.
    ///
    /// # Errors
    ///
    /// None came in time: the client may ask again later.
    pub(crate) async fn take(&self) -> Result<Turn, Refusal> {
        let turn = timeout(self.patience, Arc::clone(&self.free).acquire_owned()).await;
        // it is never closed
        let Ok(Ok(permit)) = turn else {
            let says = "too many ask for what a whole NAR must be read for; ask again later";
            return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, says));
        };
        Ok(Turn { _permit: permit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn few_have_a_turn_and_nobody_waits_for_ever() {
        let turns = Turns::new(2, Duration::from_secs(30));
        let (first, _second) = (turns.take().await.unwrap(), turns.take().await.unwrap());
        let refused = turns.take().await.err().unwrap();
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
        drop(first);
        assert!(turns.take().await.is_ok());
    }
}
