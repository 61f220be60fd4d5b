//! What was built into the caller's store and has vanished from it since: it was deleted, or the store
//! was made anew. Who comes next has looked at the store just now and found that it lacks something, and
//! the engine goes by that rather than by what it remembers.

use std::collections::BTreeSet;

use drover_core::StorePath;
use drover_schedule::{Event, JobId};

use crate::service::engine::{Engine, Reachable};
use crate::service::table::{Key, Progress};

/// What is to be looked at before a client's jobs join.
#[derive(Default)]
pub(crate) struct Doubts {
    /// Machines that may have inputs and outputs of the jobs.
    pub(crate) machines: Vec<Reachable>,
    /// What was built into the caller's store, and ought to be there.
    pub(crate) made_here: BTreeSet<StorePath>,
}

impl Engine {
    /// Returns what jobs with these keys have built that is nowhere but in the caller's store, as far as
    /// is remembered.
    pub(crate) fn made_here(&self, keys: &[Key]) -> BTreeSet<StorePath> {
        let jobs = keys.iter().filter_map(|key| self.table.find(key));
        jobs.filter(|job| self.is(*job, &Progress::Built))
            .flat_map(|job| self.outputs_of(job).into_values())
            .filter(|path| self.driver.shared.places.is_only_here(path))
            .collect()
    }

    /// Forgets what was thought to be in the store, and the jobs that made it, if they are kept for nobody in
    /// particular.
    pub(crate) fn vanished(&mut self, lost: &BTreeSet<StorePath>) {
        for path in lost {
            let gone = self.driver.shared.places.vanished(path);
            if let Some(path) = self.driver.paths.get(path) {
                for place in gone {
                    self.tell_scheduler(Event::PathGone { path, place });
                }
            }
        }
        if !lost.is_empty() {
            self.drop_lost();
        }
    }

    /// Whether a job is over and what it has built is among the paths that have vanished: who asks for it
    /// now gets one of his own.
    pub(crate) fn has_vanished(&self, job: JobId, lost: &BTreeSet<StorePath>) -> bool {
        self.is(job, &Progress::Built)
            && self.outputs_of(job).values().any(|path| lost.contains(path))
    }
}
