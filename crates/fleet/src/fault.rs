//! What an error says of the machine that it came from.

use drover_core::with_causes;
use drover_schedule::MachineFault;
use drover_store::{BuildFailure, FailureCause, Refusal, StoreError, says_unready};

/// Returns the failure of a machine that doesn't take what it was sent.
pub(crate) fn refusal_of(error: &StoreError) -> BuildFailure {
    let cause = match error {
        StoreError::Refused { why: Refusal::Distrust, .. } => FailureCause::Refused,
        StoreError::Refused { why: Refusal::NoRoom, .. } => FailureCause::NoRoom,
        _ => FailureCause::Machine,
    };
    BuildFailure::new(cause, with_causes(error))
}

/// Whether an error is about what this process or this machine may have, and no other machine's fault.
pub(crate) fn is_own_limit(error: &StoreError) -> bool {
    matches!(error, StoreError::OwnLimit { .. })
}

/// Returns what is wrong with a machine that could not be connected to.
pub(crate) fn fault_of_connecting(error: &StoreError) -> MachineFault {
    match error {
        StoreError::Protocol { .. } => MachineFault::Refused,
        // others will end and leave room
        StoreError::OwnLimit { .. } => MachineFault::Unready,
        StoreError::Refused { why, .. } => match why {
            // whoever isn't let in now won't be later; what it can't do now it may later
            Refusal::Distrust | Refusal::Stranger => MachineFault::Refused,
            Refusal::NoRoom => MachineFault::DiskFull,
            Refusal::Unready => MachineFault::Unready,
            Refusal::Other => MachineFault::Unreachable,
        },
        StoreError::Unreachable { reason, .. } | StoreError::ForeignWords { reason, .. }
            if says_unready(reason) =>
        {
            MachineFault::Unready
        }
        _ => MachineFault::Unreachable,
    }
}

/// Returns what is wrong with a machine whose connection broke like this.
pub(crate) fn fault_of(error: &StoreError) -> MachineFault {
    match error {
        StoreError::Protocol { .. }
        | StoreError::Nar { .. }
        | StoreError::Untrue { .. }
        | StoreError::HashMismatch { .. }
        | StoreError::SizeMismatch { .. } => MachineFault::Misbehaved,
        _ => MachineFault::Lost,
    }
}

/// Says of what was built that it couldn't be fetched.
pub(crate) fn not_fetched(error: &StoreError) -> String {
    format!("it was built, but could not be fetched: {}", with_causes(error))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn refused(message: &str) -> StoreError {
        StoreError::said("b", message)
    }

    fn text() -> (String, String) {
        ("b".to_owned(), "words".to_owned())
    }

    /// What may pass is tried again, what can't isn't.
    #[rstest]
    #[case::version(
        { let (store, reason) = text(); StoreError::Protocol { store, reason } },
        MachineFault::Refused
    )]
    #[case::notice(
        { let (store, reason) = text(); StoreError::ForeignWords { store, reason } },
        MachineFault::Unreachable
    )]
    #[case::no_route(
        { let (store, reason) = text(); StoreError::Unreachable { store, reason } },
        MachineFault::Unreachable
    )]
    #[case::stranger(
        refused("user 'alice' is not allowed to connect to the Nix daemon"),
        MachineFault::Refused
    )]
    #[case::unsigned(
        refused("cannot add path '/nix/store/x' because it lacks a valid signature"),
        MachineFault::Refused
    )]
    #[case::own_limit(
        { let (store, reason) = text(); StoreError::OwnLimit { store, reason } },
        MachineFault::Unready
    )]
    #[case::disk_full(refused("writing to file: No space left on device"), MachineFault::DiskFull)]
    #[case::quota(
        refused("writing to file '/nix/store/x': Disk quota exceeded"),
        MachineFault::DiskFull
    )]
    #[case::database_full(
        refused("executing SQLite query: database or disk is full"),
        MachineFault::DiskFull
    )]
    #[case::unprivileged(
        refused("you are not privileged to build input-addressed derivations"),
        MachineFault::Refused
    )]
    #[case::locked(refused("database is locked"), MachineFault::Unready)]
    #[case::busy(
        {
            let (store, reason) = ("b".to_owned(), "SQLite database '/d/db.sqlite' is busy".to_owned());
            StoreError::Unreachable { store, reason }
        },
        MachineFault::Unready
    )]
    fn what_is_wrong_with_a_machine(#[case] error: StoreError, #[case] expected: MachineFault) {
        assert_eq!(fault_of_connecting(&error), expected);
    }
}
