//! What the store fetches for a client, as activities that Nix clients show.
//!
//! Follows `PathSubstitutionGoal` (`src/libstore/build/substitution-goal.cc`) and `copyStorePath`
//! (`src/libstore/store-api.cc`) of Nix: kinds, fields and texts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use drover_core::{StoreDir, StorePath};
use drover_store::{FetchEvent, FetchObserver};
use drover_wire::{ActivityId, Field, LogMessage, activity, result};

use crate::log_queue::{Level, LogQueue, Loss};
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

    fn started(&self, number: u64, path: &StorePath, substituter: String) {
        let fetch = Fetch { whole: next_id(), copy: next_id() };
        let shown = self.store_dir.display(path);
        let text = format!("copying path '{shown}' from '{substituter}'");
        let fields = vec![Field::Text(shown), Field::Text(substituter)];
        self.log.push(
            &LogMessage::StartActivity {
                id: fetch.whole,
                level: Level::Error as u64,
                kind: activity::SUBSTITUTE,
                text: String::new(),
                fields: fields.clone(),
                parent: ActivityId(0),
            },
            Loss::Never,
        );
        let to = Field::Text("local".to_owned());
        self.log.push(
            &LogMessage::StartActivity {
                id: fetch.copy,
                level: Level::Info as u64,
                kind: activity::COPY_PATH,
                text,
                fields: fields.into_iter().chain([to]).collect(),
                parent: fetch.whole,
            },
            Loss::Never,
        );
        self.open().insert(number, fetch);
    }

    fn further(&self, number: u64, done: u64, size: u64) {
        let Some(id) = self.open().get(&number).map(|fetch| fetch.copy) else { return };
        let fields = [done, size, 0, 0].map(Field::Number).to_vec();
        self.log.push(&LogMessage::Result { id, kind: result::PROGRESS, fields }, Loss::Allowed);
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
                self.started(number, &path, substituter);
            }
            FetchEvent::Progress { number, done, size } => self.further(number, done, size),
            FetchEvent::Ended { number } => self.ended(number),
            FetchEvent::Asking { .. } | FetchEvent::Note(_) => {}
        }
    }
}
