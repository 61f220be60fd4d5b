//! What machines were found to have for a client, and jobs that were let be and are needed after all.

use std::collections::BTreeSet;

use drover_schedule::{Event, JobId, MachineId};

use crate::service::engine::{Engine, Learned};
use crate::service::table::Progress;
use crate::sought::Findings;

impl Engine {
    /// Has those jobs of a client kept in any case that it asks for, and built what was let be and
    /// that it needs.
    pub(crate) fn need(&mut self, targets: &[JobId], jobs: &BTreeSet<JobId>) {
        for job in targets {
            self.tell_scheduler(Event::Asked { job: *job });
            if self.is(*job, &Progress::Unneeded) {
                self.open_again(*job);
            }
        }
        self.revive(jobs.iter().copied().collect());
    }

    /// Takes notice of what machines have. Returns what concerns jobs that are to be submitted first.
    pub(crate) fn learn(&mut self, learned: Vec<Learned>) -> Vec<(MachineId, Findings)> {
        let mut of_jobs = Vec::new();
        for Learned { machine, generation, valid, found } in learned {
            if self.driver.is_current(machine, generation) {
                self.driver.found_at(&valid, self.driver.shared.place_of(machine));
                of_jobs.push((machine, found));
            }
        }
        of_jobs
    }

    /// Has jobs built that were let be and that some of these, which are to be built, need now.
    pub(crate) fn revive(&mut self, mut open: Vec<JobId>) {
        let mut seen = BTreeSet::new();
        while let Some(job) = open.pop() {
            if !seen.insert(job) || !self.is(job, &Progress::Open) {
                continue;
            }
            let dependencies = self.table.get(job).map(|entry| entry.dependencies.clone());
            for dependency in dependencies.unwrap_or_default() {
                if self.is(dependency, &Progress::Unneeded) {
                    self.open_again(dependency);
                }
                open.push(dependency);
            }
        }
    }

    pub(crate) fn is(&self, job: JobId, progress: &Progress) -> bool {
        self.table.get(job).is_some_and(|entry| entry.progress == *progress)
    }

    fn open_again(&mut self, job: JobId) {
        if let Some(entry) = self.table.get_mut(job) {
            (entry.progress, entry.end) = (Progress::Open, None);
            self.tell_scheduler(Event::Rebuild { job });
        }
    }
}
