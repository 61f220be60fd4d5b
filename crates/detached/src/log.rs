//! What a detached build says: the newest of it, each with a number.
//!
//! Invariant: no more is kept than was said when it was made, however much comes.

use std::collections::VecDeque;

use drover_core::{StorePath, without_raw};
use drover_store::RealiseEvent;

/// Bytes of one line that are kept.
const LINE: usize = 4096;
/// Bytes that each takes beside its text, about.
const OVERHEAD: usize = 128;
/// Bytes of lines that are handed out at once.
const ANSWER: usize = 128 * 1024;

/// Something that was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// A derivation waits for a machine.
    Waiting {
        /// Which.
        derivation: StorePath,
        /// Why.
        reason: String,
    },
    /// A derivation is being built.
    Started {
        /// Which.
        derivation: StorePath,
        /// Where; empty for the daemon's own machine.
        machine: String,
    },
    /// A line of a build's own output.
    Line {
        /// Of which derivation.
        derivation: StorePath,
        /// The line, its first 4 KiB.
        line: String,
    },
    /// The phase that a build is in.
    Phase {
        /// Of which derivation.
        derivation: StorePath,
        /// The phase.
        phase: String,
    },
    /// Something that the user should know.
    Note(String),
}

impl Said {
    /// Returns what is kept of an event, if anything is.
    fn of(event: RealiseEvent) -> Option<Said> {
        Some(match event {
            RealiseEvent::Waiting { derivation, reason } => {
                Said::Waiting { derivation, reason: cut(reason) }
            }
            RealiseEvent::Started { derivation, machine } => {
                Said::Started { derivation, machine: cut(machine) }
            }
            RealiseEvent::Line { derivation, line } => {
                Said::Line { derivation, line: cut(without_raw(&line).into_owned()) }
            }
            RealiseEvent::Phase { derivation, phase } => {
                Said::Phase { derivation, phase: cut(phase) }
            }
            RealiseEvent::Note(text) => Said::Note(cut(text)),
            RealiseEvent::Ended { .. } | RealiseEvent::Failed { .. } | RealiseEvent::Fetch(_) => {
                return None;
            }
        })
    }

    fn text(&self) -> &str {
        match self {
            Said::Waiting { reason: text, .. }
            | Said::Started { machine: text, .. }
            | Said::Line { line: text, .. }
            | Said::Phase { phase: text, .. }
            | Said::Note(text) => text,
        }
    }

    fn weight(&self) -> usize {
        self.text().len() + OVERHEAD
    }
}

/// Returns the beginning of a text.
fn cut(mut text: String) -> String {
    if text.len() > LINE {
        let end = (0..=LINE).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
        text.shrink_to_fit();
    }
    text
}

/// The newest of what was said.
#[derive(Debug)]
pub(crate) struct Log {
    kept: VecDeque<Said>,
    /// The number of the first that is kept.
    first: u64,
    weight: usize,
    most: usize,
}

/// A part of what was said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Part {
    /// How many that were asked for are not kept any more.
    pub(crate) dropped: u64,
    pub(crate) said: Vec<Said>,
    /// The number of the next.
    pub(crate) next: u64,
    /// Whether this is all that there is.
    pub(crate) is_all: bool,
}

impl Log {
    pub(crate) fn new(most: usize) -> Log {
        Log { kept: VecDeque::new(), first: 0, weight: 0, most }
    }

    /// Keeps what an event says; whether it says anything.
    pub(crate) fn push(&mut self, event: RealiseEvent) -> bool {
        let Some(said) = Said::of(event) else { return false };
        self.weight += said.weight();
        self.kept.push_back(said);
        while self.weight > self.most
            && let Some(oldest) = self.kept.pop_front()
        {
            self.weight -= oldest.weight();
            self.first += 1;
        }
        true
    }

    /// Returns what was said from a number on, as much of it as is handed out at once.
    pub(crate) fn from(&self, from: u64) -> Part {
        let end = self.first + self.kept.len() as u64;
        let from = from.min(end);
        let begin = from.max(self.first);
        let skipped = usize::try_from(begin - self.first).unwrap_or(usize::MAX);
        let mut room = ANSWER;
        let mut said = Vec::new();
        for one in self.kept.iter().skip(skipped) {
            said.push(one.clone());
            room = room.saturating_sub(one.weight());
            if room == 0 {
                break;
            }
        }
        let next = begin + said.len() as u64;
        Part { dropped: begin - from, said, next, is_all: next == end }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(text: &str) -> RealiseEvent {
        RealiseEvent::Note(text.to_owned())
    }

    #[test]
    fn the_newest_is_kept_and_the_rest_counted() {
        let mut log = Log::new(3 * (OVERHEAD + 1));
        for text in ["a", "b", "c", "d", "e"] {
            assert!(log.push(note(text)));
        }
        let texts =
            |part: &Part| part.said.iter().map(|said| said.text().to_owned()).collect::<String>();
        let part = log.from(0);
        assert_eq!((part.dropped, texts(&part).as_str(), part.next), (2, "cde", 5));
        let part = log.from(4);
        assert_eq!((part.dropped, texts(&part).as_str(), part.is_all), (0, "e", true));
        // a number that was never given
        assert_eq!(log.from(77), Part { dropped: 0, said: Vec::new(), next: 5, is_all: true });
    }

    #[test]
    fn what_is_long_is_cut_and_what_is_much_comes_in_parts() {
        let mut log = Log::new(1 << 20);
        log.push(note(&"é".repeat(LINE)));
        assert!(log.from(0).said.first().unwrap().text().len() <= LINE + 3);
        for _ in 0..100 {
            log.push(note(&"x".repeat(LINE)));
        }
        let first = log.from(0);
        assert!(!first.is_all && first.said.len() < 40, "{}", first.said.len());
        let (mut next, mut seen) = (0, 0);
        while next < 101 {
            let part = log.from(next);
            assert!(part.next > next);
            seen += part.said.len();
            next = part.next;
        }
        assert_eq!(seen, 101);
    }
}
