//! How a service works, and how it ends.

use std::time::Duration;

/// How a service works.
#[derive(Clone, Debug)]
pub struct ServiceOptions {
    /// Lines of a failed build's log that are kept for its report. As given first: a reload
    /// doesn't change it.
    pub log_lines: usize,
    /// The choice of machines. As given first: a reload doesn't change it.
    pub policy: drover_schedule::Policy,
    /// How long machines stay connected when there is no client; for good where absent.
    pub idle: Option<Duration>,
}

impl Default for ServiceOptions {
    fn default() -> ServiceOptions {
        ServiceOptions {
            log_lines: 25,
            policy: drover_schedule::Policy::EarliestFinish,
            idle: Some(Duration::from_secs(60)),
        }
    }
}

/// How a service ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// What was asked for is done first; nothing new is taken.
    Drain,
    /// Everything is cancelled.
    Cancel,
}
