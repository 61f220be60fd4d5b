//! The post-build hook for what other machines have built: it runs here, when that is in the local
//! store, as by Nix. What this machine builds has it run by its builder.
//!
//! Nix brings all back that it has built elsewhere; of what stays where it was built here, there is
//! nothing that a hook could be given.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use drover_build_local::PostBuildHook;
use drover_core::StorePath;
use drover_fleet::{FleetEvent, Graph, JobFailureReport, NodeId, Observer};
use drover_store::{FailureCause, Keeper, RealiseEvent, RealiseObserver, StoreError, Substitute};

use crate::builders::LOCAL;

/// Returns the earliest time that a clock can have shown since it showed `since`, if it shows `now` so long after
/// that: it may have been set meanwhile.
fn earliest(since: SystemTime, now: SystemTime, elapsed: Duration) -> SystemTime {
    since.min(now.checked_sub(elapsed).unwrap_or(SystemTime::UNIX_EPOCH))
}

/// Takes down what other machines have built, and what this one has, and passes all on.
pub(crate) struct BuiltElsewhere<T: ?Sized, K> {
    seen: Mutex<BTreeSet<K>>,
    here: Mutex<BTreeSet<K>>,
    /// Since when, by the clock and by one that nobody sets.
    since: (SystemTime, Instant),
    to: Arc<T>,
}

impl<T: ?Sized, K: Ord> BuiltElsewhere<T, K> {
    pub(crate) fn new(to: Arc<T>) -> BuiltElsewhere<T, K> {
        let since = (SystemTime::now(), Instant::now());
        BuiltElsewhere { seen: Mutex::default(), here: Mutex::default(), since, to }
    }

    /// Whether something that was registered then, in seconds since the epoch, may be of what was built
    /// since this follows it.
    pub(crate) fn is_of_this_time(&self, registered: u64) -> bool {
        let (clock, begun) = self.since;
        let since = earliest(clock, SystemTime::now(), begun.elapsed());
        let since = since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        since.as_secs() <= registered
    }

    fn note(&self, machine: &str, what: K) {
        let list = match ["", LOCAL].contains(&machine) {
            true => &self.here,
            false => &self.seen,
        };
        list.lock().unwrap_or_else(PoisonError::into_inner).insert(what);
    }

    /// Whether this was.
    pub(crate) fn has_seen(&self, what: &K) -> bool {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).contains(what)
    }

    /// Returns what was built elsewhere, and goes on knowing it.
    pub(crate) fn elsewhere(&self) -> BTreeSet<K>
    where
        K: Clone,
    {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns what was built here.
    pub(crate) fn take_here(&self) -> BTreeSet<K> {
        std::mem::take(&mut self.here.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns what was built elsewhere.
    pub(crate) fn take(&self) -> BTreeSet<K> {
        std::mem::take(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Observer for BuiltElsewhere<dyn Observer, NodeId> {
    fn event(&self, event: FleetEvent) {
        if let FleetEvent::Built { node, machine, .. } = &event {
            self.note(machine, *node);
        }
        self.to.event(event);
    }
}

impl RealiseObserver for BuiltElsewhere<dyn RealiseObserver, StorePath> {
    fn event(&self, event: RealiseEvent) {
        if let RealiseEvent::Started { derivation, machine } = &event {
            self.note(machine, derivation.clone());
        }
        self.to.event(event);
    }
}

/// Runs the hook for derivations of a graph whose outputs are all in the store by now. Returns those
/// for which it failed.
///
/// # Errors
///
/// The store's.
pub(crate) async fn run_for_nodes(
    hook: &PostBuildHook,
    store: &dyn Keeper,
    graph: &Graph,
    nodes: BTreeSet<NodeId>,
    observer: &dyn Observer,
) -> Result<Vec<JobFailureReport>, StoreError> {
    let mut failures = Vec::new();
    for node in nodes.into_iter().filter_map(|node| graph.node(node)) {
        let known = store.output_map(&node.path).await?;
        let outputs: Option<BTreeSet<StorePath>> = known.into_values().collect();
        let Some(outputs) = outputs else { continue };
        let valid = store.hold_valid(&outputs, Substitute::No).await?;
        if valid.len() < outputs.len() {
            continue;
        }
        let tell = |line| observer.event(FleetEvent::Note(line));
        if let Err(message) = run(hook, store, &node.path, &outputs, tell).await {
            let (derivation, cause) = (node.path.clone(), FailureCause::Hook);
            let log_tail = Vec::new();
            failures.push(JobFailureReport { derivation, cause, machine: None, message, log_tail });
        }
    }
    Ok(failures)
}

/// Runs the hook for one derivation.
///
/// # Errors
///
/// It failed, in words.
pub(crate) async fn run(
    hook: &PostBuildHook,
    store: &dyn Keeper,
    derivation: &StorePath,
    outputs: &BTreeSet<StorePath>,
    mut tell: impl FnMut(String),
) -> Result<(), String> {
    let store_dir = store.store_dir();
    let outputs: Vec<String> = outputs.iter().map(|path| store_dir.display(path)).collect();
    let hear = |line| tell(format!("post-build-hook: {line}"));
    let ended = hook.run(&store_dir.display(derivation), &outputs, hear).await;
    ended.map_err(|error| error.words())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// T45: what was registered since is of this time, however the clock was set meanwhile.
    #[test]
    fn a_clock_that_is_set_changes_nothing_of_what_was_built() {
        const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
        let (since, elapsed) = (SystemTime::now(), Duration::from_secs(60));
        let usual = since + elapsed;
        assert_eq!(earliest(since, usual, elapsed), since);
        // registered before it was set, or after that
        assert_eq!(earliest(since, usual + YEAR, elapsed), since);
        assert_eq!(earliest(since, usual - YEAR, elapsed), since - YEAR);
        assert_eq!(
            earliest(since, SystemTime::UNIX_EPOCH, elapsed),
            SystemTime::UNIX_EPOCH - elapsed
        );
        let built = BuiltElsewhere::<(), u8>::new(Arc::new(()));
        let seconds =
            |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        assert!(built.is_of_this_time(seconds(SystemTime::now())));
        assert!(!built.is_of_this_time(seconds(SystemTime::now() - YEAR)));
    }
}
