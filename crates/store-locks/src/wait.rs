//! Waiting for others, never silently and never longer than wanted.
//!
//! `flock` has no time limit, and a thread that is blocked in it cannot be called back. So a wait
//! looks again and again, after 1 ms at first and every 25 ms later on.

use std::time::{Duration, Instant};

use crate::LockError;

const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(25);
/// When a wait is told of first, and how often then.
const NOTICE: Duration = Duration::from_secs(1);

/// A wait that has lasted a while.
#[derive(Clone, Copy, Debug)]
pub struct Delay<'a> {
    /// What is waited for, as a sentence without its end: `waiting for …`.
    pub what: &'a str,
    /// How long by now.
    pub so_far: Duration,
    /// Whether it's told for the first time.
    pub notice: Notice,
}

/// Whether somebody has heard of a wait before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Nobody has.
    First,
    /// Somebody has.
    Another,
}

/// Whether to wait on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Wait on.
    Wait,
    /// Stop; the lock isn't wanted any more.
    Stop,
}

/// How long to wait, and who hears of it.
#[derive(Clone, Copy)]
pub struct Wait<'a> {
    limit: Option<Duration>,
    notice: &'a (dyn Fn(Delay<'_>) -> Verdict + Sync + 'a),
}

impl<'a> Wait<'a> {
    /// Waits as long as it takes. `notice` is called after one second and each second from then on.
    pub fn for_ever(notice: &'a (dyn Fn(Delay<'_>) -> Verdict + Sync + 'a)) -> Wait<'a> {
        Wait { limit: None, notice }
    }

    /// Waits for `limit` at the most. `notice` is called as in [`Wait::for_ever`].
    pub fn up_to(
        limit: Duration,
        notice: &'a (dyn Fn(Delay<'_>) -> Verdict + Sync + 'a),
    ) -> Wait<'a> {
        Wait { limit: Some(limit), notice }
    }

    pub(crate) fn begin(self, what: &'a str) -> Waiting<'a> {
        Waiting { wait: self, what, began: Instant::now(), next_notice: NOTICE, pause: FIRST_PAUSE }
    }
}

/// A wait that has begun.
pub(crate) struct Waiting<'a> {
    wait: Wait<'a>,
    what: &'a str,
    began: Instant,
    next_notice: Duration,
    pause: Duration,
}

impl Waiting<'_> {
    /// Returns how long to pause before looking again.
    ///
    /// # Errors
    ///
    /// The time is up, or the wait isn't wanted any more.
    pub(crate) fn pause(&mut self) -> Result<Duration, LockError> {
        let so_far = self.began.elapsed();
        // Also of a wait that then ends, however late that is noticed.
        if self.next_notice <= so_far {
            let notice = if self.next_notice == NOTICE { Notice::First } else { Notice::Another };
            self.next_notice = Duration::from_secs(so_far.as_secs()) + NOTICE;
            if (self.wait.notice)(Delay { what: self.what, so_far, notice }) == Verdict::Stop {
                return Err(LockError::Stopped { what: self.what.to_owned() });
            }
        }
        if self.wait.limit.is_some_and(|limit| limit <= so_far) {
            return Err(LockError::TimedOut { what: self.what.to_owned(), after: so_far });
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        let left = self.wait.limit.map_or(pause, |limit| limit.saturating_sub(so_far));
        Ok(pause.min(left).max(FIRST_PAUSE))
    }

    /// Pauses.
    ///
    /// # Errors
    ///
    /// As [`Waiting::pause`].
    pub(crate) fn sleep(&mut self) -> Result<(), LockError> {
        std::thread::sleep(self.pause()?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn a_wait_is_told_of_after_a_second_and_ends() {
        let told = Mutex::new(Vec::new());
        let notice = |delay: Delay<'_>| {
            told.lock().unwrap().push((delay.what.to_owned(), delay.so_far.as_secs()));
            Verdict::Wait
        };
        let mut waiting = Wait::up_to(Duration::from_millis(2100), &notice).begin("waiting for it");
        let error = loop {
            if let Err(error) = waiting.sleep() {
                break error;
            }
        };
        assert_eq!(error.to_string(), "gave up waiting for it after 2 s");
        assert_eq!(
            *told.lock().unwrap(),
            [("waiting for it".to_owned(), 1), ("waiting for it".into(), 2)]
        );
    }

    #[test]
    fn a_wait_that_nobody_wants_stops() {
        let stop = |_: Delay<'_>| Verdict::Stop;
        let mut waiting = Wait::for_ever(&stop).begin("waiting for it");
        let error = loop {
            if let Err(error) = waiting.sleep() {
                break error;
            }
        };
        assert_eq!(error.to_string(), "stopped waiting for it");
    }
}
