//! What a garbage collector and those who add roots while it runs know of each other.
//!
//! The invariant: a root is acknowledged only when its path is not being deleted, and from then on
//! no deletion of it is granted. Nix kept it from commit 87716847d4 on.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use drover_core::StorePath;

/// Roots of one garbage collection that are kept in memory.
const MAX_ROOTS: usize = 1 << 20;

/// The hash part of a store path. Roots protect what begins with it, such as `<path>.lock`.
pub(crate) type HashPart = [u8; 32];

pub(crate) fn hash_part(path: &StorePath) -> HashPart {
    let mut part = [0; 32];
    for (to, from) in part.iter_mut().zip(path.hash_part().bytes()) {
        *to = from;
    }
    part
}

#[derive(Debug, Default)]
struct State {
    roots: HashSet<HashPart>,
    arrived: Vec<StorePath>,
    pending: HashSet<HashPart>,
}

/// The roots and deletions of one garbage collection.
#[derive(Debug, Default)]
pub(crate) struct RootsState(Mutex<State>);

/// What becomes of a root that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It is honoured from now on.
    Honoured,
    /// Its path is being deleted; it is honoured afterwards.
    Pending,
    /// There are too many.
    Refused,
}

/// What is called when a deletion has ended.
pub(crate) type Ended = dyn Fn() + Send + Sync;

/// Whether a deletion may begin.
#[derive(Debug)]
pub enum Claim<'a> {
    /// It may; whoever adds one of the paths as a root waits until this is dropped.
    Granted(Deletion<'a>),
    /// These roots have come since the last claim, or are among the paths: mark what they need and
    /// whatever has their hash part, then choose anew.
    Arrived(Vec<StorePath>),
}

/// Paths that are being deleted, until this is dropped.
pub struct Deletion<'a> {
    state: &'a RootsState,
    ended: &'a Ended,
}

impl std::fmt::Debug for Deletion<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deletion").finish_non_exhaustive()
    }
}

impl RootsState {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a root that somebody has sent.
    pub(crate) fn arrive(&self, path: &StorePath) -> Arrival {
        let part = hash_part(path);
        let mut state = self.lock();
        if !state.roots.contains(&part) {
            if MAX_ROOTS <= state.roots.len() {
                return Arrival::Refused;
            }
            state.roots.insert(part);
            state.arrived.push(path.clone());
        }
        if state.pending.contains(&part) { Arrival::Pending } else { Arrival::Honoured }
    }

    pub(crate) fn is_pending(&self, part: &HashPart) -> bool {
        self.lock().pending.contains(part)
    }

    pub(crate) fn is_root(&self, path: &StorePath) -> bool {
        self.lock().roots.contains(&hash_part(path))
    }

    pub(crate) fn claim<'a>(&'a self, paths: &[StorePath], ended: &'a Ended) -> Claim<'a> {
        let mut state = self.lock();
        if !state.arrived.is_empty() {
            return Claim::Arrived(std::mem::take(&mut state.arrived));
        }
        let kept: Vec<StorePath> =
            paths.iter().filter(|path| state.roots.contains(&hash_part(path))).cloned().collect();
        if !kept.is_empty() {
            return Claim::Arrived(kept);
        }
        state.pending.extend(paths.iter().map(hash_part));
        Claim::Granted(Deletion { state: self, ended })
    }
}

impl Drop for Deletion<'_> {
    fn drop(&mut self) {
        self.state.lock().pending.clear();
        (self.ended)();
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use proptest::prelude::*;

    use super::*;

    fn path(digit: char, name: &str) -> StorePath {
        StorePath::from_base_name(&format!("{}-{name}", digit.to_string().repeat(32))).unwrap()
    }

    fn nothing() {}

    /// Nix 87716847d4: a root that comes for a path that was found dead, and whose turn is not yet.
    #[test]
    fn a_root_that_comes_after_its_path_was_chosen_is_kept() {
        let state = RootsState::default();
        let (a, b) = (path('a', "a"), path('b', "b"));
        let Claim::Granted(deletion) = state.claim(from_ref(&a), &nothing) else { panic!() };
        assert_eq!(state.arrive(&b), Arrival::Honoured);
        drop(deletion);
        let Claim::Arrived(roots) = state.claim(from_ref(&b), &nothing) else { panic!() };
        assert_eq!(&roots, from_ref(&b));
        let Claim::Arrived(roots) = state.claim(from_ref(&b), &nothing) else { panic!() };
        assert_eq!(roots, [b]);
    }

    #[test]
    fn a_root_whose_path_is_being_deleted_waits() {
        let state = RootsState::default();
        let a = path('a', "a");
        let ended = AtomicUsize::new(0);
        // The test's counter outlives the claim.
        let count: &'static AtomicUsize = Box::leak(Box::new(ended));
        let when = move || {
            count.fetch_add(1, Ordering::SeqCst);
        };
        let Claim::Granted(deletion) = state.claim(from_ref(&a), &when) else { panic!() };
        assert_eq!(state.arrive(&a), Arrival::Pending);
        assert_eq!(state.arrive(&path('a', "a.lock")), Arrival::Pending);
        drop(deletion);
        assert_eq!(count.load(Ordering::SeqCst), 1);
        assert!(!state.is_pending(&hash_part(&a)));
        assert!(matches!(state.claim(&[a], &nothing), Claim::Arrived(_)));
    }

    proptest! {
        /// Whatever comes in whatever order: what was honoured is never deleted afterwards.
        #[test]
        fn no_acknowledged_root_is_deleted(
            steps in prop::collection::vec((any::<bool>(), 0_usize..8), 1..60),
        ) {
            let state = RootsState::default();
            let paths: Vec<StorePath> = "01234567".chars().map(|c| path(c, "x")).collect();
            let mut honoured = HashSet::new();
            let mut running: Option<(Deletion<'_>, usize)> = None;
            for (add, which) in steps {
                let path = &paths[which];
                if add {
                    match state.arrive(path) {
                        Arrival::Honoured => { honoured.insert(which); }
                        Arrival::Pending => {
                            prop_assert_eq!(running.as_ref().map(|(_, which)| *which), Some(which));
                        }
                        Arrival::Refused => prop_assert!(false),
                    }
                    continue;
                }
                running = None;
                if let Claim::Granted(deletion) = state.claim(from_ref(path), &nothing) {
                    prop_assert!(!honoured.contains(&which));
                    running = Some((deletion, which));
                }
            }
        }
    }
}
