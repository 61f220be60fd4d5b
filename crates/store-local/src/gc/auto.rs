//! When to collect garbage unasked: `min-free`, `max-free` and `min-free-check-interval`.
//!
//! Follows `LocalStore::autoGC` in Nix's `src/libstore/gc.cc`.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::GcError;

/// When garbage is collected unasked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AutoLimits {
    /// Bytes; less free space than this begins a collection. Zero is never.
    pub(crate) min_free: u64,
    /// Bytes; a collection ends when so many are free.
    pub(crate) max_free: u64,
    /// How often free space is looked at.
    pub(crate) interval: Duration,
}

/// Decides when to collect.
#[derive(Debug)]
pub(crate) struct AutoCollect {
    limits: AutoLimits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    looked: Option<Instant>,
    /// What was free after the last collection. If there is hardly less now, another one would find
    /// nothing.
    free_after: Option<u64>,
    running: bool,
}

/// A collection that is due. Nobody else begins one before it is dropped.
#[derive(Debug)]
pub(crate) struct Due<'a> {
    auto: &'a AutoCollect,
    /// Bytes to free.
    pub(crate) bytes: u64,
}

impl AutoCollect {
    pub(crate) fn new(limits: AutoLimits) -> AutoCollect {
        AutoCollect { limits, state: Mutex::default() }
    }

    /// Looks at the free space, if it is time to, and returns the collection that is due.
    pub(crate) fn due(
        &self,
        now: Instant,
        free: impl FnOnce() -> Result<u64, GcError>,
    ) -> Result<Option<Due<'_>>, GcError> {
        let AutoLimits { min_free, max_free, interval } = self.limits;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let early = state.looked.is_some_and(|looked| now.duration_since(looked) < interval);
        if min_free == 0 || state.running || early {
            return Ok(None);
        }
        let free = free()?;
        state.looked = Some(now);
        let in_vain =
            state.free_after.is_some_and(|after| u128::from(after) * 97 < u128::from(free) * 100);
        if min_free <= free || max_free <= free || in_vain {
            return Ok(None);
        }
        state.running = true;
        Ok(Some(Due { auto: self, bytes: max_free - free }))
    }
}

impl Due<'_> {
    /// Notes what is free after the collection.
    pub(crate) fn done(self, now: Instant, free: u64) {
        let mut state = self.auto.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.free_after = Some(free);
        state.looked = Some(now);
    }
}

impl Drop for Due<'_> {
    fn drop(&mut self) {
        self.auto.state.lock().unwrap_or_else(PoisonError::into_inner).running = false;
    }
}

/// Returns the bytes that are free to everybody on the file system of the store.
pub(crate) fn free_space(store: &Path) -> Result<u64, GcError> {
    let found = rustix::fs::statvfs(store)
        .map_err(|errno| GcError::errno("look for free space in", store, errno))?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_little_is_free_and_a_collection_may_help() {
        let limits = AutoLimits { min_free: 100, max_free: 1000, interval: Duration::from_secs(5) };
        let auto = AutoCollect::new(limits);
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let due = |second, free| {
            auto.due(at(second), || Ok(free)).unwrap().map(|due| {
                let bytes = due.bytes;
                (due, bytes)
            })
        };
        assert!(due(0, 100).is_none(), "enough is free");
        assert!(due(1, 10).is_none(), "it was looked at just now");
        let (running, bytes) = due(6, 10).unwrap();
        assert_eq!(bytes, 990);
        assert!(due(20, 10).is_none(), "one runs");
        running.done(at(21), 50);
        assert!(due(22, 10).is_none(), "it has just ended");
        assert!(due(30, 49).is_none(), "it would find nothing");
        let (dropped, _) = due(40, 40).unwrap();
        drop(dropped);
        assert!(due(50, 40).is_some(), "one that failed is tried again");
    }
}
