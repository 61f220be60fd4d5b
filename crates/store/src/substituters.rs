//! Stores that have what need not be built, and which of them a path is to come from.
//!
//! All are asked at the same time, each once for each path; of those that have one, the first in their
//! order counts. Nothing is fetched here.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use drover_core::{PathInfo, StorePath, Substitute};
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};

use crate::copy::closure_order;
use crate::error::StoreError;
use crate::store::Store;

/// Paths that may be fetched in one go. Who offers more makes them up as they are asked for.
const MAX_PLAN: usize = 1_000_000;

/// What a path must have to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vouching {
    /// The signature of a trusted key, unless it is content-addressed.
    Signature,
    /// Nothing: whoever configured the substituter trusts it (`?trusted=true`).
    Substituter,
}

/// A store that paths are fetched from.
#[derive(Clone)]
pub struct Substituter {
    /// The store.
    pub store: Arc<dyn Store>,
    /// What its paths must have.
    pub vouching: Vouching,
    /// How it stands among others, the lowest counting most; nothing means what the store says.
    pub priority: Option<i64>,
}

/// A path that can be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// What the substituter says of it.
    pub info: PathInfo,
    /// Which one, by its place among all.
    pub by: usize,
}

/// Says whether what a substituter says of a path is believed, and if not, why.
pub type Judge<'a> = &'a (dyn Fn(&Substituter, &PathInfo) -> Result<(), String> + Send + Sync);

/// Something that kept a substituter, or a path that it has, from being used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Objection {
    /// It could not be asked.
    Failed {
        /// Which one.
        by: usize,
        /// Why.
        why: String,
    },
    /// What it has isn't believed.
    Disbelieved {
        /// Which one.
        by: usize,
        /// The path.
        path: StorePath,
        /// Why.
        why: String,
    },
}

/// What is to be fetched so that paths become valid, with all that they refer to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What is to be fetched; references come first.
    pub fetch: Vec<Offer>,
    /// Paths that are wanted and can't be had, though somebody offers them: with what they refer to
    /// that nobody has.
    pub incomplete: BTreeMap<StorePath, StorePath>,
}

impl Plan {
    /// Returns those of some paths that are to be fetched.
    pub fn offered(&self, paths: &BTreeSet<StorePath>) -> BTreeSet<StorePath> {
        let fetched = self.fetch.iter().map(|offer| &offer.info.path);
        fetched.filter(|path| paths.contains(*path)).cloned().collect()
    }
}

/// What substituters have, as far as they were asked.
pub struct Offers<'a> {
    substituters: &'a [Substituter],
    judge: Judge<'a>,
    answers: HashMap<StorePath, Vec<Answer>>,
    /// Questions that nobody has waited for to the end: they go on with the next ones.
    asked: FuturesUnordered<BoxFuture<'a, Reply>>,
    pending: HashSet<(usize, StorePath)>,
    /// Substituters that are not asked any more.
    out: BTreeSet<usize>,
    objections: Vec<Objection>,
}

/// What came of a question to a substituter.
struct Reply {
    by: usize,
    paths: Vec<StorePath>,
    infos: Result<Vec<Option<PathInfo>>, StoreError>,
}

#[derive(Clone, Debug, Default)]
enum Answer {
    #[default]
    Unknown,
    Absent,
    Has(Box<PathInfo>),
}

impl<'a> Offers<'a> {
    /// Begins with nothing known; the first of the substituters counts most.
    pub fn new(substituters: &'a [Substituter], judge: Judge<'a>) -> Offers<'a> {
        Offers {
            substituters,
            judge,
            answers: HashMap::new(),
            asked: FuturesUnordered::new(),
            pending: HashSet::new(),
            out: BTreeSet::new(),
            objections: Vec::new(),
        }
    }

    /// Has a substituter not asked any more, nor what it has used.
    pub fn leave_out(&mut self, by: usize) {
        self.out.insert(by);
    }

    /// Gives up questions that nobody waits for. Whoever is about to do something else must: what isn't
    /// polled may hold what others need.
    pub fn drop_questions(&mut self) {
        self.asked = FuturesUnordered::new();
        self.pending.clear();
    }

    /// Has a path not fetched from a substituter.
    pub fn spoil(&mut self, by: usize, path: &StorePath) {
        self.note(by, path, Answer::Absent);
    }

    /// Returns what came up since this was asked last.
    pub fn objections(&mut self) -> Vec<Objection> {
        std::mem::take(&mut self.objections)
    }

    /// Returns those paths that can be fetched, whether or not what they refer to can be.
    pub async fn of(&mut self, paths: &BTreeSet<StorePath>) -> BTreeMap<StorePath, Offer> {
        self.ask(paths).await;
        let offer = |path: &StorePath| Some((path.clone(), self.decided(path).flatten()?));
        paths.iter().filter_map(offer).collect()
    }

    /// Finds out what must be fetched for paths to become valid in `here`, which holds those that
    /// are.
    ///
    /// # Errors
    ///
    /// What `here` says. A substituter that fails is left out.
    pub async fn plan(
        &mut self,
        wanted: &BTreeSet<StorePath>,
        here: &dyn Store,
    ) -> Result<Plan, StoreError> {
        let mut found: BTreeMap<StorePath, Offer> = BTreeMap::new();
        let mut seen: BTreeSet<StorePath> = wanted.clone();
        let mut absent: BTreeSet<StorePath> = BTreeSet::new();
        let mut level = wanted.clone();
        while !level.is_empty() {
            let valid = here.hold_valid(&level, Substitute::No).await?;
            let lacking: BTreeSet<StorePath> = level.difference(&valid).cloned().collect();
            let offers = self.of(&lacking).await;
            absent.extend(lacking.into_iter().filter(|path| !offers.contains_key(path)));
            level = offers
                .values()
                .flat_map(|offer| offer.info.references.iter())
                .filter(|reference| seen.insert((*reference).clone()))
                .cloned()
                .collect();
            let last = offers.values().next().map(|offer| offer.by);
            found.extend(offers);
            if seen.len() > MAX_PLAN {
                if let Some(by) = last {
                    let why = format!("what it has refers to more than {MAX_PLAN} paths");
                    self.out.insert(by);
                    self.objections.push(Objection::Failed { by, why });
                }
                return Ok(Plan::default());
            }
        }
        Ok(complete(wanted, found, &absent))
    }

    /// Asks until it is known where each path is to come from, or that nobody has it.
    async fn ask(&mut self, paths: &BTreeSet<StorePath>) {
        for (by, substituter) in self.substituters.iter().enumerate() {
            let is_unknown = |path: &&StorePath| {
                matches!(self.answer(by, path), Answer::Unknown)
                    && !self.pending.contains(&(by, (*path).clone()))
            };
            let unknown: Vec<StorePath> = match self.out.contains(&by) {
                true => Vec::new(),
                false => paths.iter().filter(is_unknown).cloned().collect(),
            };
            if unknown.is_empty() {
                continue;
            }
            self.pending.extend(unknown.iter().map(|path| (by, path.clone())));
            let store = Arc::clone(&substituter.store);
            let question = async move {
                let infos = store.path_infos(&unknown).await;
                Reply { by, paths: unknown, infos }
            };
            self.asked.push(question.boxed());
        }
        let mut open: BTreeSet<&StorePath> = paths.iter().collect();
        loop {
            open.retain(|path| self.decided(path).is_none());
            if open.is_empty() {
                return;
            }
            let Some(Reply { by, paths, infos }) = self.asked.next().await else { return };
            for path in &paths {
                self.pending.remove(&(by, path.clone()));
            }
            match infos {
                Ok(infos) => {
                    for (path, info) in paths.iter().zip(infos) {
                        self.take(by, path, info);
                    }
                }
                Err(error) => {
                    self.out.insert(by);
                    self.objections.push(Objection::Failed { by, why: error.to_string() });
                }
            }
        }
    }

    /// Takes notice of what a substituter says of a path.
    fn take(&mut self, by: usize, path: &StorePath, info: Option<PathInfo>) {
        let (Some(substituter), Some(info)) = (self.substituters.get(by), info) else {
            return self.note(by, path, Answer::Absent);
        };
        // somebody else's word that he built it is none of ours
        let info = PathInfo { ultimate: false, registration_time: 0, ..info };
        match (self.judge)(substituter, &info) {
            Ok(()) => self.note(by, path, Answer::Has(Box::new(info))),
            Err(why) => {
                self.note(by, path, Answer::Absent);
                self.objections.push(Objection::Disbelieved { by, path: path.clone(), why });
            }
        }
    }

    fn note(&mut self, by: usize, path: &StorePath, answer: Answer) {
        let answers = self.answers.entry(path.clone()).or_default();
        answers.resize(self.substituters.len(), Answer::Unknown);
        if let Some(slot) = answers.get_mut(by) {
            *slot = answer;
        }
    }

    fn answer(&self, by: usize, path: &StorePath) -> &Answer {
        self.answers.get(path).and_then(|answers| answers.get(by)).unwrap_or(&Answer::Unknown)
    }

    /// Returns where a path is to come from, and `Some(None)` if nobody has it; `None` as long as
    /// one must be waited for that counts more than those who have answered.
    fn decided(&self, path: &StorePath) -> Option<Option<Offer>> {
        for by in (0..self.substituters.len()).filter(|by| !self.out.contains(by)) {
            match self.answer(by, path) {
                Answer::Has(info) => return Some(Some(Offer { info: (**info).clone(), by })),
                Answer::Absent => {}
                Answer::Unknown => return None,
            }
        }
        Some(None)
    }
}

/// Takes away what can't be had because something that it refers to can't be.
fn complete(
    wanted: &BTreeSet<StorePath>,
    mut found: BTreeMap<StorePath, Offer>,
    absent: &BTreeSet<StorePath>,
) -> Plan {
    let mut referrers: HashMap<&StorePath, Vec<&StorePath>> = HashMap::new();
    for (path, offer) in &found {
        for reference in offer.info.references.iter().filter(|reference| *reference != path) {
            referrers.entry(reference).or_default().push(path);
        }
    }
    let mut lacking: BTreeMap<StorePath, StorePath> = BTreeMap::new();
    let mut left: Vec<(&StorePath, &StorePath)> = absent.iter().map(|path| (path, path)).collect();
    while let Some((path, cause)) = left.pop() {
        for referrer in referrers.get(path).into_iter().flatten() {
            if !lacking.contains_key(*referrer) {
                lacking.insert((*referrer).clone(), cause.clone());
                left.push((referrer, cause));
            }
        }
    }
    found.retain(|path, _| !lacking.contains_key(path));
    let needed = needed(wanted, &found);
    found.retain(|path, _| needed.contains(path));
    lacking.retain(|path, _| wanted.contains(path));
    let infos = found.values().map(|offer| offer.info.clone()).collect();
    // by how deep they stand, and then by substituter, so that what comes from one comes in one go
    let mut depths: HashMap<StorePath, usize> = HashMap::new();
    let mut order: Vec<(usize, Offer)> = Vec::with_capacity(found.len());
    for info in closure_order(infos) {
        let below = info.references.iter().filter_map(|reference| depths.get(reference));
        let depth = below.max().map_or(0, |deepest| deepest + 1);
        depths.insert(info.path.clone(), depth);
        order.extend(found.remove(&info.path).map(|offer| (depth, offer)));
    }
    order.sort_by_key(|(depth, offer)| (*depth, offer.by));
    Plan { fetch: order.into_iter().map(|(_, offer)| offer).collect(), incomplete: lacking }
}

/// Returns what is found and is wanted, or is referred to by such.
fn needed(wanted: &BTreeSet<StorePath>, found: &BTreeMap<StorePath, Offer>) -> BTreeSet<StorePath> {
    let mut needed = BTreeSet::new();
    let mut left: Vec<&StorePath> = wanted.iter().collect();
    while let Some(path) = left.pop() {
        if let Some(offer) = found.get(path)
            && needed.insert(path.clone())
        {
            left.extend(&offer.info.references);
        }
    }
    needed
}
