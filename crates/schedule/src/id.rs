//! Names and units: what the scheduler calls jobs, machines, paths, lanes, moments and sizes.
//!
//! Invariant: ids are dense small numbers handed out by the caller; the scheduler only compares
//! them and uses them as indices of its tables.

use std::fmt;
use std::time::Duration;

/// One job (a derivation to build), numbered by the caller from 0 upwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u32);

/// One machine, numbered by the caller from 0 upwards, in the order of the machines file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MachineId(pub u32);

/// One store path, interned by the caller and numbered from 0 upwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathId(pub u32);

/// One of those for whom jobs are done, numbered by the caller. Slots are shared out evenly among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerId(pub u32);

/// One queue on a machine; builds on one lane run one after another in the order they were started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane {
    /// The machine it belongs to.
    pub machine: MachineId,
    /// Its number on that machine, below the number of slots.
    pub index: u32,
}

/// Time since the run began, as told by the caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub Duration);

impl Moment {
    /// The beginning of the run.
    pub const START: Moment = Moment(Duration::ZERO);

    /// Returns the moment `later` after this one, or the last representable one.
    #[must_use]
    pub fn plus(self, later: Duration) -> Moment {
        Moment(self.0.saturating_add(later))
    }

    /// Returns the time from `earlier` to this moment; zero if `earlier` is not earlier.
    #[must_use]
    pub fn since(self, earlier: Moment) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// A size in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteCount(pub u64);

/// A transfer rate in bytes per second; zero means that it is not known and costs nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bandwidth(pub u64);

impl Bandwidth {
    /// Returns how long `bytes` take at this rate.
    #[must_use]
    pub fn time_for(self, bytes: ByteCount) -> Duration {
        match (bytes.0.checked_div(self.0), bytes.0.checked_rem(self.0)) {
            (Some(seconds), Some(rest)) => {
                let nanos = u128::from(rest) * 1_000_000_000 / u128::from(self.0);
                Duration::from_secs(seconds)
                    .saturating_add(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
            }
            _ => Duration::ZERO,
        }
    }
}

/// Where a path can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// The caller's own (local) store, which is also the store of every local machine.
    Here,
    /// The store of a machine.
    On(MachineId),
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "job {}", self.0)
    }
}

impl fmt::Display for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "machine {}", self.0)
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lane {} of {}", self.index, self.machine)
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} s", self.0.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::unknown_rate(0, 1 << 40, Duration::ZERO)]
    #[case::even(1000, 2000, Duration::from_secs(2))]
    #[case::fraction(1000, 1500, Duration::from_millis(1500))]
    #[case::huge(u64::MAX, u64::MAX, Duration::from_secs(1))]
    fn bandwidth(#[case] rate: u64, #[case] bytes: u64, #[case] expected: Duration) {
        assert_eq!(Bandwidth(rate).time_for(ByteCount(bytes)), expected);
    }
}
