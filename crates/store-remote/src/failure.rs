//! Whose failure it is when a build fails: the build's own, the machine's, or a refusal.
//!
//! The status says it where it can. It often can't: a fixed-output build that fails is "transient" to
//! Nix, and so is one that ran out of disk. Then, and where the server raised an error instead of
//! answering, its words have to do; they are those of Nix 2.3 to 2.34, see the tests. Lines of the
//! build's own log, which Nix puts among its words, are not looked at: a build may print anything.

use drover_store::{BuildFailure, says_disk_full, says_refused};
use drover_wire::{BuildResult, BuildStatus};

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
    match (result.status, asked) {
        (BuildStatus::TimedOut, _) => BuildFailure::TimedOut { message },
        (BuildStatus::NotDeterministic, _) => BuildFailure::NotDeterministic { message },
        (BuildStatus::LogLimitExceeded, _) => BuildFailure::LogLimit { message },
        (BuildStatus::CachedFailure, _) => failed(message),
        // it was told to build nothing else, so what failed is that an input isn't there
        (BuildStatus::DependencyFailed, Asked::Derivation) => machine(message),
        (BuildStatus::OutputRejected, _) => match by_words(message, failed) {
            BuildFailure::Failed { message } => BuildFailure::Rejected { message },
            other => other,
        },
        (BuildStatus::PermanentFailure | BuildStatus::DependencyFailed, _) => {
            by_words(message, failed)
        }
        _ => by_words(message, machine),
    }
}

/// Turns the answer of a server that tells an exit status and words into a failure. Those are Nix's
/// own where it built itself; a server behind another says 1 whatever happened.
pub(crate) fn exited(status: u64, message: &str) -> BuildFailure {
    let otherwise = match status {
        100 => failed,
        101 => |message| BuildFailure::TimedOut { message },
        102 => |message| BuildFailure::HashMismatch { message },
        104 => |message| BuildFailure::NotDeterministic { message },
        _ => machine,
    };
    by_words(drover_core::plain_text(message), otherwise)
}

/// Turns an error that the server raised instead of answering into a failure.
pub(crate) fn refusal(message: String) -> BuildFailure {
    by_words(message, machine)
}

/// Whether a server says that it doesn't take something from us.
pub(crate) fn is_refusal(message: &str) -> bool {
    says_refused(&own_words(message))
}

/// The machine can't, now or ever; another may.
const MACHINE: &[&str] = &[
    "experimental nix feature",
    "does not exist, and substitution is disabled",
    "some dependencies of",
    "some substitutes for the outputs",
    "cannot build missing derivation",
    "there is no substituter that can build it",
    "is required to build '",
    "platform mismatch",
    "required system:",
    "required (system, features)",
    "missing system features",
    "unable to start any build",
    "build users are currently in use",
    "build users in the group",
    "has no members",
    "unable to fork",
    "cannot allocate memory",
    "resource temporarily unavailable",
    "too many open files",
    "read-only file system",
    "database is locked",
    "database disk image is malformed",
    "opening lock file",
    "interrupted by the user",
];

/// The build itself failed, and would again.
const FAILED: &[&str] = &[
    "failed with exit code",
    "failed due to signal",
    "killed by signal",
    "failed to produce output path",
    "failed to build",
    "builder failed",
    "dependency failed",
    "dependencies failed",
    "failed due to failed dependency",
    "has an unsupported type",
    "has suspicious ownership or permission",
    "cycle detected in build of",
];

fn by_words(message: String, otherwise: fn(String) -> BuildFailure) -> BuildFailure {
    let own = own_words(&message);
    let has = |words: &[&str]| has(&own, words);
    if has(&["hash mismatch in fixed-output derivation"]) {
        BuildFailure::HashMismatch { message }
    } else if timed_out(&own) {
        BuildFailure::TimedOut { message }
    } else if has(&["may not be deterministic"]) {
        BuildFailure::NotDeterministic { message }
    } else if says_refused(&own) {
        BuildFailure::Refused { message }
    } else if says_disk_full(&own) || has(MACHINE) {
        machine(message)
    } else if has(FAILED) || (has(&["build of '"]) && has(&["' failed"])) {
        failed(message)
    } else {
        otherwise(message)
    }
}

fn has(own: &str, words: &[&str]) -> bool {
    words.iter().any(|word| own.contains(word))
}

/// Whether it is the build that took too long, rather than a download.
fn timed_out(own: &str) -> bool {
    own.contains("timed out after") && !own.contains("milliseconds")
}

fn failed(message: String) -> BuildFailure {
    BuildFailure::Failed { message }
}

fn machine(message: String) -> BuildFailure {
    let disk_full = says_disk_full(&own_words(&message));
    BuildFailure::Machine { message, disk_full }
}

/// Returns what Nix itself says, in small letters: without the lines of the log (`> …`).
fn own_words(message: &str) -> String {
    let own = message.lines().filter(|line| !line.trim_start().starts_with('>'));
    own.flat_map(|line| [line, "\n"]).collect::<String>().to_lowercase()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    /// Recorded from Nix 2.8, 2.26 and 2.34, or read there; colours are gone already.
    #[rstest]
    #[case::failed_2_8(
        3,
        "builder for '/nix/store/x.drv' failed with exit code 3;\n       last 2 log lines:\n       > going\n       > No space left on device\n       For full logs, run 'nix log /nix/store/x.drv'.",
        "failed"
    )]
    #[case::failed_2_34(
        3,
        "Cannot build '/nix/store/x.drv'.\nReason: builder failed with exit code 3.\nOutput paths:\n  /nix/store/y\nLast 2 log lines:\n> going\n> error: timed out after 3 seconds\nFor full logs, run:\n  nix log /nix/store/x.drv",
        "failed"
    )]
    #[case::no_output(
        3,
        "builder for '/nix/store/x.drv' failed to produce output path for output 'out' at '/nix/store/y'",
        "failed"
    )]
    #[case::signal(
        3,
        "builder for '/nix/store/x.drv' failed due to signal 11 (Segmentation fault)",
        "failed"
    )]
    #[case::killed(3, "builder for '/nix/store/x.drv' failed due to signal 9 (Killed)", "failed")]
    #[case::fixed_killed_2_34(
        6,
        "Cannot build '/nix/store/x.drv'.\nReason: builder failed due to signal 9 (Killed).\nOutput paths:\n  /nix/store/y",
        "failed"
    )]
    #[case::fixed_2_8(
        6,
        "builder for '/nix/store/x.drv' failed with exit code 1;\nlast 1 log lines:\n> hi\nFor full logs, run 'nix log /nix/store/x.drv'.",
        "failed"
    )]
    #[case::fixed_2_26(
        6,
        "builder for '/nix/store/x.drv' failed with exit code 1;\nlast 4 log lines:\n> error:\n>        … writing file '/nix/store/y'\n> \n>        error: unable to download 'http://127.0.0.1:1/x': Could not connect to server (7)\nFor full logs, run:\n  nix log /nix/store/x.drv",
        "failed"
    )]
    #[case::fixed_2_34(
        6,
        "Cannot build '/nix/store/x.drv'.\nReason: builder failed with exit code 1.\nOutput paths:\n  /nix/store/y\nLast 1 log lines:\n> hi\nFor full logs, run:\n  nix log /nix/store/x.drv",
        "failed"
    )]
    #[case::disk_full_2_34(
        6,
        "Cannot build '/nix/store/x.drv'.\nReason: builder failed with exit code 1.\nOutput paths:\n  /nix/store/y\nLast 1 log lines:\n> dd: error writing '/nix/store/y': No space left on device\nFor full logs, run:\n  nix log /nix/store/x.drv\nnote: build failure may have been caused by lack of free disk space",
        "disk full"
    )]
    #[case::disk_full_2_8(
        6,
        "builder for '/nix/store/x.drv' failed with exit code 1\nnote: build failure may have been caused by lack of free disk space",
        "disk full"
    )]
    #[case::disk_full_before(9, "error: write of 47 bytes: No space left on device", "disk full")]
    #[case::substituters(
        6,
        "some substitutes for the outputs of derivation '/nix/store/x.drv' failed (usually happens due to networking issues); try '--fallback' to build derivation from source ",
        "machine"
    )]
    #[case::download(
        9,
        "error: unable to download 'https://cache': Timeout was reached (28) Operation timed out after 5001 milliseconds with 0 bytes received",
        "machine"
    )]
    #[case::no_builder_program(
        3,
        "builder for '/nix/store/x.drv' failed with exit code 1;\nlast 1 log lines:\n> error: executing '/bin/sh': Permission denied\nFor full logs, run:\n  nix log /nix/store/x.drv",
        "failed"
    )]
    #[case::no_output_2_34(
        5,
        "builder for '/nix/store/x.drv' failed to produce output path for output 'out' at \"/nix/store/y\"",
        "rejected"
    )]
    #[case::pipe_as_output(9, "error: file '/nix/store/x/f' has an unsupported type", "failed")]
    #[case::setting_up(
        9,
        "error: while setting up the build environment: chroot: Permission denied",
        "machine"
    )]
    #[case::out_of_memory(9, "error: cannot allocate memory", "machine")]
    #[case::disk_full(6, "error: writing to file: No space left on device", "disk full")]
    #[case::disk_full_permanent(
        3,
        "error: opening file '/nix/store/x': No space left on device",
        "disk full"
    )]
    #[case::timeout(
        8,
        "building of '/nix/store/x.drv!out' from in-memory derivation timed out after 1 seconds",
        "timed out"
    )]
    #[case::silence(8, "timed out after 1 seconds of silence", "timed out")]
    #[case::mismatch_2_8(
        5,
        "hash mismatch in fixed-output derivation '/nix/store/x.drv':\n         specified: sha256-a\n            got:    sha256-b",
        "hash mismatch"
    )]
    #[case::mismatch_elsewhere(
        9,
        "hash mismatch in fixed-output derivation '/nix/store/x.drv':",
        "hash mismatch"
    )]
    #[case::output_rejected(
        5,
        "output '/nix/store/x' is not allowed to refer to the following paths:\n  /nix/store/y",
        "rejected"
    )]
    #[case::not_deterministic(
        12,
        "derivation '/nix/store/x.drv' may not be deterministic: output '/nix/store/y' differs",
        "not deterministic"
    )]
    #[case::feature_2_8(
        9,
        "error: a 'x86_64-linux' with features {rocket} is required to build '/nix/store/x.drv', but I am a 'x86_64-linux' with features {kvm}",
        "machine"
    )]
    #[case::feature_2_34(
        9,
        "Cannot build '/nix/store/x.drv'.\nReason: missing system features\nRequired features: {rocket}\nAvailable features: {kvm}",
        "machine"
    )]
    #[case::feature_input_rejected(
        4,
        "Cannot build '/nix/store/x.drv'.\nReason: missing system features\nRequired features: {rocket}",
        "machine"
    )]
    #[case::system_2_34(
        9,
        "Cannot build '/nix/store/x.drv'.\nReason: platform mismatch\nRequired system: 'm68k-linux'\nCurrent system: 'x86_64-linux'",
        "machine"
    )]
    #[case::missing_input_2_8(
        9,
        "error: some dependencies of '/nix/store/x.drv' are missing",
        "machine"
    )]
    #[case::missing_input_2_34(
        10,
        "Cannot build '/nix/store/x.drv'.\nReason: 1 dependency failed.\nOutput paths:\n  /nix/store/y",
        "machine"
    )]
    #[case::input(
        4,
        "dependency '/nix/store/y' of '/nix/store/x.drv' does not exist, and substitution is disabled",
        "machine"
    )]
    #[case::log_limit(
        11,
        "'/nix/store/x.drv' killed after writing more than 10 bytes of log output",
        "log limit"
    )]
    #[case::unknown(9, "error: something that nobody has seen yet", "machine")]
    #[case::no_builder(
        9,
        "Unable to start any build; either increase '--max-jobs' or enable remote builds.",
        "machine"
    )]
    fn results(#[case] status: usize, #[case] words: &str, #[case] expected: &str) {
        let failure = failure(&BuildResult::new(STATUSES[status], words), Asked::Derivation);
        assert_eq!(name(&failure), expected, "{failure:?}");
    }

    /// Where the machine builds dependencies too, it is one of those that failed.
    #[rstest]
    #[case::nix_2_8("1 dependencies of derivation '/nix/store/x.drv' failed to build")]
    #[case::nix_2_34("Cannot build '/nix/store/x.drv'.\nReason: 1 dependency failed.")]
    fn dependencies(#[case] words: &str) {
        let result = BuildResult::new(BuildStatus::DependencyFailed, words);
        assert_eq!(name(&failure(&result, Asked::FromStore)), "failed");
    }

    #[rstest]
    #[case::unprivileged("you are not privileged to build input-addressed derivations", "refused")]
    #[case::unsigned_2_8(
        "cannot add path '/nix/store/x' because it lacks a valid signature",
        "refused"
    )]
    #[case::unsigned(
        "cannot add path '/nix/store/x' because it lacks a signature by a trusted key",
        "refused"
    )]
    #[case::input("error: some dependencies of '/nix/store/x.drv' are missing", "machine")]
    #[case::no_substituter(
        "path '/nix/store/x' is required, but there is no substituter that can build it",
        "machine"
    )]
    #[case::failed_2_26(
        "builder for '/nix/store/x.drv' failed with exit code 3;\n last 1 log lines:\n > x",
        "failed"
    )]
    #[case::timeout("building of '/nix/store/x.drv' timed out after 1 seconds", "timed out")]
    #[case::mismatch(
        "hash mismatch in fixed-output derivation '/nix/store/x.drv':",
        "hash mismatch"
    )]
    #[case::interrupted("interrupted by the user", "machine")]
    #[case::feature(
        "experimental Nix feature 'ca-derivations' is disabled; add '--extra-experimental-features ca-derivations' to enable it",
        "machine"
    )]
    #[case::several("build of '/nix/store/x.drv' failed", "failed")]
    #[case::disk_full("writing to file: No space left on device", "disk full")]
    fn refusals(#[case] words: &str, #[case] expected: &str) {
        let failure = refusal(words.to_owned());
        assert_eq!(name(&failure), expected, "{failure:?}");
    }

    /// By their numbers.
    const STATUSES: [BuildStatus; 13] = [
        BuildStatus::Built,
        BuildStatus::Substituted,
        BuildStatus::AlreadyValid,
        BuildStatus::PermanentFailure,
        BuildStatus::InputRejected,
        BuildStatus::OutputRejected,
        BuildStatus::TransientFailure,
        BuildStatus::CachedFailure,
        BuildStatus::TimedOut,
        BuildStatus::MiscFailure,
        BuildStatus::DependencyFailed,
        BuildStatus::LogLimitExceeded,
        BuildStatus::NotDeterministic,
    ];

    #[rstest]
    #[case::failed(100, "something", "failed")]
    #[case::timed_out(101, "something", "timed out")]
    #[case::mismatch(102, "something", "hash mismatch")]
    #[case::rounds(104, "something", "not deterministic")]
    #[case::unknown(1, "something", "machine")]
    #[case::behind_another(
        1,
        "error: builder for '/nix/store/x.drv' failed with exit code 3",
        "failed"
    )]
    #[case::disk_full(100, "error: writing to file: No space left on device", "disk full")]
    fn exits(#[case] status: u64, #[case] words: &str, #[case] expected: &str) {
        assert_eq!(name(&exited(status, words)), expected);
    }

    fn name(failure: &BuildFailure) -> &'static str {
        match failure {
            BuildFailure::Failed { .. } => "failed",
            BuildFailure::TimedOut { .. } => "timed out",
            BuildFailure::LogLimit { .. } => "log limit",
            BuildFailure::Rejected { .. } => "rejected",
            BuildFailure::HashMismatch { .. } => "hash mismatch",
            BuildFailure::NotDeterministic { .. } => "not deterministic",
            BuildFailure::Hook { .. } => "hook",
            BuildFailure::Machine { disk_full: true, .. } => "disk full",
            BuildFailure::Machine { disk_full: false, .. } => "machine",
            BuildFailure::Refused { .. } => "refused",
        }
    }
}
