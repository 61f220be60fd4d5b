//! From a server's activities to what happens while something is realised.
//!
//! Follows the numbers and fields in `src/libutil/logging.hh` of Nix.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use drover_core::{StoreDir, StorePath, plain_text};
use drover_store::{FetchEvent, FetchObserver, RealiseEvent, RealiseObserver};
use drover_wire::{ActivityId, Field, LogMessage, activity, result};

use crate::fetches::Fetches;
use crate::log::{Messages, SHOWN_LEVEL};

/// Builds that are followed at once; what a server begins beyond is not told apart.
const MAX_RUNNING: usize = 100_000;

/// Tells the builds of one request apart.
pub(crate) struct Activities {
    store_dir: StoreDir,
    observer: Arc<dyn RealiseObserver>,
    running: Mutex<BTreeMap<ActivityId, StorePath>>,
    fetches: Fetches,
}

/// Passes on what is fetched meanwhile.
struct ToRealiser(Arc<dyn RealiseObserver>);

impl FetchObserver for ToRealiser {
    fn event(&self, event: FetchEvent) {
        self.0.event(RealiseEvent::Fetch(event));
    }
}

impl Activities {
    pub(crate) fn new(store_dir: StoreDir, observer: Arc<dyn RealiseObserver>) -> Activities {
        let follower = Arc::new(ToRealiser(Arc::clone(&observer)));
        let fetches = Fetches::new(store_dir.clone(), follower);
        Activities { store_dir, observer, running: Mutex::default(), fetches }
    }

    fn note(&self, text: &str) {
        let text = plain_text(text.trim_end());
        if !text.is_empty() {
            self.observer.event(RealiseEvent::Note(text));
        }
    }

    fn started(&self, id: ActivityId, fields: Vec<Field>) {
        let mut texts = fields.into_iter().map(|field| match field {
            Field::Text(text) => text,
            Field::Number(number) => number.to_string(),
        });
        let derivation = texts.next().and_then(|path| self.store_dir.parse(&path).ok());
        let Some(derivation) = derivation else { return };
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.len() < MAX_RUNNING {
            running.insert(id, derivation.clone());
            drop(running);
            let machine = texts.next().unwrap_or_default();
            self.observer.event(RealiseEvent::Started { derivation, machine });
        }
    }

    fn result(&self, id: ActivityId, kind: u64, text: String) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let derivation = running.get(&id).cloned();
        drop(running);
        self.observer.event(match (kind, derivation) {
            (result::BUILD_LOG_LINE, Some(derivation)) => {
                RealiseEvent::Line { derivation, line: text }
            }
            (result::SET_PHASE, Some(derivation)) => {
                RealiseEvent::Phase { derivation, phase: text }
            }
            (result::BUILD_LOG_LINE | result::POST_BUILD_LOG_LINE, _) => {
                RealiseEvent::Note(plain_text(&text))
            }
            _ => return,
        });
    }
}

impl Messages for Activities {
    fn message(&self, message: LogMessage) {
        self.fetches.transfers(&message);
        match message {
            LogMessage::Next(text) => self.note(&text),
            LogMessage::StartActivity { id, kind: activity::BUILD, fields, .. } => {
                self.started(id, fields);
            }
            LogMessage::StartActivity { kind: activity::BUILD_WAITING, fields, text, .. } => {
                let Some(Field::Text(path)) = fields.into_iter().next() else { return };
                if let Ok(derivation) = self.store_dir.parse(&path) {
                    let reason = plain_text(&text);
                    self.observer.event(RealiseEvent::Waiting { derivation, reason });
                }
            }
            LogMessage::StartActivity { level, text, .. } if level < SHOWN_LEVEL => {
                self.note(&text);
            }
            LogMessage::StopActivity(id) => {
                let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
                let ended = running.remove(&id);
                drop(running);
                if let Some(derivation) = ended {
                    self.observer.event(RealiseEvent::Ended { derivation });
                }
            }
            LogMessage::Result { id, kind, fields } => {
                if let Some(Field::Text(text)) = fields.into_iter().next() {
                    self.result(id, kind, text);
                }
            }
            _ => {}
        }
    }
}
