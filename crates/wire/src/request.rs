//! The requests of the worker protocol, as a client writes and a server reads them.
//!
//! Follows `performOp` in `src/libstore/daemon.cc` of Nix. Where data follows a request (NARs,
//! framed or not), the data is not part of the message here.

mod decode;
mod encode;

use std::collections::BTreeSet;

use drover_core::{
    BuildMode, HashAlgorithm, IngestionMethod, PathInfo, Repair, Signature, SignatureCheck,
    StorePath, Substitute, VerifyDepth,
};
use drover_derivation::BasicDerivation;

use crate::derived_path::DerivedPath;
use crate::garbage::GarbageRequest;
use crate::options::ClientOptions;
use crate::realisation::{OutputId, RealisedOutput};
use crate::substitutable::SubstitutableQuery;

/// Contents that are to be added under the path that follows from them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewContent {
    /// The path's name, as the client wrote it: it may break the rules of names.
    pub name: String,
    /// How the contents are hashed. Before 1.25 only flat files and NARs can be added so.
    pub method: IngestionMethod,
    /// The algorithm of that hash.
    pub algorithm: HashAlgorithm,
    /// The paths that the contents refer to; none before 1.25.
    pub references: BTreeSet<StorePath>,
    /// Whether a valid path is replaced (1.25).
    pub repair: Repair,
}

/// A request of the worker protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Is a path valid?
    IsValidPath(StorePath),
    /// Could a path be substituted? Of old.
    HasSubstitutes(StorePath),
    /// The NAR hash of a path. Of old.
    QueryPathHash(StorePath),
    /// What does a path refer to? Of old.
    QueryReferences(StorePath),
    /// Which paths refer to this one?
    QueryReferrers(StorePath),
    /// Add contents. From 1.25 on they follow framed, as a file or a NAR as the method says; before,
    /// as a bare NAR whatever the method.
    AddToStore(NewContent),
    /// Add a text with references.
    AddTextToStore(String, Vec<u8>, BTreeSet<StorePath>),
    /// Build; answers 1.
    BuildPaths(Vec<DerivedPath>, BuildMode),
    /// Make a path valid by substitution; answers 1.
    EnsurePath(StorePath),
    /// Keep a path from the garbage collector while the connection lives; answers 1.
    AddTempRoot(StorePath),
    /// Register a link outside the store as a root; answers 1.
    AddIndirectRoot(String),
    /// Nothing any more; answers 1.
    SyncWithGc,
    /// What keeps paths?
    FindRoots,
    /// The derivation that made a path. Of old.
    QueryDeriver(StorePath),
    /// Settings for this connection; answers nothing.
    SetOptions(ClientOptions),
    /// List or delete what nothing needs.
    CollectGarbage(GarbageRequest),
    /// What do substituters know of a path? Of old.
    QuerySubstitutablePathInfo(StorePath),
    /// The outputs of a derivation. Of old.
    QueryDerivationOutputs(StorePath),
    /// All valid paths.
    QueryAllValidPaths,
    /// What is known of a path?
    QueryPathInfo(StorePath),
    /// The names of a derivation's outputs. Of old.
    QueryDerivationOutputNames(StorePath),
    /// Which path has this hash part?
    QueryPathFromHashPart(String),
    /// What do substituters know of paths?
    QuerySubstitutablePathInfos(SubstitutableQuery),
    /// Which of these are valid?
    QueryValidPaths(BTreeSet<StorePath>, Substitute),
    /// Which of these could be substituted?
    QuerySubstitutablePaths(BTreeSet<StorePath>),
    /// Which derivations have this output?
    QueryValidDerivers(StorePath),
    /// Link equal files to each other; answers 1.
    OptimiseStore,
    /// Check all paths; answers whether errors are left.
    VerifyStore(VerifyDepth, Repair),
    /// Build a derivation that the store needn't have.
    BuildDerivation(StorePath, Box<BasicDerivation>, BuildMode),
    /// Add signatures to a path; answers 1.
    AddSignatures(StorePath, BTreeSet<Signature>),
    /// The contents of a path; a bare NAR follows the answer.
    NarFromPath(StorePath),
    /// Add a path; its NAR follows, framed from 1.23 on.
    AddToStoreNar(PathInfo, SignatureCheck),
    /// As [`Request::AddToStoreNar`], and replace the path where it is valid.
    RepairToStoreNar(PathInfo, SignatureCheck),
    /// What would have to be built or fetched?
    QueryMissing(Vec<DerivedPath>),
    /// The outputs of a derivation, as far as known.
    QueryDerivationOutputMap(StorePath),
    /// Register what an output of a derivation became; answers nothing.
    RegisterDrvOutput(RealisedOutput),
    /// What did an output of a derivation become?
    QueryRealisation(OutputId),
    /// Add many paths (1.32); a count, infos and NARs follow, framed.
    AddMultipleToStore(SignatureCheck),
    /// As [`Request::AddMultipleToStore`], and replace the paths that are valid.
    RepairMultipleToStore(SignatureCheck),
    /// Add a build's log (1.32); it follows, framed; answers 1.
    AddBuildLog(StorePath),
    /// Build, and tell how each ended (1.34).
    BuildPathsWithResults(Vec<DerivedPath>, BuildMode),
    /// Make a link to a path that keeps it; answers where the link is.
    AddPermRoot(StorePath, String),
    /// Pack all that both sides say after this request and its answer ([`FEATURE_PACKED`]); no Nix
    /// knows it.
    ///
    /// [`FEATURE_PACKED`]: crate::FEATURE_PACKED
    Pack,
    /// An operation that is known by its number only; what follows can't be told.
    Unknown(u64),
}

impl Request {
    /// Returns the number of the operation.
    pub fn operation(&self) -> u64 {
        match self {
            Request::IsValidPath(_) => 1,
            Request::HasSubstitutes(_) => 3,
            Request::QueryPathHash(_) => 4,
            Request::QueryReferences(_) => 5,
            Request::QueryReferrers(_) => 6,
            Request::AddToStore(_) => 7,
            Request::AddTextToStore(..) => 8,
            Request::BuildPaths(..) => 9,
            Request::EnsurePath(_) => 10,
            Request::AddTempRoot(_) => 11,
            Request::AddIndirectRoot(_) => 12,
            Request::SyncWithGc => 13,
            Request::FindRoots => 14,
            Request::QueryDeriver(_) => 18,
            Request::SetOptions(_) => 19,
            Request::CollectGarbage(_) => 20,
            Request::QuerySubstitutablePathInfo(_) => 21,
            Request::QueryDerivationOutputs(_) => 22,
            Request::QueryAllValidPaths => 23,
            Request::QueryPathInfo(_) => 26,
            Request::QueryDerivationOutputNames(_) => 28,
            Request::QueryPathFromHashPart(_) => 29,
            Request::QuerySubstitutablePathInfos(_) => 30,
            Request::QueryValidPaths(..) => 31,
            Request::QuerySubstitutablePaths(_) => 32,
            Request::QueryValidDerivers(_) => 33,
            Request::OptimiseStore => 34,
            Request::VerifyStore(..) => 35,
            Request::BuildDerivation(..) => 36,
            Request::AddSignatures(..) => 37,
            Request::NarFromPath(_) => 38,
            Request::AddToStoreNar(..) | Request::RepairToStoreNar(..) => 39,
            Request::QueryMissing(_) => 40,
            Request::QueryDerivationOutputMap(_) => 41,
            Request::RegisterDrvOutput(_) => 42,
            Request::QueryRealisation(_) => 43,
            Request::AddMultipleToStore(_) | Request::RepairMultipleToStore(_) => 44,
            Request::AddBuildLog(_) => 45,
            Request::BuildPathsWithResults(..) => 46,
            Request::AddPermRoot(..) => 47,
            Request::Pack => PACK,
            Request::Unknown(operation) => *operation,
        }
    }
}

/// "drv pack", as a number that no operation of Nix comes near.
pub(crate) const PACK: u64 = u64::from_le_bytes(*b"drv pack");

/// Returns why an operation that [`Request`] doesn't know isn't offered, as far as its number tells.
pub fn refused_operation(operation: u64) -> Option<&'static str> {
    Some(match operation {
        16 => "ExportPath was removed from the protocol; ask for NarFromPath",
        24 => "QueryFailedPaths was removed from the protocol: failures are not kept",
        25 => "ClearFailedPaths was removed from the protocol: failures are not kept",
        27 => "ImportPaths was removed from the protocol; send AddToStoreNar",
        48 => "QueryActiveBuilds is not part of any version that was agreed on",
        49 => "AddTempRoots is not part of any version that was agreed on",
        50 => "QueryPathInfos is not part of any version that was agreed on",
        1000 | 1001 => "it belongs inside of derivations with experimental features of Nix",
        _ => return None,
    })
}
