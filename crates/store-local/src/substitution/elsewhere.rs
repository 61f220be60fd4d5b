//! Substituters whose paths are in another directory.
//!
//! What is content-addressed and refers to nothing has the same contents there, under a path that
//! follows from its address. Follows `querySubstitutablePathInfos` of Nix
//! (`src/libstore/store-api.cc`). Of addresses those of fixed outputs are known before anybody is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::{ContentAddress, PathInfo, References, StoreDir, StorePath};
use drover_store::{Description, Missing, PathStream, Store, StoreError, Substitute};

use crate::opened::lock;

/// Addresses that are remembered.
const MAX: usize = 100_000;

/// What is known of the addresses of paths that may be fetched.
#[derive(Default)]
pub(crate) struct Addresses(Mutex<BTreeMap<StorePath, ContentAddress>>);

impl Addresses {
    /// Remembers the addresses of paths.
    pub(crate) fn remember<'a>(
        &self,
        addresses: impl Iterator<Item = (&'a StorePath, &'a ContentAddress)>,
    ) {
        let mut known = lock(&self.0);
        for (path, address) in addresses {
            if MAX <= known.len() {
                known.clear();
            }
            known.insert(path.clone(), address.clone());
        }
    }

    fn of(&self, path: &StorePath) -> Option<ContentAddress> {
        lock(&self.0).get(path).cloned()
    }
}

/// A store with another directory, as one with ours.
pub(super) struct Elsewhere {
    store: Arc<dyn Store>,
    here: StoreDir,
    addresses: Arc<Addresses>,
}

impl Elsewhere {
    pub(super) fn new(
        store: Arc<dyn Store>,
        here: StoreDir,
        addresses: Arc<Addresses>,
    ) -> Elsewhere {
        Elsewhere { store, here, addresses }
    }

    /// Returns what a path is called there, if that is known.
    fn theirs(&self, path: &StorePath) -> Option<StorePath> {
        let address = self.addresses.of(path)?;
        let there = self.store.store_dir();
        there.content_addressed_path(&address, &References::default(), &path.store_name()).ok()
    }

    fn cannot<T>(&self, what: &'static str) -> Result<T, StoreError> {
        Err(StoreError::Unsupported { store: self.name().to_owned(), what })
    }

    /// Returns infos as they are there; all are of paths that are known.
    fn back(&self, infos: Vec<PathInfo>) -> Result<(Vec<PathInfo>, Vec<StorePath>), StoreError> {
        let mut theirs = Vec::with_capacity(infos.len());
        let mut ours = Vec::with_capacity(infos.len());
        for info in infos {
            let Some(path) = self.theirs(&info.path) else {
                return Err(StoreError::NotValid {
                    store: self.name().to_owned(),
                    path: info.path,
                });
            };
            ours.push(info.path.clone());
            theirs.push(PathInfo { path, ..info });
        }
        Ok((theirs, ours))
    }
}

#[async_trait]
impl Store for Elsewhere {
    fn name(&self) -> &str {
        self.store.name()
    }

    fn store_dir(&self) -> &StoreDir {
        &self.here
    }

    async fn connect(&self) -> Result<Description, StoreError> {
        self.store.connect().await
    }

    async fn priority(&self) -> Result<i64, StoreError> {
        self.store.priority().await
    }

    async fn hold_valid(
        &self,
        paths: &BTreeSet<StorePath>,
        substitute: Substitute,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        let pairs = paths.iter().filter_map(|path| Some((self.theirs(path)?, path)));
        let pairs: BTreeMap<StorePath, &StorePath> = pairs.collect();
        let valid = self.store.hold_valid(&pairs.keys().cloned().collect(), substitute).await?;
        Ok(valid.iter().filter_map(|path| pairs.get(path)).map(|path| (*path).clone()).collect())
    }

    async fn path_infos(&self, paths: &[StorePath]) -> Result<Vec<Option<PathInfo>>, StoreError> {
        let theirs: Vec<Option<StorePath>> = paths.iter().map(|path| self.theirs(path)).collect();
        let asked: Vec<StorePath> = theirs.iter().flatten().cloned().collect();
        if asked.is_empty() {
            return Ok(vec![None; paths.len()]);
        }
        let mut answers = self.store.path_infos(&asked).await?.into_iter();
        let info = |(path, theirs): (&StorePath, Option<StorePath>)| {
            // an answer for each question
            let info = theirs.and_then(|_| answers.next().flatten())?;
            // it may have been forgotten meanwhile
            let is_same = info.content_address.is_some()
                && info.content_address == self.addresses.of(path)
                && info.references.is_empty();
            // what was signed there was signed under another path
            let signatures = BTreeSet::new();
            is_same.then(|| PathInfo { path: path.clone(), deriver: None, signatures, ..info })
        };
        Ok(paths.iter().zip(theirs).map(info).collect())
    }

    async fn download_sizes(&self, paths: &[StorePath]) -> Result<Vec<Option<u64>>, StoreError> {
        let theirs: Vec<Option<StorePath>> = paths.iter().map(|path| self.theirs(path)).collect();
        let asked: Vec<StorePath> = theirs.iter().flatten().cloned().collect();
        let mut sizes = self.store.download_sizes(&asked).await?.into_iter();
        Ok(theirs.into_iter().map(|path| path.and_then(|_| sizes.next().flatten())).collect())
    }

    async fn export(&self, infos: Vec<PathInfo>) -> Result<Box<dyn PathStream>, StoreError> {
        let (theirs, ours) = self.back(infos)?;
        let contents = self.store.export(theirs).await?;
        Ok(Box::new(Renamed { contents, ours: ours.into_iter() }))
    }

    async fn export_to_checker(
        &self,
        infos: Vec<PathInfo>,
    ) -> Result<Box<dyn PathStream>, StoreError> {
        let (theirs, ours) = self.back(infos)?;
        let contents = self.store.export_to_checker(theirs).await?;
        Ok(Box::new(Renamed { contents, ours: ours.into_iter() }))
    }

    async fn import(&self, _: Box<dyn PathStream>) -> Result<(), StoreError> {
        self.cannot("take paths of another directory")
    }

    async fn missing(&self, _: &BTreeSet<StorePath>) -> Result<Missing, StoreError> {
        self.cannot("say what is missing for another directory")
    }

    async fn add_indirect_root(&self, _: &str) -> Result<(), StoreError> {
        self.cannot("keep paths of another directory")
    }
}

/// Paths on their way from there, by their names here.
struct Renamed {
    contents: Box<dyn PathStream>,
    ours: std::vec::IntoIter<StorePath>,
}

#[async_trait]
impl PathStream for Renamed {
    fn count(&self) -> usize {
        self.contents.count()
    }

    async fn next_path(&mut self) -> Result<Option<PathInfo>, StoreError> {
        let info = self.contents.next_path().await?;
        Ok(info.zip(self.ours.next()).map(|(info, path)| PathInfo { path, ..info }))
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        self.contents.chunk().await
    }
}
