//! The private keys that lines name.

use std::path::PathBuf;

use crate::finding::Finding;

/// Bits of a mode by which others than the owner may do something.
const OTHERS: u32 = 0o077;

/// A private key that a line names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFile {
    /// The line.
    pub origin: String,
    /// The file, as it is written.
    pub path: PathBuf,
    /// What was seen of it.
    pub state: KeyState,
}

/// What was seen of a key's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// It is there, and this user may read it.
    Readable {
        /// Its mode.
        mode: u32,
    },
    /// There is none.
    Absent,
    /// It can't be read.
    Unreadable {
        /// Why not.
        reason: String,
    },
}

/// Who has looked at a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader<'a> {
    /// The user of this name, as whom `ssh` runs for builds.
    Ssh(&'a str),
    /// The user of this name, whereas `ssh` runs as root, for Nix's daemon.
    NotSsh(&'a str),
}

/// Says what is wrong with a key.
pub fn judge_key(key: &KeyFile, reader: Reader<'_>) -> Option<Finding> {
    let path = key.path.display();
    match (&key.state, reader) {
        // others than root aren't meant to read it
        (KeyState::Unreadable { .. }, Reader::NotSsh(user)) => Some(
            Finding::hint(
                &key.origin,
                format!(
                    "SSH key '{path}' can't be read by {user}, nor need it be: Nix's daemon reads it as root, \
                     and only root can tell whether it's good"
                ),
            )
            .mended_by("sudo drover doctor shows what root finds"),
        ),
        (state, Reader::Ssh(user) | Reader::NotSsh(user)) => judge_state(key, state, user),
    }
}

fn judge_state(key: &KeyFile, state: &KeyState, reader: &str) -> Option<Finding> {
    let path = key.path.display();
    match state {
        KeyState::Readable { mode } if mode & OTHERS != 0 => Some(Finding::warning(
            &key.origin,
            format!(
                "SSH key '{path}' has mode {:04o}: ssh passes over a key that others may read",
                mode & 0o7777
            ),
            format!("chmod 600 {path}"),
        )),
        KeyState::Readable { .. } => None,
        KeyState::Absent => Some(Finding::warning(
            &key.origin,
            format!(
                "SSH key '{path}' is not there: ssh goes on with the keys that it finds by itself"
            ),
            format!(
                "ssh-keygen -t ed25519 -N '' -f {path}, and put {path}.pub into the machine's authorized_keys"
            ),
        )),
        KeyState::Unreadable { reason } => Some(Finding::warning(
            &key.origin,
            format!("SSH key '{path}' can't be read by {reader}: {reason}"),
            format!("chown {reader} {path} && chmod 600 {path}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::good(KeyState::Readable { mode: 0o100_600 }, None)]
    #[case::loose(
        KeyState::Readable { mode: 0o100_644 },
        Some("SSH key '/k' has mode 0644: ssh passes over a key that others may read"),
    )]
    #[case::absent(
        KeyState::Absent,
        Some("SSH key '/k' is not there: ssh goes on with the keys that it finds by itself")
    )]
    #[case::unreadable(
        KeyState::Unreadable { reason: "Permission denied".to_owned() },
        Some("SSH key '/k' can't be read by alice: Permission denied"),
    )]
    fn keys(#[case] state: KeyState, #[case] expected: Option<&str>) {
        let key = KeyFile { origin: "/m:1".to_owned(), path: "/k".into(), state };
        let finding = judge_key(&key, Reader::Ssh("alice"));
        assert_eq!(finding.as_ref().map(|finding| finding.text.as_str()), expected);
        assert!(finding.is_none_or(|finding| finding.remedy.is_some()));
    }

    /// A key of root's must stay root's.
    #[test]
    fn a_key_for_the_daemon_is_roots_alone() {
        let state = KeyState::Unreadable { reason: "Permission denied".to_owned() };
        let key = KeyFile { origin: "/m:1".to_owned(), path: "/root/k".into(), state };
        let finding = judge_key(&key, Reader::NotSsh("alice")).unwrap();
        assert_eq!(finding.severity, drover_config::Severity::Hint);
        assert!(finding.text.contains("only root can tell"), "{}", finding.text);
        assert!(!finding.remedy.unwrap().contains("chown"));
    }
}
