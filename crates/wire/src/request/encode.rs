//! Requests as they are written.

use drover_core::{
    HashAlgorithm, IngestionMethod, Repair, SignatureCheck, Substitute, VerifyDepth,
};

use super::{NewContent, Request};
use crate::codec::Encoder;
use crate::derivation::encode_derivation;
use crate::derived_path::{encode_derived_paths, encode_mode};
use crate::dialect::Dialect;
use crate::path_info::{encode_keyed_path_info, encode_signatures};
use crate::substitutable::encode_query;

impl Request {
    /// Returns the request as it travels.
    pub fn encode(&self, dialect: &Dialect) -> Vec<u8> {
        let mut out = Encoder::new();
        out.number(self.operation());
        self.encode_path(&mut out, dialect);
        self.encode_arguments(&mut out, dialect);
        out.into_bytes()
    }

    /// Appends what the many requests have that are about one path.
    fn encode_path(&self, out: &mut Encoder, dialect: &Dialect) {
        match self {
            Request::IsValidPath(path)
            | Request::HasSubstitutes(path)
            | Request::QueryPathHash(path)
            | Request::QueryReferences(path)
            | Request::QueryReferrers(path)
            | Request::EnsurePath(path)
            | Request::AddTempRoot(path)
            | Request::QueryDeriver(path)
            | Request::QuerySubstitutablePathInfo(path)
            | Request::QueryDerivationOutputs(path)
            | Request::QueryPathInfo(path)
            | Request::QueryDerivationOutputNames(path)
            | Request::QueryValidDerivers(path)
            | Request::NarFromPath(path)
            | Request::QueryDerivationOutputMap(path)
            | Request::BuildDerivation(path, ..)
            | Request::AddSignatures(path, _)
            | Request::AddPermRoot(path, _) => out.path(&dialect.store_dir, path),
            _ => {}
        }
    }

    /// Appends all else.
    fn encode_arguments(&self, out: &mut Encoder, dialect: &Dialect) {
        let store_dir = &dialect.store_dir;
        match self {
            Request::AddToStore(content) => content.encode(out, dialect),
            Request::AddTextToStore(name, text, references) => {
                out.text(name);
                out.bytes(text);
                out.paths(store_dir, references);
            }
            // a bare name and not a whole path: so does Nix
            Request::AddBuildLog(path) => out.text(path.base_name()),
            Request::AddIndirectRoot(text)
            | Request::QueryPathFromHashPart(text)
            | Request::AddPermRoot(_, text) => out.text(text),
            Request::BuildPaths(paths, mode) | Request::BuildPathsWithResults(paths, mode) => {
                encode_derived_paths(out, dialect, paths);
                encode_mode(out, *mode);
            }
            Request::QueryMissing(paths) => encode_derived_paths(out, dialect, paths),
            Request::SetOptions(options) => options.encode(out),
            Request::CollectGarbage(garbage) => garbage.encode(out, store_dir),
            Request::QuerySubstitutablePathInfos(query) => encode_query(out, dialect, query),
            Request::QueryValidPaths(paths, substitute) => {
                out.paths(store_dir, paths);
                if dialect.since(27) {
                    out.flag(*substitute == Substitute::Yes);
                }
            }
            Request::QuerySubstitutablePaths(paths) => out.paths(store_dir, paths),
            Request::VerifyStore(contents, repair) => {
                out.flag(*contents == VerifyDepth::Contents);
                out.flag(*repair == Repair::Yes);
            }
            Request::BuildDerivation(_, derivation, mode) => {
                encode_derivation(out, store_dir, derivation);
                encode_mode(out, *mode);
            }
            _ => self.encode_addition(out, dialect),
        }
    }

    /// Appends what is said of things that are added.
    fn encode_addition(&self, out: &mut Encoder, dialect: &Dialect) {
        let store_dir = &dialect.store_dir;
        match self {
            Request::AddSignatures(_, signatures) => encode_signatures(out, signatures),
            Request::AddToStoreNar(info, check) | Request::RepairToStoreNar(info, check) => {
                encode_keyed_path_info(out, store_dir, info);
                out.flag(matches!(self, Request::RepairToStoreNar(..)));
                out.flag(*check == SignatureCheck::Skip);
            }
            Request::AddMultipleToStore(check) | Request::RepairMultipleToStore(check) => {
                out.flag(matches!(self, Request::RepairMultipleToStore(_)));
                out.flag(*check == SignatureCheck::Skip);
            }
            Request::RegisterDrvOutput(realised) => realised.encode(out, dialect),
            Request::QueryRealisation(output) => output.encode(out, store_dir),
            _ => {}
        }
    }
}

impl NewContent {
    fn encode(&self, out: &mut Encoder, dialect: &Dialect) {
        out.text(&self.name);
        if dialect.since(25) {
            let prefix = match self.method {
                IngestionMethod::Text => "text:".to_owned(),
                method => format!("fixed:{}", method.prefix()),
            };
            out.text(&format!("{prefix}{}", self.algorithm));
            out.paths(&dialect.store_dir, &self.references);
            out.flag(self.repair == Repair::Yes);
            return;
        }
        let nar = self.method == IngestionMethod::Nar;
        // of old, NARs under SHA-256 were all that could be added
        out.flag(!(nar && self.algorithm == HashAlgorithm::Sha256));
        out.flag(nar);
        out.text(self.algorithm.name());
    }
}
