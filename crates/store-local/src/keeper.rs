//! The local store as its keeper sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use drover_core::{DrvOutput, Hash, PathInfo, Realisation, Signature, StorePath};
use drover_store::{
    Adoption, ByteStream, CollectAction, Collected, Collection, Content, FetchObserver, FetchSize,
    Keeper, Offered, OwnSetting, PathStream, Repair, Roots, SignatureCheck, SilentLog, StoreError,
    Substitute, TreeStamp, Verification, VerifyDepth, WhenValid,
};
use drover_store_locks::{GcLock, SharedGcLock};

use crate::error::LocalError;
use crate::gc::Wanted;
use crate::import::{Checks, import};
use crate::options::RequiredSignatures;
use crate::patience::Patience;
use crate::view::View;
use crate::{
    Access, LocalStore, adopt, build_log, content, gc, links, optimise, outputs, repair, signers,
    substitution, tree, verify,
};

impl LocalStore {
    /// Waits until no collector runs, and nobody keeps it off who wants none.
    async fn lock_collector<T: Send + 'static>(
        &self,
        attempt: fn(&View) -> Result<Option<T>, LocalError>,
    ) -> Result<T, StoreError> {
        let mut patience = None;
        loop {
            let (lock, limit) = self
                .blocking(move |view| Ok((attempt(view)?, view.options().lock_patience)))
                .await?;
            match lock {
                Some(lock) => return Ok(lock),
                None => {
                    let patience = patience.get_or_insert_with(|| Patience::new(limit));
                    patience.pause(GcLock::WAITING).await.map_err(|error| self.told(error))?;
                }
            }
        }
    }
}

#[async_trait]
impl Keeper for LocalStore {
    async fn session(self: Arc<Self>) -> Result<Arc<dyn Keeper>, StoreError> {
        Ok(Arc::new(self.new_session()))
    }

    fn set_own(&self, settings: &[OwnSetting]) {
        self.set_session(settings);
    }

    async fn requisites(
        &self,
        paths: &BTreeSet<StorePath>,
    ) -> Result<Option<Vec<StorePath>>, StoreError> {
        let paths = paths.clone();
        self.blocking(move |view| view.opened.read(|database| database.requisites(&paths))).await
    }

    async fn add_temporary_root(&self, path: &StorePath) -> Result<(), StoreError> {
        let path = path.clone();
        self.blocking(move |view| view.hold([&path])).await
    }

    async fn all_valid(&self) -> Result<BTreeSet<StorePath>, StoreError> {
        self.blocking(|view| view.opened.read(|database| database.all_paths())).await
    }

    async fn referrers(&self, path: &StorePath) -> Result<BTreeSet<StorePath>, StoreError> {
        let path = path.clone();
        self.blocking(move |view| view.opened.read(|database| database.referrers(&path))).await
    }

    async fn valid_derivers(&self, output: &StorePath) -> Result<BTreeSet<StorePath>, StoreError> {
        let output = output.clone();
        self.blocking(move |view| view.opened.read(|database| database.valid_derivers(&output)))
            .await
    }

    async fn by_hash_part(&self, hash_part: &str) -> Result<Option<StorePath>, StoreError> {
        let hash_part = hash_part.to_owned();
        self.blocking(move |view| view.opened.read(|database| database.by_hash_part(&hash_part)))
            .await
    }

    async fn output_map(
        &self,
        derivation: &StorePath,
    ) -> Result<BTreeMap<String, Option<StorePath>>, StoreError> {
        let derivation = derivation.clone();
        self.blocking(move |view| outputs::output_map(view, &derivation)).await
    }

    async fn expected_outputs(
        &self,
        derivation: &StorePath,
    ) -> Result<BTreeMap<String, Option<StorePath>>, StoreError> {
        outputs::expected_outputs(self, derivation).await
    }

    async fn substitutable(
        &self,
        paths: &BTreeSet<StorePath>,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        substitution::substitutable(self, paths).await
    }

    async fn fetchable(
        &self,
        paths: &BTreeSet<StorePath>,
    ) -> Result<BTreeMap<StorePath, FetchSize>, StoreError> {
        substitution::fetchable(self, paths).await
    }

    async fn offered(
        &self,
        paths: &BTreeSet<StorePath>,
    ) -> Result<BTreeMap<StorePath, Offered>, StoreError> {
        substitution::offered(self, paths).await
    }

    fn follow_fetches(&self, follower: Arc<dyn FetchObserver>) {
        self.follow(follower);
    }

    async fn ensure(&self, path: &StorePath, substitute: Substitute) -> Result<(), StoreError> {
        if substitute == Substitute::Yes {
            substitution::fetch(self, &BTreeSet::from([path.clone()]), &SilentLog).await?;
        }
        let path = path.clone();
        self.blocking(move |view| {
            view.hold([&path])?;
            match view.valid([&path])?.is_empty() {
                true => Err(LocalError::Absent { path: view.display(&path) }),
                false => Ok(()),
            }
        })
        .await
    }

    async fn add_paths(
        &self,
        paths: Box<dyn PathStream>,
        signatures: SignatureCheck,
        when_valid: WhenValid,
    ) -> Result<(), StoreError> {
        import(self, paths, Checks { signatures }, when_valid).await
    }

    async fn add_content(
        &self,
        content: Content,
        bytes: Box<dyn ByteStream>,
        when_valid: WhenValid,
    ) -> Result<PathInfo, StoreError> {
        content::add(self, content, bytes, when_valid).await
    }

    async fn add_signatures(
        &self,
        path: &StorePath,
        signatures: &BTreeSet<Signature>,
    ) -> Result<(), StoreError> {
        let (path, signatures) = (path.clone(), signatures.clone());
        self.blocking(move |view| {
            view.opened.write(|database| database.add_signatures(&path, &signatures))
        })
        .await
    }

    async fn realisation_hash(&self, derivation: &StorePath) -> Result<Hash, StoreError> {
        let derivation = derivation.clone();
        self.blocking(move |view| outputs::realisation_hash(view, &derivation)).await
    }

    async fn realisation(&self, output: &DrvOutput) -> Result<Option<Realisation>, StoreError> {
        let output = output.clone();
        self.blocking(move |view| view.opened.read(|database| database.realisation(&output))).await
    }

    async fn expected_realisation(
        &self,
        output: &DrvOutput,
    ) -> Result<Option<StorePath>, StoreError> {
        outputs::expected_realisation(self, output).await
    }

    async fn register_realisation(
        &self,
        realisation: &Realisation,
        signatures: SignatureCheck,
    ) -> Result<(), StoreError> {
        let realisation = realisation.clone();
        self.blocking(move |view| {
            match (signatures, &view.options().signatures) {
                (SignatureCheck::AsConfigured, RequiredSignatures::By(keys))
                    if !keys.vouch_for_realisation(&realisation) =>
                {
                    let path = realisation.out_path.clone();
                    let saw = signers::seen(&realisation.signatures);
                    return Err(LocalError::UnsignedRealisation { path, saw });
                }
                _ => {}
            }
            view.opened.write(|database| database.register_realisation(&realisation))
        })
        .await
    }

    async fn add_permanent_root(&self, path: &StorePath, link: &str) -> Result<String, StoreError> {
        let (path, link) = (path.clone(), link.to_owned());
        self.blocking(move |view| links::add_permanent(view, &path, &link)).await
    }

    async fn roots(&self) -> Result<Roots, StoreError> {
        self.blocking(|view| view.with_site(&Wanted::default(), gc::find_roots)).await
    }

    /// Dropping it ends it, as soon as what is being deleted is gone.
    async fn collect(&self, collection: Collection) -> Result<Collected, StoreError> {
        let action = collection.action;
        let lists = matches!(action, CollectAction::ListLive | CollectAction::ListDead);
        if lists && self.layout().access == Access::ReadOnly {
            let list = move |site: &gc::Site<'_>| gc::list(site, action);
            return self.blocking(move |view| view.with_site(&Wanted::default(), list)).await;
        }
        let lock = self
            .lock_collector(|view| {
                view.refuse_read_only("collect garbage")?;
                Ok(gc::try_lock(view.layout())?)
            })
            .await?;
        let (wanting, wanted) = Wanted::by_somebody();
        let collected = self
            .blocking(move |view| {
                view.with_site(&wanted, |site| gc::collect(site, &collection, lock))
            })
            .await;
        drop(wanting);
        collected
    }

    async fn optimise(&self) -> Result<u64, StoreError> {
        self.job(optimise::optimise).await
    }

    async fn verify(&self, depth: VerifyDepth, repair: Repair) -> Result<Verification, StoreError> {
        let no_collector = self
            .lock_collector(|view| match view.layout().access {
                Access::ReadWrite => {
                    let lock = SharedGcLock::try_acquire(&view.layout().state)?;
                    Ok(lock.map(Some))
                }
                // Nobody collects what can't be changed.
                Access::ReadOnly => Ok(Some(None)),
            })
            .await?;
        let checked = self.job(move |view| {
            let found = verify::verify(view, depth);
            drop(no_collector);
            found
        });
        let found = checked.await?;
        match repair {
            Repair::No => Ok(found.unrepaired()),
            Repair::Yes => Ok(repair::repair(self, found).await),
        }
    }

    async fn repair(&self, path: &StorePath) -> Result<(), StoreError> {
        let path = path.clone();
        let info = self.blocking(move |view| view.path_info(&path)).await?;
        repair::repair_path(self, &info).await
    }

    async fn damaged(
        &self,
        paths: &BTreeSet<StorePath>,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        let paths: Vec<StorePath> = paths.iter().cloned().collect();
        self.job(move |view| verify::damaged(view, &paths)).await
    }

    async fn add_build_log(
        &self,
        derivation: &StorePath,
        log: Box<dyn ByteStream>,
    ) -> Result<(), StoreError> {
        build_log::add(self, derivation, log).await
    }

    async fn build_log(
        &self,
        derivation: &StorePath,
    ) -> Result<Option<Box<dyn ByteStream>>, StoreError> {
        build_log::read(self, derivation).await
    }

    async fn tree_stamp(&self, path: &StorePath) -> Result<Option<TreeStamp>, StoreError> {
        let path = path.clone();
        self.blocking(move |view| tree::path_stamp(view, &path).map(Some)).await
    }

    async fn register_validity(
        &self,
        infos: Vec<PathInfo>,
        adoption: Adoption,
    ) -> Result<(), StoreError> {
        self.job(move |view| adopt::adopt(view, infos, adoption)).await
    }
}
