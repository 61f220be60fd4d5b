//! Where paths come from, and what is known of it at the moment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use drover_core::{PathInfo, StorePath};
use drover_store::{FetchEvent, FetchObserver, Objection, Offers, OwnSetting, Substituter};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::LocalStore;
use crate::opened::lock;

/// How long a substituter that could not be asked is left alone.
const REST: Duration = Duration::from_secs(60);

/// Where paths come from that need not be built, and damaged ones once more.
#[derive(Clone, Default)]
pub struct Sources {
    /// The substituters, the one first that counts most.
    pub substituters: Vec<Substituter>,
    /// Of each that should be asked and can't be, why; the user is told where no other helps.
    pub unasked: Vec<String>,
    /// What derivations that forbid it are substituted all the same.
    pub forbidden: Forbidden,
    /// Follows what is fetched.
    pub observer: Option<Arc<dyn FetchObserver>>,
    /// Opens those that a client names who may.
    pub open: Option<OpenSubstituters>,
}

/// Opens substituters by their addresses, in the order in which they count; the second are those that
/// can't be asked, and why.
pub type OpenSubstituters = Arc<dyn Fn(&str) -> (Vec<Substituter>, Vec<String>) + Send + Sync>;

/// What becomes of derivations that don't want their outputs substituted (`allowSubstitutes`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forbidden {
    /// They are built.
    #[default]
    Heed,
    /// They are substituted like all others (`always-allow-substitutes`).
    Ignore,
}

/// Where paths come from, with what is known of it at the moment.
#[derive(Default)]
pub(crate) struct Supply {
    pub(crate) sources: Sources,
    state: State,
}

/// What is known of substituters and what comes from them, for all sessions.
#[derive(Default)]
struct State {
    /// Paths that are being fetched.
    coming: Mutex<BTreeSet<StorePath>>,
    /// Some of them have come, or will not.
    come: Notify,
    numbers: AtomicU64,
    /// Substituters that could not be asked, and when.
    resting: Mutex<BTreeMap<usize, Instant>>,
}

impl Supply {
    pub(crate) fn new(sources: Sources) -> Supply {
        Supply { sources, state: State::default() }
    }

    /// Returns where a session's paths come from that asks for other substituters; `None` where it
    /// asks for none.
    pub(crate) fn as_asked_for(&self, own: &[OwnSetting]) -> Option<Supply> {
        let open = self.sources.open.as_ref()?;
        let mut sources = None;
        for setting in own {
            let (names, known) = match setting {
                OwnSetting::Substituters(names) => (names, None),
                OwnSetting::MoreSubstituters(names) => {
                    (names, Some(sources.as_ref().unwrap_or(&self.sources)))
                }
                _ => continue,
            };
            let (mut substituters, mut unasked) = known
                .map(|known| (known.substituters.clone(), known.unasked.clone()))
                .unwrap_or_default();
            let (more, without) = open(names);
            substituters.extend(more);
            unasked.extend(without);
            sources = Some(Sources { substituters, unasked, ..self.sources.clone() });
        }
        sources.map(Supply::new)
    }

    pub(super) fn list(&self) -> &[Substituter] {
        &self.sources.substituters
    }

    /// Ends when a path has come that was claimed, or won't come.
    pub(super) fn come(&self) -> Notified<'_> {
        self.state.come.notified()
    }

    /// Returns a number for a transfer that no other has.
    pub(super) fn number(&self) -> u64 {
        self.state.numbers.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn note(&self, text: String) {
        match &self.sources.observer {
            Some(observer) => observer.event(FetchEvent::Note(text)),
            None => tracing::warn!("{text}"),
        }
    }

    pub(super) fn event(&self, event: FetchEvent) {
        if let Some(observer) = &self.sources.observer {
            observer.event(event);
        }
    }

    pub(super) fn name(&self, by: usize) -> &str {
        self.list().get(by).map(|one| one.store.name()).unwrap_or_default()
    }

    /// Tells of what came up while substituters were asked.
    pub(super) fn tell(
        &self,
        offers: &mut Offers<'_>,
        told: &mut BTreeSet<StorePath>,
        store: &LocalStore,
    ) {
        for objection in offers.objections() {
            match objection {
                Objection::Failed { by, why } => {
                    lock(&self.state.resting).insert(by, Instant::now());
                    let name = self.name(by);
                    self.note(format!("substituter '{name}' is left out: {why}"));
                }
                Objection::Disbelieved { by, path, why } => {
                    if told.insert(path.clone()) {
                        let path = store.layout().store_dir.display(&path);
                        let name = self.name(by);
                        self.note(format!("what '{name}' has for '{path}' is ignored: {why}"));
                    }
                }
            }
        }
    }

    /// Leaves out those that could not be asked a moment ago.
    pub(super) fn leave_out_resting(&self, offers: &mut Offers<'_>) {
        let mut resting = lock(&self.state.resting);
        resting.retain(|_, since| since.elapsed() < REST);
        for by in resting.keys() {
            offers.leave_out(*by);
        }
    }
}

/// Paths that nobody else fetches meanwhile.
pub(super) struct Claim<'a> {
    state: &'a State,
    pub(super) paths: Vec<StorePath>,
}

impl Claim<'_> {
    /// Claims paths up to the first that somebody else fetches.
    pub(super) fn of_first<'a>(supply: &'a Supply, infos: &[PathInfo]) -> Claim<'a> {
        let state = &supply.state;
        let mut coming = lock(&state.coming);
        let free = infos.iter().take_while(|info| coming.insert(info.path.clone()));
        Claim { state, paths: free.map(|info| info.path.clone()).collect() }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut coming = lock(&self.state.coming);
        for path in &self.paths {
            coming.remove(path);
        }
        drop(coming);
        self.state.come.notify_waiters();
    }
}
