//! The caller's store: in memory, and it notes what is added.

use std::collections::BTreeSet;
use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::{PathInfo, StoreDir, StorePath};
use drover_store::{Description, MemoryStore, Missing, PathStream, Store, StoreError, Substitute};

pub(crate) struct Local {
    pub(crate) store: MemoryStore,
    /// What it refuses to add, if anything.
    pub(crate) refuses: Mutex<Option<String>>,
    /// Bytes that were sent out of it.
    pub(crate) sent: Mutex<Vec<StorePath>>,
    /// What its substituters have.
    pub(crate) offered: Mutex<BTreeSet<StorePath>>,
    /// What it was told to fetch from them.
    pub(crate) fetched: Mutex<BTreeSet<StorePath>>,
}

impl Local {
    pub(crate) fn new(store: MemoryStore) -> Local {
        Local {
            store,
            refuses: Mutex::default(),
            sent: Mutex::default(),
            offered: Mutex::default(),
            fetched: Mutex::default(),
        }
    }
}

#[async_trait]
impl Store for Local {
    fn name(&self) -> &str {
        "local"
    }

    fn store_dir(&self) -> &StoreDir {
        self.store.store_dir()
    }

    async fn connect(&self) -> Result<Description, StoreError> {
        self.store.connect().await
    }

    async fn hold_valid(
        &self,
        paths: &BTreeSet<StorePath>,
        substitute: Substitute,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        if substitute == Substitute::Yes {
            self.fetched.lock().unwrap().extend(paths.iter().cloned());
        }
        self.store.hold_valid(paths, substitute).await
    }

    async fn path_infos(&self, paths: &[StorePath]) -> Result<Vec<Option<PathInfo>>, StoreError> {
        self.store.path_infos(paths).await
    }

    async fn export(&self, infos: Vec<PathInfo>) -> Result<Box<dyn PathStream>, StoreError> {
        self.sent.lock().unwrap().extend(infos.iter().map(|info| info.path.clone()));
        self.store.export(infos).await
    }

    async fn import(&self, paths: Box<dyn PathStream>) -> Result<(), StoreError> {
        let refusal = self.refuses.lock().unwrap().clone();
        match refusal {
            Some(message) => Err(StoreError::said("local", message)),
            None => self.store.import(paths).await,
        }
    }

    async fn read_files(&self, paths: &[StorePath]) -> Result<Vec<Bytes>, StoreError> {
        self.store.read_files(paths).await
    }

    async fn missing(&self, derivations: &BTreeSet<StorePath>) -> Result<Missing, StoreError> {
        let missing = self.store.missing(derivations).await?;
        Ok(Missing { substitute: self.offered.lock().unwrap().clone(), ..missing })
    }

    async fn add_indirect_root(&self, link: &str) -> Result<(), StoreError> {
        self.store.add_indirect_root(link).await
    }
}
