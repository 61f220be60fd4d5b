//! What a builder says while it works on a job.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use drover_core::raw_bytes;
use drover_store::{BuildLog, LogEvent};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::event::{FleetEvent, Observer};
use crate::graph::NodeId;

/// Follows one build.
pub(crate) struct JobLog {
    node: NodeId,
    machine: Arc<str>,
    observer: Arc<dyn Observer>,
    limit: usize,
    started: OnceLock<Instant>,
    /// When nothing was ahead of it any more.
    first: OnceLock<Instant>,
    /// That its own processes have ended.
    over: CancellationToken,
    heard: Mutex<Heard>,
    /// That something was heard which somebody waits for.
    news: Notify,
    tail: Mutex<VecDeque<String>>,
}

/// What has been heard of a build.
#[derive(Clone, Copy, Debug)]
struct Heard {
    at: Instant,
    /// Bytes of its own output.
    bytes: u64,
    /// The bytes from which on somebody wants to know.
    limit: Option<u64>,
}

impl JobLog {
    /// Returns a log of which the last `limit` lines are kept. Messages are told with the machine before
    /// them, if that has a name.
    pub(crate) fn new(
        node: NodeId,
        machine: Arc<str>,
        observer: Arc<dyn Observer>,
        limit: usize,
    ) -> JobLog {
        let (started, first) = (OnceLock::new(), OnceLock::new());
        let (tail, news) = (Mutex::default(), Notify::new());
        let heard = Mutex::new(Heard { at: Instant::now(), bytes: 0, limit: None });
        let over = CancellationToken::new();
        JobLog { node, machine, observer, limit, started, first, over, heard, news, tail }
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the build runs, and returns when that began: not before now, as what ran before
    /// this was waited for was not this build. For one at a time.
    pub(crate) async fn begun(&self) -> Instant {
        let now = Instant::now();
        loop {
            if let Some(started) = self.started() {
                return started.max(now);
            }
            self.news.notified().await;
        }
    }

    /// Waits until the build's own processes have ended, where that is told.
    pub(crate) async fn over(&self) {
        self.over.cancelled().await;
    }

    /// Returns when the build said something last.
    pub(crate) fn heard_at(&self) -> Instant {
        self.heard().at
    }

    /// Returns the bytes that the build has said.
    pub(crate) fn bytes(&self) -> u64 {
        self.heard().bytes
    }

    /// Waits until the build has said more than so many bytes; without a limit, for ever. For one
    /// at a time.
    pub(crate) async fn grown(&self, limit: Option<u64>) {
        loop {
            {
                let mut heard = self.heard();
                heard.limit = limit;
                if limit.is_some_and(|limit| limit < heard.bytes) {
                    return;
                }
            }
            self.news.notified().await;
        }
    }

    fn hears(&self, bytes: usize) {
        let mut heard = self.heard();
        heard.at = Instant::now();
        heard.bytes = heard.bytes.saturating_add(bytes as u64);
        if heard.limit.is_some_and(|limit| limit < heard.bytes) {
            self.news.notify_one();
        }
    }

    /// Returns when the build began, if the machine has said so.
    pub(crate) fn started(&self) -> Option<Instant> {
        self.started.get().copied()
    }

    /// Says that nothing is ahead of it any more.
    pub(crate) fn is_first(&self) {
        self.first.get_or_init(Instant::now);
    }

    /// Returns since when nothing was ahead of it, if something was.
    pub(crate) fn first(&self) -> Option<Instant> {
        self.first.get().copied()
    }

    pub(crate) fn take_tail(&self) -> Vec<String> {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.drain(..).collect()
    }

    fn keep(&self, line: &str) {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.push_back(beginning(line));
        if tail.len() > self.limit {
            tail.pop_front();
        }
    }
}

/// Bytes of a line that are kept for the report of a failure.
const KEPT: usize = 4096;

fn beginning(line: &str) -> String {
    let mut end = line.len().min(KEPT);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    line.get(..end).unwrap_or_default().to_owned()
}

impl BuildLog for JobLog {
    fn event(&self, event: LogEvent) {
        let node = self.node;
        match event {
            LogEvent::Started => {
                if self.started.set(Instant::now()).is_ok() {
                    let machine = self.machine.to_string();
                    self.observer.event(FleetEvent::Building { node, machine });
                    self.news.notify_one();
                }
            }
            // a machine is called here as its line calls it
            LogEvent::On(_) => {}
            LogEvent::Ended => self.over.cancel(),
            LogEvent::Heard(bytes) => self.hears(bytes),
            LogEvent::Line(line) => {
                self.hears(raw_bytes(&line).len() + 1);
                self.keep(&line);
                self.observer.event(FleetEvent::LogLine { node, line });
            }
            LogEvent::Phase(phase) => {
                self.hears(0);
                self.observer.event(FleetEvent::Phase { node, phase });
            }
            LogEvent::Message(message) => {
                let text = match &*self.machine {
                    "" => message,
                    machine => format!("{machine}: {message}"),
                };
                self.observer.event(FleetEvent::Note(text));
            }
        }
    }
}
