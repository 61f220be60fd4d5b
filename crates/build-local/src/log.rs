//! What a build says: line by line to the caller, byte by byte to its log.
//!
//! Follows `DerivationBuildingGoal::handleChildOutput` and `flushLine` of Nix
//! (`src/libstore/build/derivation-building-goal.cc`): a carriage return begins the line anew, over
//! what stands there, and lines that begin with `@nix ` are messages for tools.

use std::collections::VecDeque;
use std::sync::Arc;

use drover_store::{BuildLog, LogEvent};
use serde_json::Value;

/// Bytes of a line after which it's told, whether it has ended or not.
const LONG: usize = 1 << 20;

/// What a build says, on its way to the caller.
pub(crate) struct Lines {
    to: Arc<dyn BuildLog>,
    /// The line that has not ended.
    line: Vec<u8>,
    /// The last lines, and how many of them are kept.
    tail: VecDeque<String>,
    keep: usize,
}

impl Lines {
    /// Lines that go to `to`, of which the last `keep` are remembered.
    pub(crate) fn new(to: Arc<dyn BuildLog>, keep: usize) -> Lines {
        Lines { to, line: Vec::new(), tail: VecDeque::new(), keep }
    }

    /// Returns the last lines.
    pub(crate) fn into_tail(self) -> Vec<String> {
        self.tail.into()
    }

    pub(crate) fn take(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(end);
            self.line.extend_from_slice(line);
            self.end_line();
            bytes = rest.get(1..).unwrap_or_default();
        }
        self.line.extend_from_slice(bytes);
        if LONG < self.line.len() {
            self.line = overlaid(&self.line);
            if LONG < self.line.len() {
                self.end_line();
            }
        }
    }

    /// Tells what has no end.
    pub(crate) fn finish(&mut self) {
        if !self.line.is_empty() {
            self.end_line();
        }
    }

    fn end_line(&mut self) {
        let line = match self.line.contains(&b'\r') {
            true => overlaid(&self.line),
            false => std::mem::take(&mut self.line),
        };
        self.line.clear();
        let event = match line.strip_prefix(b"@nix ").and_then(message) {
            Some(event) => event,
            None => LogEvent::Line(String::from_utf8_lossy(&line).into_owned()),
        };
        if let LogEvent::Line(line) = &event {
            self.tail.push_back(line.clone());
            if self.keep < self.tail.len() {
                self.tail.pop_front();
            }
        }
        self.to.event(event);
    }
}

/// Returns a line as a terminal would show it.
fn overlaid(line: &[u8]) -> Vec<u8> {
    let mut shown = Vec::with_capacity(line.len());
    for part in line.split(|byte| *byte == b'\r') {
        let over = shown.len().min(part.len());
        shown.splice(..over, part.iter().copied());
    }
    shown
}

/// Reads a message for tools, of those that a build may send.
fn message(json: &[u8]) -> Option<LogEvent> {
    let json: Value = serde_json::from_slice(json).ok()?;
    let text = |name: &str| Some(json.get(name)?.as_str()?.to_owned());
    match text("action")?.as_str() {
        "setPhase" => Some(LogEvent::Phase(text("phase")?)),
        "msg" => Some(LogEvent::Message(text("msg")?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use rstest::rstest;

    use super::*;

    #[derive(Default)]
    struct Recorder(Mutex<Vec<LogEvent>>);

    impl BuildLog for Recorder {
        fn event(&self, event: LogEvent) {
            self.0.lock().unwrap().push(event);
        }
    }

    fn line(text: &str) -> LogEvent {
        LogEvent::Line(text.to_owned())
    }

    #[rstest]
    #[case::lines("a\n\nb", vec![line("a"), line(""), line("b")])]
    #[case::progress("10%\r20%\rdone\n", vec![line("done")])]
    #[case::shorter("long one\rab\n", vec![line("abng one")])]
    #[case::phase(
        "@nix {\"action\":\"setPhase\",\"phase\":\"buildPhase\"}\nx\n",
        vec![LogEvent::Phase("buildPhase".to_owned()), line("x")]
    )]
    #[case::none_of_ours("@nix hello\n", vec![line("@nix hello")])]
    fn is_told_by_lines(#[case] text: &str, #[case] expected: Vec<LogEvent>) {
        for size in 1..=text.len() {
            let recorder = Arc::new(Recorder::default());
            let mut lines = Lines::new(Arc::clone(&recorder) as Arc<dyn BuildLog>, 1);
            text.as_bytes().chunks(size).for_each(|piece| lines.take(piece));
            lines.finish();
            assert_eq!(*recorder.0.lock().unwrap(), expected, "by {size}");
            let last = expected.iter().rfind(|event| matches!(event, LogEvent::Line(_))).unwrap();
            assert_eq!(&line(&lines.into_tail().concat()), last);
        }
    }
}
