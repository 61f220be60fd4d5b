//! A binary cache as a store.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use drover_config::StoreReference;
use drover_core::{
    DrvOutput, NarHash, NarSize, PathInfo, Realisation, StoreDir, StorePath, ToldRealisation,
};
use drover_store::{Description, Missing, PathStream, Store, StoreError, Substitute, Trust};

use crate::cache::Cache;
use crate::destination::Writing;
use crate::error::CacheError;
use crate::fetch::{HashCheck, NarStream};
use crate::push::push;
use crate::s3::upload;
use crate::settings::{CacheSettings, CacheTrust, MassQuery};

/// A binary cache behind `file://`, `http://`, `https://` or `s3://`.
///
/// A path that the cache tells of badly is not there, with a warning; trouble with the cache itself
/// is an error. Nothing in a cache can be held: what is there may be gone when it is fetched.
pub struct CacheStore {
    cache: Arc<Cache>,
}

impl CacheStore {
    /// Makes the store of an address. Nothing is connected or read but the files of secret keys.
    ///
    /// # Errors
    ///
    /// Another kind of store, or parameters that are no good.
    pub fn open(
        reference: &StoreReference,
        store_dir: StoreDir,
        settings: CacheSettings,
    ) -> Result<CacheStore, CacheError> {
        Ok(CacheStore { cache: Arc::new(Cache::new(reference, store_dir, settings)?) })
    }

    /// Returns when this cache is asked among others, the lowest first: what the address says, else
    /// what the cache says.
    ///
    /// # Errors
    ///
    /// A cache that can't be reached, or is none.
    pub async fn priority(&self) -> Result<i64, StoreError> {
        match self.cache.parameters.priority {
            Some(priority) => Ok(priority),
            None => Ok(self.cache.info().await?.priority),
        }
    }

    /// Returns whether it may be asked for many paths that perhaps nobody wants: what the address
    /// says, else what the cache says.
    ///
    /// # Errors
    ///
    /// A cache that can't be reached, or is none.
    pub async fn want_mass_query(&self) -> Result<MassQuery, StoreError> {
        match self.cache.parameters.mass_query {
            Some(wanted) => Ok(wanted),
            None => Ok(self.cache.info().await?.mass_query),
        }
    }

    /// Returns whether its paths are taken without signatures, as its address says.
    pub fn trust(&self) -> CacheTrust {
        self.cache.parameters.trust
    }

    async fn stream(
        &self,
        infos: Vec<PathInfo>,
        check: HashCheck,
    ) -> Result<Box<dyn PathStream>, StoreError> {
        let paths: Vec<StorePath> = infos.iter().map(|info| info.path.clone()).collect();
        let answers = self.cache.ask(&paths).await?;
        let mut found = Vec::with_capacity(infos.len());
        for (info, answer) in infos.into_iter().zip(answers) {
            let store = self.cache.name.clone();
            let path = info.path.clone();
            let Some(answer) = answer else { return Err(StoreError::NotValid { store, path }) };
            let (hash, size): (NarHash, NarSize) = (answer.info.nar_hash, answer.info.nar_size);
            if size != info.nar_size {
                let (expected, actual) = (info.nar_size, size);
                return Err(StoreError::SizeMismatch { store, path, expected, actual });
            }
            if hash != info.nar_hash {
                let (expected, actual) = (info.nar_hash, hash);
                return Err(StoreError::HashMismatch { store, path, expected, actual });
            }
            found.push((info, answer));
        }
        Ok(Box::new(NarStream::new(self.cache.clone(), found, check)))
    }

    fn cannot(&self, what: &'static str) -> StoreError {
        StoreError::Unsupported { store: self.cache.name.clone(), what }
    }
}

#[async_trait]
impl Store for CacheStore {
    fn name(&self) -> &str {
        &self.cache.name
    }

    fn store_dir(&self) -> &StoreDir {
        &self.cache.store_dir
    }

    async fn connect(&self) -> Result<Description, StoreError> {
        self.cache.info().await?;
        let protocol = "binary cache".to_owned();
        Ok(Description { protocol, nix_version: None, trust: Trust::Unknown })
    }

    async fn priority(&self) -> Result<i64, StoreError> {
        CacheStore::priority(self).await
    }

    async fn realised(
        &self,
        outputs: &[DrvOutput],
    ) -> Result<Vec<Option<ToldRealisation>>, StoreError> {
        self.cache.realised(outputs).await
    }

    async fn hold_valid(
        &self,
        paths: &BTreeSet<StorePath>,
        _: Substitute,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        let paths: Vec<StorePath> = paths.iter().cloned().collect();
        let answers = self.cache.ask(&paths).await?;
        let valid = paths.into_iter().zip(answers).filter(|(_, answer)| answer.is_some());
        Ok(valid.map(|(path, _)| path).collect())
    }

    async fn path_infos(&self, paths: &[StorePath]) -> Result<Vec<Option<PathInfo>>, StoreError> {
        let answers = self.cache.ask(paths).await?;
        let info = |answer: Option<Arc<drover_core::NarInfo>>| answer.map(|it| it.info.clone());
        Ok(answers.into_iter().map(info).collect())
    }

    /// Those of the files. Asks only what it hasn't asked.
    async fn download_sizes(&self, paths: &[StorePath]) -> Result<Vec<Option<u64>>, StoreError> {
        let answers = self.cache.ask(paths).await?;
        Ok(answers.into_iter().map(|answer| answer.and_then(|answer| answer.file_size)).collect())
    }

    async fn export(&self, infos: Vec<PathInfo>) -> Result<Box<dyn PathStream>, StoreError> {
        self.stream(infos, HashCheck::Here).await
    }

    async fn export_to_checker(
        &self,
        infos: Vec<PathInfo>,
    ) -> Result<Box<dyn PathStream>, StoreError> {
        self.stream(infos, HashCheck::There).await
    }

    async fn import(&self, paths: Box<dyn PathStream>) -> Result<(), StoreError> {
        match &self.cache.writing {
            Writing::Files(destination) => push(&self.cache, destination, paths).await,
            Writing::Bucket(bucket) => upload(&self.cache, bucket, paths).await,
        }
    }

    async fn keep_realised(&self, realised: &[Realisation]) -> Result<(), StoreError> {
        self.cache.keep_realised(realised).await
    }

    async fn missing(&self, _: &BTreeSet<StorePath>) -> Result<Missing, StoreError> {
        Err(self.cannot("say what would be built: it is a binary cache"))
    }

    async fn add_indirect_root(&self, _: &str) -> Result<(), StoreError> {
        Err(self.cannot("keep roots: it is a binary cache"))
    }
}
