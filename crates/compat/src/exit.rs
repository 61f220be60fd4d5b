//! How a process ends.

use drover_store::{RealiseStatus, Realised};

/// The status that a process exits with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitStatus(pub u8);

impl ExitStatus {
    /// All is well.
    pub const SUCCESS: ExitStatus = ExitStatus(0);
    /// It isn't.
    pub const FAILURE: ExitStatus = ExitStatus(1);

    /// Returns the status for builds that failed: 100 for a failed build or one that can't even begin,
    /// 101 for one that took too long, 102 for a fixed output with another hash, 104 for one that is not deterministic;
    /// several together are combined, and 1 is any other failure.
    ///
    /// As `Worker::failingExitStatus` (`src/libstore/build/worker.cc`) of Nix.
    pub fn of_failures<'a>(failures: impl IntoIterator<Item = &'a Realised>) -> ExitStatus {
        let mut mask = 0;
        for failure in failures {
            mask |= match failure.status {
                RealiseStatus::PermanentFailure | RealiseStatus::InputRejected => 0x04,
                RealiseStatus::TimedOut => 0x04 | 0x01,
                RealiseStatus::HashMismatch => 0x04 | 0x02,
                RealiseStatus::NotDeterministic => 0x08,
                _ => 0,
            };
        }
        match mask {
            0 => ExitStatus::FAILURE,
            mask => ExitStatus(0x60 | mask),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::build(&[(RealiseStatus::PermanentFailure, "")], 100)]
    #[case::time(&[(RealiseStatus::TimedOut, "")], 101)]
    #[case::hash(&[(RealiseStatus::HashMismatch, "hash mismatch in fixed-output")], 102)]
    #[case::reference(&[(RealiseStatus::OutputRejected, "is not allowed to refer")], 1)]
    #[case::check(&[(RealiseStatus::NotDeterministic, "")], 104)]
    #[case::both(&[(RealiseStatus::NotDeterministic, ""), (RealiseStatus::TimedOut, "")], 109)]
    #[case::nothing_suits(&[(RealiseStatus::InputRejected, "")], 100)]
    #[case::passing(&[(RealiseStatus::TransientFailure, "")], 1)]
    #[case::log_limit(&[(RealiseStatus::LogLimitExceeded, "")], 1)]
    #[case::other(&[(RealiseStatus::MiscFailure, "")], 1)]
    fn statuses(#[case] failures: &[(RealiseStatus, &str)], #[case] expected: u8) {
        let failures: Vec<Realised> = failures
            .iter()
            .map(|(status, message)| Realised {
                status: *status,
                message: (*message).to_owned(),
                outputs: Default::default(),
                period: None,
            })
            .collect();
        assert_eq!(ExitStatus::of_failures(&failures), ExitStatus(expected));
    }
}
