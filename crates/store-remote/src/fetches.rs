//! From a server's activities to what it fetches from its substituters.
//!
//! Follows `copyStorePath` (`src/libstore/store-api.cc`), `filetransfer.cc` and the numbers in
//! `src/libutil/logging.hh` of Nix.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use drover_core::{Activity, ActivityId, ActivityResult, StoreDir, plain_text};
use drover_store::{FetchEvent, FetchObserver};
use drover_wire::LogMessage;

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

    fn started(&self, id: ActivityId, path: &str, from: &str) {
        let Ok(path) = self.store_dir.parse(path) else { return };
        let mut running = self.running();
        if running.len() < MAX_RUNNING && running.insert(id) {
            drop(running);
            let (number, substituter) = (id.0, plain_text(from));
            self.observer.event(FetchEvent::Started { number, path, substituter });
        }
    }

    fn further(&self, id: ActivityId, done: u64, size: u64) {
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
    fn transfer(&self, url: &str) {
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
        if let Some((id, Activity::CopyPath { path, from })) = message.begins() {
            self.started(id, path, from);
        }
        if let Some((id, ActivityResult::Progress { done, expected, .. })) = message.comes_further()
        {
            self.further(id, done, expected);
        }
        if let LogMessage::StopActivity(id) = message {
            self.ended(*id);
        }
    }
}

impl Messages for Fetches {
    fn message(&self, message: LogMessage) {
        self.transfers(&message);
        match (&message, message.begins()) {
            (LogMessage::Next(text), _) => self.note(text),
            (_, Some((_, Activity::CopyPath { .. }))) => {}
            (_, Some((_, Activity::FileTransfer { url }))) => self.transfer(url),
            (LogMessage::StartActivity { level, text, .. }, _) if *level < SHOWN_LEVEL => {
                self.note(text);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use drover_core::{Field, StorePath};

    use super::*;

    #[derive(Default)]
    struct Heard(Mutex<Vec<FetchEvent>>);

    impl FetchObserver for Heard {
        fn event(&self, event: FetchEvent) {
            self.0.lock().unwrap().push(event);
        }
    }

    fn start(id: u64, activity: Activity<'_>) -> LogMessage {
        LogMessage::start(ActivityId(id), &activity, ActivityId::NONE)
    }

    #[test]
    fn tells_what_is_fetched() {
        const PATH: &str = "3880j94arxkya3irs3d8nr2x076sp1m8-a";
        let heard = Arc::new(Heard::default());
        let fetches = Fetches::new(StoreDir::default(), Arc::clone(&heard) as _);
        let path = format!("/nix/store/{PATH}");
        let result = |id, fields| LogMessage::Result { id: ActivityId(id), kind: 105, fields };
        let (url, from) = ("https://c/3880j94arxkya3irs3d8nr2x076sp1m8.narinfo", "https://c");
        for message in [
            start(1, Activity::FileTransfer { url }),
            start(2, Activity::CopyPath { path: &path, from }),
            result(2, vec![Field::Number(5), Field::Number(9)]),
            // of something else, too short, of no path
            result(7, vec![Field::Number(5), Field::Number(9)]),
            result(2, vec![Field::Number(5)]),
            start(3, Activity::CopyPath { path: "/etc/x", from }),
            start(4, Activity::FileTransfer { url: "https://c/nar/x.nar.xz" }),
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
