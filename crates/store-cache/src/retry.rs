//! When something is tried again.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

use reqwest::header::HeaderValue;

use crate::error::TransferError;
use crate::settings::Pauses;

/// What is left of a number of attempts.
pub(crate) struct Attempts {
    left: u32,
    /// By how much the first pause is multiplied.
    factor: u32,
    pauses: Pauses,
}

impl Attempts {
    pub(crate) fn new(attempts: u32, pauses: Pauses) -> Attempts {
        Attempts { left: attempts.clamp(1, 1000), factor: 1, pauses }
    }

    /// Waits for the next attempt. The pauses grow, and are of uneven length, so that many clients
    /// don't come all at once.
    ///
    /// # Errors
    ///
    /// The error itself, where it won't pass or there are no attempts left.
    pub(crate) async fn after(&mut self, error: TransferError) -> Result<(), TransferError> {
        self.left = self.left.saturating_sub(1);
        if self.left == 0 || !error.may_pass() {
            return Err(error);
        }
        let Pauses { first, first_when_busy, longest } = self.pauses;
        let (first, asked) = match &error {
            TransferError::Status { status: 429, again_in, .. } => (first_when_busy, *again_in),
            TransferError::Status { again_in, .. } => (first, *again_in),
            _ => (first, None),
        };
        let even = first.saturating_mul(self.factor).min(longest);
        let uneven = even.mul_f64(0.5 + uneven());
        let pause = asked.unwrap_or_default().max(uneven).min(longest);
        tracing::warn!("{error}; tried again in {} ms", pause.as_millis());
        tokio::time::sleep(pause).await;
        self.factor = self.factor.saturating_mul(2);
        Ok(())
    }
}

/// Returns a number from 0 to 1 that nobody can tell.
fn uneven() -> f64 {
    let bits = RandomState::new().build_hasher().finish() >> 40;
    f64::from(u32::try_from(bits).unwrap_or_default()) / f64::from(1u32 << 24)
}

/// Reads a `Retry-After` in seconds; one that is a date is passed over.
pub(crate) fn again_in(header: Option<&HeaderValue>) -> Option<Duration> {
    header?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSES: Pauses = Pauses {
        first: Duration::from_millis(250),
        first_when_busy: Duration::from_secs(4),
        longest: Duration::from_secs(30),
    };

    fn answered(status: u16, again_in: Option<u64>) -> TransferError {
        let again_in = again_in.map(Duration::from_secs);
        let (url, words) = ("http://a/b".to_owned(), String::new());
        TransferError::Status { url, status, words, again_in }
    }

    /// Returns how long the pauses of so many attempts are, in the time of the test.
    async fn pauses(attempts: u32, status: u16, again_in: Option<u64>) -> Duration {
        let since = tokio::time::Instant::now();
        let mut attempts = Attempts::new(attempts, PAUSES);
        while attempts.after(answered(status, again_in)).await.is_ok() {}
        since.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_and_servers_are_heard_within_reason() {
        let ms = Duration::from_millis;
        assert_eq!(pauses(0, 503, None).await, ms(0));
        assert_eq!(pauses(1, 503, None).await, ms(0));
        // 250, 500, 1000 and 2000 ms, each from a half to one and a half
        let five = pauses(5, 503, None).await;
        assert!((ms(1875)..ms(5700)).contains(&five), "{five:?}");
        let heard = pauses(2, 503, Some(10)).await;
        assert!((ms(10_000)..ms(10_100)).contains(&heard), "{heard:?}");
        let bounded = pauses(2, 503, Some(u64::MAX)).await;
        assert!((ms(30_000)..ms(30_100)).contains(&bounded), "{bounded:?}");
        // 4 and 8 s
        let busy = pauses(3, 429, None).await;
        assert!((ms(6000)..ms(18_100)).contains(&busy), "{busy:?}");
        let all_at_most = pauses(100, 503, None).await;
        assert!(all_at_most <= ms(99 * 30_100), "{all_at_most:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_will_not_pass_is_not_awaited() {
        let denied = TransferError::Denied { url: "http://a/b".to_owned(), status: 401 };
        for error in [denied, answered(507, None), answered(501, Some(1))] {
            let mut attempts = Attempts::new(5, PAUSES);
            let since = tokio::time::Instant::now();
            assert!(attempts.after(error).await.is_err());
            assert_eq!(since.elapsed(), Duration::ZERO);
        }
    }
}
