//! What a store is.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::{
    DrvOutput, PathInfo, Realisation, StoreDir, StorePath, Substitute, ToldRealisation, Trust,
};
use drover_nar::regular_file_of;

use crate::build::BuildLog;
use crate::error::StoreError;
use crate::path_stream::PathStream;

/// What a store tells of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// The protocol spoken, with its version.
    pub protocol: String,
    /// The other side's version of Nix, where it says.
    pub nix_version: Option<String>,
    /// Whether it trusts us.
    pub trust: Trust,
}

/// What would have to be done to make something valid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// Derivations to build.
    pub build: BTreeSet<StorePath>,
    /// Paths that substituters have.
    pub substitute: BTreeSet<StorePath>,
    /// Bytes to download for them.
    pub download_size: u64,
}

/// A set of valid store objects.
///
/// Absence is never an error; `Err` means that the store could not answer. Dropping a future gives
/// up the request.
#[async_trait]
pub trait Store: Send + Sync {
    /// Returns how the user calls it.
    fn name(&self) -> &str;

    /// Returns the directory that its paths are in.
    fn store_dir(&self) -> &StoreDir;

    /// Connects, if that takes anything, and says who is there.
    async fn connect(&self) -> Result<Description, StoreError>;

    /// Returns how it stands among substituters: the lowest counts most. A store asks nobody for that
    /// but itself, unless its address says so (`priority` of Nix).
    async fn priority(&self) -> Result<i64, StoreError> {
        Ok(0)
    }

    /// Returns how long a question and its answer take, about, where that is known.
    fn round_trip(&self) -> Option<Duration> {
        None
    }

    /// Protects paths from the garbage collector for as long as this store is open, and returns
    /// those that are valid; the protection comes first, so what is returned stays.
    async fn hold_valid(
        &self,
        paths: &BTreeSet<StorePath>,
        substitute: Substitute,
    ) -> Result<BTreeSet<StorePath>, StoreError>;

    /// Protects `held` as [`hold_valid`](Store::hold_valid) does, and asks in the same go which of
    /// `sought` are valid, which needn't be protected. Returns those of both that are valid.
    async fn hold_and_seek(
        &self,
        held: &BTreeSet<StorePath>,
        sought: &BTreeSet<StorePath>,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        self.hold_valid(&held.union(sought).cloned().collect(), Substitute::No).await
    }

    /// Has paths fetched from the store's own substituters, holds them like
    /// [`hold_valid`](Store::hold_valid), and returns those that are valid then. What is said
    /// meanwhile goes to `log`, where the store says anything. It takes as long as that takes.
    async fn substitute(
        &self,
        paths: &BTreeSet<StorePath>,
        log: Arc<dyn BuildLog>,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        drop(log);
        self.hold_valid(paths, Substitute::Yes).await
    }

    /// Returns those of the paths that are valid, and protects none of them.
    async fn valid(&self, paths: &BTreeSet<StorePath>) -> Result<BTreeSet<StorePath>, StoreError> {
        let asked: Vec<StorePath> = paths.iter().cloned().collect();
        let infos = self.path_infos(&asked).await?;
        let valid = asked.into_iter().zip(infos).filter(|(_, info)| info.is_some());
        Ok(valid.map(|(path, _)| path).collect())
    }

    /// Looks up paths, all in one go; in the order of the question.
    async fn path_infos(&self, paths: &[StorePath]) -> Result<Vec<Option<PathInfo>>, StoreError>;

    /// Returns what outputs became whose paths don't follow from their derivations, in the order of the
    /// question; `None` where the store doesn't know. Its word, and signatures, are all there is for
    /// that.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unsupported`] where it can't be asked.
    async fn realised(&self, _: &[DrvOutput]) -> Result<Vec<Option<ToldRealisation>>, StoreError> {
        let what = "say what outputs became whose paths follow from their contents";
        Err(StoreError::Unsupported { store: self.name().to_owned(), what })
    }

    /// Returns how many bytes would be downloaded for each of these paths, in the order of the question;
    /// `None` where that isn't known before it's done. Nobody vouches for it.
    async fn download_sizes(&self, paths: &[StorePath]) -> Result<Vec<Option<u64>>, StoreError> {
        Ok(vec![None; paths.len()])
    }

    /// Keeps what outputs became whose paths don't follow from their derivations, for others to ask. Paths
    /// must be there before.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unsupported`] where nothing of that is kept.
    async fn keep_realised(&self, _: &[Realisation]) -> Result<(), StoreError> {
        let what = "keep what outputs became whose paths follow from their contents";
        Err(StoreError::Unsupported { store: self.name().to_owned(), what })
    }

    /// Streams paths with their NARs, in the given order.
    async fn export(&self, infos: Vec<PathInfo>) -> Result<Box<dyn PathStream>, StoreError>;

    /// The same, for a store that checks the hash of what it takes: what would only be hashed twice
    /// needn't be hashed on its way.
    async fn export_to_checker(
        &self,
        infos: Vec<PathInfo>,
    ) -> Result<Box<dyn PathStream>, StoreError> {
        self.export(infos).await
    }

    /// Fetches a small NAR whole. Many may be asked for at once.
    async fn small_nar(&self, info: PathInfo) -> Result<Bytes, StoreError> {
        read_exported_nar(self, info).await
    }

    /// Adds paths. Adding one that is already valid does nothing.
    async fn import(&self, paths: Box<dyn PathStream>) -> Result<(), StoreError>;

    /// Reads paths that are flat files, such as derivations; in the order of the question.
    async fn read_files(&self, paths: &[StorePath]) -> Result<Vec<Bytes>, StoreError> {
        read_exported_files(self, paths).await
    }

    /// Says what would have to be built or fetched for all outputs of derivations.
    async fn missing(&self, derivations: &BTreeSet<StorePath>) -> Result<Missing, StoreError>;

    /// Registers a link outside the store as a root of the garbage collector.
    async fn add_indirect_root(&self, link: &str) -> Result<(), StoreError>;
}

/// Bytes that a file may have which is read whole.
pub const MAX_FILE: u64 = 64 * 1024 * 1024;

/// Reads flat files out of their NARs.
///
/// # Errors
///
/// A path that isn't valid, isn't a flat file, or is larger than 64 MiB.
pub async fn read_exported_files<S: Store + ?Sized>(
    store: &S,
    paths: &[StorePath],
) -> Result<Vec<Bytes>, StoreError> {
    let name = || store.name().to_owned();
    let mut infos = Vec::with_capacity(paths.len());
    for (path, info) in paths.iter().zip(store.path_infos(paths).await?) {
        let missing = || StoreError::NotValid { store: name(), path: path.clone() };
        let info = info.ok_or_else(missing)?;
        if info.nar_size.0 > MAX_FILE {
            let (store, path, size) = (name(), path.clone(), info.nar_size.0);
            return Err(StoreError::TooLarge { store, path, size, limit: MAX_FILE });
        }
        infos.push(info);
    }
    let mut files = Vec::with_capacity(paths.len());
    let mut stream = store.export(infos).await?;
    while let Some(info) = stream.next_path().await? {
        let mut nar = Vec::new();
        while let Some(chunk) = stream.chunk().await? {
            nar.extend_from_slice(&chunk);
        }
        let bad = |source| StoreError::Nar { store: name(), path: info.path.clone(), source };
        files.push(Bytes::copy_from_slice(regular_file_of(&nar).map_err(bad)?));
    }
    Ok(files)
}

/// Fetches one NAR whole, as one export.
///
/// # Errors
///
/// What the store says.
pub async fn read_exported_nar<S: Store + ?Sized>(
    store: &S,
    info: PathInfo,
) -> Result<Bytes, StoreError> {
    let mut stream = store.export(vec![info]).await?;
    let mut nar = Vec::new();
    if stream.next_path().await?.is_some() {
        while let Some(chunk) = stream.chunk().await? {
            nar.extend_from_slice(&chunk);
        }
    }
    Ok(nar.into())
}
