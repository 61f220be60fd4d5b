//! What a builder says while it works on a job.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use drover_store::{BuildLog, LogEvent};
use tokio::time::Instant;

use crate::event::{FleetEvent, Observer};
use crate::graph::NodeId;

/// Follows one build.
pub(crate) struct JobLog {
    node: NodeId,
    machine: Arc<str>,
    observer: Arc<dyn Observer>,
    limit: usize,
    started: OnceLock<Instant>,
    tail: Mutex<VecDeque<String>>,
}

impl JobLog {
    /// Returns a log of which the last `limit` lines are kept.
    pub(crate) fn new(
        node: NodeId,
        machine: Arc<str>,
        observer: Arc<dyn Observer>,
        limit: usize,
    ) -> JobLog {
        let (started, tail) = (OnceLock::new(), Mutex::default());
        JobLog { node, machine, observer, limit, started, tail }
    }

    /// Returns when the build began, if the machine has said so.
    pub(crate) fn started(&self) -> Option<Instant> {
        self.started.get().copied()
    }

    pub(crate) fn take_tail(&self) -> Vec<String> {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.drain(..).collect()
    }

    fn keep(&self, line: &str) {
        /// Bytes of a line that are kept for the report of a failure.
        const KEPT: usize = 4096;
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.push_back(line.chars().take(KEPT).collect());
        if tail.len() > self.limit {
            tail.pop_front();
        }
    }
}

impl BuildLog for JobLog {
    fn event(&self, event: LogEvent) {
        let node = self.node;
        match event {
            LogEvent::Started => {
                if self.started.set(Instant::now()).is_ok() {
                    let machine = self.machine.to_string();
                    self.observer.event(FleetEvent::Building { node, machine });
                }
            }
            LogEvent::Line(line) => {
                self.keep(&line);
                self.observer.event(FleetEvent::LogLine { node, line });
            }
            LogEvent::Phase(phase) => self.observer.event(FleetEvent::Phase { node, phase }),
            LogEvent::Message(message) => {
                let text = format!("{}: {message}", self.machine);
                self.observer.event(FleetEvent::Note(text));
            }
        }
    }
}
