//! Errors of a connection, before they are told as those of a store.

use std::io;

use drover_store::{Refusal, StoreError, refusal_said};
use drover_wire::DecodeError;
use rustix::io::Errno;
use rustix::process::Resource;

use crate::stderr::StderrTail;

/// Bytes of its last words that an error has.
const WORDS: usize = 1000;

/// Who is at the other end, for messages.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// How the user calls the store.
    pub(crate) name: String,
    /// What was run there, for "did not speak the protocol".
    pub(crate) command: String,
    /// What it wrote to its standard error.
    pub(crate) stderr: StderrTail,
}

impl Peer {
    /// Returns the error of a connection that never came about.
    pub(crate) fn unreachable(&self, reason: impl Into<String>) -> StoreError {
        StoreError::Unreachable { store: self.name.clone(), reason: self.with_last_words(reason) }
    }

    /// Returns the error of a step towards a connection that the system of this machine didn't take.
    pub(crate) fn not_begun(&self, what: &str, error: &io::Error) -> StoreError {
        match own_limit(error) {
            Some(reason) => StoreError::OwnLimit { store: self.name.clone(), reason },
            None => self.unreachable(format!("{what}: {error}")),
        }
    }

    /// Returns the error of a program that isn't where it was looked for.
    pub(crate) fn no_program(&self, said: &str) -> StoreError {
        let reason = format!(
            "'{}' could not be run there ({said}); is Nix installed, and on the PATH of a shell \
             that is no login shell? Otherwise say where it is with '?remote-program=/path/to/it' \
             behind the address",
            self.command
        );
        StoreError::Unreachable { store: self.name.clone(), reason }
    }

    /// Returns the error of a peer that spoke, but not the protocol.
    pub(crate) fn protocol(&self, error: &DecodeError) -> StoreError {
        StoreError::Protocol { store: self.name.clone(), reason: error.to_string() }
    }

    /// Returns the error of a connection that ended.
    pub(crate) fn lost(&self, reason: impl Into<String>) -> StoreError {
        StoreError::Lost { store: self.name.clone(), reason: self.with_last_words(reason) }
    }

    /// Returns the error of a connection that the peer ended. In the serve protocol that is how a
    /// server says that it doesn't take something: with its last words.
    pub(crate) fn ended(&self) -> StoreError {
        let words = self.stderr.text().unwrap_or_default();
        // what comes before may be the log of a build
        let last = words.rfind("error:").and_then(|at| words.get(at..));
        match last.filter(|last| refusal_said(last) == Refusal::Distrust) {
            Some(last) => StoreError::said(&self.name, last),
            None => self.lost("it closed the connection"),
        }
    }

    fn with_last_words(&self, reason: impl Into<String>) -> String {
        let reason = reason.into();
        match self.stderr.text() {
            Some(words) => format!("{reason}; it said: {}", last(&words)),
            None => reason,
        }
    }
}

/// Returns the end of what was said, where the reason mostly is.
fn last(words: &str) -> String {
    let cut = words.len().saturating_sub(WORDS);
    match words.char_indices().find(|(at, _)| cut <= *at).filter(|(at, _)| *at > 0) {
        Some((at, _)) => format!("… {}", words.get(at..).unwrap_or_default().trim_start()),
        None => words.to_owned(),
    }
}

/// Returns which limit of this machine an error is about, if it is about one.
pub(crate) fn own_limit(error: &io::Error) -> Option<String> {
    let limit = |resource| rustix::process::getrlimit(resource).current;
    match Errno::from_io_error(error)? {
        Errno::MFILE => {
            let files = limit(Resource::Nofile).map_or("…".to_owned(), |files| files.to_string());
            Some(format!(
                "{error}: this process may have {files} files open (ulimit -n); raise that limit, or have \
                 fewer machines and slots"
            ))
        }
        Errno::NFILE => {
            Some(format!("{error}: all programs of this machine together (sysctl fs.file-max)"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_this_machine_is_named() {
        let too_many = io::Error::from(Errno::MFILE);
        let peer = Peer { name: "b2".into(), command: "ssh".into(), stderr: StderrTail::default() };
        let error = peer.not_begun("ssh could not be run", &too_many);
        assert!(matches!(error, StoreError::OwnLimit { .. }), "{error:?}");
        assert!(error.to_string().contains("ulimit -n"), "{error}");
        let error = peer.not_begun("ssh could not be run", &io::Error::from(Errno::ACCESS));
        assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
    }

    #[test]
    fn long_words_are_told_by_their_end() {
        assert_eq!(last("short"), "short");
        let told = last(&format!("{}; the reason", "ö".repeat(WORDS)));
        assert!(told.starts_with("… ö") && told.ends_with("; the reason"), "{told}");
        assert!(told.len() < WORDS + 10);
    }
}
