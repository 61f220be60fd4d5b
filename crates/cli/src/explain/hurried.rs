//! Substituters that are asked only as long as somebody who wants an answer now will wait.
//!
//! Each has a deadline of its own, and all are asked at the same time, so all of them together take as long
//! as the slowest may. One that can't be asked counts as one that has nothing, and the answer says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use drover_core::{DrvOutput, PathInfo, StoreDir, StorePath, ToldRealisation};
use drover_store::{Description, Missing, PathStream, Store, StoreError, Substitute, Substituter};
use tokio::sync::OnceCell;
use tokio::time::timeout;

/// What is waited longer for each thing that is asked about, as many take a while to tell.
const EACH: Duration = Duration::from_millis(10);

/// Why some could not be asked, by their names.
#[derive(Clone, Default)]
pub(super) struct Unasked(Arc<Mutex<BTreeMap<String, String>>>);

impl Unasked {
    fn note(&self, name: &str, error: &StoreError) {
        let mut unasked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        unasked.entry(name.to_owned()).or_insert_with(|| error.to_string());
    }

    /// Returns a sentence for each.
    pub(super) fn sentences(&self) -> Vec<String> {
        let unasked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sentence = |(name, why): (&String, &String)| {
            format!("substituter '{name}' could not be asked, so what it has isn't known: {why}")
        };
        unasked.iter().map(sentence).collect()
    }
}

/// Has substituters asked for no longer than this. Returns where it's said which could not be.
pub(super) fn hurry(substituters: &mut [Substituter], limit: Duration) -> Unasked {
    let unasked = Unasked::default();
    for substituter in substituters {
        substituter.store = Arc::new(Hurried {
            store: Arc::clone(&substituter.store),
            limit,
            reached: OnceCell::new(),
            unasked: unasked.clone(),
        });
    }
    unasked
}

/// A store that is asked for so long.
struct Hurried {
    store: Arc<dyn Store>,
    limit: Duration,
    reached: OnceCell<Result<(), StoreError>>,
    unasked: Unasked,
}

impl Hurried {
    /// Waits for an answer about so many things, once the store has been reached.
    async fn ask<T>(
        &self,
        about: usize,
        question: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let reach =
            async || self.wait(self.limit, "connecting", self.store.connect()).await.map(drop);
        let reached = self.reached.get_or_init(reach).await.clone();
        let limit = EACH.saturating_mul(u32::try_from(about).unwrap_or(u32::MAX));
        let limit = self.limit.saturating_add(limit);
        let answer = match reached {
            Ok(()) => self.wait(limit, "asked what it has", question).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &answer
            && !matches!(error, StoreError::Unsupported { .. })
        {
            self.unasked.note(self.store.name(), error);
        }
        answer
    }

    async fn wait<T>(
        &self,
        limit: Duration,
        doing: &'static str,
        question: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let (store, seconds) = (self.store.name().to_owned(), limit.as_secs());
        let silent = |_| Err(StoreError::Silent { store, seconds, doing });
        timeout(limit, question).await.unwrap_or_else(silent)
    }
}

#[async_trait]
impl Store for Hurried {
    fn name(&self) -> &str {
        self.store.name()
    }

    fn store_dir(&self) -> &StoreDir {
        self.store.store_dir()
    }

    async fn connect(&self) -> Result<Description, StoreError> {
        self.ask(0, self.store.connect()).await
    }

    async fn priority(&self) -> Result<i64, StoreError> {
        self.ask(0, self.store.priority()).await
    }

    fn round_trip(&self) -> Option<Duration> {
        self.store.round_trip()
    }

    async fn hold_valid(
        &self,
        paths: &BTreeSet<StorePath>,
        substitute: Substitute,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        self.ask(paths.len(), self.store.hold_valid(paths, substitute)).await
    }

    async fn path_infos(&self, paths: &[StorePath]) -> Result<Vec<Option<PathInfo>>, StoreError> {
        self.ask(paths.len(), self.store.path_infos(paths)).await
    }

    async fn realised(
        &self,
        outputs: &[DrvOutput],
    ) -> Result<Vec<Option<ToldRealisation>>, StoreError> {
        self.ask(outputs.len(), self.store.realised(outputs)).await
    }

    // what is fetched all the same, such as derivations, takes its time

    async fn export(&self, infos: Vec<PathInfo>) -> Result<Box<dyn PathStream>, StoreError> {
        self.store.export(infos).await
    }

    async fn import(&self, paths: Box<dyn PathStream>) -> Result<(), StoreError> {
        self.store.import(paths).await
    }

    async fn missing(&self, derivations: &BTreeSet<StorePath>) -> Result<Missing, StoreError> {
        self.ask(derivations.len(), self.store.missing(derivations)).await
    }

    async fn add_indirect_root(&self, link: &str) -> Result<(), StoreError> {
        self.store.add_indirect_root(link).await
    }
}
