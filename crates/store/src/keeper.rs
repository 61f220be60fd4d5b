//! What the keeper of a store can do beyond what everyone who uses one can: what a daemon offers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::{
    CollectAction, DrvOutput, Hash, HashAlgorithm, IngestionMethod, Liveness, PathInfo,
    Realisation, Repair, Signature, SignatureCheck, StoreName, StorePath, Substitute, VerifyDepth,
};

use crate::error::StoreError;
use crate::fetch::{FetchObserver, FetchSize, Offered};
use crate::own_setting::OwnSetting;
use crate::path_stream::{PathStream, TreeStamp};
use crate::realisation_hash::realisation_hash;
use crate::store::Store;

/// What becomes of a path that is valid already when it is added again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenValid {
    /// It stays as it is.
    Keep,
    /// Its contents are put in the place of those that are there.
    Replace,
}

/// Bytes that come in pieces.
///
/// Dropping it before its end gives up what they are for.
#[async_trait]
pub trait ByteStream: Send {
    /// Returns the next bytes, never none; `None` at the end.
    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError>;
}

/// Contents that are to be added under a path that follows from them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// The path's name.
    pub name: StoreName,
    /// How the contents are hashed. They come as the flat file for `Flat` and `Text`, as a NAR for
    /// the others.
    pub method: IngestionMethod,
    /// The algorithm of that hash.
    pub algorithm: HashAlgorithm,
    /// The paths that the contents refer to.
    pub references: BTreeSet<StorePath>,
}

/// Why a path is kept: a link (a file's path, or a name in braces such as `{temp:42}`), and the
/// path that it leads to.
pub type Roots = BTreeSet<(String, StorePath)>;

/// A garbage collection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collection {
    /// What is to be done.
    pub action: CollectAction,
    /// What is done with paths that are needed.
    pub liveness: Liveness,
    /// The paths for [`CollectAction::DeleteGiven`].
    pub paths: BTreeSet<StorePath>,
    /// Bytes after which it ends; no end where absent.
    pub max_freed: Option<u64>,
}

/// What a garbage collection did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// The base names of what was listed or deleted, paths that were never valid among them.
    pub names: Vec<String>,
    /// Bytes freed.
    pub bytes_freed: u64,
}

/// What a check of the store found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verification {
    /// What is wrong, one line each.
    pub problems: Vec<String>,
    /// Whether anything wrong is left but what is unmended; what was merely forgotten (a path that had
    /// vanished and nobody refers to) isn't.
    pub errors_left: bool,
    /// What was to be repaired and couldn't be fetched again. It may be built again.
    pub unmended: Vec<Unmended>,
}

/// A damaged path that no store that was asked has as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmended {
    /// The path.
    pub path: StorePath,
    /// Why it could not be had.
    pub why: String,
}

/// What is done with the files of paths that are registered as they lie in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adoption {
    /// Nothing: infos are taken at their word.
    AsGiven,
    /// They are put into canonical form; hash and size are taken at their word.
    Canonical,
    /// They are put into canonical form, then hash and size are taken from them.
    Measured,
}

/// A store as its keeper sees it.
#[async_trait]
pub trait Keeper: Store {
    /// Returns a view of this store whose temporary roots end when it is dropped.
    async fn session(self: Arc<Self>) -> Result<Arc<dyn Keeper>, StoreError>;

    /// Has these settings count for this view, in the place of all that were given to it before;
    /// those that aren't among them are as the store is configured.
    ///
    /// A store that somebody else keeps has that one's settings, and nothing changes there.
    fn set_own(&self, _settings: &[OwnSetting]) {}

    /// Returns valid paths and all that they refer to, each after what it refers to and otherwise by
    /// name; `None` where this store has no better way than being asked for one path after another,
    /// or where one of them isn't valid.
    async fn requisites(
        &self,
        _paths: &BTreeSet<StorePath>,
    ) -> Result<Option<Vec<StorePath>>, StoreError> {
        Ok(None)
    }

    /// Protects a path, valid or not yet, from the garbage collector as long as this view lives.
    async fn add_temporary_root(&self, path: &StorePath) -> Result<(), StoreError>;

    /// Returns all valid paths.
    async fn all_valid(&self) -> Result<BTreeSet<StorePath>, StoreError>;

    /// Returns the valid paths that refer to one.
    async fn referrers(&self, path: &StorePath) -> Result<BTreeSet<StorePath>, StoreError>;

    /// Returns the valid derivations that have an output.
    async fn valid_derivers(&self, output: &StorePath) -> Result<BTreeSet<StorePath>, StoreError>;

    /// Returns the valid path with this hash part.
    async fn by_hash_part(&self, hash_part: &str) -> Result<Option<StorePath>, StoreError>;

    /// Returns the outputs of a valid derivation, with their paths as far as they are known.
    async fn output_map(
        &self,
        derivation: &StorePath,
    ) -> Result<BTreeMap<String, Option<StorePath>>, StoreError>;

    /// Returns the same, and where it isn't known what an output became, what substituters say: that path
    /// may be valid only once it was fetched.
    async fn expected_outputs(
        &self,
        derivation: &StorePath,
    ) -> Result<BTreeMap<String, Option<StorePath>>, StoreError> {
        self.output_map(derivation).await
    }

    /// Returns those paths that substituters have.
    async fn substitutable(
        &self,
        paths: &BTreeSet<StorePath>,
    ) -> Result<BTreeSet<StorePath>, StoreError>;

    /// Returns what substituters would have to give for paths to become valid: those of them that can be
    /// had whole, with all that they refer to that isn't valid, and how big each is.
    async fn fetchable(
        &self,
        paths: &BTreeSet<StorePath>,
    ) -> Result<BTreeMap<StorePath, FetchSize>, StoreError> {
        let offered = self.substitutable(paths).await?;
        Ok(offered.into_iter().map(|path| (path, FetchSize::default())).collect())
    }

    /// Returns what substituters say of those paths that they have, whether valid here or not.
    async fn offered(
        &self,
        paths: &BTreeSet<StorePath>,
    ) -> Result<BTreeMap<StorePath, Offered>, StoreError>;

    /// Has somebody told from now on of what is fetched for this view, where this store does that itself.
    fn follow_fetches(&self, _follower: Arc<dyn FetchObserver>) {}

    /// Makes a path valid, from substituters where it isn't and they may be asked.
    async fn ensure(&self, path: &StorePath, substitute: Substitute) -> Result<(), StoreError>;

    /// Adds paths; all that is known of each is checked before it is registered.
    async fn add_paths(
        &self,
        paths: Box<dyn PathStream>,
        signatures: SignatureCheck,
        when_valid: WhenValid,
    ) -> Result<(), StoreError>;

    /// Adds contents under the path that follows from them.
    async fn add_content(
        &self,
        content: Content,
        bytes: Box<dyn ByteStream>,
        when_valid: WhenValid,
    ) -> Result<PathInfo, StoreError>;

    /// Adds signatures to a valid path.
    async fn add_signatures(
        &self,
        path: &StorePath,
        signatures: &BTreeSet<Signature>,
    ) -> Result<(), StoreError>;

    /// Returns the hash under which it is kept what the outputs of a valid derivation became.
    async fn realisation_hash(&self, derivation: &StorePath) -> Result<Hash, StoreError> {
        realisation_hash(self, derivation).await
    }

    /// Returns the path that an output of a derivation became.
    async fn realisation(&self, output: &DrvOutput) -> Result<Option<Realisation>, StoreError>;

    /// Returns the path that an output of a derivation became, and where that isn't known here, what
    /// substituters say: that path may be valid only once it was fetched.
    async fn expected_realisation(
        &self,
        output: &DrvOutput,
    ) -> Result<Option<StorePath>, StoreError> {
        Ok(self.realisation(output).await?.map(|realisation| realisation.out_path))
    }

    /// Registers the path that an output of a derivation became.
    async fn register_realisation(
        &self,
        realisation: &Realisation,
        signatures: SignatureCheck,
    ) -> Result<(), StoreError>;

    /// Makes a link to a valid path that keeps it, and returns where the link is.
    async fn add_permanent_root(&self, path: &StorePath, link: &str) -> Result<String, StoreError>;

    /// Returns why paths are kept.
    async fn roots(&self) -> Result<Roots, StoreError>;

    /// Lists or deletes what nothing needs.
    async fn collect(&self, collection: Collection) -> Result<Collected, StoreError>;

    /// Puts hard links in the place of files with equal contents; returns the bytes saved.
    async fn optimise(&self) -> Result<u64, StoreError>;

    /// Checks the store.
    async fn verify(&self, depth: VerifyDepth, repair: Repair) -> Result<Verification, StoreError>;

    /// Puts the contents that are registered for a valid path in the place of those that are there,
    /// from another store that has them.
    async fn repair(&self, path: &StorePath) -> Result<(), StoreError> {
        let _ = path;
        let what = "repair a path, which only its keeper can";
        Err(StoreError::Unsupported { store: self.name().to_owned(), what })
    }

    /// Returns those of these paths that are valid and whose contents aren't those that are registered.
    async fn damaged(
        &self,
        paths: &BTreeSet<StorePath>,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        let _ = paths;
        let what = "look at the contents of paths, which only its keeper can";
        Err(StoreError::Unsupported { store: self.name().to_owned(), what })
    }

    /// Keeps the log of a build, as its text.
    async fn add_build_log(
        &self,
        derivation: &StorePath,
        log: Box<dyn ByteStream>,
    ) -> Result<(), StoreError>;

    /// Returns the log of a build, as its text, where it is kept.
    async fn build_log(
        &self,
        derivation: &StorePath,
    ) -> Result<Option<Box<dyn ByteStream>>, StoreError>;

    /// Looks at the files of a valid path without reading them; nothing where there are none to look at,
    /// or nobody could tell by them whether they have changed.
    async fn tree_stamp(&self, _: &StorePath) -> Result<Option<TreeStamp>, StoreError> {
        Ok(None)
    }

    /// Registers paths whose files lie in the store already, all of them or none; what they refer
    /// to must be valid or among them. Those that are registered already are registered anew.
    ///
    /// For [`Adoption::Measured`] the infos' hash and size mean nothing. Only the store's owner can
    /// do this; others answer [`StoreError::Unsupported`].
    async fn register_validity(
        &self,
        infos: Vec<PathInfo>,
        adoption: Adoption,
    ) -> Result<(), StoreError> {
        let _ = (infos, adoption);
        let what = "register paths whose contents it does not check";
        Err(StoreError::Unsupported { store: self.name().to_owned(), what })
    }
}
