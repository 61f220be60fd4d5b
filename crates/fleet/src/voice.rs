//! What a lane's builds say, as long as the lane is there.
//!
//! Invariant: when a lane has been ended nothing is heard of it any more, though its tasks may run
//! on for a moment: what follows is said of the next attempt.

use std::sync::{Arc, Mutex, PoisonError};

use crate::event::{FleetEvent, Observer};

/// Passes on what a lane says, until it is silenced.
pub(crate) struct Voice(Mutex<Option<Arc<dyn Observer>>>);

/// Silences a lane when it's dropped.
pub(crate) struct Silencer(Arc<Voice>);

impl Voice {
    /// Returns a voice, and what ends it.
    pub(crate) fn new(observer: Arc<dyn Observer>) -> (Arc<Voice>, Silencer) {
        let voice = Arc::new(Voice(Mutex::new(Some(observer))));
        (Arc::clone(&voice), Silencer(voice))
    }
}

impl Observer for Voice {
    fn event(&self, event: FleetEvent) {
        // told under the lock, so that nothing comes after the silence
        if let Some(observer) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            observer.event(event);
        }
    }
}

impl Drop for Silencer {
    fn drop(&mut self) {
        let Silencer(voice) = self;
        *voice.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
