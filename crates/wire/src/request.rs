//! The requests of the worker protocol, as a client writes and a server reads them.
//!
//! Follows `performOp` in `src/libstore/daemon.cc` of Nix. Where data follows a request (NARs,
//! framed or not), the data is not part of the message here.

use std::collections::BTreeSet;

use drover_core::{PathInfo, Signature, StorePath};
use drover_derivation::BasicDerivation;

use crate::codec::{Decoder, Encoder};
use crate::derivation::{decode_derivation, encode_derivation};
use crate::dialect::Dialect;
use crate::error::DecodeError;
use crate::options::ClientOptions;
use crate::path_info::{
    decode_keyed_path_info, decode_signatures, encode_keyed_path_info, encode_signatures,
};

/// Whether a build is plain, a repair, or a check of what is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildMode {
    /// Build what isn't valid.
    Normal,
    /// Replace what is corrupt.
    Repair,
    /// Build again and compare.
    Check,
}

/// Whether something may be fetched from substituters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Substitute {
    /// It may.
    Yes,
    /// It may not.
    No,
}

/// Whether signatures are asked for of a path that is added. A server takes `Skip` only from
/// clients that it trusts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureCheck {
    /// As the store is configured.
    Check,
    /// None.
    Skip,
}

/// What a build is asked for: a path, or outputs of a derivation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DerivedPath {
    /// A path as it is.
    Opaque(StorePath),
    /// All outputs of a derivation.
    All(StorePath),
    /// Some outputs of a derivation.
    Outputs(StorePath, BTreeSet<String>),
}

/// A request of the worker protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Is a path valid?
    IsValidPath(StorePath),
    /// Which paths refer to this one?
    QueryReferrers(StorePath),
    /// Build; answers 1.
    BuildPaths(Vec<DerivedPath>, BuildMode),
    /// Make a path valid by substitution; answers 1.
    EnsurePath(StorePath),
    /// Keep a path from the garbage collector while the connection lives; answers 1.
    AddTempRoot(StorePath),
    /// Register a link outside the store as a root; answers 1.
    AddIndirectRoot(String),
    /// Settings for this connection; answers nothing.
    SetOptions(ClientOptions),
    /// All valid paths.
    QueryAllValidPaths,
    /// What is known of a path?
    QueryPathInfo(StorePath),
    /// Which path has this hash part?
    QueryPathFromHashPart(String),
    /// Which of these are valid?
    QueryValidPaths(BTreeSet<StorePath>, Substitute),
    /// Which of these could be substituted?
    QuerySubstitutablePaths(BTreeSet<StorePath>),
    /// Which derivations have this output?
    QueryValidDerivers(StorePath),
    /// Build a derivation that the store needn't have.
    BuildDerivation(StorePath, Box<BasicDerivation>, BuildMode),
    /// Add signatures to a path; answers 1.
    AddSignatures(StorePath, BTreeSet<Signature>),
    /// The contents of a path; a bare NAR follows the answer.
    NarFromPath(StorePath),
    /// Add a path; its NAR follows, framed from 1.23 on.
    AddToStoreNar(PathInfo, SignatureCheck),
    /// What would have to be built or fetched?
    QueryMissing(Vec<DerivedPath>),
    /// The outputs of a derivation, as far as known.
    QueryDerivationOutputMap(StorePath),
    /// Add many paths (1.32); a count, infos and NARs follow, framed.
    AddMultipleToStore(SignatureCheck),
    /// Add a build's log (1.32); it follows, framed; answers 1.
    AddBuildLog(StorePath),
    /// Build, and tell how each ended (1.34).
    BuildPathsWithResults(Vec<DerivedPath>, BuildMode),
    /// An operation that is known by its number only; what follows can't be told.
    Unknown(u64),
}

impl Request {
    /// Returns the request as it travels.
    pub fn encode(&self, dialect: &Dialect) -> Vec<u8> {
        let mut out = Encoder::new();
        out.number(self.operation());
        self.encode_arguments(&mut out, dialect);
        out.into_bytes()
    }

    /// Returns the number of the operation.
    pub fn operation(&self) -> u64 {
        match self {
            Request::IsValidPath(_) => 1,
            Request::QueryReferrers(_) => 6,
            Request::BuildPaths(..) => 9,
            Request::EnsurePath(_) => 10,
            Request::AddTempRoot(_) => 11,
            Request::AddIndirectRoot(_) => 12,
            Request::SetOptions(_) => 19,
            Request::QueryAllValidPaths => 23,
            Request::QueryPathInfo(_) => 26,
            Request::QueryPathFromHashPart(_) => 29,
            Request::QueryValidPaths(..) => 31,
            Request::QuerySubstitutablePaths(_) => 32,
            Request::QueryValidDerivers(_) => 33,
            Request::BuildDerivation(..) => 36,
            Request::AddSignatures(..) => 37,
            Request::NarFromPath(_) => 38,
            Request::AddToStoreNar(..) => 39,
            Request::QueryMissing(_) => 40,
            Request::QueryDerivationOutputMap(_) => 41,
            Request::AddMultipleToStore(_) => 44,
            Request::AddBuildLog(_) => 45,
            Request::BuildPathsWithResults(..) => 46,
            Request::Unknown(operation) => *operation,
        }
    }

    fn encode_arguments(&self, out: &mut Encoder, dialect: &Dialect) {
        let store_dir = &dialect.store_dir;
        match self {
            Request::QueryAllValidPaths | Request::Unknown(_) => {}
            Request::IsValidPath(path)
            | Request::QueryReferrers(path)
            | Request::EnsurePath(path)
            | Request::AddTempRoot(path)
            | Request::QueryPathInfo(path)
            | Request::QueryValidDerivers(path)
            | Request::NarFromPath(path)
            | Request::QueryDerivationOutputMap(path) => out.path(store_dir, path),
            // a bare name and not a whole path: so does Nix
            Request::AddBuildLog(path) => out.text(path.base_name()),
            Request::AddIndirectRoot(text) | Request::QueryPathFromHashPart(text) => out.text(text),
            Request::BuildPaths(paths, mode) | Request::BuildPathsWithResults(paths, mode) => {
                encode_derived_paths(out, dialect, paths);
                encode_mode(out, *mode);
            }
            Request::QueryMissing(paths) => encode_derived_paths(out, dialect, paths),
            Request::SetOptions(options) => options.encode(out),
            Request::QueryValidPaths(paths, substitute) => {
                out.paths(store_dir, paths);
                if dialect.since(27) {
                    out.flag(*substitute == Substitute::Yes);
                }
            }
            Request::QuerySubstitutablePaths(paths) => out.paths(store_dir, paths),
            Request::BuildDerivation(path, derivation, mode) => {
                out.path(store_dir, path);
                encode_derivation(out, store_dir, derivation);
                encode_mode(out, *mode);
            }
            Request::AddSignatures(path, signatures) => {
                out.path(store_dir, path);
                encode_signatures(out, signatures);
            }
            Request::AddToStoreNar(info, check) => {
                encode_keyed_path_info(out, store_dir, info);
                out.flag(false);
                out.flag(*check == SignatureCheck::Skip);
            }
            Request::AddMultipleToStore(check) => {
                out.flag(false);
                out.flag(*check == SignatureCheck::Skip);
            }
        }
    }

    /// Reads a request. One that isn't known here is [`Request::Unknown`]: the server names it and
    /// closes the connection, as it can't tell where the next one begins.
    ///
    /// # Errors
    ///
    /// Arguments that are none.
    pub fn decode(from: &mut Decoder<'_>, dialect: &Dialect) -> Result<Request, DecodeError> {
        let store_dir = &dialect.store_dir;
        Ok(match from.number()? {
            1 => Request::IsValidPath(from.path(store_dir)?),
            6 => Request::QueryReferrers(from.path(store_dir)?),
            9 => Request::BuildPaths(decode_derived_paths(from, dialect)?, decode_mode(from)?),
            10 => Request::EnsurePath(from.path(store_dir)?),
            11 => Request::AddTempRoot(from.path(store_dir)?),
            12 => Request::AddIndirectRoot(from.text()?.to_owned()),
            19 => Request::SetOptions(ClientOptions::decode(from)?),
            23 => Request::QueryAllValidPaths,
            26 => Request::QueryPathInfo(from.path(store_dir)?),
            29 => Request::QueryPathFromHashPart(from.text()?.to_owned()),
            31 => {
                let paths = from.paths(store_dir)?;
                let substitute = dialect.since(27) && from.flag()?;
                let substitute = if substitute { Substitute::Yes } else { Substitute::No };
                Request::QueryValidPaths(paths, substitute)
            }
            32 => Request::QuerySubstitutablePaths(from.paths(store_dir)?),
            33 => Request::QueryValidDerivers(from.path(store_dir)?),
            36 => {
                let path = from.path(store_dir)?;
                let derivation = decode_derivation(from, store_dir, &path)?;
                Request::BuildDerivation(path, Box::new(derivation), decode_mode(from)?)
            }
            37 => Request::AddSignatures(from.path(store_dir)?, decode_signatures(from)?),
            38 => Request::NarFromPath(from.path(store_dir)?),
            39 => {
                let info = decode_keyed_path_info(from, store_dir)?;
                Request::AddToStoreNar(info, decode_check(from)?)
            }
            40 => Request::QueryMissing(decode_derived_paths(from, dialect)?),
            41 => Request::QueryDerivationOutputMap(from.path(store_dir)?),
            44 => Request::AddMultipleToStore(decode_check(from)?),
            45 => Request::AddBuildLog(StorePath::from_base_name(from.text()?)?),
            46 => Request::BuildPathsWithResults(
                decode_derived_paths(from, dialect)?,
                decode_mode(from)?,
            ),
            operation => Request::Unknown(operation),
        })
    }
}

/// Reads the flags "repair" and "don't check signatures"; repairing by adding is not offered.
fn decode_check(from: &mut Decoder<'_>) -> Result<SignatureCheck, DecodeError> {
    from.number_up_to("repair flag", 0)?;
    Ok(if from.flag()? { SignatureCheck::Skip } else { SignatureCheck::Check })
}

fn encode_mode(out: &mut Encoder, mode: BuildMode) {
    out.number(match mode {
        BuildMode::Normal => 0,
        BuildMode::Repair => 1,
        BuildMode::Check => 2,
    });
}

fn decode_mode(from: &mut Decoder<'_>) -> Result<BuildMode, DecodeError> {
    match from.number()? {
        0 => Ok(BuildMode::Normal),
        1 => Ok(BuildMode::Repair),
        2 => Ok(BuildMode::Check),
        found => Err(DecodeError::Number { what: "build mode", found }),
    }
}

fn encode_derived_paths(out: &mut Encoder, dialect: &Dialect, paths: &[DerivedPath]) {
    out.list(paths.iter(), |out, path| out.text(&path.display(dialect)));
}

fn decode_derived_paths(
    from: &mut Decoder<'_>,
    dialect: &Dialect,
) -> Result<Vec<DerivedPath>, DecodeError> {
    from.list(|from| DerivedPath::parse(from.text()?, dialect))
}

impl DerivedPath {
    /// Returns the derivation or the plain path.
    pub fn path(&self) -> &StorePath {
        match self {
            DerivedPath::Opaque(path) | DerivedPath::All(path) | DerivedPath::Outputs(path, _) => {
                path
            }
        }
    }

    /// `PATH`, `DRV!*` or `DRV!out,dev`; before 1.30 a bare derivation stands for all its outputs.
    fn display(&self, dialect: &Dialect) -> String {
        let store_dir = &dialect.store_dir;
        match self {
            DerivedPath::Opaque(path) => store_dir.display(path),
            DerivedPath::All(path) if dialect.since(30) => {
                format!("{}!*", store_dir.display(path))
            }
            DerivedPath::All(path) => store_dir.display(path),
            DerivedPath::Outputs(path, outputs) => {
                let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
                format!("{}!{}", store_dir.display(path), outputs.join(","))
            }
        }
    }

    /// Reads what [`DerivedPath`]s travel as.
    fn parse(text: &str, dialect: &Dialect) -> Result<DerivedPath, DecodeError> {
        let path = |text| dialect.store_dir.parse(text);
        match text.split_once('!') {
            None if dialect.since(30) => Ok(DerivedPath::Opaque(path(text)?)),
            None => match path(text)? {
                path if path.is_derivation() => Ok(DerivedPath::All(path)),
                path => Ok(DerivedPath::Opaque(path)),
            },
            Some((derivation, "*")) => Ok(DerivedPath::All(path(derivation)?)),
            Some((derivation, outputs)) => {
                let outputs = outputs.split(',').map(str::to_owned).collect();
                Ok(DerivedPath::Outputs(path(derivation)?, outputs))
            }
        }
    }
}
