//! What the store fetches for a client, as activities that Nix clients show.
//!
//! Follows `PathSubstitutionGoal` (`src/libstore/build/substitution-goal.cc`) and `copyStorePath`
//! (`src/libstore/store-api.cc`) of Nix.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use drover_core::{Activity, ActivityId, ActivityResult, StoreDir, StorePath};
use drover_store::{FetchEvent, FetchObserver};
use drover_wire::LogMessage;

use crate::log_queue::{LogQueue, Loss};
use crate::observer::next_id;

/// Tells one client of the paths that are fetched for it.
pub(crate) struct FetchTeller {
    log: Arc<LogQueue>,
    store_dir: StoreDir,
    /// By the number of the transfer.
    open: Mutex<HashMap<u64, Fetch>>,
}

struct Fetch {
    whole: ActivityId,
    copy: ActivityId,
}

impl FetchTeller {
    pub(crate) fn new(log: Arc<LogQueue>, store_dir: StoreDir) -> FetchTeller {
        FetchTeller { log, store_dir, open: Mutex::default() }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<u64, Fetch>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn started(&self, number: u64, path: &StorePath, substituter: &str) {
        let fetch = Fetch { whole: next_id(), copy: next_id() };
        let shown = self.store_dir.display(path);
        let (path, from) = (shown.as_str(), substituter);
        let whole = Activity::Substitute { path, from };
        self.log.push(&LogMessage::start(fetch.whole, &whole, ActivityId::NONE), Loss::Never);
        let copy = Activity::CopyPath { path, from };
        self.log.push(&LogMessage::start(fetch.copy, &copy, fetch.whole), Loss::Never);
        self.open().insert(number, fetch);
    }

    fn further(&self, number: u64, done: u64, size: u64) {
        let Some(id) = self.open().get(&number).map(|fetch| fetch.copy) else { return };
        let progress = ActivityResult::Progress { done, expected: size, running: 0, failed: 0 };
        self.log.push(&LogMessage::result(id, &progress), Loss::Allowed);
    }

    fn ended(&self, number: u64) {
        let Some(fetch) = self.open().remove(&number) else { return };
        for id in [fetch.copy, fetch.whole] {
            self.log.push(&LogMessage::StopActivity(id), Loss::Never);
        }
    }
}

impl FetchObserver for FetchTeller {
    fn event(&self, event: FetchEvent) {
        match event {
            FetchEvent::Started { number, path, substituter } => {
                self.started(number, &path, &substituter);
            }
            FetchEvent::Progress { number, done, size } => self.further(number, done, size),
            FetchEvent::Ended { number } => self.ended(number),
            FetchEvent::Asking { .. } | FetchEvent::Note(_) => {}
        }
    }
}
