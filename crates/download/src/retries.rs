//! What is tried again, when, and how often.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use crate::DownloadError;

/// How often something is tried, and how long it's waited in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retries {
    /// How often it's tried in all (`download-attempts`); 0 counts as 1.
    pub attempts: u32,
    /// The first pause (`filetransfer-retry-delay`); each is twice as long as the one before, give or
    /// take.
    pub pause: Duration,
    /// The first pause where the server says that it has too much to do
    /// (`filetransfer-retry-delay-rate-limited`).
    pub pause_when_busy: Duration,
    /// The longest pause (`filetransfer-retry-max-delay`).
    pub longest_pause: Duration,
}

impl Default for Retries {
    /// Those of Nix 2.34.
    fn default() -> Retries {
        Retries {
            attempts: 5,
            pause: Duration::from_millis(100),
            pause_when_busy: Duration::from_secs(5),
            longest_pause: Duration::from_secs(60),
        }
    }
}

/// How long a server may make one wait, whatever it says.
const LONGEST_WISH: Duration = Duration::from_secs(300);

impl Retries {
    /// Returns how long to wait before the next attempt, after `attempts` of them and this error; `None`
    /// if there is to be no other.
    pub(crate) fn pause_after(&self, attempts: u32, error: &DownloadError) -> Option<Duration> {
        if self.attempts <= attempts || !error.is_transient() {
            return None;
        }
        let (first, wish) = match error {
            DownloadError::Status { status: 429 | 503, retry_after, .. } => {
                (self.pause_when_busy, retry_after.unwrap_or_default())
            }
            _ => (self.pause, Duration::ZERO),
        };
        let factor = 1_u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
        let pause = first.saturating_mul(factor).min(self.longest_pause);
        Some(varied(pause).max(wish.min(LONGEST_WISH)))
    }
}

/// Returns three quarters to five quarters of a pause, so that many who failed together don't come back
/// together.
fn varied(pause: Duration) -> Duration {
    let chance = RandomState::new().hash_one(()) % 512;
    let part = u32::try_from(chance).unwrap_or(256) + 768;
    pause.saturating_mul(part) / 1024
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn status(status: u16, retry_after: Option<u64>) -> DownloadError {
        let retry_after = retry_after.map(Duration::from_secs);
        DownloadError::Status { url: "u".to_owned(), status, retry_after }
    }

    #[rstest]
    #[case::first(1, 500, None, Some((75, 125)))]
    #[case::third(3, 500, None, Some((300, 500)))]
    #[case::last(5, 500, None, None)]
    #[case::more(9, 500, None, None)]
    #[case::absent(1, 404, None, None)]
    #[case::forbidden(1, 403, None, None)]
    #[case::unknown(1, 418, None, None)]
    #[case::not_implemented(1, 501, None, None)]
    #[case::slow(1, 408, None, Some((75, 125)))]
    #[case::busy(1, 429, None, Some((3_750, 6_250)))]
    #[case::wish(1, 503, Some(20), Some((20_000, 20_000)))]
    #[case::wishes_too_much(1, 503, Some(1 << 40), Some((300_000, 300_000)))]
    fn pauses(
        #[case] attempts: u32,
        #[case] code: u16,
        #[case] wish: Option<u64>,
        #[case] expected: Option<(u64, u64)>,
    ) {
        let pause = Retries::default().pause_after(attempts, &status(code, wish));
        let Some((least, most)) = expected else { return assert_eq!(pause, None) };
        let [least, most] = [least, most].map(Duration::from_millis);
        assert!(pause.is_some_and(|it| least <= it && it <= most), "{pause:?}");
    }

    #[test]
    fn pauses_have_an_end() {
        let many = Retries { attempts: u32::MAX, ..Retries::default() };
        let pause = many.pause_after(4_000_000_000, &status(500, None)).unwrap();
        assert!(pause <= many.longest_pause * 5 / 4);
    }
}
