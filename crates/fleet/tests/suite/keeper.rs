//! A keeper in memory, whose paths can vanish, for tests of the service.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::{DrvOutput, PathInfo, Realisation, Signature, StoreDir, StorePath};
use drover_store::{
    ByteStream, Collected, Collection, Content, Description, FetchSize, Keeper, Missing,
    PathStream, Repair, Roots, SignatureCheck, Store, StoreError, Substitute, Verification,
    VerifyDepth, WhenValid,
};

use crate::local::Local;

/// What the views of one store share.
pub(crate) struct Kept {
    local: Arc<Local>,
    /// Paths that were deleted.
    gone: Mutex<BTreeSet<StorePath>>,
    /// Paths that substituters have.
    pub(crate) offered: Mutex<BTreeSet<StorePath>>,
    /// What some of them refer to.
    pub(crate) referred: Mutex<BTreeMap<StorePath, StorePath>>,
    /// What was added, as often as it was.
    added: Mutex<Vec<StorePath>>,
}

/// One client's view.
pub(crate) struct View {
    pub(crate) kept: Arc<Kept>,
    /// What this view protects.
    pub(crate) roots: Mutex<BTreeSet<StorePath>>,
}

impl Kept {
    pub(crate) fn new(local: &Arc<Local>) -> Arc<Kept> {
        let local = Arc::clone(local);
        Arc::new(Kept {
            local,
            gone: Mutex::default(),
            offered: Mutex::default(),
            referred: Mutex::default(),
            added: Mutex::default(),
        })
    }

    pub(crate) fn view(self: &Arc<Self>) -> Arc<dyn Keeper> {
        Arc::new(View { kept: Arc::clone(self), roots: Mutex::default() })
    }

    /// Deletes a path under everybody's feet.
    pub(crate) fn delete(&self, path: &StorePath) {
        self.gone.lock().unwrap().insert(path.clone());
    }

    pub(crate) fn fetched(&self) -> Vec<StorePath> {
        self.added.lock().unwrap().clone()
    }

    fn is_gone(&self, path: &StorePath) -> bool {
        self.gone.lock().unwrap().contains(path)
    }

    pub(crate) async fn is_valid(&self, path: &StorePath) -> bool {
        let asked = BTreeSet::from([path.clone()]);
        let valid = self.local.store.hold_valid(&asked, Substitute::No).await.unwrap();
        !self.is_gone(path) && !valid.is_empty()
    }
}

/// Paths that come back are there again.
struct Returning {
    paths: Box<dyn PathStream>,
    kept: Arc<Kept>,
}

#[async_trait]
impl PathStream for Returning {
    fn count(&self) -> usize {
        self.paths.count()
    }

    async fn next_path(&mut self) -> Result<Option<PathInfo>, StoreError> {
        let next = self.paths.next_path().await?;
        if let Some(info) = &next {
            self.kept.gone.lock().unwrap().remove(&info.path);
            self.kept.added.lock().unwrap().push(info.path.clone());
        }
        Ok(next)
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        self.paths.chunk().await
    }
}

#[async_trait]
impl Store for View {
    fn name(&self) -> &str {
        "kept"
    }

    fn store_dir(&self) -> &StoreDir {
        self.kept.local.store_dir()
    }

    async fn connect(&self) -> Result<Description, StoreError> {
        self.kept.local.connect().await
    }

    async fn hold_valid(
        &self,
        paths: &BTreeSet<StorePath>,
        substitute: Substitute,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        // where something could change between question and answer, it may
        tokio::task::yield_now().await;
        self.roots.lock().unwrap().extend(paths.iter().cloned());
        let mut valid = self.kept.local.hold_valid(paths, substitute).await?;
        valid.retain(|path| !self.kept.is_gone(path));
        Ok(valid)
    }

    async fn path_infos(&self, paths: &[StorePath]) -> Result<Vec<Option<PathInfo>>, StoreError> {
        let infos = self.kept.local.path_infos(paths).await?;
        let there = |info: &PathInfo| !self.kept.is_gone(&info.path);
        Ok(infos.into_iter().map(|info| info.filter(there)).collect())
    }

    async fn export(&self, infos: Vec<PathInfo>) -> Result<Box<dyn PathStream>, StoreError> {
        self.kept.local.export(infos).await
    }

    async fn import(&self, paths: Box<dyn PathStream>) -> Result<(), StoreError> {
        let kept = Arc::clone(&self.kept);
        self.kept.local.import(Box::new(Returning { paths, kept })).await
    }

    async fn missing(&self, derivations: &BTreeSet<StorePath>) -> Result<Missing, StoreError> {
        Store::missing(&*self.kept.local, derivations).await
    }

    async fn add_indirect_root(&self, link: &str) -> Result<(), StoreError> {
        self.kept.local.add_indirect_root(link).await
    }
}

fn not_here<T>(what: &'static str) -> Result<T, StoreError> {
    Err(StoreError::Unsupported { store: "kept".to_owned(), what })
}

#[async_trait]
impl Keeper for View {
    async fn session(self: Arc<Self>) -> Result<Arc<dyn Keeper>, StoreError> {
        Ok(self.kept.view())
    }

    async fn add_temporary_root(&self, path: &StorePath) -> Result<(), StoreError> {
        self.roots.lock().unwrap().insert(path.clone());
        Ok(())
    }

    async fn all_valid(&self) -> Result<BTreeSet<StorePath>, StoreError> {
        not_here("list its paths")
    }

    async fn referrers(&self, _: &StorePath) -> Result<BTreeSet<StorePath>, StoreError> {
        not_here("list referrers")
    }

    async fn valid_derivers(&self, _: &StorePath) -> Result<BTreeSet<StorePath>, StoreError> {
        not_here("list derivers")
    }

    async fn by_hash_part(&self, _: &str) -> Result<Option<StorePath>, StoreError> {
        not_here("look up hash parts")
    }

    async fn output_map(
        &self,
        _: &StorePath,
    ) -> Result<BTreeMap<String, Option<StorePath>>, StoreError> {
        Ok(BTreeMap::new())
    }

    async fn substitutable(
        &self,
        paths: &BTreeSet<StorePath>,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        Ok(paths & &*self.kept.offered.lock().unwrap())
    }

    /// Each path has a byte to be downloaded, and ten when it's unpacked.
    async fn fetchable(
        &self,
        paths: &BTreeSet<StorePath>,
    ) -> Result<BTreeMap<StorePath, FetchSize>, StoreError> {
        let offered = self.substitutable(paths).await?;
        let referred = self.kept.referred.lock().unwrap();
        let size = FetchSize { download: 1, nar: 10 };
        let both = |path: StorePath| referred.get(&path).cloned().into_iter().chain([path]);
        Ok(offered.into_iter().flat_map(both).map(|path| (path, size)).collect())
    }

    async fn offered(
        &self,
        _: &BTreeSet<StorePath>,
    ) -> Result<BTreeMap<StorePath, drover_store::Offered>, StoreError> {
        not_here("say what is offered")
    }

    async fn ensure(&self, _: &StorePath, _: Substitute) -> Result<(), StoreError> {
        not_here("substitute")
    }

    async fn add_paths(
        &self,
        paths: Box<dyn PathStream>,
        signatures: SignatureCheck,
        when_valid: WhenValid,
    ) -> Result<(), StoreError> {
        assert_eq!((signatures, when_valid), (SignatureCheck::Skip, WhenValid::Keep));
        self.import(paths).await
    }

    async fn add_content(
        &self,
        _: Content,
        _: Box<dyn ByteStream>,
        _: WhenValid,
    ) -> Result<PathInfo, StoreError> {
        not_here("add contents")
    }

    async fn add_signatures(
        &self,
        _: &StorePath,
        _: &BTreeSet<Signature>,
    ) -> Result<(), StoreError> {
        not_here("add signatures")
    }

    async fn realisation(&self, _: &DrvOutput) -> Result<Option<Realisation>, StoreError> {
        Ok(None)
    }

    async fn register_realisation(
        &self,
        _: &Realisation,
        _: SignatureCheck,
    ) -> Result<(), StoreError> {
        not_here("register realisations")
    }

    async fn add_permanent_root(&self, _: &StorePath, _: &str) -> Result<String, StoreError> {
        not_here("add roots")
    }

    async fn roots(&self) -> Result<Roots, StoreError> {
        not_here("list roots")
    }

    async fn collect(&self, _: Collection) -> Result<Collected, StoreError> {
        not_here("collect garbage")
    }

    async fn optimise(&self) -> Result<u64, StoreError> {
        not_here("optimise")
    }

    async fn verify(&self, _: VerifyDepth, _: Repair) -> Result<Verification, StoreError> {
        not_here("verify")
    }

    async fn add_build_log(&self, _: &StorePath, _: Box<dyn ByteStream>) -> Result<(), StoreError> {
        not_here("keep logs")
    }

    async fn build_log(&self, _: &StorePath) -> Result<Option<Box<dyn ByteStream>>, StoreError> {
        not_here("return logs")
    }
}
