//! From a server's activities to what it fetches from its substituters.
//!
//! Follows `copyStorePath` (`src/libstore/store-api.cc`), `filetransfer.cc` and the numbers in
//! `src/libutil/logging.hh` of Nix.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use drover_core::{StoreDir, plain_text};
use drover_store::{FetchEvent, FetchObserver};
use drover_wire::{ActivityId, Field, LogMessage, activity, result};

use crate::log::{Messages, SHOWN_LEVEL};

/// Transfers that are followed at once; those that a server begins beyond are not shown.
const MAX_RUNNING: usize = 10_000;

/// Tells the transfers of one request apart.
pub(crate) struct Fetches {
    store_dir: StoreDir,
    observer: Arc<dyn FetchObserver>,
    running: Mutex<BTreeSet<ActivityId>>,
}

impl Fetches {
    pub(crate) fn new(store_dir: StoreDir, observer: Arc<dyn FetchObserver>) -> Fetches {
        Fetches { store_dir, observer, running: Mutex::default() }
    }

    fn running(&self) -> MutexGuard<'_, BTreeSet<ActivityId>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, text: &str) {
        let text = plain_text(text.trim_end());
        if !text.is_empty() {
            self.observer.event(FetchEvent::Note(text));
        }
    }

    /// A path is copied: path, from, to.
    fn started(&self, id: ActivityId, fields: &[Field]) {
        let [Field::Text(path), Field::Text(from), ..] = fields else { return };
        let Ok(path) = self.store_dir.parse(path) else { return };
        let mut running = self.running();
        if running.len() < MAX_RUNNING && running.insert(id) {
            drop(running);
            let (number, substituter) = (id.0, plain_text(from));
            self.observer.event(FetchEvent::Started { number, path, substituter });
        }
    }

    /// A transfer has come further: bytes so far, bytes in all.
    fn further(&self, id: ActivityId, fields: &[Field]) {
        let [Field::Number(done), Field::Number(size), ..] = *fields else { return };
        if self.running().contains(&id) {
            self.observer.event(FetchEvent::Progress { number: id.0, done, size });
        }
    }

    fn ended(&self, id: ActivityId) {
        let was_running = self.running().remove(&id);
        if was_running {
            self.observer.event(FetchEvent::Ended { number: id.0 });
        }
    }

    /// A file is fetched; those with what is known of a path are questions.
    fn transfer(&self, fields: &[Field]) {
        let [Field::Text(url), ..] = fields else { return };
        let asked = url.strip_suffix(".narinfo").or_else(|| url.strip_suffix("nix-cache-info"));
        if let Some((substituter, _)) = asked.and_then(|url| url.rsplit_once('/')) {
            let substituter = plain_text(substituter);
            self.observer.event(FetchEvent::Asking { substituter });
        }
    }
}

impl Fetches {
    /// Takes a message for what it says of paths that come, and for nothing else.
    pub(crate) fn transfers(&self, message: &LogMessage) {
        match message {
            LogMessage::StartActivity { id, kind: activity::COPY_PATH, fields, .. } => {
                self.started(*id, fields);
            }
            LogMessage::StopActivity(id) => self.ended(*id),
            LogMessage::Result { id, kind: result::PROGRESS, fields } => self.further(*id, fields),
            _ => {}
        }
    }
}

impl Messages for Fetches {
    fn message(&self, message: LogMessage) {
        self.transfers(&message);
        match message {
            LogMessage::Next(text) => self.note(&text),
            LogMessage::StartActivity { kind: activity::COPY_PATH, .. } => {}
            LogMessage::StartActivity { kind: activity::FILE_TRANSFER, fields, .. } => {
                self.transfer(&fields);
            }
            LogMessage::StartActivity { level, text, .. } if level < SHOWN_LEVEL => {
                self.note(&text);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use drover_core::StorePath;

    use super::*;

    #[derive(Default)]
    struct Heard(Mutex<Vec<FetchEvent>>);

    impl FetchObserver for Heard {
        fn event(&self, event: FetchEvent) {
            self.0.lock().unwrap().push(event);
        }
    }

    fn text(text: &str) -> Field {
        Field::Text(text.to_owned())
    }

    fn start(id: u64, kind: u64, fields: Vec<Field>) -> LogMessage {
        let (level, parent) = (SHOWN_LEVEL, ActivityId(0));
        LogMessage::StartActivity {
            id: ActivityId(id),
            level,
            kind,
            text: String::new(),
            fields,
            parent,
        }
    }

    #[test]
    fn tells_what_is_fetched() {
        const PATH: &str = "3880j94arxkya3irs3d8nr2x076sp1m8-a";
        let heard = Arc::new(Heard::default());
        let fetches = Fetches::new(StoreDir::default(), Arc::clone(&heard) as _);
        let path = format!("/nix/store/{PATH}");
        let progress =
            |id, fields| LogMessage::Result { id: ActivityId(id), kind: result::PROGRESS, fields };
        let narinfo = text("https://c/3880j94arxkya3irs3d8nr2x076sp1m8.narinfo");
        for message in [
            start(1, activity::FILE_TRANSFER, vec![narinfo]),
            start(2, activity::COPY_PATH, vec![text(&path), text("https://c"), text("local")]),
            progress(2, vec![Field::Number(5), Field::Number(9)]),
            // of something else, too short, of no path
            progress(7, vec![Field::Number(5), Field::Number(9)]),
            progress(2, vec![Field::Number(5)]),
            start(3, activity::COPY_PATH, vec![text("/etc/x"), text("https://c")]),
            start(4, activity::FILE_TRANSFER, vec![text("https://c/nar/x.nar.xz")]),
            LogMessage::Next("\u{1b}[35;1mwarning:\u{1b}[0m slow\n".to_owned()),
            LogMessage::StopActivity(ActivityId(3)),
            LogMessage::StopActivity(ActivityId(2)),
        ] {
            fetches.message(message);
        }
        let substituter = "https://c".to_owned();
        let expected = [
            FetchEvent::Asking { substituter: substituter.clone() },
            FetchEvent::Started {
                number: 2,
                path: StorePath::from_base_name(PATH).unwrap(),
                substituter,
            },
            FetchEvent::Progress { number: 2, done: 5, size: 9 },
            FetchEvent::Note("warning: slow".to_owned()),
            FetchEvent::Ended { number: 2 },
        ];
        assert_eq!(*heard.0.lock().unwrap(), expected);
    }
}
