//! What a build says: line by line to the caller, byte by byte to its log.
//!
//! Follows `DerivationBuildingGoal::handleChildOutput` and `flushLine` of Nix
//! (`src/libstore/build/derivation-building-goal.cc`): a carriage return begins the line anew, and lines that begin with `@nix ` are messages for tools.

use std::collections::VecDeque;
use std::sync::Arc;

use drover_core::raw_text;
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
    pub(crate) fn take_tail(&mut self) -> Vec<String> {
        std::mem::take(&mut self.tail).into()
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
            let begins_anew = self.line.ends_with(b"\r");
            self.line = last_written(&self.line);
            if begins_anew {
                self.line.push(b'\r');
            }
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
            true => last_written(&self.line),
            false => std::mem::take(&mut self.line),
        };
        self.line.clear();
        let told = line.strip_prefix(b"@nix ").map(message);
        if let Some(Ok(_)) = told {
            self.to.event(LogEvent::Heard(line.len() + 1));
        }
        match told {
            Some(Ok(Some(event))) => return self.to.event(event),
            Some(Ok(None)) => return,
            Some(Err(why)) => self.to.event(LogEvent::Message(why.to_string())),
            None => {}
        }
        let line = raw_text(&line);
        self.tail.push_back(line.clone());
        if self.keep < self.tail.len() {
            self.tail.pop_front();
        }
        self.to.event(LogEvent::Line(line));
    }
}

/// Why a message for tools is none, in Nix's words.
#[derive(Debug, thiserror::Error)]
enum MessageError {
    /// It isn't JSON.
    #[error("bad JSON log message from the derivation builder: {0}")]
    Json(serde_json::Error),
    /// It lacks something.
    #[error(
        "warning: Unable to handle a JSON message from the derivation builder: '{field}' must be \
         {expected}"
    )]
    Field { field: &'static str, expected: &'static str },
}

/// Returns what was written last of a line that was begun anew: nothing of what was longer before shows
/// behind it. What ends with a carriage return hasn't been written over.
fn last_written(line: &[u8]) -> Vec<u8> {
    let mut parts = line.rsplit(|byte| *byte == b'\r');
    parts.find(|part| !part.is_empty()).unwrap_or_default().to_vec()
}

/// Reads a message for tools; of those that a build may send, only some are for anybody.
fn message(json: &[u8]) -> Result<Option<LogEvent>, MessageError> {
    let json: Value = serde_json::from_slice(json).map_err(MessageError::Json)?;
    let text = |field| {
        let text = json.get(field).and_then(Value::as_str);
        // also where characters are written that stand for bytes
        let text = text.map(|text| raw_text(text.as_bytes()));
        text.ok_or(MessageError::Field { field, expected: "a string" })
    };
    let number = |field| {
        let is_there = json.get(field).is_some_and(Value::is_number);
        is_there.then_some(()).ok_or(MessageError::Field { field, expected: "a number" })
    };
    Ok(match text("action")?.as_str() {
        "setPhase" => Some(LogEvent::Phase(text("phase")?)),
        "msg" => {
            let message = LogEvent::Message(text("msg")?);
            number("level")?;
            Some(message)
        }
        "start" => number("type").map(|_| None)?,
        "stop" | "result" => number("id").map(|_| None)?,
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::recorder::Recorder;

    fn line(text: &str) -> LogEvent {
        LogEvent::Line(text.to_owned())
    }

    fn said(text: &str) -> LogEvent {
        LogEvent::Message(text.to_owned())
    }

    #[rstest]
    #[case::lines("a\n\nb", vec![line("a"), line(""), line("b")])]
    #[case::progress("10%\r20%\rdone\n", vec![line("done")])]
    #[case::shorter("long one\rab\n", vec![line("ab")])]
    #[case::several("aaa\rb\rcc\n", vec![line("cc")])]
    #[case::ends_as_elsewhere("abc\r\n\r\n", vec![line("abc"), line("")])]
    #[case::phase(
        "@nix {\"action\":\"setPhase\",\"phase\":\"buildPhase\"}\nx\n",
        vec![LogEvent::Phase("buildPhase".to_owned()), line("x")]
    )]
    #[case::no_json(
        "@nix hello\n",
        vec![
            said("bad JSON log message from the derivation builder: expected value at line 1 column 1"),
            line("@nix hello"),
        ]
    )]
    #[case::no_message(
        "@nix {\"action\":7}\n",
        vec![
            said("warning: Unable to handle a JSON message from the derivation builder: 'action' must be a string"),
            line("@nix {\"action\":7}"),
        ]
    )]
    #[case::of_no_interest("@nix {\"action\":\"stop\",\"id\":1}\nx\n", vec![line("x")])]
    #[case::kinds_that_nobody_knows(
        "a\n@nix {\"action\":\"dance\"}\n\
         @nix {\"action\":\"start\",\"id\":7,\"type\":9999,\"level\":-3,\"fields\":{\"x\":[null,1.5]},\"text\":7}\n\
         @nix {\"action\":\"start\",\"id\":18446744073709551615,\"type\":105,\"parent\":\"me\"}\n\
         @nix {\"action\":\"result\",\"id\":18446744073709551615,\"type\":9999,\"fields\":[[],{},true]}\n\
         @nix {\"action\":\"result\",\"id\":1e300,\"type\":101,\"fields\":[]}\n\
         @nix {\"action\":\"stop\",\"id\":-1}\n\
         @nix {\"action\":\"setPhase\",\"phase\":\"check\",\"more\":[1]}\nb\n",
        vec![line("a"), LogEvent::Phase("check".to_owned()), line("b")]
    )]
    fn is_told_by_lines(#[case] text: &str, #[case] expected: Vec<LogEvent>) {
        for size in 1..=text.len() {
            let recorder = Arc::new(Recorder::default());
            let mut lines = Lines::new(Arc::clone(&recorder) as Arc<dyn BuildLog>, 1);
            text.as_bytes().chunks(size).for_each(|piece| lines.take(piece));
            lines.finish();
            let mut told = std::mem::take(&mut *recorder.0.lock().unwrap());
            told.retain(|event| !matches!(event, LogEvent::Heard(_)));
            assert_eq!(told, expected, "by {size}");
            let last = expected.iter().rfind(|event| matches!(event, LogEvent::Line(_))).unwrap();
            assert_eq!(&line(&lines.take_tail().concat()), last);
        }
    }

    /// A build that only sends messages isn't silent.
    #[rstest]
    #[case::phase("@nix {\"action\":\"setPhase\",\"phase\":\"build\"}")]
    #[case::of_no_interest("@nix {\"action\":\"stop\",\"id\":1}")]
    fn messages_count_as_output(#[case] message: &str) {
        let recorder = Arc::new(Recorder::default());
        let mut lines = Lines::new(Arc::clone(&recorder) as Arc<dyn BuildLog>, 1);
        lines.take(format!("{message}\n").as_bytes());
        let told = recorder.0.lock().unwrap();
        assert_eq!(told.first(), Some(&LogEvent::Heard(message.len() + 1)), "{told:?}");
    }
}
