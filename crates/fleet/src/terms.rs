//! What those who wait for a job ask of its build, and when a build has gone beyond it.
//!
//! Limits are kept here and not on the machines: a build may have several clients, who come and go
//! while it runs, and the laxest limit of those who wait counts. Words follow `Worker::waitForInput`
//! (`src/libstore/build/worker.cc`) of Nix.

use std::collections::BTreeMap;
use std::time::Duration;

use drover_store::{BuildFailure, BuildSettings, BuildWishes, FailureCause};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::job_log::JobLog;

/// What one who waits for a job asks of its build.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Terms {
    timeout: Option<Duration>,
    max_silent_time: Option<Duration>,
    /// Bytes.
    max_log_size: Option<u64>,
    wishes: BuildWishes,
}

impl Terms {
    pub(crate) fn of(settings: &BuildSettings) -> Terms {
        let size = settings.overrides.get("max-build-log-size");
        Terms {
            timeout: settings.timeout,
            max_silent_time: settings.max_silent_time,
            max_log_size: size.and_then(|size| size.parse().ok()).filter(|size| *size > 0),
            wishes: BuildWishes::of(settings),
        }
    }

    /// Returns what does justice to both: of two limits the laxer one, and none where one has none.
    fn and(self, other: Terms) -> Terms {
        fn laxer<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
            one.zip(other).map(|(one, other)| one.max(other))
        }
        Terms {
            timeout: laxer(self.timeout, other.timeout),
            max_silent_time: laxer(self.max_silent_time, other.max_silent_time),
            max_log_size: laxer(self.max_log_size, other.max_log_size),
            wishes: BuildWishes {
                cores: match (self.wishes.cores, other.wishes.cores) {
                    // all of them
                    (Some(0), _) | (_, Some(0)) => Some(0),
                    (one, other) => one.max(other),
                },
                keep_failed: self.wishes.keep_failed || other.wishes.keep_failed,
                after: self.wishes.after.into_iter().chain(other.wishes.after).collect(),
                // links do no harm to who has asked for none
                optimise: self.wishes.optimise.into_iter().chain(other.wishes.optimise).min(),
                variables: self
                    .wishes
                    .variables
                    .into_iter()
                    .chain(other.wishes.variables)
                    .collect(),
                // who reads logs with Nix reads both
                logs: self.wishes.logs.max(other.wishes.logs),
                sandbox: self.wishes.sandbox.and(other.wishes.sandbox),
            },
        }
    }
}

/// What all who wait for a job ask of its build, together.
#[derive(Debug)]
pub(crate) struct JobTerms {
    asked: std::sync::Mutex<BTreeMap<Terms, usize>>,
    together: watch::Sender<Terms>,
}

impl Default for JobTerms {
    fn default() -> JobTerms {
        let together = watch::Sender::new(Terms::default());
        JobTerms { asked: std::sync::Mutex::default(), together }
    }
}

impl JobTerms {
    pub(crate) fn add(&self, terms: Terms) {
        self.change(|asked| *asked.entry(terms).or_default() += 1);
    }

    pub(crate) fn remove(&self, terms: Terms) {
        self.change(|asked| {
            if let Some(count) = asked.get_mut(&terms) {
                *count -= 1;
                if *count == 0 {
                    asked.remove(&terms);
                }
            }
        });
    }

    /// Without anybody who waits, what was asked last goes on to count.
    fn change(&self, change: impl FnOnce(&mut BTreeMap<Terms, usize>)) {
        let mut asked = self.asked.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        change(&mut asked);
        if let Some(together) = asked.keys().cloned().reduce(Terms::and) {
            self.together.send_if_modified(|held| {
                let is_new = *held != together;
                *held = together;
                is_new
            });
        }
    }

    /// Returns what is asked of the build itself.
    pub(crate) fn wishes(&self) -> BuildWishes {
        self.together.borrow().wishes.clone()
    }

    /// Waits until a build that runs has gone beyond what is asked of it, and says how. What the machine
    /// does when the build's own processes have ended, such as running a hook, it may take its time for.
    pub(crate) async fn exceeded(&self, derivation: &str, log: &JobLog) -> BuildFailure {
        tokio::select! {
            biased;
            () = log.over() => std::future::pending().await,
            failure = self.exceeded_while_it_runs(derivation, log) => failure,
        }
    }

    async fn exceeded_while_it_runs(&self, derivation: &str, log: &JobLog) -> BuildFailure {
        let mut terms = self.together.subscribe();
        let began = log.begun().await;
        loop {
            let asked = terms.borrow_and_update().clone();
            let heard = log.heard_at().max(began);
            let silent = asked.max_silent_time.and_then(|limit| heard.checked_add(limit));
            let whole = asked.timeout.and_then(|limit| began.checked_add(limit));
            let now = Instant::now();
            if let Some(failure) = asked.broken(derivation, now, silent, whole, log.bytes()) {
                return failure;
            }
            let next = [silent, whole].into_iter().flatten().min();
            let over = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = over => {}
                () = log.grown(asked.max_log_size) => {}
                changed = terms.changed() => {
                    if changed.is_err() {
                        // nobody can ask anything any more, nor wait for this
                        std::future::pending::<()>().await;
                    }
                }
            }
        }
    }
}

impl Terms {
    /// Says how a build has gone beyond this, if it has.
    fn broken(
        &self,
        derivation: &str,
        now: Instant,
        silent: Option<Instant>,
        whole: Option<Instant>,
        bytes: u64,
    ) -> Option<BuildFailure> {
        let seconds = |limit: Option<Duration>| limit.unwrap_or_default().as_secs();
        if silent.is_some_and(|at| at <= now) {
            let limit = seconds(self.max_silent_time);
            let message =
                format!("building of '{derivation}' timed out after {limit} seconds of silence");
            return Some(BuildFailure { cause: FailureCause::TimedOut, message });
        }
        if whole.is_some_and(|at| at <= now) {
            let limit = seconds(self.timeout);
            let message = format!("building of '{derivation}' timed out after {limit} seconds");
            return Some(BuildFailure { cause: FailureCause::TimedOut, message });
        }
        let limit = self.max_log_size.filter(|limit| *limit < bytes)?;
        let message = format!(
            "building of '{derivation}' killed after writing more than {limit} bytes of log output"
        );
        Some(BuildFailure { cause: FailureCause::LogLimit, message })
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn terms(timeout: Option<u64>, size: Option<u64>, cores: Option<u32>) -> Terms {
        Terms {
            timeout: timeout.map(Duration::from_secs),
            max_log_size: size,
            wishes: BuildWishes { cores, ..BuildWishes::default() },
            ..Terms::default()
        }
    }

    #[rstest]
    #[case::larger(
        terms(Some(3), None, Some(2)),
        terms(Some(5), Some(9), Some(4)),
        terms(Some(5), None, Some(4))
    )]
    #[case::none_is_laxest(
        terms(Some(3), Some(1), None),
        terms(None, Some(2), None),
        terms(None, Some(2), None)
    )]
    #[case::all_cores(
        terms(None, None, Some(0)),
        terms(None, None, Some(4)),
        terms(None, None, Some(0))
    )]
    #[case::cores_of_one(
        terms(None, None, None),
        terms(None, None, Some(4)),
        terms(None, None, Some(4))
    )]
    fn two_agree_on_the_laxer(#[case] one: Terms, #[case] other: Terms, #[case] both: Terms) {
        assert_eq!(one.clone().and(other.clone()), both);
        assert_eq!(other.and(one), both);
    }

    #[test]
    fn who_leaves_counts_no_more() {
        let (strict, lax) = (terms(Some(3), None, None), terms(None, None, None));
        let job = JobTerms::default();
        job.add(strict.clone());
        job.add(lax.clone());
        job.add(strict.clone());
        assert_eq!(*job.together.borrow(), lax);
        job.remove(lax.clone());
        assert_eq!(*job.together.borrow(), strict);
        job.remove(strict.clone());
        job.remove(strict.clone());
        assert_eq!(*job.together.borrow(), strict, "a build that is on its way out");
    }
}
