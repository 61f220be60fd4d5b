//! A log that tests look at.

use std::sync::Mutex;

use drover_store::{BuildLog, LogEvent};

/// Keeps all events.
#[derive(Default)]
pub(crate) struct Recorder(pub(crate) Mutex<Vec<LogEvent>>);

impl BuildLog for Recorder {
    fn event(&self, event: LogEvent) {
        self.0.lock().unwrap().push(event);
    }
}
