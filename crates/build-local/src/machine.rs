//! This machine as the fleet wants its machines: a store and a builder at once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::{PathInfo, StoreDir, StorePath};
use drover_store::{
    BuildLog, Builder, Description, Lane, Missing, PathStream, Store, StoreError, Substitute,
};
use drover_store_local::LocalStore;

use crate::builder::Inner;
use crate::lane::LocalLane;

/// This machine: its store, and the builder for that.
///
/// It protects nothing that it's asked for: who asks has the same store, and protects there what he
/// wants to stay. What a build needs and makes is protected by its queue.
pub struct LocalMachine {
    store: Arc<LocalStore>,
    inner: Arc<Inner>,
}

impl LocalMachine {
    pub(crate) fn new(store: Arc<LocalStore>, inner: Arc<Inner>) -> LocalMachine {
        LocalMachine { store, inner }
    }
}

#[async_trait]
impl Builder for LocalMachine {
    /// Starts what starts builds, while the rest is found out.
    fn approach(&self) {
        self.inner.start_early();
    }

    fn expect(&self, _: usize) {}

    async fn open_lane(&self) -> Result<Box<dyn Lane>, StoreError> {
        Ok(Box::new(LocalLane::open(&self.inner, &self.store)?))
    }
}

#[async_trait]
impl Store for LocalMachine {
    fn name(&self) -> &str {
        self.store.name()
    }

    fn store_dir(&self) -> &StoreDir {
        self.store.store_dir()
    }

    async fn connect(&self) -> Result<Description, StoreError> {
        self.store.connect().await
    }

    fn round_trip(&self) -> Option<Duration> {
        self.store.round_trip()
    }

    async fn hold_valid(
        &self,
        paths: &BTreeSet<StorePath>,
        _: Substitute,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        let asked: Vec<StorePath> = paths.iter().cloned().collect();
        let infos = self.store.path_infos(&asked).await?;
        Ok(infos.into_iter().flatten().map(|info| info.path).collect())
    }

    async fn substitute(
        &self,
        paths: &BTreeSet<StorePath>,
        log: Arc<dyn BuildLog>,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        self.store.substitute(paths, log).await
    }

    async fn path_infos(&self, paths: &[StorePath]) -> Result<Vec<Option<PathInfo>>, StoreError> {
        self.store.path_infos(paths).await
    }

    async fn export(&self, infos: Vec<PathInfo>) -> Result<Box<dyn PathStream>, StoreError> {
        self.store.export(infos).await
    }

    async fn export_to_checker(
        &self,
        infos: Vec<PathInfo>,
    ) -> Result<Box<dyn PathStream>, StoreError> {
        self.store.export_to_checker(infos).await
    }

    async fn small_nar(&self, info: PathInfo) -> Result<Bytes, StoreError> {
        self.store.small_nar(info).await
    }

    async fn import(&self, paths: Box<dyn PathStream>) -> Result<(), StoreError> {
        self.store.import(paths).await
    }

    async fn read_files(&self, paths: &[StorePath]) -> Result<Vec<Bytes>, StoreError> {
        self.store.read_files(paths).await
    }

    async fn missing(&self, derivations: &BTreeSet<StorePath>) -> Result<Missing, StoreError> {
        self.store.missing(derivations).await
    }

    async fn add_indirect_root(&self, link: &str) -> Result<(), StoreError> {
        self.store.add_indirect_root(link).await
    }
}
