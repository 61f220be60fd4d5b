//! NARs that many ask for, in memory.
//!
//! A NAR that is asked for a second time is read whole, checked, and kept under its hash until there is
//! no room for it. What is kept can't go stale; whether its path is still there is for others to say.
//! Those that read slowly share it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use drover_core::NarHash;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Hashes of NARs that were asked for once, at the most.
const MOST_SEEN: usize = 4096;

/// NARs in memory.
pub(crate) struct Kept {
    /// Bytes that there is room for.
    room: u64,
    state: Mutex<State>,
    /// Who reads one, at one time.
    reading: Semaphore,
}

/// The pieces of a NAR.
pub(crate) type KeptNar = Arc<[Bytes]>;

#[derive(Default)]
struct State {
    nars: HashMap<NarHash, Entry>,
    bytes: u64,
    /// Goes up with each question.
    now: u64,
    /// Those that were asked for once, and when.
    seen: HashMap<NarHash, u64>,
}

struct Entry {
    pieces: KeptNar,
    size: u64,
    used: u64,
}

impl Kept {
    pub(crate) fn new(room: u64) -> Kept {
        Kept { room, state: Mutex::default(), reading: Semaphore::new(1) }
    }

    /// Returns a NAR that is kept.
    pub(crate) fn find(&self, hash: NarHash) -> Option<KeptNar> {
        let mut state = self.state();
        state.now += 1;
        let now = state.now;
        let entry = state.nars.get_mut(&hash)?;
        entry.used = now;
        Some(Arc::clone(&entry.pieces))
    }

    /// Takes note that a NAR was asked for. Returns the turn of who is to read it whole: nothing if it's
    /// the first time, if it's too large, or while another one is being read.
    pub(crate) fn wants(&self, hash: NarHash, size: u64) -> Option<SemaphorePermit<'_>> {
        if size > self.room / 4 {
            return None;
        }
        let mut state = self.state();
        state.now += 1;
        let now = state.now;
        if state.seen.insert(hash, now).is_some() {
            return self.reading.try_acquire().ok();
        }
        if state.seen.len() > MOST_SEEN {
            let half = now.saturating_sub(MOST_SEEN as u64 / 2);
            state.seen.retain(|_, seen| *seen >= half);
        }
        None
    }

    /// Keeps a NAR that is known to be good, and lets go of those that were not wanted for longest.
    pub(crate) fn keep(&self, hash: NarHash, size: u64, pieces: KeptNar) {
        let mut state = self.state();
        state.seen.remove(&hash);
        while state.bytes.saturating_add(size) > self.room {
            let oldest = state.nars.iter().min_by_key(|(_, entry)| entry.used);
            let Some(oldest) = oldest.map(|(hash, _)| *hash) else { return };
            if let Some(gone) = state.nars.remove(&oldest) {
                state.bytes = state.bytes.saturating_sub(gone.size);
            }
        }
        let used = state.now;
        if state.nars.insert(hash, Entry { pieces, size, used }).is_none() {
            state.bytes += size;
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(number: u8) -> NarHash {
        NarHash([number; 32])
    }

    #[test]
    fn keeps_what_is_asked_for_twice_as_long_as_there_is_room() {
        let kept = Kept::new(400);
        assert!(kept.wants(hash(0), 101).is_none());
        assert!(kept.wants(hash(0), 101).is_none(), "too large");
        for number in 1..=4 {
            assert!(kept.wants(hash(number), 100).is_none());
            let turn = kept.wants(hash(number), 100);
            assert!(turn.is_some());
            assert!(kept.wants(hash(number), 100).is_none(), "one at a time");
            kept.keep(hash(number), 100, Arc::from([Bytes::from_static(b"x")]));
        }
        assert!(kept.find(hash(1)).is_some());
        kept.keep(hash(5), 100, Arc::from([Bytes::from_static(b"y")]));
        assert!(kept.find(hash(2)).is_none(), "the one that was not used for longest");
        assert!(kept.find(hash(1)).is_some() && kept.find(hash(5)).is_some());
        assert_eq!(kept.state().bytes, 400);
    }
}
