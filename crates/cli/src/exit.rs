//! The exit status of the command.
//!
//! Follows `Worker::failingExitStatus` of Nix (`src/libstore/build/worker.cc`): failures of builds
//! are bits on top of 96, so several kinds can be told at once.

use std::process::ExitCode;

use drover_fleet::FailureKind;

/// The exit status of the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ExitStatus(pub(crate) u8);

impl ExitStatus {
    /// All went well.
    pub(crate) const SUCCESS: ExitStatus = ExitStatus(0);
    /// Something went wrong that isn't a build.
    pub(crate) const GENERAL: ExitStatus = ExitStatus(1);
    /// The user ended it.
    pub(crate) const INTERRUPTED: ExitStatus = ExitStatus(130);

    /// Returns the status for builds that failed like this: 100 for a failed build or one that nothing
    /// suits, 101 if one took too long, 102 for another hash, 104 for another result, and their union for
    /// several; 1 where the build can't be blamed, or what it made isn't taken.
    pub(crate) fn of_failures(kinds: impl IntoIterator<Item = FailureKind>) -> ExitStatus {
        const FAMILY: u8 = 0x60;
        const FAILED: u8 = 0x04;
        let bits = kinds.into_iter().map(|kind| match kind {
            FailureKind::Build | FailureKind::Unsuited => FAILED,
            FailureKind::TimedOut => FAILED | 0x01,
            FailureKind::HashMismatch => FAILED | 0x02,
            FailureKind::NotDeterministic => 0x08,
            FailureKind::Passing
            | FailureKind::Rejected
            | FailureKind::LogLimit
            | FailureKind::Hook
            | FailureKind::Dependency
            | FailureKind::NoMachine
            | FailureKind::NotFetched
            | FailureKind::NotSent
            | FailureKind::Cancelled => 0,
        });
        match bits.fold(0, |all, bit| all | bit) {
            0 => ExitStatus::GENERAL,
            bits => ExitStatus(FAMILY | bits),
        }
    }
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> ExitCode {
        ExitCode::from(status.0)
    }
}

/// The user ended the command.
#[derive(Debug, thiserror::Error)]
#[error("interrupted by the user")]
pub(crate) struct Interrupted;

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::build(&[FailureKind::Build], 100)]
    #[case::timeout(&[FailureKind::TimedOut], 101)]
    #[case::hash(&[FailureKind::HashMismatch], 102)]
    #[case::not_deterministic(&[FailureKind::NotDeterministic], 104)]
    #[case::timeout_and_hash(&[FailureKind::TimedOut, FailureKind::HashMismatch], 103)]
    #[case::build_and_not_deterministic(&[FailureKind::Build, FailureKind::NotDeterministic], 108)]
    #[case::with_dependents(&[FailureKind::Build, FailureKind::Dependency, FailureKind::Cancelled], 100)]
    #[case::hook(&[FailureKind::Hook, FailureKind::Dependency], 1)]
    #[case::passing(&[FailureKind::Passing, FailureKind::Dependency], 1)]
    #[case::rejected(&[FailureKind::Rejected], 1)]
    #[case::log_limit(&[FailureKind::LogLimit], 1)]
    #[case::unsuited(&[FailureKind::Unsuited], 100)]
    #[case::no_machine(&[FailureKind::NoMachine], 1)]
    #[case::not_fetched(&[FailureKind::NotFetched], 1)]
    #[case::not_sent(&[FailureKind::NotSent], 1)]
    #[case::nothing(&[], 1)]
    fn combines_like_nix(#[case] kinds: &[FailureKind], #[case] expected: u8) {
        assert_eq!(ExitStatus::of_failures(kinds.iter().copied()), ExitStatus(expected));
    }
}
