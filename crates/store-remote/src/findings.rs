//! What a server finds wrong with its store, from what it says while it looks.
//!
//! The protocol tells only whether errors are left; the rest are lines for people, as
//! `verifyStore` in `src/libstore/local-store.cc` of Nix prints them.

use std::sync::{Arc, Mutex, PoisonError};

use drover_store::{BuildLog, LogEvent};

/// Lines that are kept.
const MAX_LINES: usize = 100_000;

/// Tells what is wrong from what only says how far it has come, which goes on to the user.
pub(crate) struct Findings {
    notes: Arc<dyn BuildLog>,
    found: Mutex<Vec<String>>,
}

impl Findings {
    pub(crate) fn new(notes: Arc<dyn BuildLog>) -> Findings {
        Findings { notes, found: Mutex::default() }
    }

    /// Returns what was found.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.found.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whether a line only says how far it has come.
fn is_progress(line: &str) -> bool {
    let begins = ["reading ", "checking "].iter().any(|verb| line.starts_with(verb));
    begins && line.ends_with("...")
}

impl BuildLog for Findings {
    fn event(&self, event: LogEvent) {
        let LogEvent::Message(message) = event else { return self.notes.event(event) };
        for line in message.lines().filter(|line| !line.is_empty()) {
            if is_progress(line) {
                self.notes.event(LogEvent::Message(line.to_owned()));
                continue;
            }
            let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
            if found.len() < MAX_LINES {
                found.push(line.strip_prefix("error: ").unwrap_or(line).to_owned());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use drover_store::SilentLog;

    use super::*;

    #[test]
    fn progress_is_no_problem() {
        let findings = Findings::new(Arc::new(SilentLog));
        for line in ["reading the Nix store...", "checking store hashes...", "error: path 'x' …\ny"]
        {
            findings.event(LogEvent::Message(line.to_owned()));
        }
        assert_eq!(findings.take(), ["path 'x' …", "y"]);
    }
}
