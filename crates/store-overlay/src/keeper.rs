//! What a daemon offers: questions are passed on to the store below, what would change it is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use drover_core::{DrvOutput, Hash, PathInfo, Realisation, Signature, StorePath};
use drover_store::{
    ByteStream, Collected, Collection, Content, Keeper, Offered, PathStream, Repair, Roots,
    SignatureCheck, StoreError, Substitute, Verification, VerifyDepth, WhenValid,
};

use crate::{MAX_REALISATIONS, OverlayStore};

#[async_trait]
impl Keeper for OverlayStore {
    async fn session(self: Arc<Self>) -> Result<Arc<dyn Keeper>, StoreError> {
        let below = Arc::clone(&self.below).session().await?;
        let shelf = Arc::clone(&self.shelf);
        Ok(Arc::new(OverlayStore { below, shelf, held: Mutex::default() }))
    }

    async fn requisites(
        &self,
        paths: &BTreeSet<StorePath>,
    ) -> Result<Option<Vec<StorePath>>, StoreError> {
        match paths.iter().all(|path| self.kept(path).is_none()) {
            true => self.below.requisites(paths).await,
            false => Ok(None),
        }
    }

    async fn add_temporary_root(&self, path: &StorePath) -> Result<(), StoreError> {
        match self.kept(path) {
            Some(_) => Ok(()),
            None => self.below.add_temporary_root(path).await,
        }
    }

    async fn all_valid(&self) -> Result<BTreeSet<StorePath>, StoreError> {
        let mut paths = self.below.all_valid().await?;
        paths.extend(self.shelf.all().iter().map(|kept| kept.info().path.clone()));
        Ok(paths)
    }

    async fn referrers(&self, path: &StorePath) -> Result<BTreeSet<StorePath>, StoreError> {
        let refers = |info: &PathInfo| info.references.contains(path);
        let kept = self.shelf.all();
        let kept = kept.iter().map(|kept| kept.info()).filter(|info| refers(info));
        let mut referrers: BTreeSet<StorePath> = kept.map(|info| info.path.clone()).collect();
        referrers.extend(self.below.referrers(path).await?);
        Ok(referrers)
    }

    async fn valid_derivers(&self, output: &StorePath) -> Result<BTreeSet<StorePath>, StoreError> {
        self.below.valid_derivers(output).await
    }

    async fn by_hash_part(&self, hash_part: &str) -> Result<Option<StorePath>, StoreError> {
        let kept = self.shelf.all();
        let mut kept = kept.iter().map(|kept| &kept.info().path);
        match kept.find(|path| path.hash_part() == hash_part) {
            Some(path) => Ok(Some(path.clone())),
            None => self.below.by_hash_part(hash_part).await,
        }
    }

    async fn output_map(
        &self,
        derivation: &StorePath,
    ) -> Result<BTreeMap<String, Option<StorePath>>, StoreError> {
        self.below.output_map(derivation).await
    }

    /// Nothing: what substituters have would be written to the store below.
    async fn substitutable(
        &self,
        _: &BTreeSet<StorePath>,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        Ok(BTreeSet::new())
    }

    async fn offered(
        &self,
        _: &BTreeSet<StorePath>,
    ) -> Result<BTreeMap<StorePath, Offered>, StoreError> {
        Ok(BTreeMap::new())
    }

    async fn ensure(&self, path: &StorePath, _: Substitute) -> Result<(), StoreError> {
        match self.kept(path) {
            Some(_) => Ok(()),
            None => self.below.ensure(path, Substitute::No).await,
        }
    }

    async fn add_paths(
        &self,
        paths: Box<dyn PathStream>,
        _: SignatureCheck,
        _: WhenValid,
    ) -> Result<(), StoreError> {
        self.add(paths).await
    }

    async fn add_content(
        &self,
        _: Content,
        _: Box<dyn ByteStream>,
        _: WhenValid,
    ) -> Result<PathInfo, StoreError> {
        Err(self.refusal("add contents for a client that has a store of its own"))
    }

    async fn add_signatures(
        &self,
        _: &StorePath,
        _: &BTreeSet<Signature>,
    ) -> Result<(), StoreError> {
        Err(self.refusal("sign paths for a client that keeps them itself"))
    }

    async fn realisation_hash(&self, derivation: &StorePath) -> Result<Hash, StoreError> {
        self.below.realisation_hash(derivation).await
    }

    async fn realisation(&self, output: &DrvOutput) -> Result<Option<Realisation>, StoreError> {
        let noted = self.held().realisations.get(output).cloned();
        match noted {
            Some(realisation) => Ok(Some(realisation)),
            None => self.below.realisation(output).await,
        }
    }

    /// Notes it for this view.
    async fn register_realisation(
        &self,
        realisation: &Realisation,
        _: SignatureCheck,
    ) -> Result<(), StoreError> {
        let mut held = self.held();
        if held.realisations.len() >= MAX_REALISATIONS {
            return Err(self.refusal("note what more than 4096 outputs became for one client"));
        }
        held.realisations.insert(realisation.id.clone(), realisation.clone());
        Ok(())
    }

    async fn add_permanent_root(&self, _: &StorePath, _: &str) -> Result<String, StoreError> {
        Err(self.refusal("keep roots for a client that keeps its paths itself"))
    }

    async fn roots(&self) -> Result<Roots, StoreError> {
        self.below.roots().await
    }

    async fn collect(&self, _: Collection) -> Result<Collected, StoreError> {
        Err(self.refusal("collect garbage in a store that it only reads"))
    }

    async fn optimise(&self) -> Result<u64, StoreError> {
        Err(self.refusal("optimise a store that it only reads"))
    }

    async fn verify(&self, depth: VerifyDepth, repair: Repair) -> Result<Verification, StoreError> {
        match repair {
            Repair::No => self.below.verify(depth, repair).await,
            Repair::Yes => Err(self.refusal("repair a store that it only reads")),
        }
    }

    async fn add_build_log(&self, _: &StorePath, _: Box<dyn ByteStream>) -> Result<(), StoreError> {
        Err(self.refusal("keep logs for a client that keeps them itself"))
    }

    async fn build_log(
        &self,
        derivation: &StorePath,
    ) -> Result<Option<Box<dyn ByteStream>>, StoreError> {
        self.below.build_log(derivation).await
    }
}
