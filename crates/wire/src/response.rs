//! The answers of the worker protocol.
//!
//! Follows `performOp` in `src/libstore/daemon.cc` of Nix.

use std::collections::{BTreeMap, BTreeSet};

use drover_core::{NarHash, PathInfo, StoreDir, StorePath};

use crate::build_result::BuildResult;
use crate::codec::{Decoder, Encoder};
use crate::dialect::Dialect;
use crate::error::DecodeError;
use crate::garbage::{GarbageResult, decode_roots, encode_roots};
use crate::path_info::{
    decode_keyed_path_info, decode_path_info, encode_keyed_path_info, encode_path_info,
};
use crate::realisation::RealisedOutput;
use crate::request::Request;
use crate::substitutable::SubstitutableInfo;

/// What would have to be done to make paths valid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// Derivations that would be built.
    pub build: BTreeSet<StorePath>,
    /// Paths that would be fetched from substituters.
    pub substitute: BTreeSet<StorePath>,
    /// Paths that nobody knows how to make.
    pub unknown: BTreeSet<StorePath>,
    /// Bytes to download.
    pub download_size: u64,
    /// Bytes of the NARs to be fetched.
    pub nar_size: u64,
}

impl Missing {
    fn encode(&self, out: &mut Encoder, store_dir: &StoreDir) {
        out.paths(store_dir, &self.build);
        out.paths(store_dir, &self.substitute);
        out.paths(store_dir, &self.unknown);
        out.number(self.download_size);
        out.number(self.nar_size);
    }

    fn decode(from: &mut Decoder<'_>, store_dir: &StoreDir) -> Result<Missing, DecodeError> {
        Ok(Missing {
            build: from.paths(store_dir)?,
            substitute: from.paths(store_dir)?,
            unknown: from.paths(store_dir)?,
            download_size: from.number()?,
            nar_size: from.number()?,
        })
    }
}

/// An answer. NARs that follow are not part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// No fields.
    Nothing,
    /// The number 1, which stands for nothing more than success.
    Done,
    /// Yes or no.
    Flag(bool),
    /// A path, or none.
    OptionalPath(Option<StorePath>),
    /// Paths.
    Paths(BTreeSet<StorePath>),
    /// What is known of a path; none if it isn't valid.
    PathInfo(Option<Box<PathInfo>>),
    /// How a build ended.
    BuildResult(Box<BuildResult>),
    /// How each of several builds ended, under what it was asked for as.
    BuildResults(Vec<(String, BuildResult)>),
    /// What is missing.
    Missing(Box<Missing>),
    /// Paths of outputs by name, none where not known yet.
    OutputMap(BTreeMap<String, Option<StorePath>>),
    /// A text.
    Text(String),
    /// Names of outputs.
    Names(BTreeSet<String>),
    /// The NAR hash of a path.
    NarHash(NarHash),
    /// A path that was added, before 1.25 or from a text.
    Path(StorePath),
    /// What is known of a path that was added, from 1.25 on.
    Added(Box<PathInfo>),
    /// What keeps paths: links, and the paths they lead to.
    Roots(BTreeSet<(String, StorePath)>),
    /// What a garbage collection did.
    Garbage(Box<GarbageResult>),
    /// What substituters know of a path.
    Substitutable(Option<Box<SubstitutableInfo>>),
    /// What substituters know of paths.
    Substitutables(BTreeMap<StorePath, SubstitutableInfo>),
    /// What an output became.
    Realisation(Option<Box<RealisedOutput>>),
}

impl Response {
    /// Appends the answer.
    pub fn encode(&self, out: &mut Encoder, dialect: &Dialect) {
        let store_dir = &dialect.store_dir;
        match self {
            Response::Nothing => {}
            Response::Done => out.number(1),
            Response::Flag(flag) => out.flag(*flag),
            Response::OptionalPath(path) => out.optional_path(store_dir, path.as_ref()),
            Response::Paths(paths) => out.paths(store_dir, paths),
            Response::PathInfo(None) => out.number(0),
            Response::PathInfo(Some(info)) => {
                out.number(1);
                encode_path_info(out, store_dir, info);
            }
            Response::BuildResult(result) => result.encode(out, dialect),
            Response::BuildResults(results) => out.list(results.iter(), |out, (key, result)| {
                out.text(key);
                result.encode(out, dialect);
            }),
            Response::Missing(missing) => missing.encode(out, store_dir),
            Response::OutputMap(outputs) => out.list(outputs.iter(), |out, (name, path)| {
                out.text(name);
                out.optional_path(store_dir, path.as_ref());
            }),
            Response::Text(text) => out.text(text),
            Response::Names(names) => out.list(names.iter(), |out, name| out.text(name)),
            Response::NarHash(hash) => out.text(&hash.base16()),
            Response::Path(path) => out.path(store_dir, path),
            Response::Added(info) => encode_keyed_path_info(out, store_dir, info),
            Response::Roots(roots) => encode_roots(out, store_dir, roots),
            Response::Garbage(garbage) => garbage.encode(out),
            Response::Substitutable(info) => {
                out.flag(info.is_some());
                if let Some(info) = info {
                    info.encode(out, store_dir);
                }
            }
            Response::Substitutables(infos) => out.list(infos.iter(), |out, (path, info)| {
                out.path(store_dir, path);
                info.encode(out, store_dir);
            }),
            Response::Realisation(realised) => {
                RealisedOutput::encode_answer(out, dialect, realised.as_deref());
            }
        }
    }

    /// Reads the answer to `request`.
    ///
    /// # Errors
    ///
    /// Fields that are none.
    pub fn decode(
        from: &mut Decoder<'_>,
        dialect: &Dialect,
        request: &Request,
    ) -> Result<Response, DecodeError> {
        let store_dir = &dialect.store_dir;
        Ok(match request {
            Request::IsValidPath(_) | Request::HasSubstitutes(_) | Request::VerifyStore(..) => {
                Response::Flag(from.flag()?)
            }
            Request::QueryPathFromHashPart(_) | Request::QueryDeriver(_) => {
                Response::OptionalPath(from.optional_path(store_dir)?)
            }
            Request::QueryReferences(_)
            | Request::QueryReferrers(_)
            | Request::QueryDerivationOutputs(_)
            | Request::QueryAllValidPaths
            | Request::QueryValidPaths(..)
            | Request::QuerySubstitutablePaths(_)
            | Request::QueryValidDerivers(_) => Response::Paths(from.paths(store_dir)?),
            Request::QueryPathInfo(path) => Response::PathInfo(match from.flag()? {
                false => None,
                true => Some(Box::new(decode_path_info(from, store_dir, path.clone())?)),
            }),
            Request::BuildDerivation(..) => {
                Response::BuildResult(Box::new(BuildResult::decode(from, dialect)?))
            }
            Request::BuildPathsWithResults(..) => {
                Response::BuildResults(from.list(|from| {
                    Ok((from.text()?.to_owned(), BuildResult::decode(from, dialect)?))
                })?)
            }
            Request::QueryMissing(_) => {
                Response::Missing(Box::new(Missing::decode(from, store_dir)?))
            }
            Request::QueryDerivationOutputMap(_) => {
                Response::OutputMap(decode_output_map(from, store_dir)?)
            }
            _ => Response::decode_rare(from, dialect, request)?,
        })
    }

    /// Reads the answers that are asked for less often, and those that say nothing.
    fn decode_rare(
        from: &mut Decoder<'_>,
        dialect: &Dialect,
        request: &Request,
    ) -> Result<Response, DecodeError> {
        let store_dir = &dialect.store_dir;
        Ok(match request {
            Request::BuildPaths(..)
            | Request::EnsurePath(_)
            | Request::AddTempRoot(_)
            | Request::AddIndirectRoot(_)
            | Request::SyncWithGc
            | Request::OptimiseStore
            | Request::AddSignatures(..)
            | Request::AddBuildLog(_) => {
                from.number()?;
                Response::Done
            }
            Request::QueryPathHash(_) => {
                let hash = from.text()?;
                let bad = |_| DecodeError::text("sha256 NAR hash", hash);
                Response::NarHash(NarHash::parse(hash).map_err(bad)?)
            }
            Request::AddToStore(_) if dialect.since(25) => {
                Response::Added(Box::new(decode_keyed_path_info(from, store_dir)?))
            }
            Request::AddToStore(_) | Request::AddTextToStore(..) => {
                Response::Path(from.path(store_dir)?)
            }
            Request::FindRoots => Response::Roots(decode_roots(from, store_dir)?),
            Request::CollectGarbage(_) => Response::Garbage(Box::new(GarbageResult::decode(from)?)),
            Request::QuerySubstitutablePathInfo(_) => {
                Response::Substitutable(match from.flag()? {
                    false => None,
                    true => Some(Box::new(SubstitutableInfo::decode(from, store_dir)?)),
                })
            }
            Request::QuerySubstitutablePathInfos(_) => {
                Response::Substitutables(decode_substitutables(from, store_dir)?)
            }
            Request::QueryDerivationOutputNames(_) => {
                Response::Names(from.list(|from| from.text().map(str::to_owned))?)
            }
            Request::QueryRealisation(output) => Response::Realisation(
                RealisedOutput::decode_answer(from, dialect, output)?.map(Box::new),
            ),
            Request::AddPermRoot(..) => Response::Text(from.text()?.to_owned()),
            _ => Response::Nothing,
        })
    }
}

fn decode_output_map(
    from: &mut Decoder<'_>,
    store_dir: &StoreDir,
) -> Result<BTreeMap<String, Option<StorePath>>, DecodeError> {
    let outputs: Vec<(String, Option<StorePath>)> =
        from.list(|from| Ok((from.text()?.to_owned(), from.optional_path(store_dir)?)))?;
    Ok(outputs.into_iter().collect())
}

fn decode_substitutables(
    from: &mut Decoder<'_>,
    store_dir: &StoreDir,
) -> Result<BTreeMap<StorePath, SubstitutableInfo>, DecodeError> {
    let infos: Vec<(StorePath, SubstitutableInfo)> =
        from.list(|from| Ok((from.path(store_dir)?, SubstitutableInfo::decode(from, store_dir)?)))?;
    Ok(infos.into_iter().collect())
}
