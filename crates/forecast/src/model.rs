//! What a forecast is made of, and what it says.

use std::time::Duration;

use drover_schedule::Machine;

use crate::answer::Unusable;

/// A machine as it is before the builds.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// What it takes.
    pub description: Machine,
    /// Whether it can be used.
    pub availability: Availability,
}

/// Whether a machine can be used.
#[derive(Clone, Debug, PartialEq)]
pub enum Availability {
    /// It takes jobs.
    Usable {
        /// Slots in which something of somebody else runs.
        busy: u32,
    },
    /// It takes none.
    Unusable(Unusable),
}

/// What is expected of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// It runs.
    Runs {
        /// The place of the machine among the candidates.
        machine: usize,
        /// How long until it begins.
        begins: Duration,
        /// How long until it ends.
        ends: Duration,
    },
    /// Only machines could take it that take nothing new for now.
    Waits,
    /// No machine could ever take it.
    Impossible,
    /// The machines that could take it can't be used.
    NoMachine,
    /// Something that it depends on isn't built.
    Blocked {
        /// The place of the job at the root of it.
        because: usize,
    },
}

/// What is expected of jobs, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forecast {
    /// What is expected of each job.
    pub jobs: Vec<Expected>,
    /// How long each build is taken to last on a machine of speed 1.
    pub usual: Duration,
}

impl Candidate {
    /// Returns whether something of somebody else runs in all of its slots.
    pub(crate) fn is_full(&self) -> bool {
        match self.availability {
            Availability::Usable { busy } => self.description.all_slots() <= busy,
            Availability::Unusable(_) => false,
        }
    }
}

impl Forecast {
    /// Returns how long until the last build ends; nothing where none runs.
    pub fn ends(&self) -> Option<Duration> {
        let ends = self.jobs.iter().filter_map(|job| match job {
            Expected::Runs { ends, .. } => Some(*ends),
            _ => None,
        });
        ends.max()
    }
}
