//! What an error says of the machine that it came from.

use drover_core::with_causes;
use drover_schedule::MachineFault;
use drover_store::{BuildFailure, FailureCause, StoreError, says_disk_full, says_refused};

/// Returns the failure that a machine told in words instead of taking what it was sent.
pub(crate) fn refusal_of(message: String) -> BuildFailure {
    let cause = match (says_refused(&message), says_disk_full(&message)) {
        (true, _) => FailureCause::Refused,
        (false, true) => FailureCause::NoRoom,
        (false, false) => FailureCause::Machine,
    };
    BuildFailure { cause, message }
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
        // whoever isn't let in now won't be later; what it can't do now it may later
        StoreError::Refused { message, .. } => match refusal_of(message.clone()).cause {
            FailureCause::NoRoom => MachineFault::DiskFull,
            FailureCause::Refused => MachineFault::Refused,
            _ if message.contains("not allowed to connect") => MachineFault::Refused,
            _ if is_of_the_unready(message) => MachineFault::Unready,
            _ => MachineFault::Unreachable,
        },
        StoreError::Unreachable { reason, .. } | StoreError::ForeignWords { reason, .. }
            if is_of_the_unready(reason) =>
        {
            MachineFault::Unready
        }
        _ => MachineFault::Unreachable,
    }
}

/// Returns whether a machine that says this will answer in a moment.
fn is_of_the_unready(message: &str) -> bool {
    SAID_BEFORE_READY.iter().any(|words| message.contains(words))
}

/// What machines say that will answer in a moment: SQLite where many programs open a new store at
/// once, and pam_nologin(8).
const SAID_BEFORE_READY: [&str; 3] =
    ["db.sqlite' is busy", "database is locked", "System is booting up"];

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
        StoreError::Refused { store: "b".to_owned(), message: message.to_owned() }
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
