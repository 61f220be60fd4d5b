//! Where paths come from, and what is known of it at the moment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use drover_core::{PathInfo, StoreDir, StorePath};
use drover_store::{FetchEvent, FetchObserver, Objection, Offers, OwnSetting, Substituter};
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, OnceCell};

use crate::LocalStore;
use crate::opened::lock;
use crate::substitution::elsewhere::{Addresses, Elsewhere};
use crate::substitution::realisations::Hearsay;

/// How long a substituter that could not be asked is left alone.
const REST: Duration = Duration::from_secs(60);

/// How long the order of substituters counts.
const ORDER_AGE: Duration = Duration::from_secs(600);

/// The priority of a binary cache that says nothing of it.
const USUAL_PRIORITY: i64 = 50;

/// Lists of substituters that sessions have asked for and that are remembered.
const MAX_OTHERS: usize = 16;

/// Where paths come from that need not be built, and damaged ones once more.
#[derive(Clone, Default)]
pub struct Sources {
    /// The substituters; of those with the same priority the first counts most.
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

/// Opens substituters by their addresses; the second are those that can't be asked, and why.
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
    /// The substituters in the order in which they count; known when they were asked.
    ordered: OnceCell<Vec<Substituter>>,
    state: Arc<State>,
    /// The directory of the paths that are to come.
    here: StoreDir,
    /// What they said of outputs whose paths don't follow from derivations.
    pub(crate) hearsay: Arc<Hearsay>,
    /// The same with the order that counts at present, and since when it does.
    current: Mutex<Option<(Instant, Arc<Supply>)>>,
    /// Those of sessions that have asked for others, by what they said.
    others: Mutex<BTreeMap<Wishes, Arc<Supply>>>,
}

/// All that a session said of its substituters.
type Wishes = Vec<(Said, String)>;

/// What a session said of its substituters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Said {
    These,
    TheseToo,
}

/// What is known of substituters and what comes from them, for all sessions.
#[derive(Default)]
struct State {
    /// Paths that are being fetched.
    coming: Mutex<BTreeSet<StorePath>>,
    /// Some of them have come, or will not.
    come: Notify,
    numbers: AtomicU64,
    /// Substituters that failed, by name, and when.
    resting: Mutex<BTreeMap<String, Instant>>,
    /// What was told of them, and when.
    told: Mutex<BTreeMap<String, Instant>>,
    /// Addresses of paths that are wanted.
    addresses: Arc<Addresses>,
}

impl Supply {
    /// Returns a supply of paths in this directory.
    pub(crate) fn new(sources: Sources, here: StoreDir) -> Supply {
        Supply { sources, here, ..Supply::default() }
    }

    /// Returns what is known of the addresses of paths, by which they are found in stores with another
    /// directory.
    pub(crate) fn addresses(&self) -> &Addresses {
        &self.state.addresses
    }

    /// Returns the same with the order of the substituters as it is at present: what they say of
    /// themselves may change while a process lives. Whoever works with it keeps it to the end.
    pub(super) fn current(&self) -> Arc<Supply> {
        let mut current = lock(&self.current);
        if let Some((since, supply)) = current.as_ref()
            && since.elapsed() < ORDER_AGE
        {
            return Arc::clone(supply);
        }
        let (state, hearsay) = (Arc::clone(&self.state), Arc::clone(&self.hearsay));
        let supply = Arc::new(Supply {
            state,
            hearsay,
            ..Supply::new(self.sources.clone(), self.here.clone())
        });
        *current = Some((Instant::now(), Arc::clone(&supply)));
        supply
    }

    /// Returns where a session's paths come from that asks for other substituters; `None` where it
    /// asks for none. Sessions that ask for the same have the same.
    pub(crate) fn as_asked_for(&self, own: &[OwnSetting]) -> Option<Arc<Supply>> {
        let open = self.sources.open.as_ref()?;
        let mut said: Wishes = own
            .iter()
            .filter_map(|setting| match setting {
                OwnSetting::Substituters(names) => Some((Said::These, names.clone())),
                OwnSetting::MoreSubstituters(names) => Some((Said::TheseToo, names.clone())),
                _ => None,
            })
            .collect();
        if said.is_empty() {
            return None;
        }
        // whatever came first, more ones are beside those that are named
        said.sort();
        let mut others = lock(&self.others);
        if let Some(known) = others.get(&said) {
            return Some(Arc::clone(known));
        }
        let mut sources = self.sources.clone();
        for (what, names) in &said {
            if *what == Said::These {
                (sources.substituters, sources.unasked) = (Vec::new(), Vec::new());
            }
            let (more, unasked) = open(names);
            for substituter in more {
                let name = substituter.store.name();
                if sources.substituters.iter().all(|known| known.store.name() != name) {
                    sources.substituters.push(substituter);
                }
            }
            sources.unasked.extend(unasked);
        }
        let supply =
            Supply { state: Arc::clone(&self.state), ..Supply::new(sources, self.here.clone()) };
        let supply = Arc::new(supply);
        if others.len() >= MAX_OTHERS {
            others.clear();
        }
        others.insert(said, Arc::clone(&supply));
        Some(supply)
    }

    /// Returns the substituters in the order in which they count: by priority, and then as they were
    /// configured.
    pub(super) async fn list(&self) -> &[Substituter] {
        let order = async || {
            let sources = self.sources.substituters.iter().cloned();
            let mut list: Vec<Substituter> = sources.map(|one| self.as_if_here(one)).collect();
            if list.len() > 1 {
                let asked = list.iter().map(|substituter| self.priority(substituter));
                let priorities = futures::future::join_all(asked).await;
                let mut paired: Vec<_> = priorities.into_iter().zip(list).collect();
                paired.sort_by_key(|(priority, _)| *priority);
                list = paired.into_iter().map(|(_, substituter)| substituter).collect();
            }
            list
        };
        self.ordered.get_or_init(order).await
    }

    /// Returns a substituter as one whose paths are where ours are.
    fn as_if_here(&self, substituter: Substituter) -> Substituter {
        if *substituter.store.store_dir() == self.here {
            return substituter;
        }
        let (here, addresses) = (self.here.clone(), Arc::clone(&self.state.addresses));
        let store = Arc::new(Elsewhere::new(Arc::clone(&substituter.store), here, addresses));
        Substituter { store, ..substituter }
    }

    /// Returns how a substituter stands among others. One that can't say so is left alone for a while,
    /// and stands where caches usually do.
    async fn priority(&self, substituter: &Substituter) -> i64 {
        let priority = match substituter.priority {
            Some(priority) => return priority,
            None => substituter.store.priority().await,
        };
        priority.unwrap_or_else(|error| {
            let name = substituter.store.name();
            lock(&self.state.resting).insert(name.to_owned(), Instant::now());
            self.note_once(name, format!("substituter '{name}' is left out: {error}"));
            USUAL_PRIORITY
        })
    }

    /// Whether nobody can be asked.
    pub(crate) fn is_empty(&self) -> bool {
        self.sources.substituters.is_empty()
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
        let one = self.ordered.get().and_then(|list| list.get(by));
        one.map(|one| one.store.name()).unwrap_or_default()
    }

    /// Tells of what came up while substituters were asked: once in a while, however many paths it is
    /// about.
    pub(super) fn tell(&self, offers: &mut Offers<'_>, store: &LocalStore) {
        let mut disbelieved: BTreeMap<(usize, String), (StorePath, usize)> = BTreeMap::new();
        for objection in offers.objections() {
            match objection {
                Objection::Failed { by, why } => {
                    self.rest(by);
                    let name = self.name(by);
                    self.note_once(name, format!("substituter '{name}' is left out: {why}"));
                }
                Objection::Disbelieved { by, path, why } => {
                    disbelieved.entry((by, why)).or_insert((path, 0)).1 += 1;
                }
            }
        }
        for ((by, why), (path, count)) in disbelieved {
            let name = self.name(by);
            let path = store.layout().store_dir.display(&path);
            let more = match count {
                1 => String::new(),
                count => format!(" and {} others", count - 1),
            };
            let text = format!("what '{name}' has for '{path}'{more} is ignored: {why}");
            self.note_once(&format!("{name} {why}"), text);
        }
    }

    /// Tells of something that wasn't told of a moment ago.
    pub(super) fn note_once(&self, about: &str, text: String) {
        let mut told = lock(&self.state.told);
        told.retain(|_, since| since.elapsed() < REST);
        let is_new = told.insert(about.to_owned(), Instant::now()).is_none();
        drop(told);
        if is_new {
            self.note(text);
        }
    }

    /// Has a substituter left alone for a while.
    pub(super) fn rest(&self, by: usize) {
        lock(&self.state.resting).insert(self.name(by).to_owned(), Instant::now());
    }

    /// Whether a substituter is left alone.
    pub(super) fn rests(&self, by: usize) -> bool {
        let resting = lock(&self.state.resting);
        resting.get(self.name(by)).is_some_and(|since| since.elapsed() < REST)
    }

    /// Leaves out those that are left alone.
    pub(super) async fn leave_out_resting(&self, offers: &mut Offers<'_>) {
        for by in (0..self.list().await.len()).filter(|by| self.rests(*by)) {
            offers.leave_out(by);
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
        // who waits wakes the others who wait else, and they him
        if self.paths.is_empty() {
            return;
        }
        let mut coming = lock(&self.state.coming);
        for path in &self.paths {
            coming.remove(path);
        }
        drop(coming);
        self.state.come.notify_waiters();
    }
}
