//! The host's key is the one that is known.

use data_encoding::{BASE64, BASE64_NOPAD};
use drover_core::{Hash, HashAlgorithm};

use crate::checks::last_words;
use crate::route::{KeyChecking, Route, Target};
use crate::step::Verdict;

/// Where the key that is expected is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// In the user's or the system's `known_hosts`.
    KnownHosts,
    /// In the machine's line.
    Line,
}

/// What is known of the key that a host has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is in `known_hosts`.
    Known,
    /// Another key is there, or the host has shown another one before.
    Changed,
    /// No key of the host is known.
    Unknown,
    /// The connection ended before that was told.
    Untold,
}

/// Returns the fingerprint of a public key (`ssh-ed25519 AAAA…`), as ssh writes it. What ssh has printed
/// while it spoke with somebody is nothing to rely on for that: some of it are the other side's words.
pub fn fingerprint_of(key: &str) -> Option<String> {
    let (kind, rest) = key.split_once(' ')?;
    let encoded = rest.split(' ').next()?;
    let bytes = BASE64.decode(encoded.as_bytes()).ok()?;
    let digest = Hash::of(HashAlgorithm::Sha256, &bytes);
    Some(format!("{kind} SHA256:{}", BASE64_NOPAD.encode(digest.digest())))
}

/// Says what is known of the key with this fingerprint, by what `ssh -v` said while it connected. Only
/// lines count that begin as ssh's own do, and of those the first: it judges the key before the other
/// side can have it print anything of several lines.
pub fn standing(said: &str, print: &str) -> Standing {
    if said.lines().any(|line| line.contains("IDENTIFICATION HAS CHANGED")) {
        return Standing::Changed;
    }
    match fingerprint(said) {
        Some(shown) if shown != print => return Standing::Changed,
        Some(_) => {}
        None => return Standing::Untold,
    }
    let mut lines = said.lines().skip_while(|line| !line.starts_with(SHOWN)).skip(1);
    let told = lines.find_map(|line| {
        if line.starts_with("debug1: Host '") && line.contains("' is known and matches the ") {
            return Some(Standing::Known);
        }
        let fails = line.starts_with("Host key verification failed")
            || line.contains(" host key is known for ");
        fails.then_some(Standing::Unknown)
    });
    told.unwrap_or(Standing::Untold)
}

/// What ssh prints before the fingerprint.
const SHOWN: &str = "debug1: Server host key: ";

/// Returns the fingerprint that `ssh -v` has shown.
pub fn fingerprint(said: &str) -> Option<&str> {
    said.lines().find_map(|line| Some(line.strip_prefix(SHOWN)?.trim()))
}

/// Judges what `ssh -v` said while it connected with `StrictHostKeyChecking=yes`: whether the key is known,
/// and where it isn't, whether builds go on without.
pub fn judge(said: &str, expected: Expected, route: &Route, target: &Target) -> Verdict {
    let shown = fingerprint(said).unwrap_or("a key").to_owned();
    let (host, port) = (&route.host, route.port);
    let scan = format!("ssh-keyscan -p {port} {host}");
    let fails = said.contains("Host key verification failed")
        || said.contains("host key is known for")
        || said.contains("IDENTIFICATION HAS CHANGED");
    if !fails {
        let is_past =
            ["is known and matches", "Permanently added", "Permission denied", "Authenticated to"];
        return match is_past.iter().any(|words| said.contains(words)) {
            true => Verdict::good(format!("{shown} is the one that is known")),
            false => Verdict::wrong(
                format!("ssh can't connect: {}", last_words(said)),
                target.ssh("-v true"),
            ),
        };
    }
    let known = match said.contains("IDENTIFICATION HAS CHANGED") {
        true => Known::AnotherKey,
        false => Known::NoKey,
    };
    if expected == Expected::KnownHosts
        && let Some(verdict) = taken_all_the_same(&shown, known, route, &scan)
    {
        return verdict;
    }
    match (expected, known) {
        (Expected::Line, _) => Verdict::wrong(
            format!("{host} shows {shown}, which is not the key in column 8 of its line"),
            format!(
                "compare, then put this into column 8: {scan} 2>/dev/null | grep ed25519 | cut -d' ' -f2- | base64 -w0"
            ),
        ),
        (Expected::KnownHosts, Known::AnotherKey) => Verdict::wrong(
            format!("{host} shows {shown}, which is another key than the one that is known"),
            format!(
                "find out why it has changed; then: ssh-keygen -R {host} && {scan} >> ~/.ssh/known_hosts"
            ),
        ),
        (Expected::KnownHosts, Known::NoKey) => Verdict::wrong(
            format!("{host} shows {shown}, and no key of it is known"),
            format!(
                "compare the fingerprint with the machine's own, then: {scan} >> ~/.ssh/known_hosts (root's, for Nix's daemon)"
            ),
        ),
    }
}

/// What is known of a machine whose key isn't the known one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    AnotherKey,
    NoKey,
}

/// Says of a key that isn't the known one that `ssh` takes it for builds all the same, where it does.
fn taken_all_the_same(shown: &str, known: Known, route: &Route, scan: &str) -> Option<Verdict> {
    let Route { host, checking, .. } = route;
    let what = match (checking, known) {
        (KeyChecking::Strict, _) | (KeyChecking::AcceptNew, Known::AnotherKey) => return None,
        (KeyChecking::AcceptNew | KeyChecking::Off, Known::NoKey) => "no key of it is known",
        (KeyChecking::Off, Known::AnotherKey) => "another key of it is known",
    };
    let told = checking.as_str();
    Some(Verdict::odd(
        format!(
            "{host} shows {shown}, and {what}: ssh goes on whoever that is, as StrictHostKeyChecking is {told}"
        ),
        format!(
            "compare the fingerprint with the machine's own, then: {scan} >> ~/.ssh/known_hosts (root's, for Nix's \
             daemon), and take StrictHostKeyChecking out of ssh's configuration"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::step::Grade;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGHVlR3ALXclIQCPAwwon+dxFEY1Pvb+/aM89m1Q3um5 b1";

    #[test]
    fn a_fingerprint_is_that_of_the_key() {
        // as ssh-keygen -l says of it
        let print = "ssh-ed25519 SHA256:PKMdfF7yvKgV+sVUgfZSqZRsWGZTi+I/ogI671MWUsE";
        assert_eq!(fingerprint_of(KEY).as_deref(), Some(print));
        assert_eq!(fingerprint_of("ssh-ed25519"), None);
        assert_eq!(fingerprint_of("ssh-ed25519 not/base64!"), None);
    }

    #[rstest]
    #[case::known(
        "debug1: Server host key: k SHA256:a\ndebug1: Host 'h' is known and matches the ED25519 host key.\n",
        Standing::Known
    )]
    #[case::unknown(
        "debug1: Server host key: k SHA256:a\nNo ED25519 host key is known for h and you have requested strict checking.\nHost key verification failed.\n",
        Standing::Unknown
    )]
    #[case::another_key_than_before(
        "debug1: Server host key: k SHA256:b\ndebug1: Host 'h' is known and matches the ED25519 host key.\n",
        Standing::Changed
    )]
    #[case::changed(
        "debug1: Server host key: k SHA256:a\n@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\n",
        Standing::Changed
    )]
    // the other side's words, before any key is shown
    #[case::in_its_version(
        "debug1: Remote protocol version 2.0, remote software version x debug1: Server host key: k SHA256:a\ndebug1: Remote software Permission denied, is known and matches the \n",
        Standing::Untold
    )]
    #[case::cut("debug1: Server host key: k SHA256:a\nConnection closed by h\n", Standing::Untold)]
    #[case::nothing("ssh: connect to host h port 22: Connection refused\n", Standing::Untold)]
    fn only_what_ssh_itself_says_counts(#[case] said: &str, #[case] expected: Standing) {
        assert_eq!(standing(said, "k SHA256:a"), expected);
    }

    const UNKNOWN: &str = "debug1: Server host key: k SHA256:a\nNo ED25519 host key is known for h and you have \
                           requested strict checking.\nHost key verification failed.\n";
    const CHANGED: &str = "debug1: Server host key: k SHA256:a\n\
                           @    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\n\
                           Host key verification failed.\n";

    /// A key that nobody knows isn't the one that is known, whatever ssh does with it.
    #[rstest]
    #[case::new(UNKNOWN, KeyChecking::AcceptNew, Grade::Odd, "no key of it is known")]
    #[case::off(UNKNOWN, KeyChecking::Off, Grade::Odd, "StrictHostKeyChecking is no")]
    #[case::strict(UNKNOWN, KeyChecking::Strict, Grade::Wrong, "no key of it is known")]
    #[case::changed(CHANGED, KeyChecking::AcceptNew, Grade::Wrong, "another key than the one")]
    #[case::changed_and_off(CHANGED, KeyChecking::Off, Grade::Odd, "another key of it is known")]
    fn what_is_not_known_is_told(
        #[case] said: &str,
        #[case] checking: KeyChecking,
        #[case] grade: Grade,
        #[case] words: &str,
    ) {
        let route = Route { host: "h".to_owned(), port: 22, checking, ..Route::default() };
        let verdict = judge(said, Expected::KnownHosts, &route, &Target::default());
        assert_eq!(verdict.grade, grade);
        assert!(verdict.text.contains(words), "{}", verdict.text);
    }
}
