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

    /// Passes on that something waits. What Nix says of it names the derivation in its text alone, or only
    /// the files that are locked.
    fn waits(&self, fields: Vec<Field>, text: &str) {
        let said = activity::parse_waiting(text);
        let named = match fields.into_iter().next() {
            Some(Field::Text(path)) => Some(path),
            _ => said.map(|(path, _)| path.to_owned()),
        };
        match named.and_then(|path| self.store_dir.parse(&path).ok()) {
            Some(derivation) => {
                let reason = said.map_or(text, |(_, reason)| reason).to_owned();
                self.observer.event(RealiseEvent::Waiting { derivation, reason });
            }
            None => self.note(text),
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
                self.waits(fields, &plain_text(&text));
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

#[cfg(test)]
mod tests {
    use drover_store::contract::flat_file;
    use rstest::rstest;

    use super::*;

    #[derive(Default)]
    struct Seen(Mutex<Vec<RealiseEvent>>);

    impl RealiseObserver for Seen {
        fn event(&self, event: RealiseEvent) {
            self.0.lock().expect("no panic").push(event);
        }
    }

    /// B13: what newer servers may say: kinds and results that nobody knows yet, and fields that nobody expects.
    /// They are passed over, with the words that are for people told, and nothing around them is lost.
    #[test]
    fn what_nobody_knows_is_passed_over() {
        let (info, _) = flat_file("job.drv", b"", &[]);
        let store_dir = StoreDir::default();
        let path = store_dir.display(&info.path);
        let text = |text: &str| Field::Text(text.to_owned());
        let odd = || vec![Field::Number(u64::MAX), text("\u{0}"), Field::Number(0), text("")];
        let seen = Arc::new(Seen::default());
        let activities = Activities::new(store_dir, Arc::clone(&seen) as _);
        let start = |id, level, kind, said: &str, fields| LogMessage::StartActivity {
            id: ActivityId(id),
            level,
            kind,
            text: said.to_owned(),
            fields,
            parent: ActivityId(u64::MAX),
        };
        let result = |id, kind, fields| LogMessage::Result { id: ActivityId(id), kind, fields };
        let known = 1;
        activities.message(start(known, 3, activity::BUILD, "", vec![text(&path), text("b1")]));
        for kind in (0..=120).chain([9999, 1 << 63, u64::MAX]) {
            activities.message(start(2, 7, kind, "", odd()));
            // what waits is always told
            if kind != activity::BUILD_WAITING {
                activities.message(start(3, u64::MAX, kind, "not for people", Vec::new()));
            }
            // of these, text is what it's about
            if ![result::BUILD_LOG_LINE, result::SET_PHASE, result::POST_BUILD_LOG_LINE]
                .contains(&kind)
            {
                activities.message(result(known, kind, vec![text("x")]));
            }
            activities.message(result(known, kind, odd()));
            activities.message(result(known, kind, Vec::new()));
            activities.message(result(u64::MAX, kind, vec![Field::Number(kind)]));
            activities.message(LogMessage::StopActivity(ActivityId(kind.wrapping_add(4))));
        }
        activities.message(start(4, 0, 9999, "for people", odd()));
        // what it's part of isn't known, and it's told all the same
        activities.message(result(77, result::BUILD_LOG_LINE, vec![text("of something")]));
        activities.message(result(known, result::BUILD_LOG_LINE, vec![text("a line")]));
        activities.message(LogMessage::StopActivity(ActivityId(known)));
        let derivation = info.path;
        let expected = [
            RealiseEvent::Started { derivation: derivation.clone(), machine: "b1".to_owned() },
            RealiseEvent::Note("for people".to_owned()),
            RealiseEvent::Note("of something".to_owned()),
            RealiseEvent::Line { derivation: derivation.clone(), line: "a line".to_owned() },
            RealiseEvent::Ended { derivation },
        ];
        let mut told = std::mem::take(&mut *seen.0.lock().expect("no panic"));
        told.retain(|event| !matches!(event, RealiseEvent::Fetch(_)));
        assert_eq!(told, expected);
    }

    /// What stock Nix says has no fields, and what drover says has one.
    #[rstest]
    #[case::stock("waiting for a machine to build '\u{1b}[35;1mDRV\u{1b}[0m'", false, Some(""))]
    #[case::ours(
        "waiting for a machine to build 'DRV': b1: it is busy",
        true,
        Some("b1: it is busy")
    )]
    #[case::other_words("it waits", true, Some("it waits"))]
    #[case::a_lock("waiting for lock on '/nix/store/x.lock'", false, None)]
    fn what_waits_is_told(#[case] text: &str, #[case] field: bool, #[case] reason: Option<&str>) {
        let (info, _) = flat_file("job.drv", b"", &[]);
        let store_dir = StoreDir::default();
        let path = store_dir.display(&info.path);
        let seen = Arc::new(Seen::default());
        let activities = Activities::new(store_dir, Arc::clone(&seen) as _);
        activities.message(LogMessage::StartActivity {
            id: ActivityId(1),
            level: 1,
            kind: activity::BUILD_WAITING,
            text: text.replace("DRV", &path),
            fields: if field { vec![Field::Text(path)] } else { Vec::new() },
            parent: ActivityId(0),
        });
        let expected = match reason {
            Some(reason) => {
                RealiseEvent::Waiting { derivation: info.path, reason: reason.to_owned() }
            }
            None => RealiseEvent::Note(text.to_owned()),
        };
        assert_eq!(*seen.0.lock().expect("no panic"), [expected]);
    }
}
