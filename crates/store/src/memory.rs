//! A store in memory, for tests of what uses stores.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::{PathInfo, StoreDir, StorePath, Substitute};

use crate::error::StoreError;
use crate::path_stream::{PathStream, Verified};
use crate::store::{Description, Missing, Store};

/// A store in memory.
#[derive(Default)]
pub struct MemoryStore {
    store_dir: StoreDir,
    paths: Mutex<BTreeMap<StorePath, (PathInfo, Bytes)>>,
}

const NAME: &str = "memory";

impl MemoryStore {
    fn paths(&self) -> std::sync::MutexGuard<'_, BTreeMap<StorePath, (PathInfo, Bytes)>> {
        self.paths.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn name(&self) -> &str {
        NAME
    }

    fn store_dir(&self) -> &StoreDir {
        &self.store_dir
    }

    async fn connect(&self) -> Result<Description, StoreError> {
        let trust = crate::Trust::Trusted;
        Ok(Description { protocol: "none".to_owned(), nix_version: None, trust })
    }

    async fn hold_valid(
        &self,
        paths: &BTreeSet<StorePath>,
        _: Substitute,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        let known = self.paths();
        Ok(paths.iter().filter(|path| known.contains_key(path)).cloned().collect())
    }

    async fn path_infos(&self, paths: &[StorePath]) -> Result<Vec<Option<PathInfo>>, StoreError> {
        let known = self.paths();
        Ok(paths.iter().map(|path| known.get(path).map(|(info, _)| info.clone())).collect())
    }

    async fn export(&self, infos: Vec<PathInfo>) -> Result<Box<dyn PathStream>, StoreError> {
        let known = self.paths();
        let mut paths = Vec::with_capacity(infos.len());
        for info in infos {
            let missing = StoreError::NotValid { store: NAME.to_owned(), path: info.path.clone() };
            let nar = known.get(&info.path).map(|(_, nar)| nar.clone()).ok_or(missing)?;
            paths.push((info, nar));
        }
        paths.reverse();
        Ok(Box::new(MemoryStream { count: paths.len(), paths, current: None }))
    }

    async fn import(&self, mut paths: Box<dyn PathStream>) -> Result<(), StoreError> {
        while let Some(info) = paths.next_path().await? {
            let mut verified = Verified::new(NAME.to_owned(), info.clone());
            let mut nar = Vec::new();
            while let Some(chunk) = paths.chunk().await? {
                verified.pass(&chunk)?;
                nar.extend_from_slice(&chunk);
            }
            verified.finish()?;
            let mut known = self.paths();
            let missing = info
                .references
                .iter()
                .find(|path| **path != info.path && !known.contains_key(path));
            if let Some(path) = missing {
                return Err(StoreError::NotValid { store: NAME.to_owned(), path: path.clone() });
            }
            known.entry(info.path.clone()).or_insert((info, nar.into()));
        }
        Ok(())
    }

    async fn missing(&self, derivations: &BTreeSet<StorePath>) -> Result<Missing, StoreError> {
        Ok(Missing { build: derivations.clone(), ..Missing::default() })
    }

    async fn add_indirect_root(&self, _: &str) -> Result<(), StoreError> {
        Err(StoreError::Unsupported { store: NAME.to_owned(), what: "keep roots" })
    }
}

struct MemoryStream {
    /// Last first.
    paths: Vec<(PathInfo, Bytes)>,
    count: usize,
    current: Option<(Verified, Bytes)>,
}

#[async_trait]
impl PathStream for MemoryStream {
    fn count(&self) -> usize {
        self.count
    }

    async fn next_path(&mut self) -> Result<Option<PathInfo>, StoreError> {
        let Some((info, nar)) = self.paths.pop() else { return Ok(None) };
        self.current = Some((Verified::new(NAME.to_owned(), info.clone()), nar));
        Ok(Some(info))
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        let Some((mut verified, nar)) = self.current.take() else { return Ok(None) };
        verified.pass(&nar)?;
        verified.finish()?;
        Ok(Some(nar))
    }
}
