//! The store that a service works for, seen through whatever client is there.
//!
//! Invariant: a view is used as long as something that was asked through it is worked on, so what
//! its temporary roots protect stays.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::{PathInfo, StoreDir, StorePath};
use drover_store::{
    Description, Keeper, Missing, PathStream, SignatureCheck, Store, StoreError, Substitute,
    WhenValid,
};

/// The store, with the views of it that are in use.
pub(crate) struct Here {
    name: String,
    store_dir: StoreDir,
    views: Mutex<BTreeMap<u64, Arc<dyn Keeper>>>,
    next: AtomicU64,
}

/// A view that is in use until this is dropped.
pub(crate) struct View {
    here: Arc<Here>,
    number: u64,
}

impl Here {
    pub(crate) fn new(store: &dyn Keeper) -> Here {
        Here {
            name: store.name().to_owned(),
            store_dir: store.store_dir().clone(),
            views: Mutex::default(),
            next: AtomicU64::new(0),
        }
    }

    /// Uses a view from now on.
    pub(crate) fn view(self: &Arc<Self>, keeper: Arc<dyn Keeper>) -> View {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.views.lock().unwrap_or_else(PoisonError::into_inner).insert(number, keeper);
        View { here: Arc::clone(self), number }
    }

    fn any(&self) -> Result<Arc<dyn Keeper>, StoreError> {
        let views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        views.values().next_back().cloned().ok_or_else(|| StoreError::Lost {
            store: self.name.clone(),
            reason: "nobody who asked for this is there any more".to_owned(),
        })
    }
}

impl Drop for View {
    fn drop(&mut self) {
        let mut views = self.here.views.lock().unwrap_or_else(PoisonError::into_inner);
        views.remove(&self.number);
    }
}

#[async_trait]
impl Store for Here {
    fn name(&self) -> &str {
        &self.name
    }

    fn store_dir(&self) -> &StoreDir {
        &self.store_dir
    }

    async fn connect(&self) -> Result<Description, StoreError> {
        self.any()?.connect().await
    }

    async fn hold_valid(
        &self,
        paths: &BTreeSet<StorePath>,
        substitute: Substitute,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        self.any()?.hold_valid(paths, substitute).await
    }

    async fn path_infos(&self, paths: &[StorePath]) -> Result<Vec<Option<PathInfo>>, StoreError> {
        self.any()?.path_infos(paths).await
    }

    async fn export(&self, infos: Vec<PathInfo>) -> Result<Box<dyn PathStream>, StoreError> {
        self.any()?.export(infos).await
    }

    async fn small_nar(&self, info: PathInfo) -> Result<Bytes, StoreError> {
        self.any()?.small_nar(info).await
    }

    async fn import(&self, paths: Box<dyn PathStream>) -> Result<(), StoreError> {
        self.any()?.import(paths).await
    }

    async fn read_files(&self, paths: &[StorePath]) -> Result<Vec<Bytes>, StoreError> {
        self.any()?.read_files(paths).await
    }

    async fn missing(&self, derivations: &BTreeSet<StorePath>) -> Result<Missing, StoreError> {
        Store::missing(self.any()?.as_ref(), derivations).await
    }

    async fn add_indirect_root(&self, link: &str) -> Result<(), StoreError> {
        self.any()?.add_indirect_root(link).await
    }
}

/// A client's view as it is when machines' outputs are added: what our own machines made needs no
/// signature.
pub(crate) struct Adding(pub(crate) Arc<dyn Keeper>);

#[async_trait]
impl Store for Adding {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn store_dir(&self) -> &StoreDir {
        self.0.store_dir()
    }

    async fn connect(&self) -> Result<Description, StoreError> {
        self.0.connect().await
    }

    async fn hold_valid(
        &self,
        paths: &BTreeSet<StorePath>,
        substitute: Substitute,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        self.0.hold_valid(paths, substitute).await
    }

    async fn path_infos(&self, paths: &[StorePath]) -> Result<Vec<Option<PathInfo>>, StoreError> {
        self.0.path_infos(paths).await
    }

    async fn export(&self, infos: Vec<PathInfo>) -> Result<Box<dyn PathStream>, StoreError> {
        self.0.export(infos).await
    }

    async fn import(&self, paths: Box<dyn PathStream>) -> Result<(), StoreError> {
        self.0.add_paths(paths, SignatureCheck::Skip, WhenValid::Keep).await
    }

    async fn missing(&self, derivations: &BTreeSet<StorePath>) -> Result<Missing, StoreError> {
        Store::missing(self.0.as_ref(), derivations).await
    }

    async fn add_indirect_root(&self, link: &str) -> Result<(), StoreError> {
        self.0.add_indirect_root(link).await
    }
}
