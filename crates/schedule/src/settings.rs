//! What can be set about the scheduler.

use std::time::Duration;

use crate::id::ByteCount;

/// How the scheduler decides; [`Settings::default`] is what everybody should use.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// How a machine is chosen.
    pub policy: Policy,
    /// What a failed build means for the rest.
    pub on_failure: OnFailure,
    /// How often a job is tried in all when machines (not the build) fail; at least 1.
    pub attempts: u32,
    /// How often a job is built again because all copies of its outputs were lost.
    pub rebuilds: u32,
    /// How many reconnections a machine that was up gets before jobs stop to hope for it.
    pub reconnections: u32,
    /// How many jobs may stand in one lane when each needs one ahead of it.
    pub chain_depth: u32,
    /// How many jobs may stand in one lane when they do not need each other.
    pub prefetch_depth: u32,
    /// How long nothing is started, once a job's outputs were found on a machine, while others that
    /// may have more have not answered yet.
    pub hold: Duration,
    /// How long nothing is started while a machine that is being connected to, and has not failed
    /// before, has not answered: it may have what would be built. Nothing where zero.
    pub ask: Duration,
    /// How long a machine is left alone after its first failure in a row.
    pub back_off_first: Duration,
    /// What the back-off is multiplied by with each further failure in a row.
    pub back_off_factor: u32,
    /// The longest back-off, but for what chance adds, which is half of it at the most.
    pub back_off_limit: Duration,
    /// What a job is expected to take while nothing is known and no job has finished.
    pub unknown_duration: Duration,
    /// What a path is taken to weigh while its size is not known.
    pub unknown_size: ByteCount,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            policy: Policy::EarliestFinish,
            on_failure: OnFailure::KeepGoing,
            attempts: 3,
            rebuilds: 3,
            reconnections: 3,
            chain_depth: 32,
            prefetch_depth: 2,
            hold: Duration::from_secs(2),
            ask: Duration::ZERO,
            back_off_first: Duration::from_secs(1),
            back_off_factor: 4,
            back_off_limit: Duration::from_secs(300),
            unknown_duration: Duration::from_secs(1),
            unknown_size: ByteCount(1 << 20),
        }
    }
}

/// How a machine is chosen for a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The machine that is estimated to finish it first.
    EarliestFinish,
    /// The machine that stock Nix's build hook chooses; nothing is queued ahead.
    Stock {
        /// How load is divided by speed.
        rounding: Rounding,
    },
}

/// How stock Nix divides a machine's load by its speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// As before Nix 2.20: both are integers, and so is the quotient.
    Integer,
    /// As since Nix 2.20: floating point.
    Float,
}

/// What a failed build means for the rest of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// Everything that does not depend on it goes on (`--keep-going`).
    KeepGoing,
    /// Everything else is cancelled.
    StopAll,
}
