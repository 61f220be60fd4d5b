//! What happens in builds, as activities that Nix clients show.
//!
//! Follows `src/libstore/build/derivation-building-goal.cc` of Nix.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use drover_core::{Activity, ActivityId, ActivityResult, StoreDir, StorePath};
use drover_store::{FetchObserver as _, RealiseEvent, RealiseObserver, THIS_MACHINE};
use drover_wire::LogMessage;

use crate::fetches::FetchTeller;
use crate::log_queue::{Level, LogQueue, Loss};

/// Whether lines of builds are shown as they are, or as part of their activity, which lets the
/// client decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BuildLines {
    Shown,
    Told,
}

/// Tells one client of the builds that it waits for.
pub(crate) struct Observer {
    log: Arc<LogQueue>,
    store_dir: StoreDir,
    lines: BuildLines,
    open: Mutex<HashMap<(Kind, StorePath), ActivityId>>,
    fetches: FetchTeller,
    /// The whole of it.
    whole: ActivityId,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Waits,
    Builds,
}

/// Numbers of activities; unique in this process, as connections may share a screen.
pub(crate) fn next_id() -> ActivityId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let process = u64::from(std::process::id()) << 32;
    ActivityId(process + NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Observer {
    pub(crate) fn new(log: Arc<LogQueue>, store_dir: StoreDir, lines: BuildLines) -> Observer {
        // As Nix does. It tells the client at once that the request has arrived, whatever is waited
        // for then: it may give a silent server up.
        let whole = next_id();
        let message = LogMessage::start(whole, &Activity::Realise, ActivityId::NONE);
        log.push(&message, Loss::Never);
        let fetches = FetchTeller::new(Arc::clone(&log), store_dir.clone());
        Observer { log, store_dir, lines, open: Mutex::default(), fetches, whole }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<(Kind, StorePath), ActivityId>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self, kind: Kind, derivation: &StorePath, activity: &Activity<'_>) {
        let id = next_id();
        if let Some(old) = self.open().insert((kind, derivation.clone()), id) {
            self.log.push(&LogMessage::StopActivity(old), Loss::Never);
        }
        self.log.push(&LogMessage::start(id, activity, ActivityId::NONE), Loss::Never);
    }

    fn stop(&self, kind: Kind, derivation: &StorePath) {
        if let Some(id) = self.open().remove(&(kind, derivation.clone())) {
            self.log.push(&LogMessage::StopActivity(id), Loss::Never);
        }
    }

    fn result(&self, derivation: &StorePath, result: &ActivityResult<'_>) {
        let id = self.open().get(&(Kind::Builds, derivation.clone())).copied();
        match (id, result) {
            (Some(id), _) => self.log.push(&LogMessage::result(id, result), Loss::Allowed),
            (None, ActivityResult::LogLine(text) | ActivityResult::Phase(text)) => {
                self.log.tell(Level::Info, text);
            }
            (None, _) => {}
        }
    }

    /// Ends what is still open.
    pub(crate) fn finish(&self) {
        for (_, id) in self.open().drain() {
            self.log.push(&LogMessage::StopActivity(id), Loss::Never);
        }
        self.log.push(&LogMessage::StopActivity(self.whole), Loss::Never);
    }
}

impl RealiseObserver for Observer {
    fn event(&self, event: RealiseEvent) {
        match event {
            RealiseEvent::Waiting { derivation, reason } => {
                let path = self.store_dir.display(&derivation);
                let activity = Activity::Waits { derivation: &path, reason: &reason };
                self.start(Kind::Waits, &derivation, &activity);
            }
            RealiseEvent::Started { derivation, machine } => {
                self.stop(Kind::Waits, &derivation);
                // clients know this one without a name
                let machine = if machine == THIS_MACHINE { "" } else { machine.as_str() };
                let path = self.store_dir.display(&derivation);
                let activity = Activity::Build { derivation: &path, machine };
                self.start(Kind::Builds, &derivation, &activity);
            }
            RealiseEvent::Line { line, .. } if self.lines == BuildLines::Shown => {
                self.log.tell(Level::Error, &line);
            }
            RealiseEvent::Line { derivation, line } => {
                self.result(&derivation, &ActivityResult::LogLine(&line));
            }
            RealiseEvent::Phase { derivation, phase } => {
                self.result(&derivation, &ActivityResult::Phase(&phase));
            }
            RealiseEvent::Ended { derivation } => {
                self.stop(Kind::Waits, &derivation);
                self.stop(Kind::Builds, &derivation);
            }
            // who asked is told by the answer, and by a note
            RealiseEvent::Failed { .. } => {}
            RealiseEvent::Fetch(event) => self.fetches.event(event),
            RealiseEvent::Note(text) => self.log.tell(Level::Notice, &text),
        }
    }
}
