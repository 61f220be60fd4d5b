//! Requests as they are read.

use std::collections::BTreeSet;

use drover_core::{
    HashAlgorithm, IngestionMethod, Repair, SignatureCheck, StorePath, Substitute, VerifyDepth,
};

use super::{NewContent, PACK, Request};
use crate::codec::{Decoder, MAX_BYTES};
use crate::derivation::decode_derivation;
use crate::derived_path::{decode_derived_paths, decode_mode};
use crate::dialect::Dialect;
use crate::error::DecodeError;
use crate::garbage::GarbageRequest;
use crate::options::ClientOptions;
use crate::path_info::{decode_keyed_path_info, decode_signatures};
use crate::realisation::{OutputId, RealisedOutput};
use crate::substitutable::decode_query;

impl Request {
    /// Reads a request. One that isn't known here is [`Request::Unknown`]: the server names it and
    /// closes the connection, as it can't tell where the next one begins.
    ///
    /// # Errors
    ///
    /// Arguments that are none.
    pub fn decode(from: &mut Decoder<'_>, dialect: &Dialect) -> Result<Request, DecodeError> {
        let operation = from.number()?;
        match Request::of_path(operation) {
            Some(request) => Ok(request(from.path(&dialect.store_dir)?)),
            None => Request::of_arguments(operation, from, dialect),
        }
    }

    /// Returns the request that an operation about one path is.
    fn of_path(operation: u64) -> Option<fn(StorePath) -> Request> {
        Some(match operation {
            1 => Request::IsValidPath,
            3 => Request::HasSubstitutes,
            4 => Request::QueryPathHash,
            5 => Request::QueryReferences,
            6 => Request::QueryReferrers,
            10 => Request::EnsurePath,
            11 => Request::AddTempRoot,
            18 => Request::QueryDeriver,
            21 => Request::QuerySubstitutablePathInfo,
            22 => Request::QueryDerivationOutputs,
            26 => Request::QueryPathInfo,
            28 => Request::QueryDerivationOutputNames,
            33 => Request::QueryValidDerivers,
            38 => Request::NarFromPath,
            41 => Request::QueryDerivationOutputMap,
            _ => return None,
        })
    }

    fn of_arguments(
        operation: u64,
        from: &mut Decoder<'_>,
        dialect: &Dialect,
    ) -> Result<Request, DecodeError> {
        let store_dir = &dialect.store_dir;
        Ok(match operation {
            7 => Request::AddToStore(NewContent::decode(from, dialect)?),
            8 => Request::AddTextToStore(
                from.text()?.to_owned(),
                from.bytes(MAX_BYTES)?.to_vec(),
                from.paths(store_dir)?,
            ),
            9 => Request::BuildPaths(decode_derived_paths(from, dialect)?, decode_mode(from)?),
            12 => Request::AddIndirectRoot(from.text()?.to_owned()),
            13 => Request::SyncWithGc,
            14 => Request::FindRoots,
            19 => Request::SetOptions(ClientOptions::decode(from)?),
            20 => Request::CollectGarbage(GarbageRequest::decode(from, store_dir)?),
            23 => Request::QueryAllValidPaths,
            29 => Request::QueryPathFromHashPart(from.text()?.to_owned()),
            30 => Request::QuerySubstitutablePathInfos(decode_query(from, dialect)?),
            31 => {
                let paths = from.paths(store_dir)?;
                let substitute = dialect.since(27) && from.flag()?;
                let substitute = if substitute { Substitute::Yes } else { Substitute::No };
                Request::QueryValidPaths(paths, substitute)
            }
            32 => Request::QuerySubstitutablePaths(from.paths(store_dir)?),
            34 => Request::OptimiseStore,
            operation => Request::of_late(operation, from, dialect)?,
        })
    }

    /// Reads the operations that came last.
    fn of_late(
        operation: u64,
        from: &mut Decoder<'_>,
        dialect: &Dialect,
    ) -> Result<Request, DecodeError> {
        let store_dir = &dialect.store_dir;
        Ok(match operation {
            35 => {
                let contents =
                    if from.flag()? { VerifyDepth::Contents } else { VerifyDepth::Existence };
                Request::VerifyStore(contents, decode_repair(from)?)
            }
            36 => {
                let path = from.path(store_dir)?;
                let derivation = decode_derivation(from, store_dir, &path)?;
                Request::BuildDerivation(path, Box::new(derivation), decode_mode(from)?)
            }
            37 => Request::AddSignatures(from.path(store_dir)?, decode_signatures(from)?),
            39 => {
                let info = decode_keyed_path_info(from, store_dir)?;
                match decode_repair(from)? {
                    Repair::No => Request::AddToStoreNar(info, decode_check(from)?),
                    Repair::Yes => Request::RepairToStoreNar(info, decode_check(from)?),
                }
            }
            40 => Request::QueryMissing(decode_derived_paths(from, dialect)?),
            42 => Request::RegisterDrvOutput(RealisedOutput::decode(from, dialect)?),
            43 => Request::QueryRealisation(OutputId::decode(from, dialect)?),
            44 => match decode_repair(from)? {
                Repair::No => Request::AddMultipleToStore(decode_check(from)?),
                Repair::Yes => Request::RepairMultipleToStore(decode_check(from)?),
            },
            45 => Request::AddBuildLog(StorePath::from_base_name(from.text()?)?),
            46 => Request::BuildPathsWithResults(
                decode_derived_paths(from, dialect)?,
                decode_mode(from)?,
            ),
            47 => Request::AddPermRoot(from.path(store_dir)?, from.text()?.to_owned()),
            PACK if dialect.can_be_packed() => Request::Pack,
            operation => Request::Unknown(operation),
        })
    }
}

fn decode_repair(from: &mut Decoder<'_>) -> Result<Repair, DecodeError> {
    Ok(if from.flag()? { Repair::Yes } else { Repair::No })
}

fn decode_check(from: &mut Decoder<'_>) -> Result<SignatureCheck, DecodeError> {
    Ok(if from.flag()? { SignatureCheck::Skip } else { SignatureCheck::AsConfigured })
}

impl NewContent {
    fn decode(from: &mut Decoder<'_>, dialect: &Dialect) -> Result<NewContent, DecodeError> {
        let name = from.text()?.to_owned();
        if dialect.since(25) {
            let text = from.text()?;
            let bad = || DecodeError::text("content address method", text);
            let (method, algorithm) = match text.strip_prefix("fixed:") {
                Some(rest) => IngestionMethod::strip_prefix(rest),
                None => (IngestionMethod::Text, text.strip_prefix("text:").ok_or_else(bad)?),
            };
            let algorithm = algorithm.parse().map_err(|_| bad())?;
            let references = from.paths(&dialect.store_dir)?;
            return Ok(NewContent {
                name,
                method,
                algorithm,
                references,
                repair: decode_repair(from)?,
            });
        }
        let fixed = from.flag()?;
        let nar = from.number_up_to("file ingestion method", 1)? == 1;
        let algorithm = from.text()?;
        let bad = || DecodeError::text("hash algorithm", algorithm);
        // what isn't fixed is a NAR under SHA-256, whatever the other two say
        let (method, algorithm) = match (fixed, nar) {
            (false, _) => (IngestionMethod::Nar, HashAlgorithm::Sha256),
            (true, true) => (IngestionMethod::Nar, algorithm.parse().map_err(|_| bad())?),
            (true, false) => (IngestionMethod::Flat, algorithm.parse().map_err(|_| bad())?),
        };
        Ok(NewContent { name, method, algorithm, references: BTreeSet::new(), repair: Repair::No })
    }
}
