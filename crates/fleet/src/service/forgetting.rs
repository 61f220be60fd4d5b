//! Jobs that are over, and are forgotten when they are of no use any more.

use std::collections::VecDeque;
use std::sync::Arc;

use drover_core::{OutputName, StorePath};
use drover_schedule::{Event, JobId};

use crate::service::engine::Engine;
use crate::service::table::{Progress, Use};

/// Built jobs that nobody waits for are kept for whoever asks next, up to so many.
const RETAINED: usize = 4_096;

impl Engine {
    pub(crate) fn unrealise(&mut self, output: &(StorePath, OutputName)) {
        if self.realised.remove(output) == Use::None {
            self.driver.shared.places.unrealise(&output.0, &output.1);
        }
    }

    /// Forgets a job that is over, and what was only kept because it depended on it.
    pub(crate) fn forget(&mut self, job: JobId) {
        let mut left = VecDeque::from([job]);
        while let Some(job) = left.pop_front() {
            if self.table.get(job).is_none_or(|entry| entry.dependents > 0) {
                continue;
            }
            self.leave_bundle(job);
            self.remember(job);
            let Some(entry) = self.table.remove(job) else { continue };
            self.router.close(entry.node);
            self.driver.reports.remove(&job);
            self.driver.found.remove(&job);
            self.tell_scheduler(Event::Forget { job });
            if let Some(state) = self.driver.jobs.get(job.0 as usize) {
                let plan = Arc::clone(&state.plan);
                for output in plan.derivation.outputs.keys() {
                    self.unrealise(&(plan.path.clone(), output.clone()));
                }
            }
            for path in &entry.paths {
                if self.paths_of_jobs.remove(path) == Use::Some {
                    continue;
                }
                self.driver.shared.places.unused(path);
                if let Some(path) = self.driver.paths.release(path) {
                    self.tell_scheduler(Event::ForgetPath { path });
                }
            }
            let is_spent = |job: &JobId| {
                self.table.get(*job).is_some_and(|entry| {
                    let of_no_use =
                        matches!(entry.progress, Progress::Failed(_) | Progress::Unneeded);
                    entry.waiters.is_empty() && of_no_use
                })
            };
            left.extend(entry.dependencies.iter().copied().filter(is_spent));
        }
    }

    /// Forgets the oldest of the jobs that are kept for nobody in particular, if they are many.
    pub(crate) fn evict(&mut self) {
        while self.table.retained() > RETAINED {
            let tops = self.table.retained_tops();
            if tops.is_empty() {
                return;
            }
            for job in tops.into_iter().take(self.table.retained().saturating_sub(RETAINED)) {
                self.forget(job);
            }
        }
    }

    pub(crate) fn is_lost(&self, job: JobId) -> bool {
        let places = &self.driver.shared.places;
        !self.outputs_of(job).values().all(|path| places.is_on_machine(path))
    }

    /// Forgets jobs that nobody waits for and whose outputs are on no machine any more.
    pub(crate) fn drop_lost(&mut self) {
        loop {
            let mut lost = self.table.retained_tops();
            lost.retain(|job| self.is_lost(*job));
            if lost.is_empty() {
                return;
            }
            for job in lost {
                self.forget(job);
            }
        }
    }
}
