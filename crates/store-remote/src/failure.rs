//! Whose failure it is when a build fails: the build's own, the machine's, or a refusal.
//!
//! The status says it where it can. It often can't: a fixed-output build that fails is "transient" to
//! Nix, and so is one that ran out of disk. Then, and where the server raised an error instead of
//! answering, its words have to do (`drover_store::failure_said`).

use drover_store::{BuildFailure, FailureCause, failure_said};
use drover_wire::BuildResult;

/// What a server was asked to build from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// The derivation alone: it builds nothing that this one depends on.
    Derivation,
    /// The `.drv` in its store, with all that this one depends on.
    FromStore,
}

/// Turns a failed result into a failure that says whose it is.
pub(crate) fn failure(result: &BuildResult, asked: Asked) -> BuildFailure {
    let message = drover_core::plain_text(&result.error);
    let told = FailureCause::of_status(result.status).unwrap_or(FailureCause::Machine);
    let cause = match (told, asked) {
        (FailureCause::TimedOut | FailureCause::NotDeterministic | FailureCause::LogLimit, _) => {
            told
        }
        // it was told to build nothing else, so what failed is that an input isn't there
        (FailureCause::Dependency, Asked::Derivation) => {
            match by_words(&message, FailureCause::Machine) {
                FailureCause::NoRoom => FailureCause::NoRoom,
                _ => FailureCause::Machine,
            }
        }
        (FailureCause::Rejected, _) => match by_words(&message, FailureCause::Build) {
            FailureCause::Build => FailureCause::Rejected,
            other => other,
        },
        (FailureCause::Build | FailureCause::Dependency, _) => {
            by_words(&message, FailureCause::Build)
        }
        _ => by_words(&message, FailureCause::Machine),
    };
    BuildFailure { cause, message }
}

/// Turns the answer of a server that tells an exit status and words into a failure. Those are Nix's
/// own where it built itself; a server behind another says 1 whatever happened.
pub(crate) fn exited(status: u64, message: &str) -> BuildFailure {
    let message = drover_core::plain_text(message);
    let otherwise = FailureCause::of_exit_code(status).unwrap_or(FailureCause::Machine);
    BuildFailure { cause: by_words(&message, otherwise), message }
}

/// Turns an error that the server raised instead of answering into a failure; `otherwise` is what it is
/// if its words say nothing.
pub(crate) fn refusal(message: String, otherwise: FailureCause) -> BuildFailure {
    BuildFailure { cause: by_words(&message, otherwise), message }
}

fn by_words(message: &str, otherwise: FailureCause) -> FailureCause {
    failure_said(message).unwrap_or(otherwise)
}

#[cfg(test)]
mod tests {
    use drover_core::BuildStatus;
    use rstest::rstest;

    use super::*;

    /// Recorded from Nix 2.8, 2.26 and 2.34, or read there; colours are gone already.
    #[rstest]
    #[case::failed_2_8(
        3,
        "builder for '/nix/store/x.drv' failed with exit code 3;\n       last 2 log lines:\n       > going\n       > No space left on device\n       For full logs, run 'nix log /nix/store/x.drv'.",
        FailureCause::Build
    )]
    #[case::failed_2_34(
        3,
        "Cannot build '/nix/store/x.drv'.\nReason: builder failed with exit code 3.\nOutput paths:\n  /nix/store/y\nLast 2 log lines:\n> going\n> error: timed out after 3 seconds\nFor full logs, run:\n  nix log /nix/store/x.drv",
        FailureCause::Build
    )]
    #[case::no_output(
        3,
        "builder for '/nix/store/x.drv' failed to produce output path for output 'out' at '/nix/store/y'",
        FailureCause::Build
    )]
    #[case::signal(
        3,
        "builder for '/nix/store/x.drv' failed due to signal 11 (Segmentation fault)",
        FailureCause::Build
    )]
    #[case::killed(
        3,
        "builder for '/nix/store/x.drv' failed due to signal 9 (Killed)",
        FailureCause::Build
    )]
    #[case::fixed_killed_2_34(
        6,
        "Cannot build '/nix/store/x.drv'.\nReason: builder failed due to signal 9 (Killed).\nOutput paths:\n  /nix/store/y",
        FailureCause::Build
    )]
    #[case::fixed_2_8(
        6,
        "builder for '/nix/store/x.drv' failed with exit code 1;\nlast 1 log lines:\n> hi\nFor full logs, run 'nix log /nix/store/x.drv'.",
        FailureCause::Build
    )]
    #[case::fixed_2_26(
        6,
        "builder for '/nix/store/x.drv' failed with exit code 1;\nlast 4 log lines:\n> error:\n>        … writing file '/nix/store/y'\n> \n>        error: unable to download 'http://127.0.0.1:1/x': Could not connect to server (7)\nFor full logs, run:\n  nix log /nix/store/x.drv",
        FailureCause::Build
    )]
    #[case::fixed_2_34(
        6,
        "Cannot build '/nix/store/x.drv'.\nReason: builder failed with exit code 1.\nOutput paths:\n  /nix/store/y\nLast 1 log lines:\n> hi\nFor full logs, run:\n  nix log /nix/store/x.drv",
        FailureCause::Build
    )]
    #[case::disk_full_2_34(
        6,
        "Cannot build '/nix/store/x.drv'.\nReason: builder failed with exit code 1.\nOutput paths:\n  /nix/store/y\nLast 1 log lines:\n> dd: error writing '/nix/store/y': No space left on device\nFor full logs, run:\n  nix log /nix/store/x.drv\nnote: build failure may have been caused by lack of free disk space",
        FailureCause::NoRoom
    )]
    #[case::disk_full_2_8(
        6,
        "builder for '/nix/store/x.drv' failed with exit code 1\nnote: build failure may have been caused by lack of free disk space",
        FailureCause::NoRoom
    )]
    #[case::disk_full_before(
        9,
        "error: write of 47 bytes: No space left on device",
        FailureCause::NoRoom
    )]
    #[case::substituters(
        6,
        "some substitutes for the outputs of derivation '/nix/store/x.drv' failed (usually happens due to networking issues); try '--fallback' to build derivation from source ",
        FailureCause::Machine
    )]
    #[case::download(
        9,
        "error: unable to download 'https://cache': Timeout was reached (28) Operation timed out after 5001 milliseconds with 0 bytes received",
        FailureCause::Machine
    )]
    #[case::no_builder_program(
        3,
        "builder for '/nix/store/x.drv' failed with exit code 1;\nlast 1 log lines:\n> error: executing '/bin/sh': Permission denied\nFor full logs, run:\n  nix log /nix/store/x.drv",
        FailureCause::Build
    )]
    #[case::no_output_2_34(
        5,
        "builder for '/nix/store/x.drv' failed to produce output path for output 'out' at \"/nix/store/y\"",
        FailureCause::Rejected
    )]
    #[case::pipe_as_output(
        9,
        "error: file '/nix/store/x/f' has an unsupported type",
        FailureCause::Build
    )]
    #[case::setting_up(
        9,
        "error: while setting up the build environment: chroot: Permission denied",
        FailureCause::Machine
    )]
    #[case::out_of_memory(9, "error: cannot allocate memory", FailureCause::Machine)]
    #[case::disk_full(6, "error: writing to file: No space left on device", FailureCause::NoRoom)]
    #[case::disk_full_permanent(
        3,
        "error: opening file '/nix/store/x': No space left on device",
        FailureCause::NoRoom
    )]
    #[case::timeout(
        8,
        "building of '/nix/store/x.drv!out' from in-memory derivation timed out after 1 seconds",
        FailureCause::TimedOut
    )]
    #[case::silence(8, "timed out after 1 seconds of silence", FailureCause::TimedOut)]
    #[case::mismatch_2_8(
        5,
        "hash mismatch in fixed-output derivation '/nix/store/x.drv':\n         specified: sha256-a\n            got:    sha256-b",
        FailureCause::HashMismatch
    )]
    #[case::mismatch_elsewhere(
        9,
        "hash mismatch in fixed-output derivation '/nix/store/x.drv':",
        FailureCause::HashMismatch
    )]
    #[case::output_rejected(
        5,
        "output '/nix/store/x' is not allowed to refer to the following paths:\n  /nix/store/y",
        FailureCause::Rejected
    )]
    #[case::not_deterministic(
        12,
        "derivation '/nix/store/x.drv' may not be deterministic: output '/nix/store/y' differs",
        FailureCause::NotDeterministic
    )]
    #[case::feature_2_8(
        9,
        "error: a 'x86_64-linux' with features {rocket} is required to build '/nix/store/x.drv', but I am a 'x86_64-linux' with features {kvm}",
        FailureCause::Machine
    )]
    #[case::feature_2_34(
        9,
        "Cannot build '/nix/store/x.drv'.\nReason: missing system features\nRequired features: {rocket}\nAvailable features: {kvm}",
        FailureCause::Machine
    )]
    #[case::feature_input_rejected(
        4,
        "Cannot build '/nix/store/x.drv'.\nReason: missing system features\nRequired features: {rocket}",
        FailureCause::Machine
    )]
    #[case::system_2_34(
        9,
        "Cannot build '/nix/store/x.drv'.\nReason: platform mismatch\nRequired system: 'm68k-linux'\nCurrent system: 'x86_64-linux'",
        FailureCause::Machine
    )]
    #[case::missing_input_2_8(
        9,
        "error: some dependencies of '/nix/store/x.drv' are missing",
        FailureCause::Machine
    )]
    #[case::missing_input_2_34(
        10,
        "Cannot build '/nix/store/x.drv'.\nReason: 1 dependency failed.\nOutput paths:\n  /nix/store/y",
        FailureCause::Machine
    )]
    #[case::input(
        4,
        "dependency '/nix/store/y' of '/nix/store/x.drv' does not exist, and substitution is disabled",
        FailureCause::Machine
    )]
    #[case::log_limit(
        11,
        "'/nix/store/x.drv' killed after writing more than 10 bytes of log output",
        FailureCause::LogLimit
    )]
    #[case::unknown(9, "error: something that nobody has seen yet", FailureCause::Machine)]
    #[case::no_builder(
        9,
        "Unable to start any build; either increase '--max-jobs' or enable remote builds.",
        FailureCause::Machine
    )]
    fn results(#[case] status: u64, #[case] words: &str, #[case] expected: FailureCause) {
        let status = BuildStatus::of_number(status).expect("a status");
        let failure = failure(&BuildResult::new(status, words), Asked::Derivation);
        assert_eq!(failure.cause, expected, "{failure:?}");
    }

    /// Where the machine builds dependencies too, it is one of those that failed.
    #[rstest]
    #[case::nix_2_8("1 dependencies of derivation '/nix/store/x.drv' failed to build")]
    #[case::nix_2_34("Cannot build '/nix/store/x.drv'.\nReason: 1 dependency failed.")]
    fn dependencies(#[case] words: &str) {
        let result = BuildResult::new(BuildStatus::DependencyFailed, words);
        assert_eq!(failure(&result, Asked::FromStore).cause, FailureCause::Build);
    }

    #[rstest]
    #[case::unprivileged(
        "you are not privileged to build input-addressed derivations",
        FailureCause::Refused
    )]
    #[case::unsigned_2_8(
        "cannot add path '/nix/store/x' because it lacks a valid signature",
        FailureCause::Refused
    )]
    #[case::unsigned(
        "cannot add path '/nix/store/x' because it lacks a signature by a trusted key",
        FailureCause::Refused
    )]
    #[case::input(
        "error: some dependencies of '/nix/store/x.drv' are missing",
        FailureCause::Machine
    )]
    #[case::no_substituter(
        "path '/nix/store/x' is required, but there is no substituter that can build it",
        FailureCause::Machine
    )]
    #[case::failed_2_26(
        "builder for '/nix/store/x.drv' failed with exit code 3;\n last 1 log lines:\n > x",
        FailureCause::Build
    )]
    #[case::timeout(
        "building of '/nix/store/x.drv' timed out after 1 seconds",
        FailureCause::TimedOut
    )]
    #[case::mismatch(
        "hash mismatch in fixed-output derivation '/nix/store/x.drv':",
        FailureCause::HashMismatch
    )]
    #[case::interrupted("interrupted by the user", FailureCause::Machine)]
    #[case::feature(
        "experimental Nix feature 'ca-derivations' is disabled; add '--extra-experimental-features ca-derivations' to enable it",
        FailureCause::Machine
    )]
    #[case::several("build of '/nix/store/x.drv' failed", FailureCause::Build)]
    #[case::disk_full("writing to file: No space left on device", FailureCause::NoRoom)]
    fn refusals(#[case] words: &str, #[case] expected: FailureCause) {
        let failure = refusal(words.to_owned(), FailureCause::Machine);
        assert_eq!(failure.cause, expected, "{failure:?}");
    }

    #[rstest]
    #[case::failed(100, "something", FailureCause::Build)]
    #[case::timed_out(101, "something", FailureCause::TimedOut)]
    #[case::mismatch(102, "something", FailureCause::HashMismatch)]
    #[case::rounds(104, "something", FailureCause::NotDeterministic)]
    #[case::unknown(1, "something", FailureCause::Machine)]
    #[case::behind_another(
        1,
        "error: builder for '/nix/store/x.drv' failed with exit code 3",
        FailureCause::Build
    )]
    #[case::disk_full(100, "error: writing to file: No space left on device", FailureCause::NoRoom)]
    fn exits(#[case] status: u64, #[case] words: &str, #[case] expected: FailureCause) {
        assert_eq!(exited(status, words).cause, expected);
    }
}
