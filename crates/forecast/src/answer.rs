//! What a machine says to a job before anything is built.

use std::collections::BTreeSet;
use std::fmt;

use drover_schedule::Reason;

use crate::model::{Availability, Candidate};

/// What a machine says to a job.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// It takes it.
    Accepts,
    /// It takes it when something of somebody else has ended there.
    AcceptsLater {
        /// Slots that are taken.
        busy: u32,
        /// Slots there are.
        slots: u32,
    },
    /// It never takes such a job.
    Refuses(Reason),
    /// It would take it, and can't be used.
    Unusable(Unusable),
}

/// Why a machine can't be used, whatever it is asked to build.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unusable {
    /// It can't be reached, or isn't what the configuration says.
    Down {
        /// What it said, and since when that is so where that is known.
        cause: String,
    },
    /// It was told to take nothing new.
    Draining,
    /// What it builds is not taken into the store that it is wanted in.
    Distrusted {
        /// Why, and what to do.
        cause: String,
    },
}

/// Returns what a machine says to what needs `system` and `features`, by the scheduler's own rules.
pub fn answer(candidate: &Candidate, system: &str, features: &BTreeSet<String>) -> Answer {
    if let Some(reason) = candidate.description.refusal(system, features) {
        return Answer::Refuses(reason);
    }
    match &candidate.availability {
        Availability::Unusable(why) => Answer::Unusable(why.clone()),
        Availability::Usable { busy } if candidate.is_full() => {
            Answer::AcceptsLater { busy: *busy, slots: candidate.description.all_slots() }
        }
        Availability::Usable { .. } => Answer::Accepts,
    }
}

impl Answer {
    /// Whether it takes such a job, now or later.
    pub fn is_acceptance(&self) -> bool {
        matches!(self, Answer::Accepts | Answer::AcceptsLater { .. })
    }

    /// Returns a name for programs, which stays the same.
    pub fn code(&self) -> &'static str {
        match self {
            Answer::Accepts => "accepted",
            Answer::AcceptsLater { .. } => "full",
            Answer::Refuses(reason) => reason.code(),
            Answer::Unusable(Unusable::Down { .. }) => "down",
            Answer::Unusable(Unusable::Draining) => "draining",
            Answer::Unusable(Unusable::Distrusted { .. }) => "distrusted",
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Accepts => f.write_str("accepted"),
            Answer::AcceptsLater { busy, slots } => {
                write!(f, "accepted, but its slots are full ({busy}/{slots})")
            }
            Answer::Refuses(reason) => write!(f, "declined: {reason}"),
            Answer::Unusable(why) => write!(f, "not used: {why}"),
        }
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unusable::Down { cause } => write!(f, "it is down ({cause})"),
            Unusable::Draining => f.write_str("it is draining and takes nothing new"),
            Unusable::Distrusted { cause } => f.write_str(cause),
        }
    }
}
