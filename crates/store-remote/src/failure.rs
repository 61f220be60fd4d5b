//! Whose failure it is when a build fails: the build's own, the machine's, or a refusal.
//!
//! The status says it where it can. Where it is of the kind "something went wrong", or where the
//! server raised an error instead of answering, its words have to do; they are those of Nix 2.3 to
//! 2.34, see the tests. Lines of the build's own log, which Nix puts behind its words, are not
//! looked at: a build may print anything.

use drover_store::BuildFailure;
use drover_wire::{BuildResult, BuildStatus};

/// Turns a failed result into a failure that says whose it is.
pub(crate) fn failure(result: &BuildResult) -> BuildFailure {
    let message = crate::log::plain_text(&result.error);
    match result.status {
        BuildStatus::TimedOut => BuildFailure::TimedOut { message },
        BuildStatus::NotDeterministic => BuildFailure::NotDeterministic { message },
        BuildStatus::LogLimitExceeded | BuildStatus::CachedFailure => {
            BuildFailure::Failed { message }
        }
        BuildStatus::TransientFailure | BuildStatus::NoSubstituters => machine(message),
        BuildStatus::PermanentFailure
        | BuildStatus::OutputRejected
        | BuildStatus::DependencyFailed => {
            by_words(message, |message| BuildFailure::Failed { message })
        }
        _ => by_words(message, machine),
    }
}

/// Turns an error that the server raised instead of answering into a failure.
pub(crate) fn refusal(message: String) -> BuildFailure {
    by_words(message, machine)
}

/// The machine doesn't take it from us, whatever it is.
const REFUSED: &[&str] = &[
    "you are not privileged to",
    "lacks a signature by a trusted key",
    "lacks a valid signature",
    "is a restricted setting",
    "experimental nix feature",
];

/// The machine can't, now or ever; another may.
const MACHINE: &[&str] = &[
    "no space left on device",
    "disk quota exceeded",
    "does not exist, and substitution is disabled",
    "some dependencies of",
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
    "killed by signal 9",
    "failed due to signal 9",
];

/// The build itself failed, and would again.
const FAILED: &[&str] = &[
    "failed with exit code",
    "failed due to signal",
    "failed to produce output path",
    "failed to build",
    "builder failed",
    "dependency failed",
    "dependencies failed",
    "failed due to failed dependency",
];

fn by_words(message: String, otherwise: fn(String) -> BuildFailure) -> BuildFailure {
    let own = own_words(&message);
    let has = |words: &[&str]| words.iter().any(|word| own.contains(word));
    if has(&["hash mismatch in fixed-output derivation"]) {
        BuildFailure::HashMismatch { message }
    } else if has(&["timed out after"]) {
        BuildFailure::TimedOut { message }
    } else if has(&["may not be deterministic"]) {
        BuildFailure::NotDeterministic { message }
    } else if has(REFUSED) {
        BuildFailure::Refused { message }
    } else if has(MACHINE) {
        machine(message)
    } else if has(FAILED) {
        BuildFailure::Failed { message }
    } else {
        otherwise(message)
    }
}

fn machine(message: String) -> BuildFailure {
    let own = own_words(&message);
    let disk_full = own.contains("no space left on device") || own.contains("disk quota exceeded");
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
    #[case::killed(3, "builder for '/nix/store/x.drv' failed due to signal 9 (Killed)", "machine")]
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
        "failed"
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
    #[case::system_2_34(
        9,
        "Cannot build '/nix/store/x.drv'.\nReason: platform mismatch\nRequired system: 'm68k-linux'\nCurrent system: 'x86_64-linux'",
        "machine"
    )]
    #[case::dependency_2_8(
        10,
        "1 dependencies of derivation '/nix/store/x.drv' failed to build",
        "failed"
    )]
    #[case::dependency_2_34(
        10,
        "Cannot build '/nix/store/x.drv'.\nReason: 1 dependency failed.",
        "failed"
    )]
    #[case::input(
        4,
        "dependency '/nix/store/y' of '/nix/store/x.drv' does not exist, and substitution is disabled",
        "machine"
    )]
    #[case::log_limit(
        11,
        "'/nix/store/x.drv' killed after writing more than 10 bytes of log output",
        "failed"
    )]
    #[case::unknown(9, "executing '/bin/sh': Permission denied", "machine")]
    #[case::no_builder(
        9,
        "Unable to start any build; either increase '--max-jobs' or enable remote builds.",
        "machine"
    )]
    fn results(#[case] status: usize, #[case] words: &str, #[case] expected: &str) {
        let status = [
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
        ][status];
        let failure = failure(&BuildResult::new(status, words));
        assert_eq!(name(&failure), expected, "{failure:?}");
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
    fn refusals(#[case] words: &str, #[case] expected: &str) {
        let failure = refusal(words.to_owned());
        assert_eq!(name(&failure), expected, "{failure:?}");
    }

    fn name(failure: &BuildFailure) -> &'static str {
        match failure {
            BuildFailure::Failed { .. } => "failed",
            BuildFailure::TimedOut { .. } => "timed out",
            BuildFailure::HashMismatch { .. } => "hash mismatch",
            BuildFailure::NotDeterministic { .. } => "not deterministic",
            BuildFailure::Machine { disk_full: true, .. } => "disk full",
            BuildFailure::Machine { disk_full: false, .. } => "machine",
            BuildFailure::Refused { .. } => "refused",
        }
    }
}
