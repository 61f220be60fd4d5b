//! A connection to a fake machine, and its lanes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use drover_core::{PathInfo, StoreDir, StorePath};
use drover_store::{
    BuildLog, BuildOutcome, BuildRequest, Builder, Description, Lane, Missing, PathStream, Pending,
    Store, StoreError, Substitute,
};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::local::Local;
use crate::machine::{Connect, ImportFault, Machine, Running};
use crate::making::{Guess, Workshop, make};
use crate::stream::Outgoing;
use crate::world::Recipes;

/// One connection to a machine.
#[derive(Clone)]
pub(crate) struct FakeSite {
    pub(crate) machine: Arc<Machine>,
    pub(crate) recipes: Recipes,
    pub(crate) local: Arc<Local>,
    pub(crate) dead: CancellationToken,
}

impl FakeSite {
    pub(crate) fn store(&self) -> &dyn Store {
        match self.machine.is_local() {
            true => &self.local.store,
            false => &self.machine.store,
        }
    }

    pub(crate) fn lost(&self) -> StoreError {
        let reason = "the connection broke".to_owned();
        StoreError::Lost { store: self.machine.name().to_owned(), reason }
    }

    /// Does something unless the connection ends.
    async fn alive<T>(
        &self,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        tokio::select! {
            biased;
            () = self.dead.cancelled() => Err(self.lost()),
            done = work => done,
        }
    }

    async fn add(&self, paths: Box<dyn PathStream>) -> Result<(), StoreError> {
        let fault = self.machine.imports.lock().unwrap().pop_front();
        if fault == Some(ImportFault::LostBefore) {
            self.dead.cancel();
            return Err(self.lost());
        }
        if fault == Some(ImportFault::DiskFull) {
            let message = "writing file: No space left on device".to_owned();
            return Err(StoreError::said(self.machine.name(), message));
        }
        let mut noted = Noted { paths, seen: Vec::new(), machine: Arc::clone(&self.machine) };
        noted.seen.clear();
        let added = self.store().import(Box::new(noted)).await;
        if fault == Some(ImportFault::LostAfter) {
            self.dead.cancel();
            return Err(self.lost());
        }
        added
    }
}

/// A stream whose paths are noted when they end.
struct Noted {
    paths: Box<dyn PathStream>,
    seen: Vec<StorePath>,
    machine: Arc<Machine>,
}

#[async_trait]
impl PathStream for Noted {
    fn count(&self) -> usize {
        self.paths.count()
    }

    async fn next_path(&mut self) -> Result<Option<PathInfo>, StoreError> {
        let next = self.paths.next_path().await?;
        if let Some(info) = next.as_ref().filter(|info| !self.machine.takes(info)) {
            let (store, path) = (self.machine.name().to_owned(), &info.path);
            let message =
                format!("cannot add path '{path}': it lacks a signature by a trusted key");
            return Err(StoreError::said(store, message));
        }
        self.machine.added.lock().unwrap().extend(next.iter().map(|info| info.path.clone()));
        Ok(next)
    }

    async fn chunk(&mut self) -> Result<Option<bytes::Bytes>, StoreError> {
        self.paths.chunk().await
    }
}

#[async_trait]
impl Store for FakeSite {
    fn name(&self) -> &str {
        self.machine.name()
    }

    fn store_dir(&self) -> &StoreDir {
        self.machine.store.store_dir()
    }

    async fn connect(&self) -> Result<Description, StoreError> {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let next = self.machine.connects.lock().unwrap().pop_front();
        let store = self.machine.name().to_owned();
        match next.unwrap_or(Connect::Answers) {
            Connect::Answers => {}
            Connect::Late(after) => tokio::time::sleep(after).await,
            Connect::Unreachable => {
                let reason = "No route to host".to_owned();
                return Err(StoreError::Unreachable { store, reason });
            }
            Connect::NoNix => {
                let reason = "nix-daemon: command not found".to_owned();
                return Err(StoreError::Protocol { store, reason });
            }
            Connect::Never => std::future::pending().await,
        }
        let trust = *self.machine.trust.lock().unwrap();
        Ok(Description { protocol: "fake".to_owned(), nix_version: None, trust })
    }

    async fn hold_valid(
        &self,
        paths: &BTreeSet<StorePath>,
        substitute: Substitute,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        self.alive(self.store().hold_valid(paths, substitute)).await
    }

    async fn substitute(
        &self,
        paths: &BTreeSet<StorePath>,
        _: Arc<dyn BuildLog>,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        let caches = self.machine.caches.lock().unwrap().clone().expect("it has substituters");
        self.machine.fetches.lock().unwrap().push(paths.clone());
        let fetching = async {
            tokio::time::sleep(caches.take).await;
            let found: Vec<StorePath> = paths.intersection(&caches.have).cloned().collect();
            let infos = self.local.store.path_infos(&found).await?;
            let infos = infos.into_iter().map(|info| info.expect("caches have what is here"));
            let from = self.local.store.export(infos.collect()).await?;
            self.machine.store.import(from).await
        };
        self.alive(fetching).await?;
        self.hold_valid(paths, Substitute::No).await
    }

    async fn path_infos(&self, paths: &[StorePath]) -> Result<Vec<Option<PathInfo>>, StoreError> {
        self.alive(self.store().path_infos(paths)).await
    }

    async fn export(&self, infos: Vec<PathInfo>) -> Result<Box<dyn PathStream>, StoreError> {
        let inner = self.alive(self.store().export(infos.clone())).await?;
        Ok(Box::new(Outgoing {
            store: self.machine.name().to_owned(),
            infos: infos.into_iter(),
            inner,
            current: None,
            fault: self.machine.exports.lock().unwrap().pop_front(),
            dead: self.dead.clone(),
            pace: *self.machine.pace.lock().unwrap(),
        }))
    }

    async fn import(&self, paths: Box<dyn PathStream>) -> Result<(), StoreError> {
        self.alive(self.add(paths)).await
    }

    async fn missing(&self, derivations: &BTreeSet<StorePath>) -> Result<Missing, StoreError> {
        self.store().missing(derivations).await
    }

    async fn add_indirect_root(&self, link: &str) -> Result<(), StoreError> {
        self.store().add_indirect_root(link).await
    }
}

#[async_trait]
impl Builder for FakeSite {
    fn expect(&self, _: usize) {}

    async fn open_lane(&self) -> Result<Box<dyn Lane>, StoreError> {
        self.alive(async { Ok(()) }).await?;
        self.machine.lanes.fetch_add(1, Ordering::SeqCst);
        let site = self.clone();
        let (broken, ended) = (CancellationToken::new(), CancellationToken::new());
        let inner = Inner { site, tail: Mutex::default(), broken, ended };
        Ok(Box::new(FakeLane(Arc::new(inner))))
    }
}

/// A lane: what is asked of it is done in order, by whoever awaits it.
struct FakeLane(Arc<Inner>);

struct Inner {
    site: FakeSite,
    tail: Mutex<Option<oneshot::Receiver<()>>>,
    /// The lane alone is of no use any more.
    broken: CancellationToken,
    /// It ended on a wrong guess.
    ended: CancellationToken,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.site.machine.lanes.fetch_sub(1, Ordering::SeqCst);
    }
}

impl FakeLane {
    fn queue<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Pending<T> {
        let inner = Arc::clone(&self.0);
        let (done, behind) = oneshot::channel();
        let ahead = inner.tail.lock().unwrap().replace(behind);
        Box::pin(async move {
            let in_turn = async {
                if let Some(ahead) = ahead {
                    ahead.await.map_err(|_| inner.site.lost())?;
                }
                work.await
            };
            let result = tokio::select! {
                biased;
                () = inner.site.dead.cancelled() => Err(inner.site.lost()),
                () = inner.broken.cancelled() => Err(inner.site.lost()),
                () = inner.ended.cancelled() => {
                    Err(StoreError::LaneEnded { store: inner.site.name().to_owned() })
                }
                result = in_turn => result,
            };
            // whoever is behind may be gone
            done.send(()).ok();
            result
        })
    }
}

impl Lane for FakeLane {
    fn import(&self, paths: Box<dyn PathStream>) -> Pending<()> {
        let inner = Arc::clone(&self.0);
        self.queue(async move {
            let added = inner.site.add(paths).await;
            if added.is_err() && *inner.site.machine.fragile.lock().unwrap() {
                inner.broken.cancel();
            }
            added
        })
    }

    fn check(&self, request: BuildRequest, log: Arc<dyn BuildLog>) -> Pending<BuildOutcome> {
        let inner = Arc::clone(&self.0);
        self.queue(async move {
            let workshop = Workshop { site: &inner.site, log: &*log };
            inner.site.machine.wishes.lock().unwrap().push(request.wishes.clone());
            workshop.check(&request.derivation).await
        })
    }

    fn build(&self, request: BuildRequest, log: Arc<dyn BuildLog>) -> Pending<BuildOutcome> {
        let inner = Arc::clone(&self.0);
        self.queue(async move {
            let workshop = Workshop { site: &inner.site, log: &*log };
            let bring = request.bring;
            inner.site.machine.wishes.lock().unwrap().push(request.wishes.clone());
            let running = Running::on(&inner.site.machine);
            let mut outcome = make(&workshop, request).await?;
            drop(running);
            if let Some(at_most) = bring
                && workshop.bring(&mut outcome, at_most).await == Guess::Wrong
            {
                inner.ended.cancel();
            }
            Ok(outcome)
        })
    }
}

/// Outputs by name.
pub(crate) type Outputs = BTreeMap<String, PathInfo>;
