//! What a daemon for hooks has of the environment of who starts it.
//!
//! A user's own has all of it: his agent and whatever his `ssh` configuration asks for. Root's is there for all
//! builds that root's Nix hands over, and has what Nix's own daemon would have: neither the agent of the user who has
//! called `sudo`, nor his folders, nor the rest of his session.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// What root's daemon keeps: where programs are, what decides which files are read (and so where hooks and daemon
/// meet), and what is said.
const KEPT: [&str; 9] = [
    "PATH",
    "HOME",
    "XDG_CONFIG_HOME",
    "XDG_CONFIG_DIRS",
    "XDG_DATA_HOME",
    "DROVER_LOG",
    "NO_COLOR",
    "LANG",
    "TZ",
];

/// The first word of all that decide which store, settings and machines there are.
const OF_NIX: &[u8] = b"NIX";

/// Files and folders that root's daemon uses if they are root's.
const OF_SESSION: [&str; 3] = ["SSH_AUTH_SOCK", "TMPDIR", "XDG_RUNTIME_DIR"];

/// Whose daemon it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    Roots,
    Users,
}

impl Whose {
    /// Returns whose the daemon is that this process starts.
    pub(super) fn started_here() -> Whose {
        match rustix::process::geteuid().is_root() {
            true => Whose::Roots,
            false => Whose::Users,
        }
    }

    /// Returns the environment that it gets of this one.
    pub(super) fn environment(
        self,
        here: impl Iterator<Item = (OsString, OsString)>,
    ) -> Vec<(OsString, OsString)> {
        here.filter(|(name, value)| self == Whose::Users || is_for_root(name, value)).collect()
    }
}

fn is_for_root(name: &OsStr, value: &OsStr) -> bool {
    let is_roots = || {
        // an agent of his own is a way to log in that root has without Nix's daemon, too
        fs_err::metadata(Path::new(value)).is_ok_and(|found| found.uid() == 0)
    };
    name.as_encoded_bytes().split(|byte| *byte == b'_').next() == Some(OF_NIX)
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
            ("SSH_AUTH_SOCK", "/nowhere"),
            ("TMPDIR", "/"),
            ("SUDO_USER", "alice"),
            ("DISPLAY", ":0"),
        ];
        assert_eq!(names(Whose::Roots, &variables), ["PATH", "NIX_CONFIG", "TMPDIR"]);
        assert_eq!(names(Whose::Users, &variables).len(), variables.len());
    }
}
