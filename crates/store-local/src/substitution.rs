//! Paths that are fetched from substituters in the place of building them.
//!
//! Follows `src/libstore/build/substitution-goal.cc` of Nix in what is believed and what becomes of
//! trouble: the next substituter that has a path takes over from one that fails at it. Otherwise
//! than there, all paths of one substituter come in one stream.
//!
//! Invariant: nobody who waits for a path that somebody else fetches keeps others from one.

mod elsewhere;
mod followed;
pub(crate) mod realisations;
mod supply;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use drover_core::{PathInfo, StorePath, with_causes};
use drover_store::{
    BuildLog, FetchSize, LogEvent, Offer, Offered, Offers, Plan, SignatureCheck, Store, StoreError,
    Substitute, Substituter, Vouching, WhenValid,
};

use crate::LocalStore;
use crate::error::LocalError;
use crate::import::{Checks, ImportFailure, check_info, import_and_blame};
use crate::signers;
use crate::substitution::followed::Followed;
use crate::substitution::supply::Claim;
use crate::view::View;

pub(crate) use supply::Supply;
pub use supply::{Forbidden, OpenSubstituters, Sources};

/// Paths, and bytes of their NARs, that are fetched in one go from one substituter.
const RUN_PATHS: usize = 512;
const RUN_BYTES: u64 = 256 * 1024 * 1024;

/// Paths that a substituter may fail at before it's taken to fail at all.
const FAILURES: usize = 100;

/// Returns those paths that substituters have.
pub(crate) async fn substitutable(
    store: &LocalStore,
    paths: &BTreeSet<StorePath>,
) -> Result<BTreeSet<StorePath>, StoreError> {
    Ok(offers(store, paths).await?.into_iter().map(|offer| offer.info.path).collect())
}

/// Returns what substituters say of those paths that they have.
pub(crate) async fn offered(
    store: &LocalStore,
    paths: &BTreeSet<StorePath>,
) -> Result<BTreeMap<StorePath, Offered>, StoreError> {
    let offers = offers(store, paths).await?;
    let mut sizes = sizes(store, &offers).await;
    let offered = offers.into_iter().map(|Offer { info, .. }| {
        let size = sizes.remove(&info.path).unwrap_or_default();
        let PathInfo { path, deriver, references, .. } = info;
        (path, Offered { deriver, references, size })
    });
    Ok(offered.collect())
}

async fn offers(store: &LocalStore, paths: &BTreeSet<StorePath>) -> Result<Vec<Offer>, StoreError> {
    let supply = store.supply().current();
    if supply.is_empty() || paths.is_empty() {
        return Ok(Vec::new());
    }
    let view = store.blocking(|view| Ok(view.clone())).await?;
    let judge = judge(&view);
    let mut offers = Offers::new(supply.list().await, &judge);
    supply.leave_out_resting(&mut offers).await;
    let found = offers.of(paths).await;
    supply.tell(&mut offers, store);
    Ok(found.into_values().collect())
}

/// Returns what would have to be fetched for paths to become valid, of those that can be had whole.
pub(crate) async fn fetchable(
    store: &LocalStore,
    paths: &BTreeSet<StorePath>,
) -> Result<BTreeMap<StorePath, FetchSize>, StoreError> {
    if store.supply().is_empty() || paths.is_empty() {
        return Ok(BTreeMap::new());
    }
    let plan = plan(store, paths.clone(), async |_| Ok(BTreeSet::new())).await?;
    Ok(sizes(store, &plan.fetch).await)
}

/// Returns how big paths are that are offered. Where a substituter fails at that, they are as big as if
/// nothing was compressed.
pub(crate) async fn sizes(store: &LocalStore, fetch: &[Offer]) -> BTreeMap<StorePath, FetchSize> {
    let supply = store.supply().current();
    let list = supply.list().await;
    let mut paths: BTreeMap<usize, Vec<StorePath>> = BTreeMap::new();
    for offer in fetch {
        paths.entry(offer.by).or_default().push(offer.info.path.clone());
    }
    let asked = paths.into_iter().filter_map(|(by, paths)| Some((list.get(by)?, paths)));
    let asked = asked.map(|(substituter, paths)| async move {
        let told = substituter.store.download_sizes(&paths).await.unwrap_or_default();
        paths.into_iter().zip(told).collect::<Vec<_>>()
    });
    let told: HashMap<StorePath, Option<u64>> =
        futures::future::join_all(asked).await.into_iter().flatten().collect();
    let size = |offer: &Offer| {
        let (path, nar) = (&offer.info.path, offer.info.nar_size.0);
        let download = told.get(path).copied().flatten().unwrap_or(nar);
        (path.clone(), FetchSize { download, nar })
    };
    fetch.iter().map(size).collect()
}

/// Finds out what substituters have of `wanted`, and where that isn't all, of what `more` returns for
/// what was found. Returns what would have to be fetched for all of it.
pub(crate) async fn plan(
    store: &LocalStore,
    wanted: BTreeSet<StorePath>,
    more: impl AsyncFnOnce(BTreeSet<StorePath>) -> Result<BTreeSet<StorePath>, StoreError>,
) -> Result<Plan, StoreError> {
    let supply = store.supply().current();
    let view = store.blocking(|view| Ok(view.clone())).await?;
    let judge = judge(&view);
    let mut offers = Offers::new(supply.list().await, &judge);
    supply.leave_out_resting(&mut offers).await;
    let mut plan = offers.plan(&wanted, store).await?;
    offers.drop_questions();
    let more = more(plan.offered(&wanted)).await?;
    if !more.is_subset(&wanted) {
        plan = offers.plan(&wanted.union(&more).cloned().collect(), store).await?;
    }
    supply.tell(&mut offers, store);
    Ok(plan)
}

/// Makes paths valid, as far as substituters have them and all that they refer to. What goes wrong is
/// said to `log`.
pub(crate) async fn fetch(
    store: &LocalStore,
    wanted: &BTreeSet<StorePath>,
    log: &dyn BuildLog,
) -> Result<(), StoreError> {
    fetch_paths(store, wanted, log).await?;
    realisations::register(store).await
}

async fn fetch_paths(
    store: &LocalStore,
    wanted: &BTreeSet<StorePath>,
    log: &dyn BuildLog,
) -> Result<(), StoreError> {
    let supply = store.supply().current();
    if supply.is_empty() || store.hold_valid(wanted, Substitute::No).await?.len() == wanted.len() {
        return Ok(());
    }
    let view =
        store.blocking(|view| view.refuse_read_only("fetch paths").map(|()| view.clone())).await?;
    let judge = judge(&view);
    let mut offers = Offers::new(supply.list().await, &judge);
    supply.leave_out_resting(&mut offers).await;
    let mut failures = BTreeMap::new();
    loop {
        let plan = offers.plan(wanted, store).await?;
        supply.tell(&mut offers, store);
        // what was tried and failed has been told of
        if failures.is_empty() {
            tell_of_gaps(&plan, store, log);
        }
        if plan.fetch.is_empty() {
            return Ok(());
        }
        offers.drop_questions();
        let trouble = match bring(store, &supply, plan.fetch).await {
            Ok(()) => return Ok(()),
            Err(Failure::OfStore(error)) => return Err(error),
            Err(Failure::OfSubstituter(trouble)) => trouble,
        };
        trouble.tell(&supply, log, store);
        let count: &mut usize = failures.entry(trouble.by).or_default();
        *count += 1;
        match &trouble.path {
            Some(path) if !trouble.is_of_the_whole() && *count < FAILURES => {
                offers.spoil(trouble.by, path);
            }
            _ => {
                supply.rest(trouble.by);
                offers.leave_out(trouble.by);
            }
        }
    }
}

/// Says what is offered, and refers to something that isn't.
fn tell_of_gaps(plan: &Plan, store: &LocalStore, log: &dyn BuildLog) {
    let dir = &store.layout().store_dir;
    for (path, reference) in &plan.incomplete {
        let (path, reference) = (dir.display(path), dir.display(reference));
        let text = format!(
            "warning: path '{path}' can't be fetched, as '{reference}', which it refers to, does \
             not exist in binary cache or substituter"
        );
        log.event(LogEvent::Message(text));
    }
}

/// Says what is believed: what is content-addressed, what a trusted key has signed, and what comes
/// from a substituter that is trusted itself.
fn judge(view: &View) -> impl Fn(&Substituter, &PathInfo) -> Result<(), String> + Send + Sync {
    let view = view.clone();
    move |substituter, info| {
        let signatures = match substituter.vouching {
            Vouching::Signature => SignatureCheck::AsConfigured,
            Vouching::Substituter => SignatureCheck::Skip,
        };
        let theirs = substituter.store.store_dir();
        if *theirs != view.layout().store_dir {
            return Err(format!("its store directory is '{theirs}'"));
        }
        check_info(&view, info, &Checks { signatures }).map_err(|error| match error {
            LocalError::Unsigned { .. } => signers::unsigned(&view, info),
            other => other.to_string(),
        })
    }
}

/// Why paths could not be fetched.
enum Failure {
    /// It's this store; it would fare no better with another substituter.
    OfStore(StoreError),
    OfSubstituter(Trouble),
}

/// Why a substituter could not give what it offered.
struct Trouble {
    by: usize,
    /// The path at which it was found out.
    path: Option<StorePath>,
    error: StoreError,
}

impl Trouble {
    /// Whether nothing more can be hoped for from this substituter.
    fn is_of_the_whole(&self) -> bool {
        matches!(
            self.error,
            StoreError::Unreachable { .. }
                | StoreError::Protocol { .. }
                | StoreError::ForeignWords { .. }
                | StoreError::Lost { .. }
                | StoreError::Silent { .. }
                | StoreError::Unsupported { .. }
        )
    }

    fn tell(&self, supply: &Supply, log: &dyn BuildLog, store: &LocalStore) {
        let name = supply.name(self.by);
        let path = self.path.as_ref().map(|path| store.layout().store_dir.display(path));
        let path = path.unwrap_or_else(|| "paths".to_owned());
        let why = with_causes(&self.error);
        let text = match self.error {
            // what is offered and isn't there any more was as good as never offered
            StoreError::NotValid { .. } => {
                format!("warning: {path} does not exist in binary cache or substituter '{name}'")
            }
            _ => format!("warning: cannot fetch {path} from substituter '{name}': {why}"),
        };
        supply.note(text.trim_start_matches("warning: ").to_owned());
        log.event(LogEvent::Message(text));
    }
}

/// Fetches what is planned, in its order.
async fn bring(store: &LocalStore, supply: &Arc<Supply>, plan: Vec<Offer>) -> Result<(), Failure> {
    let mut left = plan.into_iter().peekable();
    while let Some(first) = left.peek() {
        let (by, mut run, mut bytes) = (first.by, Vec::new(), 0u64);
        while let Some(offer) = left.next_if(|offer| {
            offer.by == by && run.len() < RUN_PATHS && (run.is_empty() || bytes < RUN_BYTES)
        }) {
            bytes = bytes.saturating_add(offer.info.nar_size.0);
            run.push(offer.info);
        }
        bring_run(store, supply, (by, run)).await?;
    }
    Ok(())
}

/// Fetches paths from one substituter. Those that others fetch are waited for.
async fn bring_run(
    store: &LocalStore,
    supply: &Arc<Supply>,
    (by, run): (usize, Vec<PathInfo>),
) -> Result<(), Failure> {
    let mut left = run;
    loop {
        if supply.rests(by) {
            // it has failed somebody else meanwhile
            let (store, reason) = (supply.name(by).to_owned(), "it failed a moment ago".to_owned());
            let error = StoreError::Unreachable { store, reason };
            let path = left.first().map(|info| info.path.clone());
            return Err(Failure::OfSubstituter(Trouble { by, path, error }));
        }
        // before it's looked at what is coming, so that nothing is missed that comes meanwhile
        let come = supply.come();
        // and before it's looked at what is valid, as whoever had them may just have got them
        let claim = Claim::of_first(supply, &left);
        let mut rest = left.split_off(claim.paths.len());
        let all = left.iter().chain(&rest).map(|info| info.path.clone()).collect();
        let valid = store.hold_valid(&all, Substitute::No).await.map_err(Failure::OfStore)?;
        left.retain(|info| !valid.contains(&info.path));
        rest.retain(|info| !valid.contains(&info.path));
        match (claim.paths.is_empty(), left.is_empty(), rest.is_empty()) {
            (_, true, true) => return Ok(()),
            (true, ..) => come.await,
            (false, true, _) => {}
            (false, false, _) => fetch_claimed(store, supply, (by, left)).await?,
        }
        left = rest;
        drop(claim);
    }
}

async fn fetch_claimed(
    store: &LocalStore,
    supply: &Arc<Supply>,
    (by, infos): (usize, Vec<PathInfo>),
) -> Result<(), Failure> {
    let Some(substituter) = supply.list().await.get(by) else { return Ok(()) };
    let paths: Vec<StorePath> = infos.iter().map(|info| info.path.clone()).collect();
    let followed = async {
        // the store that takes them checks the hashes
        let contents = substituter.store.export_to_checker(infos.clone()).await;
        let contents = contents.map_err(ImportFailure::Sender)?;
        let from = substituter.store.name().to_owned();
        let stream = Followed::new(infos, contents, from, (Arc::clone(supply), store.follower()));
        let checks = Checks { signatures: SignatureCheck::Skip };
        import_and_blame(store, Box::new(stream), checks, WhenValid::Keep).await
    };
    let error = match followed.await {
        Ok(()) => return Ok(()),
        Err(ImportFailure::Store(error)) => return Err(Failure::OfStore(error)),
        Err(ImportFailure::Sender(error)) => error,
    };
    let path = first_invalid(store, &paths).await.or_else(|| paths.first().cloned());
    Err(Failure::OfSubstituter(Trouble { by, path, error }))
}

/// Returns the first path that has not become valid.
async fn first_invalid(store: &LocalStore, paths: &[StorePath]) -> Option<StorePath> {
    let all = paths.iter().cloned().collect();
    let valid = store.hold_valid(&all, Substitute::No).await.ok()?;
    paths.iter().find(|path| !valid.contains(*path)).cloned()
}
