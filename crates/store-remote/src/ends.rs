//! How what was wanted ended, from what a server says of it.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use drover_store::{BuildFailure, RealiseStatus, Realised};
use drover_wire::{BuildResult, BuildStatus};

use crate::failure::refusal;

/// Returns what a server says of a build.
pub(crate) fn realised_of(result: &BuildResult) -> Realised {
    let time = |seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    let period = match (result.start_time, result.stop_time) {
        (0, _) => None,
        (start, stop) => time(start).zip(time(stop.max(start))),
    };
    Realised {
        status: status_of(result),
        message: drover_core::plain_text(&result.error),
        outputs: result.outputs.clone(),
        period,
    }
}

fn status_of(result: &BuildResult) -> RealiseStatus {
    match result.status {
        BuildStatus::Built => RealiseStatus::Built,
        BuildStatus::Substituted => RealiseStatus::Substituted,
        BuildStatus::AlreadyValid | BuildStatus::ResolvesToAlreadyValid => {
            RealiseStatus::AlreadyValid
        }
        BuildStatus::PermanentFailure | BuildStatus::CachedFailure => {
            RealiseStatus::PermanentFailure
        }
        BuildStatus::InputRejected => RealiseStatus::InputRejected,
        // Nix tells them apart in words
        BuildStatus::OutputRejected if result.error.contains("hash mismatch") => {
            RealiseStatus::HashMismatch
        }
        BuildStatus::OutputRejected => RealiseStatus::OutputRejected,
        BuildStatus::TransientFailure => RealiseStatus::TransientFailure,
        BuildStatus::TimedOut => RealiseStatus::TimedOut,
        BuildStatus::MiscFailure => RealiseStatus::MiscFailure,
        BuildStatus::DependencyFailed => RealiseStatus::DependencyFailed,
        BuildStatus::LogLimitExceeded => RealiseStatus::LogLimitExceeded,
        BuildStatus::NotDeterministic => RealiseStatus::NotDeterministic,
        BuildStatus::NoSubstituters => RealiseStatus::NoSubstituters,
    }
}

/// Returns the end of something that went well, as far as that is all that is known.
pub(crate) fn succeeded(status: RealiseStatus) -> Realised {
    Realised { status, message: String::new(), outputs: BTreeMap::new(), period: None }
}

/// Returns the end of something that didn't.
pub(crate) fn failed(status: RealiseStatus, message: String) -> Realised {
    Realised { message, ..succeeded(status) }
}

/// Returns the failure that a server told in words only.
pub(crate) fn by_words(message: String) -> Realised {
    let status = match refusal(message.clone()) {
        BuildFailure::Failed { .. } => RealiseStatus::PermanentFailure,
        BuildFailure::TimedOut { .. } => RealiseStatus::TimedOut,
        BuildFailure::LogLimit { .. } => RealiseStatus::LogLimitExceeded,
        BuildFailure::Rejected { .. } => RealiseStatus::OutputRejected,
        BuildFailure::HashMismatch { .. } => RealiseStatus::HashMismatch,
        BuildFailure::NotDeterministic { .. } => RealiseStatus::NotDeterministic,
        BuildFailure::Refused { .. } => RealiseStatus::InputRejected,
        BuildFailure::Hook { .. } | BuildFailure::Machine { .. } => RealiseStatus::MiscFailure,
    };
    failed(status, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_has_a_period_where_the_server_tells_it() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let result = |start_time, stop_time| BuildResult {
            start_time,
            stop_time,
            ..BuildResult::new(BuildStatus::Built, "")
        };
        assert_eq!(realised_of(&result(7, 9)).period, Some((at(7), at(9))));
        assert_eq!(realised_of(&result(9, 7)).period, Some((at(9), at(9))));
        assert_eq!(realised_of(&result(0, 0)).period, None);
        assert_eq!(realised_of(&result(u64::MAX, u64::MAX)).period, None);
    }
}
