//! From a server's messages to the events of a build.

use std::sync::Arc;

use drover_core::{Activity, ActivityResult, plain_text};
use drover_store::{BuildLog, LogEvent, SilentLog};
use drover_wire::LogMessage;

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
    if let Some((_, Activity::Build { machine, .. })) = message.begins() {
        if !machine.is_empty() {
            log.event(LogEvent::On(plain_text(machine)));
        }
        return log.event(LogEvent::Started);
    }
    match message.comes_further() {
        Some((_, ActivityResult::LogLine(line) | ActivityResult::HookLine(line))) => {
            return log.event(LogEvent::Line(line.to_owned()));
        }
        Some((_, ActivityResult::Phase(phase))) => {
            return log.event(LogEvent::Phase(phase.to_owned()));
        }
        Some((_, ActivityResult::Progress { .. })) | None => {}
    }
    match message {
        LogMessage::Next(text) => {
            log.event(LogEvent::Message(plain_text(text.trim_end())));
        }
        LogMessage::StartActivity { level, text, .. }
            if level < SHOWN_LEVEL && !text.is_empty() =>
        {
            log.event(LogEvent::Message(plain_text(&text)));
        }
        _ => {}
    }
}
