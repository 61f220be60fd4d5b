//! How what was wanted ended, from what a server says of it.

use std::time::{Duration, SystemTime};

use drover_core::BuildStatus;
use drover_store::{FailureCause, RealiseStatus, Realised, says_another_hash};
use drover_wire::BuildResult;

use crate::failure::refusal;

/// Returns what a server says of a build.
pub(crate) fn realised_of(result: &BuildResult) -> Realised {
    let time = |seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    let period = match (result.start_time, result.stop_time) {
        (0, _) => None,
        (start, stop) => time(start).zip(time(stop.max(start))),
    };
    // Nix tells them apart in words
    let status = match result.status {
        BuildStatus::OutputRejected if says_another_hash(&result.error) => {
            RealiseStatus::Failed(FailureCause::HashMismatch)
        }
        status => status.into(),
    };
    Realised {
        status,
        message: drover_core::plain_text(&result.error),
        outputs: result.outputs.clone(),
        period,
    }
}

/// Returns the failure that a server told in words only.
pub(crate) fn by_words(message: String) -> Realised {
    refusal(message, FailureCause::Other).into()
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
