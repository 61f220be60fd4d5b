//! Errors of a connection, before they are told as those of a store.

use drover_store::StoreError;
use drover_wire::DecodeError;

use crate::failure::is_refusal;
use crate::stderr::StderrTail;

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
        match last.filter(|last| is_refusal(last)) {
            Some(last) => {
                StoreError::Refused { store: self.name.clone(), message: last.to_owned() }
            }
            None => self.lost("it closed the connection"),
        }
    }

    fn with_last_words(&self, reason: impl Into<String>) -> String {
        let reason = reason.into();
        match self.stderr.text() {
            Some(words) => format!("{reason}; it said: {words}"),
            None => reason,
        }
    }
}
