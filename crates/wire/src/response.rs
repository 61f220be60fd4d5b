//! The answers of the worker protocol.
//!
//! Follows `performOp` in `src/libstore/daemon.cc` of Nix.

use std::collections::{BTreeMap, BTreeSet};

use drover_core::{PathInfo, StoreDir, StorePath};

use crate::build_result::BuildResult;
use crate::codec::{Decoder, Encoder};
use crate::dialect::Dialect;
use crate::error::DecodeError;
use crate::path_info::{decode_path_info, encode_path_info};
use crate::request::Request;

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
            Request::SetOptions(_)
            | Request::NarFromPath(_)
            | Request::AddToStoreNar(..)
            | Request::AddMultipleToStore(_)
            | Request::Unknown(_) => Response::Nothing,
            Request::BuildPaths(..)
            | Request::EnsurePath(_)
            | Request::AddTempRoot(_)
            | Request::AddIndirectRoot(_)
            | Request::AddSignatures(..)
            | Request::AddBuildLog(_) => {
                from.number()?;
                Response::Done
            }
            Request::IsValidPath(_) => Response::Flag(from.flag()?),
            Request::QueryPathFromHashPart(_) => {
                Response::OptionalPath(from.optional_path(store_dir)?)
            }
            Request::QueryReferrers(_)
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
