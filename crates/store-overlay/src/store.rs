//! What everyone does who uses a store.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::{PathInfo, StoreDir, StorePath};
use drover_store::{
    Description, Missing, PathStream, Store, StoreError, Substitute, read_exported_files,
};

use crate::OverlayStore;
use crate::export::{Mixed, Source};

#[async_trait]
impl Store for OverlayStore {
    fn name(&self) -> &str {
        self.below.name()
    }

    fn store_dir(&self) -> &StoreDir {
        self.below.store_dir()
    }

    async fn connect(&self) -> Result<Description, StoreError> {
        self.below.connect().await
    }

    fn round_trip(&self) -> Option<Duration> {
        self.below.round_trip()
    }

    /// Nothing is fetched from substituters: it would be written to the store below.
    async fn hold_valid(
        &self,
        paths: &BTreeSet<StorePath>,
        _: Substitute,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        let (kept, others): (BTreeSet<_>, BTreeSet<_>) =
            paths.iter().cloned().partition(|path| self.kept(path).is_some());
        let mut valid = kept;
        if !others.is_empty() {
            valid.extend(self.below.hold_valid(&others, Substitute::No).await?);
        }
        Ok(valid)
    }

    async fn valid(&self, paths: &BTreeSet<StorePath>) -> Result<BTreeSet<StorePath>, StoreError> {
        let (mut valid, others): (BTreeSet<_>, BTreeSet<_>) =
            paths.iter().cloned().partition(|path| self.kept(path).is_some());
        if !others.is_empty() {
            valid.extend(self.below.valid(&others).await?);
        }
        Ok(valid)
    }

    async fn path_infos(&self, paths: &[StorePath]) -> Result<Vec<Option<PathInfo>>, StoreError> {
        let mut infos: Vec<Option<PathInfo>> =
            paths.iter().map(|path| self.kept(path).map(|kept| kept.info().clone())).collect();
        let both = paths.iter().zip(&infos);
        let others: Vec<StorePath> =
            both.filter(|(_, info)| info.is_none()).map(|(path, _)| path.clone()).collect();
        if !others.is_empty() {
            let mut found = self.below.path_infos(&others).await?.into_iter();
            for info in infos.iter_mut().filter(|info| info.is_none()) {
                *info = found.next().flatten();
            }
        }
        Ok(infos)
    }

    async fn export(&self, infos: Vec<PathInfo>) -> Result<Box<dyn PathStream>, StoreError> {
        if infos.iter().all(|info| self.kept(&info.path).is_none()) {
            return self.below.export(infos).await;
        }
        let source = |info: PathInfo| match self.kept(&info.path) {
            Some(kept) => kept.check(&info, self.name()).map(|()| Source::Kept(kept)),
            None => Ok(Source::Below(Box::new(info))),
        };
        let sources: VecDeque<Source> = infos.into_iter().map(source).collect::<Result<_, _>>()?;
        Ok(Box::new(Mixed::new(Arc::clone(&self.below), sources)))
    }

    async fn import(&self, paths: Box<dyn PathStream>) -> Result<(), StoreError> {
        self.add(paths).await
    }

    async fn read_files(&self, paths: &[StorePath]) -> Result<Vec<Bytes>, StoreError> {
        match paths.iter().all(|path| self.kept(path).is_none()) {
            true => self.below.read_files(paths).await,
            false => read_exported_files(self, paths).await,
        }
    }

    async fn missing(&self, derivations: &BTreeSet<StorePath>) -> Result<Missing, StoreError> {
        Store::missing(self.below.as_ref(), derivations).await
    }

    async fn add_indirect_root(&self, _: &str) -> Result<(), StoreError> {
        Err(self.refusal("keep roots for a client that keeps its paths itself"))
    }
}
