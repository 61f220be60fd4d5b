//! What a daemon for hooks has of the environment of who starts it.
//!
//! A user's own has all of it: his agent and whatever his `ssh` configuration asks for. Root's is there for all
//! builds that root's Nix hands over. Where a service or root himself starts it, it has all of it, too; where a user
//! has called `sudo`, it has what Nix's own daemon would have: neither the user's agent, nor his folders, nor the rest
//! of his session.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// What root's daemon keeps of a user's: where programs are, what decides which files are read (and so where hooks
/// and daemon meet), how others are reached, and what is said.
const KEPT: [&str; 11] = [
    "PATH",
    "HOME",
    "XDG_CONFIG_HOME",
    "XDG_CONFIG_DIRS",
    "XDG_DATA_HOME",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "DROVER_LOG",
    "NO_COLOR",
    "LANG",
    "TZ",
];

/// The first word of all that decide which store, settings and machines there are.
const OF_NIX: &[u8] = b"NIX";

/// How the last word of all ends that say through which server others are reached.
const OF_PROXIES: [&[u8]; 2] = [b"proxy", b"PROXY"];

/// By which a user is seen who has become root.
const OF_CALLERS: [&str; 4] = ["SUDO_USER", "SUDO_UID", "DOAS_USER", "PKEXEC_UID"];

/// Files and folders that root's daemon uses if they are root's.
const OF_SESSION: [&str; 3] = ["SSH_AUTH_SOCK", "TMPDIR", "XDG_RUNTIME_DIR"];

/// Whose daemon it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// Root's, as a user calls it.
    RootsByUser,
    /// Who calls it has it.
    Callers,
}

impl Whose {
    /// Returns whose the daemon is that this process starts.
    pub(super) fn started_here() -> Whose {
        let by_user = OF_CALLERS.iter().any(|name| std::env::var_os(name).is_some());
        match rustix::process::geteuid().is_root() && by_user {
            true => Whose::RootsByUser,
            false => Whose::Callers,
        }
    }

    /// Returns the environment that it gets of this one.
    pub(super) fn environment(
        self,
        here: impl Iterator<Item = (OsString, OsString)>,
    ) -> Vec<(OsString, OsString)> {
        here.filter(|(name, value)| self == Whose::Callers || is_for_root(name, value)).collect()
    }
}

fn is_for_root(name: &OsStr, value: &OsStr) -> bool {
    let is_roots = || {
        // an agent of his own is a way to log in that root has without Nix's daemon, too
        fs_err::metadata(Path::new(value)).is_ok_and(|found| found.uid() == 0)
    };
    let mut words = name.as_encoded_bytes().split(|byte| *byte == b'_');
    let (first, last) = (words.clone().next(), words.next_back().unwrap_or_default());
    first == Some(OF_NIX)
        || OF_PROXIES.contains(&last)
        || KEPT.iter().any(|kept| name == *kept)
        || (OF_SESSION.iter().any(|other| name == *other) && is_roots())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(whose: Whose, variables: &[(&str, &str)]) -> Vec<String> {
        let here = variables.iter().map(|(name, value)| (OsString::from(name), value.into()));
        let kept = whose.environment(here);
        kept.into_iter().map(|(name, _)| name.into_string().unwrap()).collect()
    }

    #[test]
    fn roots_daemon_has_nothing_of_a_users_session() {
        let variables = [
            ("PATH", "/bin"),
            ("NIX_CONFIG", "max-jobs = 1"),
            ("https_proxy", "http://proxy:3128"),
            ("SSH_AUTH_SOCK", "/nowhere"),
            ("TMPDIR", "/nowhere"),
            ("SUDO_USER", "alice"),
            ("DISPLAY", ":0"),
        ];
        let kept = ["PATH", "NIX_CONFIG", "https_proxy"];
        assert_eq!(names(Whose::RootsByUser, &variables), kept);
        assert_eq!(names(Whose::Callers, &variables).len(), variables.len());
    }
}
