//! What other programs say in words alone, as there is no number for it: Nix 2.3 to 2.34, and what runs
//! before a server does.
//!
//! All phrases that are looked for are here. What drover itself finds out it tells by types
//! ([`Refusal`](crate::Refusal), [`FailureCause`]), and never finds out from its own words.

use crate::error::Refusal;
use crate::failure::FailureCause;

/// A store doesn't take it from us, whatever it is.
const DISTRUST: &[&str] =
    &["you are not privileged to", "lacks a signature by a trusted key", "lacks a valid signature"];

/// A daemon has no dealings with us.
const STRANGER: &[&str] = &["not allowed to connect"];

/// A machine is out of space. Nix looks for that itself when a build fails, and notes it below the failure.
const NO_ROOM: &[&str] = &[
    "no space left on device",
    "disk quota exceeded",
    "lack of free disk space",
    "database or disk is full",
];

/// A machine will answer in a moment: SQLite where many programs open a new store at once, and pam_nologin(8).
const UNREADY: &[&str] = &["db.sqlite' is busy", "database is locked", "system is booting up"];

/// The machine can't build it, now or ever; another may.
const MACHINE: &[&str] = &[
    "experimental nix feature",
    "does not exist, and substitution is disabled",
    "some dependencies of",
    "some substitutes for the outputs",
    "cannot build missing derivation",
    NOBODY_HAS_IT,
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

/// The machine builds for other systems, or has other features, than was said of it.
const UNFIT: &[&str] = &[
    "is required to build '",
    "platform mismatch",
    "required system:",
    "required (system, features)",
    "missing system features",
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

/// Said of all that did not come from substituters, whatever the reason.
const NOBODY_HAS_IT: &str = "there is no substituter that can build it";

/// Says why a store refuses something.
pub fn refusal_said(message: &str) -> Refusal {
    let own = own_words(message);
    let has = |words| has(&own, words);
    if has(DISTRUST) {
        Refusal::Distrust
    } else if has(NO_ROOM) {
        Refusal::NoRoom
    } else if has(STRANGER) {
        Refusal::Stranger
    } else if has(UNREADY) {
        Refusal::Unready
    } else {
        Refusal::Other
    }
}

/// Says why a build failed, if its words say anything of it.
pub fn failure_said(message: &str) -> Option<FailureCause> {
    let own = own_words(message);
    let has = |words| has(&own, words);
    Some(if has(&["hash mismatch in fixed-output derivation"]) {
        FailureCause::HashMismatch
    } else if timed_out(&own) {
        FailureCause::TimedOut
    } else if has(&["may not be deterministic"]) {
        FailureCause::NotDeterministic
    } else if has(DISTRUST) {
        FailureCause::Refused
    } else if has(NO_ROOM) {
        FailureCause::NoRoom
    } else if has(MACHINE) || has(UNFIT) {
        FailureCause::Machine
    } else if has(FAILED) || (has(&["build of '"]) && has(&["' failed"])) {
        FailureCause::Build
    } else {
        return None;
    })
}

/// Whether a machine that couldn't build something can't build anything of the kind.
pub fn says_unfit(message: &str) -> bool {
    has(&own_words(message), UNFIT)
}

/// Whether a machine that says this will answer in a moment.
pub fn says_unready(message: &str) -> bool {
    has(&own_words(message), UNREADY)
}

/// Whether that is what is wrong with outputs that can't be taken. Nix has one status for all of it.
pub fn says_another_hash(message: &str) -> bool {
    has(&own_words(message), &["hash mismatch"])
}

/// Whether a message of a store that fetches something tells why it can't.
pub fn says_why_it_is_not_fetched(message: &str) -> bool {
    let own = own_words(message);
    has(&own, &["error", "warning"]) && !has(&own, &[NOBODY_HAS_IT])
}

/// Whether what a substituter offered turned out not to be there.
pub fn says_absent(message: &str) -> bool {
    has(&own_words(message), &["does not exist in binary cache"])
}

/// Whether it is the build that took too long, rather than a download.
fn timed_out(own: &str) -> bool {
    own.contains("timed out after") && !own.contains("milliseconds")
}

/// Returns what a program itself says, in small letters: without the lines of a build's log (`> …`), which
/// Nix puts among its words. A build may print anything.
fn own_words(message: &str) -> String {
    let own = message.lines().filter(|line| !line.trim_start().starts_with('>'));
    own.flat_map(|line| [line, "\n"]).collect::<String>().to_lowercase()
}

fn has(own: &str, words: &[&str]) -> bool {
    words.iter().any(|word| own.contains(word))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::stranger("user 'alice' is not allowed to connect to the Nix daemon", Refusal::Stranger)]
    #[case::unsigned_2_8(
        "cannot add path '/nix/store/x' because it lacks a valid signature",
        Refusal::Distrust
    )]
    #[case::unsigned(
        "cannot add path '/nix/store/x' because it lacks a signature by a trusted key",
        Refusal::Distrust
    )]
    #[case::unprivileged(
        "you are not privileged to build input-addressed derivations",
        Refusal::Distrust
    )]
    #[case::full("writing to file: No space left on device", Refusal::NoRoom)]
    #[case::quota("writing to file '/nix/store/x': Disk quota exceeded", Refusal::NoRoom)]
    #[case::full_database("executing SQLite query: database or disk is full", Refusal::NoRoom)]
    #[case::locked("database is locked", Refusal::Unready)]
    #[case::busy("SQLite database '/d/db.sqlite' is busy", Refusal::Unready)]
    #[case::log("builder failed;\n> No space left on device", Refusal::Other)]
    #[case::other("path '/nix/store/x' is not valid", Refusal::Other)]
    fn refusals(#[case] words: &str, #[case] expected: Refusal) {
        assert_eq!(refusal_said(words), expected);
    }

    #[rstest]
    #[case::booting(
        "\"System is booting up. Unprivileged users are not permitted to log in yet.\"",
        true
    )]
    #[case::other("Connection refused", false)]
    fn machines_that_are_unready(#[case] words: &str, #[case] expected: bool) {
        assert_eq!(says_unready(words), expected);
    }
}
