//! When something is tried again.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

use reqwest::header::HeaderValue;

use crate::error::TransferError;

/// The longest pause, also where a server asks for a longer one.
const LONGEST: Duration = Duration::from_secs(30);

/// What is left of a number of attempts.
pub(crate) struct Attempts {
    left: u32,
    pause: Duration,
}

impl Attempts {
    pub(crate) fn new(attempts: u32, first_pause: Duration) -> Attempts {
        Attempts { left: attempts.clamp(1, 1000), pause: first_pause }
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
        let asked = match &error {
            TransferError::Status { again_in: Some(pause), .. } => *pause,
            _ => Duration::ZERO,
        };
        let uneven = self.pause.mul_f64(0.5 + uneven());
        let pause = asked.max(uneven).min(LONGEST);
        tracing::warn!("{error}; tried again in {} ms", pause.as_millis());
        tokio::time::sleep(pause).await;
        self.pause = self.pause.saturating_mul(2).min(LONGEST);
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

    fn busy(again_in: Option<u64>) -> TransferError {
        let again_in = again_in.map(Duration::from_secs);
        TransferError::Status { url: "http://a/b".to_owned(), status: 503, again_in }
    }

    /// Returns how long the pauses of so many attempts are, in the time of the test.
    async fn pauses(attempts: u32, again_in: Option<u64>) -> Duration {
        let since = tokio::time::Instant::now();
        let mut attempts = Attempts::new(attempts, Duration::from_millis(250));
        while attempts.after(busy(again_in)).await.is_ok() {}
        since.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_and_servers_are_heard_within_reason() {
        let ms = Duration::from_millis;
        assert_eq!(pauses(0, None).await, ms(0));
        assert_eq!(pauses(1, None).await, ms(0));
        // 250, 500, 1000 and 2000 ms, each from a half to one and a half
        let five = pauses(5, None).await;
        assert!((ms(1875)..ms(5700)).contains(&five), "{five:?}");
        let heard = pauses(2, Some(10)).await;
        assert!((ms(10_000)..ms(10_100)).contains(&heard), "{heard:?}");
        let bounded = pauses(2, Some(u64::MAX)).await;
        assert!((ms(30_000)..ms(30_100)).contains(&bounded), "{bounded:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_will_not_pass_is_not_awaited() {
        let mut attempts = Attempts::new(5, Duration::from_secs(1));
        let denied = TransferError::Denied { url: "http://a/b".to_owned(), status: 401 };
        let since = tokio::time::Instant::now();
        assert!(attempts.after(denied).await.is_err());
        assert_eq!(since.elapsed(), Duration::ZERO);
    }
}
