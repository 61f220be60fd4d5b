//! From a server's activities to what happens while something is realised.
//!
//! What these say is in `drover_core::Activity`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use drover_core::{Activity, ActivityId, ActivityResult, StoreDir, StorePath, plain_text};
use drover_store::{FetchEvent, FetchObserver, RealiseEvent, RealiseObserver};
use drover_wire::LogMessage;

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

    fn running(&self) -> MutexGuard<'_, BTreeMap<ActivityId, StorePath>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn started(&self, id: ActivityId, derivation: &str, machine: &str) {
        let Ok(derivation) = self.store_dir.parse(derivation) else { return };
        let mut running = self.running();
        if running.len() < MAX_RUNNING {
            running.insert(id, derivation.clone());
            drop(running);
            let machine = machine.to_owned();
            self.observer.event(RealiseEvent::Started { derivation, machine });
        }
    }

    fn came_further(&self, id: ActivityId, result: ActivityResult<'_>) {
        let derivation = self.running().get(&id).cloned();
        self.observer.event(match (result, derivation) {
            (ActivityResult::LogLine(line), Some(derivation)) => {
                RealiseEvent::Line { derivation, line: line.to_owned() }
            }
            (ActivityResult::Phase(phase), Some(derivation)) => {
                RealiseEvent::Phase { derivation, phase: phase.to_owned() }
            }
            (ActivityResult::LogLine(line) | ActivityResult::HookLine(line), _) => {
                RealiseEvent::Note(plain_text(line))
            }
            (ActivityResult::Phase(_) | ActivityResult::Progress { .. }, _) => return,
        });
    }

    /// Passes on that something begins; what isn't told apart is what a message says.
    fn begins(&self, id: ActivityId, activity: Activity<'_>, level: u64, text: &str) {
        match activity {
            Activity::Build { derivation, machine } => self.started(id, derivation, machine),
            Activity::Waits { derivation, reason } => match self.store_dir.parse(derivation) {
                Ok(derivation) => {
                    let reason = reason.to_owned();
                    self.observer.event(RealiseEvent::Waiting { derivation, reason });
                }
                Err(_) => self.note(text),
            },
            _ if level < SHOWN_LEVEL => self.note(text),
            _ => {}
        }
    }
}

impl Messages for Activities {
    fn message(&self, message: LogMessage) {
        self.fetches.transfers(&message);
        if let Some((id, result)) = message.comes_further() {
            return self.came_further(id, result);
        }
        match &message {
            LogMessage::Next(text) => self.note(text),
            LogMessage::StartActivity { id, level, kind, text, fields, .. } => {
                let text = plain_text(text);
                match Activity::read(*kind, &text, fields) {
                    Some(activity) => self.begins(*id, activity, *level, &text),
                    None if *level < SHOWN_LEVEL => self.note(&text),
                    None => {}
                }
            }
            LogMessage::StopActivity(id) => {
                let ended = self.running().remove(id);
                if let Some(derivation) = ended {
                    self.observer.event(RealiseEvent::Ended { derivation });
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use drover_core::Field;
    use drover_store::contract::flat_file;
    use rstest::rstest;

    use super::*;

    /// Numbers of Nix (`ActivityType`, `ResultType`).
    const BUILD: u64 = 105;
    const BUILD_WAITING: u64 = 111;
    const LOG_LINE: u64 = 101;
    const SET_PHASE: u64 = 104;
    const HOOK_LINE: u64 = 107;

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
        activities.message(start(known, 3, BUILD, "", vec![text(&path), text("b1")]));
        for kind in (0..=120).chain([9999, 1 << 63, u64::MAX]) {
            activities.message(start(2, 7, kind, "", odd()));
            // what waits is always told
            if kind != BUILD_WAITING {
                activities.message(start(3, u64::MAX, kind, "not for people", Vec::new()));
            }
            // of these, text is what it's about
            if ![LOG_LINE, SET_PHASE, HOOK_LINE].contains(&kind) {
                activities.message(result(known, kind, vec![text("x")]));
            }
            activities.message(result(known, kind, odd()));
            activities.message(result(known, kind, Vec::new()));
            activities.message(result(u64::MAX, kind, vec![Field::Number(kind)]));
            activities.message(LogMessage::StopActivity(ActivityId(kind.wrapping_add(4))));
        }
        activities.message(start(4, 0, 9999, "for people", odd()));
        // what it's part of isn't known, and it's told all the same
        activities.message(result(77, LOG_LINE, vec![text("of something")]));
        activities.message(result(known, LOG_LINE, vec![text("a line")]));
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
            kind: 111,
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
