//! What a client is told while it waits, in a queue with a bound.
//!
//! Builds put lines here and never wait. A client that reads too slowly loses the oldest lines and is
//! told how many; activities, which come in pairs, are never lost.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use drover_wire::{Encoder, LogMessage};
use tokio::sync::Notify;

use crate::connection::Output;

/// Bytes of messages that wait for a client before lines are dropped.
const MAX_WAITING: usize = 1024 * 1024;
/// Bytes of messages that wait at the most, activities among them.
const MAX_KEPT: usize = 16 * 1024 * 1024;
/// Bytes that are handed to the connection at once.
const MAX_PENDING: usize = 64 * 1024;

/// How grave a message is, as Nix counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Error = 0,
    Warning = 1,
    Notice = 2,
    Info = 3,
    Debug = 6,
}

/// Whether a message may be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// The client can do without it.
    Allowed,
    /// It would be misled, so only a flood that fills [`MAX_KEPT`] goes over it.
    Never,
}

/// Messages on their way to a client.
pub(crate) struct LogQueue {
    waiting: Mutex<Waiting>,
    arrived: Notify,
    verbosity: AtomicU64,
    minor: u8,
}

#[derive(Default)]
struct Waiting {
    messages: VecDeque<(Vec<u8>, Loss)>,
    bytes: usize,
    dropped: u64,
}

impl LogQueue {
    pub(crate) fn new(minor: u8) -> LogQueue {
        LogQueue {
            waiting: Mutex::default(),
            arrived: Notify::new(),
            verbosity: AtomicU64::new(Level::Info as u64),
            minor,
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_verbosity(&self, verbosity: u64) {
        self.verbosity.store(verbosity, Ordering::Relaxed);
    }

    /// Tells the client something, if it wants to know as much.
    pub(crate) fn tell(&self, level: Level, text: &str) {
        self.tell_with(level, || text.to_owned());
    }

    /// Tells the client something that is made up only if it wants to know as much.
    pub(crate) fn tell_with(&self, level: Level, text: impl FnOnce() -> String) {
        if level as u64 <= self.verbosity.load(Ordering::Relaxed) {
            self.push(&LogMessage::Next(text() + "\n"), Loss::Allowed);
        }
    }

    /// Warns the client, in the colours that Nix has for it.
    pub(crate) fn warn(&self, text: &str) {
        self.tell(Level::Warning, &format!("\x1b[35;1mwarning:\x1b[0m {text}"));
    }

    pub(crate) fn push(&self, message: &LogMessage, loss: Loss) {
        let mut out = Encoder::new();
        message.encode(&mut out, self.minor);
        let bytes = out.into_bytes();
        {
            let mut waiting = self.waiting();
            waiting.bytes += bytes.len();
            waiting.messages.push_back((bytes, loss));
            if waiting.bytes > MAX_WAITING {
                waiting.drop_oldest();
            }
            if waiting.bytes > MAX_KEPT
                && let Some((bytes, _)) = waiting.messages.pop_back()
            {
                waiting.bytes -= bytes.len();
                waiting.dropped += 1;
            }
        }
        self.arrived.notify_one();
    }

    /// Hands messages to the connection, as far as it has room.
    pub(crate) fn move_into(&self, output: &mut Output) {
        self.move_up_to(output, MAX_PENDING);
    }

    /// Hands all messages to the connection: the answer comes behind them.
    pub(crate) fn move_all_into(&self, output: &mut Output) {
        self.move_up_to(output, usize::MAX);
    }

    fn move_up_to(&self, output: &mut Output, max: usize) {
        let mut waiting = self.waiting();
        if waiting.dropped > 0 && output.pending() < max {
            let text = format!(
                "[log truncated: {} older messages were dropped, as they were read too slowly]\n",
                waiting.dropped
            );
            let mut out = Encoder::new();
            LogMessage::Next(text).encode(&mut out, self.minor);
            output.push(&out.into_bytes());
            waiting.dropped = 0;
        }
        while output.pending() < max {
            let Some((bytes, _)) = waiting.messages.pop_front() else { return };
            waiting.bytes -= bytes.len();
            output.push(&bytes);
        }
    }

    /// Waits until there are messages.
    pub(crate) async fn ready(&self) {
        loop {
            let arrived = self.arrived.notified();
            if !self.waiting().messages.is_empty() {
                return;
            }
            arrived.await;
        }
    }
}

impl Waiting {
    /// Drops lines, oldest first, until half of the room is free.
    fn drop_oldest(&mut self) {
        let mut excess = self.bytes.saturating_sub(MAX_WAITING / 2);
        let mut dropped = 0;
        self.messages.retain(|(bytes, loss)| {
            if excess == 0 || *loss == Loss::Never {
                return true;
            }
            excess = excess.saturating_sub(bytes.len());
            self.bytes -= bytes.len();
            dropped += 1;
            false
        });
        self.dropped += dropped;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;

    #[test]
    fn the_newest_lines_are_kept_and_the_loss_is_told() {
        let queue = LogQueue::new(38);
        queue.push(&LogMessage::StopActivity(drover_core::ActivityId(1)), Loss::Never);
        for number in 0..100_000 {
            queue.tell(Level::Error, &format!("line {number} of a flood"));
        }
        assert!(queue.waiting().bytes <= MAX_WAITING);
        let mut output = Output::new(Box::new(tokio::io::sink()), Limits::default());
        queue.move_all_into(&mut output);
        let taken = output.pending();
        assert!(taken > MAX_WAITING / 4 && taken < MAX_WAITING + 1024, "{taken}");
        let text = format!("{output:?}");
        assert!(
            text.contains("line 99999 of a flood") && text.contains("log truncated: "),
            "{taken}"
        );
        assert!(!text.contains("line 0 of"));
    }

    #[test]
    fn what_is_not_asked_for_is_not_told() {
        let queue = LogQueue::new(38);
        queue.set_verbosity(0);
        queue.warn("never mind");
        assert!(queue.waiting().messages.is_empty());
    }
}
