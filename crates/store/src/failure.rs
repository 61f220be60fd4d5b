//! Why something was not built, and what follows from it.
//!
//! Whoever tells a failure names its cause; what number Nix has for it, and which exit status, stands in one
//! table here, and nowhere else.

use drover_core::BuildStatus;

/// Why something was not built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailureCause {
    /// Its build failed; it would again.
    Build,
    /// Its build failed, and may not another time: it had the network, or its disk was full.
    Passing,
    /// It took too long, or was silent for too long.
    TimedOut,
    /// It said more than it may.
    LogLimit,
    /// Its build went well, but what it has made can't be taken: something is missing, or breaks a rule of
    /// the derivation or of all stores. It would again.
    Rejected,
    /// A fixed output has another hash than it must have.
    HashMismatch,
    /// Two rounds differed.
    NotDeterministic,
    /// It was built, and its outputs are valid, but what was to run after it failed (`post-build-hook`).
    Hook,
    /// The machine could not: a missing input, a setting. Another may.
    Machine,
    /// The machine is out of space. Another may have some.
    NoRoom,
    /// It isn't taken as it is, or not from who asks.
    Refused,
    /// No machine is one that could ever take it.
    Unsuited,
    /// No machine was left that could take it.
    NoMachine,
    /// A substituter offers it, and fetching it failed.
    NotFetched,
    /// What it needs could not be sent, because of the machine that this runs on.
    NotSent,
    /// It is no derivation's output here, and no substituter has it.
    NoSubstituters,
    /// Something that it depends on was not built.
    Dependency,
    /// It was given up, as something else failed or nobody wants it any more.
    Cancelled,
    /// Anything else.
    Other,
}

/// What follows from a cause.
struct Follows {
    /// What Nix's protocols call it.
    status: BuildStatus,
    /// What it adds to the exit status of Nix's commands (`Worker::failingExitStatus`,
    /// `src/libstore/build/worker.cc`).
    bits: u8,
}

/// A build that failed, on top of [`FAMILY`].
const FAILED: u8 = 0x04;
/// What all exit statuses have in common that say something of builds.
const FAMILY: u8 = 0x60;

impl FailureCause {
    /// All of them. Of those that share a status or an exit status, the first one is what these are read as.
    const ALL: [FailureCause; 19] = [
        FailureCause::Build,
        FailureCause::Passing,
        FailureCause::TimedOut,
        FailureCause::LogLimit,
        FailureCause::Rejected,
        FailureCause::HashMismatch,
        FailureCause::NotDeterministic,
        FailureCause::Refused,
        FailureCause::NoSubstituters,
        FailureCause::Dependency,
        FailureCause::Other,
        FailureCause::Hook,
        FailureCause::Machine,
        FailureCause::NoRoom,
        FailureCause::Unsuited,
        FailureCause::NoMachine,
        FailureCause::NotFetched,
        FailureCause::NotSent,
        FailureCause::Cancelled,
    ];

    fn follows(self) -> Follows {
        use BuildStatus as Status;
        let (status, bits) = match self {
            FailureCause::Build => (Status::PermanentFailure, FAILED),
            FailureCause::Passing => (Status::TransientFailure, 0),
            FailureCause::TimedOut => (Status::TimedOut, FAILED | 0x01),
            FailureCause::LogLimit => (Status::LogLimitExceeded, 0),
            FailureCause::Rejected => (Status::OutputRejected, 0),
            FailureCause::HashMismatch => (Status::OutputRejected, FAILED | 0x02),
            FailureCause::NotDeterministic => (Status::NotDeterministic, 0x08),
            FailureCause::Hook => (Status::MiscFailure, 0),
            FailureCause::Machine => (Status::TransientFailure, 0),
            FailureCause::NoRoom => (Status::TransientFailure, 0),
            FailureCause::Refused => (Status::InputRejected, FAILED),
            FailureCause::Unsuited => (Status::InputRejected, FAILED),
            FailureCause::NoMachine => (Status::TransientFailure, 0),
            FailureCause::NotFetched => (Status::TransientFailure, 0),
            FailureCause::NotSent => (Status::MiscFailure, 0),
            FailureCause::NoSubstituters => (Status::NoSubstituters, 0),
            FailureCause::Dependency => (Status::DependencyFailed, 0),
            FailureCause::Cancelled => (Status::MiscFailure, 0),
            FailureCause::Other => (Status::MiscFailure, 0),
        };
        Follows { status, bits }
    }

    /// Returns what Nix's protocols call it.
    pub fn status(self) -> BuildStatus {
        self.follows().status
    }

    /// Whether it's of the machine, before it's known how the build itself would end: another may do.
    pub fn is_of_machine(self) -> bool {
        matches!(self, FailureCause::Machine | FailureCause::NoRoom | FailureCause::Refused)
    }

    /// Whether it only follows from another failure, which is told by itself.
    pub fn is_consequence(self) -> bool {
        matches!(self, FailureCause::Dependency | FailureCause::Cancelled)
    }

    /// Returns the cause of a failure that is told by its status alone; nothing where that is no failure.
    pub fn of_status(status: BuildStatus) -> Option<FailureCause> {
        match status {
            // only old versions of Nix know it: a build that had failed before
            BuildStatus::CachedFailure => Some(FailureCause::Build),
            _ => FailureCause::ALL.into_iter().find(|cause| cause.status() == status),
        }
    }

    /// Returns the cause of a failure that is told by an exit status alone, where that says anything of it.
    pub fn of_exit_code(code: u64) -> Option<FailureCause> {
        let says = |cause: &FailureCause| {
            cause.follows().bits != 0 && u64::from(exit_code([*cause])) == code
        };
        FailureCause::ALL.into_iter().find(says)
    }
}

/// Returns the exit status of Nix's commands for builds that failed like this: 100 for a failed build or one
/// that nothing suits, 101 if one took too long, 102 for another hash, 104 for another result, and their
/// union for several; 1 where the build can't be blamed, or what it made isn't taken.
pub fn exit_code(causes: impl IntoIterator<Item = FailureCause>) -> u8 {
    match causes.into_iter().fold(0, |all, cause| all | cause.follows().bits) {
        0 => 1,
        bits => FAMILY | bits,
    }
}

/// How a build failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildFailure {
    /// Why.
    pub cause: FailureCause,
    /// The words of who noticed, as the user is to read them.
    pub message: String,
}

impl BuildFailure {
    /// Returns a failure in words.
    pub fn new(cause: FailureCause, message: impl Into<String>) -> BuildFailure {
        BuildFailure { cause, message: message.into() }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::build(&[FailureCause::Build], 100)]
    #[case::timeout(&[FailureCause::TimedOut], 101)]
    #[case::hash(&[FailureCause::HashMismatch], 102)]
    #[case::not_deterministic(&[FailureCause::NotDeterministic], 104)]
    #[case::timeout_and_hash(&[FailureCause::TimedOut, FailureCause::HashMismatch], 103)]
    #[case::build_and_not_deterministic(&[FailureCause::Build, FailureCause::NotDeterministic], 108)]
    #[case::timeout_and_not_deterministic(&[FailureCause::NotDeterministic, FailureCause::TimedOut], 109)]
    #[case::with_dependents(&[FailureCause::Build, FailureCause::Dependency, FailureCause::Cancelled], 100)]
    #[case::hook(&[FailureCause::Hook, FailureCause::Dependency], 1)]
    #[case::passing(&[FailureCause::Passing, FailureCause::Dependency], 1)]
    #[case::rejected(&[FailureCause::Rejected], 1)]
    #[case::log_limit(&[FailureCause::LogLimit], 1)]
    #[case::refused(&[FailureCause::Refused], 100)]
    #[case::unsuited(&[FailureCause::Unsuited], 100)]
    #[case::no_machine(&[FailureCause::NoMachine], 1)]
    #[case::not_fetched(&[FailureCause::NotFetched], 1)]
    #[case::not_sent(&[FailureCause::NotSent], 1)]
    #[case::other(&[FailureCause::Other], 1)]
    #[case::nothing(&[], 1)]
    fn exit_codes_combine_like_nix(#[case] causes: &[FailureCause], #[case] expected: u8) {
        assert_eq!(exit_code(causes.iter().copied()), expected);
    }

    #[test]
    fn what_is_told_by_status_keeps_it() {
        for status in BuildStatus::ALL {
            let told = FailureCause::of_status(status).map(FailureCause::status);
            let expected = match status {
                BuildStatus::CachedFailure => Some(BuildStatus::PermanentFailure),
                status => (!status.is_success()).then_some(status),
            };
            assert_eq!(told, expected, "{status:?}");
        }
    }

    #[rstest]
    #[case::rejected(BuildStatus::OutputRejected, FailureCause::Rejected)]
    #[case::refused(BuildStatus::InputRejected, FailureCause::Refused)]
    #[case::passing(BuildStatus::TransientFailure, FailureCause::Passing)]
    #[case::other(BuildStatus::MiscFailure, FailureCause::Other)]
    fn what_a_status_alone_says(#[case] status: BuildStatus, #[case] expected: FailureCause) {
        assert_eq!(FailureCause::of_status(status), Some(expected));
    }

    #[rstest]
    #[case::failed(100, Some(FailureCause::Build))]
    #[case::timed_out(101, Some(FailureCause::TimedOut))]
    #[case::mismatch(102, Some(FailureCause::HashMismatch))]
    #[case::rounds(104, Some(FailureCause::NotDeterministic))]
    #[case::anything(1, None)]
    #[case::several(103, None)]
    fn what_an_exit_code_alone_says(#[case] code: u64, #[case] expected: Option<FailureCause>) {
        assert_eq!(FailureCause::of_exit_code(code), expected);
    }
}
