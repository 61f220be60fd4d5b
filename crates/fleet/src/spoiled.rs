//! What can't be built as something that it needs could not be fetched.

use std::collections::HashMap;

use drover_schedule::JobId;

use crate::event::JobFailureReport;
use crate::prepare::Work;

impl Work {
    /// Returns the jobs that can't be built as something failed before anything began, each with what
    /// that was.
    pub(crate) fn spoiled(&self) -> HashMap<JobId, &JobFailureReport> {
        let mut spoiled: HashMap<JobId, &JobFailureReport> =
            self.refused.iter().map(|(job, report)| (*job, report)).collect();
        let mut dependents: HashMap<JobId, Vec<JobId>> = HashMap::new();
        for (job, plan) in (0..).map(JobId).zip(&self.jobs) {
            for dependency in &plan.dependencies {
                dependents.entry(*dependency).or_default().push(job);
            }
        }
        let mut left: Vec<JobId> = spoiled.keys().copied().collect();
        while let Some(job) = left.pop() {
            let Some(report) = spoiled.get(&job).copied() else { continue };
            for dependent in dependents.remove(&job).unwrap_or_default() {
                spoiled.entry(dependent).or_insert(report);
                left.push(dependent);
            }
        }
        spoiled
    }
}
