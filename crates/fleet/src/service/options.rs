//! How a service works, and how it ends.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::vouched::OutputTrust;

/// How a service works.
#[derive(Clone, Debug)]
pub struct ServiceOptions {
    /// Lines of a failed build's log that are kept for its report. As given first: a reload
    /// doesn't change it.
    pub log_lines: usize,
    /// The choice of machines. As given first: a reload doesn't change it.
    pub policy: drover_schedule::Policy,
    /// What outputs must have that come from other machines.
    pub outputs: OutputTrust,
    /// How long machines stay connected when there is no client; for good where absent.
    pub idle: Option<Duration>,
    /// What this machine would build, for the words of Nix where nobody can.
    pub own_kind: Option<OwnKind>,
    /// Where builds get their numbers. As given first: a reload doesn't change it.
    pub numbers: BuildNumbers,
}

/// What this machine would build by its settings, whether it builds or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnKind {
    /// Its own system (`system`).
    pub system: String,
    /// Those that it builds for besides (`extra-platforms`).
    pub other_systems: BTreeSet<String>,
    /// What it offers (`system-features`).
    pub features: BTreeSet<String>,
}

/// Gives builds their numbers. Services that share one give no number twice.
#[derive(Clone, Debug, Default)]
pub struct BuildNumbers(Arc<AtomicU32>);

impl BuildNumbers {
    /// Returns a number that was not given before, until there are no more.
    pub(crate) fn next(&self) -> u32 {
        self.0.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }
}

impl Default for ServiceOptions {
    fn default() -> ServiceOptions {
        ServiceOptions {
            log_lines: 25,
            policy: drover_schedule::Policy::EarliestFinish,
            outputs: OutputTrust::Machine,
            idle: Some(Duration::from_secs(60)),
            own_kind: None,
            numbers: BuildNumbers::default(),
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
