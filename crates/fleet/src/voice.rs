//! What a lane's builds say, as long as the lane is there.
//!
//! Invariant: when a lane has been ended nothing is heard of it any more, though its tasks may run
//! on for a moment: what follows is said of the next attempt. The same goes for a single build that
//! was taken off a lane.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::event::{FleetEvent, Observer};
use crate::graph::NodeId;

/// Passes on what a lane says, until it is silenced.
pub(crate) struct Voice(Mutex<Heard>);

struct Heard {
    by: Option<Arc<dyn Observer>>,
    muted: BTreeSet<NodeId>,
}

/// Silences a lane when it's dropped.
pub(crate) struct Silencer(Arc<Voice>);

impl Voice {
    /// Returns a voice, and what ends it.
    pub(crate) fn new(observer: Arc<dyn Observer>) -> (Arc<Voice>, Silencer) {
        let heard = Heard { by: Some(observer), muted: BTreeSet::new() };
        let voice = Arc::new(Voice(Mutex::new(heard)));
        (Arc::clone(&voice), Silencer(voice))
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Voice {
    fn event(&self, event: FleetEvent) {
        // told under the lock, so that nothing comes after the silence
        let heard = self.heard();
        let node = match &event {
            FleetEvent::Building { node, .. }
            | FleetEvent::LogLine { node, .. }
            | FleetEvent::Phase { node, .. } => Some(node),
            _ => None,
        };
        if let Some(observer) = &heard.by
            && node.is_none_or(|node| !heard.muted.contains(node))
        {
            observer.event(event);
        }
    }
}

impl Silencer {
    /// Silences one build.
    pub(crate) fn mute(&self, node: NodeId) {
        self.0.heard().muted.insert(node);
    }
}

impl Drop for Silencer {
    fn drop(&mut self) {
        self.0.heard().by = None;
    }
}
