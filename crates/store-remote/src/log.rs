//! From a server's messages to the events of a build.

use std::sync::Arc;

use drover_core::without_raw;
use drover_store::{BuildLog, LogEvent, SilentLog};
use drover_wire::{Field, LogMessage, activity, result};

/// Verbosity level up to which a machine's messages are passed on: warnings and notices.
pub(crate) const SHOWN_LEVEL: u64 = 3;

/// Takes all that a server says. Called from the task that reads the connection: it must never wait.
pub(crate) trait Messages: Send + Sync {
    /// Takes one message.
    fn message(&self, message: LogMessage);
}

/// Who listens to what a server says.
#[derive(Clone)]
pub(crate) enum Listener {
    /// Who follows one build, or one long piece of work.
    Build(Arc<dyn BuildLog>),
    /// Who tells several builds apart.
    Messages(Arc<dyn Messages>),
    /// Two, of whom each hears everything.
    Both(Arc<(Listener, Listener)>),
}

impl Listener {
    /// Returns nobody.
    pub(crate) fn nobody() -> Listener {
        Listener::Build(Arc::new(SilentLog))
    }

    /// Returns this one and another.
    pub(crate) fn and(self, other: Listener) -> Listener {
        Listener::Both(Arc::new((self, other)))
    }

    /// Passes a message on.
    pub(crate) fn hear(&self, message: LogMessage) {
        match self {
            Listener::Build(log) => pass_on(message, log),
            Listener::Messages(messages) => messages.message(message),
            Listener::Both(both) => {
                both.0.hear(message.clone());
                both.1.hear(message);
            }
        }
    }
}

/// Passes what a server says on to whoever follows the build.
fn pass_on(message: LogMessage, log: &Arc<dyn BuildLog>) {
    match message {
        LogMessage::Next(text) => {
            log.event(LogEvent::Message(plain_text(text.trim_end())));
        }
        LogMessage::StartActivity { kind: activity::BUILD, fields, .. } => {
            if let Some(Field::Text(machine)) = fields.get(1)
                && !machine.is_empty()
            {
                log.event(LogEvent::On(plain_text(machine)));
            }
            log.event(LogEvent::Started);
        }
        LogMessage::StartActivity { level, text, .. }
            if level < SHOWN_LEVEL && !text.is_empty() =>
        {
            log.event(LogEvent::Message(plain_text(&text)));
        }
        LogMessage::Result { kind, fields, .. } => {
            let Some(Field::Text(text)) = fields.into_iter().next() else { return };
            match kind {
                result::BUILD_LOG_LINE | result::POST_BUILD_LOG_LINE => {
                    log.event(LogEvent::Line(text));
                }
                result::SET_PHASE => log.event(LogEvent::Phase(text)),
                _ => {}
            }
        }
        _ => {}
    }
}

/// Returns a text without terminal escapes and other control characters, line ends and tabs apart, and with
/// what isn't UTF-8 replaced.
pub fn plain_text(text: &str) -> String {
    // first of all: what is dropped may have kept bytes apart that are a command together
    let text = without_raw(text);
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => skip_escape(&mut chars),
            '\n' | '\t' => plain.push(c),
            c if c.is_control() => {}
            c => plain.push(c),
        }
    }
    plain
}

/// Skips the rest of an escape sequence: `[`, parameters, a letter; or one character.
fn skip_escape(chars: &mut std::str::Chars<'_>) {
    if chars.next() == Some('[') {
        chars.find(char::is_ascii_alphabetic);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_taken_away() {
        assert_eq!(plain_text("\u{1b}[31;1merror:\u{1b}[0m no\r\n"), "error: no\n");
        assert_eq!(plain_text(&drover_core::raw_text(b"f\xfcr\n")), "f\u{fffd}r\n");
    }

    /// What is dropped between two bytes makes no command of them.
    #[test]
    fn bytes_that_were_kept_apart_are_no_command() {
        for bytes in [&b"\xc2\x07\x9b2J"[..], b"\xc2\x1b[m\x9d52;c;", b"\xc2\x9b2J"] {
            let plain = plain_text(&drover_core::raw_text(bytes));
            assert!(!plain.chars().any(char::is_control), "{plain:?}");
        }
    }
}
