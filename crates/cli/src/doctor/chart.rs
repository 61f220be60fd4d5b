//! The steps that were taken at one machine so far.

use std::time::{Duration, Instant};

use drover_doctor::{Grade, Step, StepName, Verdict};

/// The steps that were taken at one machine so far.
#[derive(Default)]
pub(super) struct Chart {
    steps: Vec<Step>,
}

impl Chart {
    /// Notes a step; nothing is returned where it makes no sense to go on.
    pub(super) fn note(
        &mut self,
        name: StepName,
        took: Option<Duration>,
        verdict: Verdict,
    ) -> Option<()> {
        let grade = verdict.grade;
        self.steps.push(Step { name, took, verdict });
        (grade != Grade::Wrong).then_some(())
    }

    /// Returns all steps in order, with those that weren't taken.
    pub(super) fn finish(mut self) -> Vec<Step> {
        for name in StepName::ALL {
            if !self.steps.iter().any(|step| step.name == name) {
                self.steps.push(Step { name, took: None, verdict: Verdict::not_reached() });
            }
        }
        self.steps.sort_by_key(|step| step.name);
        self.steps
    }
}

/// Returns what a future has come to, and how long it took.
pub(super) async fn timed<T>(future: impl Future<Output = T>) -> (T, Duration) {
    let start = Instant::now();
    let outcome = future.await;
    (outcome, start.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_reached_is_said() {
        let mut chart = Chart::default();
        assert!(chart.note(StepName::Name, None, Verdict::good("")).is_some());
        assert!(chart.note(StepName::Port, None, Verdict::odd("", "")).is_some());
        assert!(chart.note(StepName::HostKey, None, Verdict::wrong("", "")).is_none());
        let steps = chart.finish();
        assert!(steps.iter().map(|step| step.name).eq(StepName::ALL));
        let later = steps.iter().skip(3);
        assert!(later.into_iter().all(|step| step.verdict.grade == Grade::NotReached));
    }
}
