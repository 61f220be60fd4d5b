//! The serve protocol, spoken by `nix-store --serve` behind `ssh://`.
//!
//! Follows `src/libstore/serve-protocol.cc`, `serve-protocol-connection.cc` and `opServe` in
//! `src/nix/nix-store/nix-store.cc` of Nix. There are no messages before answers: what goes wrong is
//! printed to the server's standard error and ends the connection.

use std::collections::{BTreeMap, BTreeSet};

use drover_core::{NarHash, NarSize, PathInfo, StoreDir, StorePath, Substitute};
use drover_derivation::BasicDerivation;

use crate::build_result::{BuildResult, OutputsForm, Presence, ResultForm};
use crate::codec::{Decoder, Encoder};
use crate::derivation::{decode_derivation, encode_derivation};
use crate::dialect::{Version, agree};
use crate::error::DecodeError;
use crate::path_info::{
    decode_content_address, decode_contents, decode_signatures, encode_content_address,
    encode_contents, encode_signatures,
};

/// The newest version of the serve protocol spoken here.
pub const SERVE_LATEST: Version = Version { major: 2, minor: 8 };
/// The oldest version of the serve protocol spoken here.
pub const SERVE_OLDEST: Version = Version { major: 2, minor: 5 };

const MAGIC_CLIENT: u64 = 0x390c_9deb;
const MAGIC_SERVER: u64 = 0x5452_eecb;

/// What two peers of the serve protocol have agreed to speak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServeDialect {
    /// The directory that store paths are in, on both sides.
    pub store_dir: StoreDir,
    /// The version.
    pub version: Version,
}

/// Returns what a client sends first, and last: it never waits for the server's version.
pub fn serve_client_hello() -> Vec<u8> {
    hello(MAGIC_CLIENT, SERVE_LATEST)
}

/// Returns what a server sends first.
pub fn serve_server_hello() -> Vec<u8> {
    hello(MAGIC_SERVER, SERVE_LATEST)
}

fn hello(magic: u64, version: Version) -> Vec<u8> {
    let mut out = Encoder::new();
    out.number(magic);
    out.number(u64::from(version.major) << 8 | u64::from(version.minor));
    out.into_bytes()
}

/// Reads a server's first words and returns the version that both speak.
///
/// # Errors
///
/// Another magic, or a version that isn't spoken here.
pub fn read_serve_server_hello(from: &mut Decoder<'_>) -> Result<Version, DecodeError> {
    read_hello(from, MAGIC_SERVER)
}

/// Reads a client's first words and returns the version that both speak.
///
/// # Errors
///
/// Another magic, or a version that isn't spoken here.
pub fn read_serve_client_hello(from: &mut Decoder<'_>) -> Result<Version, DecodeError> {
    read_hello(from, MAGIC_CLIENT)
}

fn read_hello(from: &mut Decoder<'_>, magic: u64) -> Result<Version, DecodeError> {
    match from.number()? {
        found if found == magic => {}
        found => return Err(DecodeError::Magic { found }),
    }
    agree("serve", Version::read(from)?, SERVE_LATEST, SERVE_OLDEST)
}

/// The settings that travel with a build.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServeBuildOptions {
    /// Seconds of silence after which a build is ended, 0 for none.
    pub max_silent_time: u64,
    /// Seconds after which a build is ended, 0 for none.
    pub timeout: u64,
    /// Bytes of log after which a build is ended, 0 for none.
    pub max_log_size: u64,
    /// Keep the folder of a failed build (2.7).
    pub keep_failed: bool,
}

/// Whether valid paths that are asked for are kept from the garbage collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// They are, while the connection lives.
    Yes,
    /// They are not.
    No,
}

/// A request of the serve protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServeRequest {
    /// Which of these are valid?
    QueryValidPaths(Lock, Substitute, BTreeSet<StorePath>),
    /// What is known of these paths?
    QueryPathInfos(BTreeSet<StorePath>),
    /// The contents of a path: a bare NAR is the answer.
    DumpStorePath(StorePath),
    /// Add paths, which follow as `nix-store --export` writes them.
    ImportPaths,
    /// Build; `DRV` or `DRV!out,dev`.
    BuildPaths(Vec<String>, ServeBuildOptions),
    /// The closure of paths.
    QueryClosure(BTreeSet<StorePath>),
    /// The closure of paths, with the outputs of the derivations in it.
    QueryClosureWithOutputs(BTreeSet<StorePath>),
    /// Build a derivation that the store needn't have.
    BuildDerivation(StorePath, Box<BasicDerivation>, ServeBuildOptions),
    /// Add a path, whose bare NAR follows.
    AddToStoreNar(PathInfo),
    /// A command that is known by its number only.
    Unknown(u64),
}

impl ServeRequest {
    /// Returns the request as it travels.
    pub fn encode(&self, dialect: &ServeDialect) -> Vec<u8> {
        let store_dir = &dialect.store_dir;
        let mut out = Encoder::new();
        match self {
            ServeRequest::QueryValidPaths(lock, substitute, paths) => {
                out.number(1);
                out.flag(*lock == Lock::Yes);
                out.flag(*substitute == Substitute::Yes);
                out.paths(store_dir, paths);
            }
            ServeRequest::QueryPathInfos(paths) => {
                out.number(2);
                out.paths(store_dir, paths);
            }
            ServeRequest::DumpStorePath(path) => {
                out.number(3);
                out.path(store_dir, path);
            }
            ServeRequest::ImportPaths => out.number(4),
            ServeRequest::BuildPaths(paths, options) => {
                out.number(6);
                out.list(paths.iter(), |out, path| out.text(path));
                options.encode(&mut out, dialect.version);
            }
            ServeRequest::QueryClosure(paths) | ServeRequest::QueryClosureWithOutputs(paths) => {
                out.number(7);
                out.flag(matches!(self, ServeRequest::QueryClosureWithOutputs(_)));
                out.paths(store_dir, paths);
            }
            ServeRequest::BuildDerivation(path, derivation, options) => {
                out.number(8);
                out.path(store_dir, path);
                encode_derivation(&mut out, store_dir, derivation);
                options.encode(&mut out, dialect.version);
            }
            ServeRequest::AddToStoreNar(info) => {
                out.number(9);
                out.path(store_dir, &info.path);
                encode_contents(&mut out, store_dir, info);
                out.flag(info.ultimate);
                encode_signatures(&mut out, &info.signatures);
                encode_content_address(&mut out, info);
            }
            ServeRequest::Unknown(command) => out.number(*command),
        }
        out.into_bytes()
    }

    /// Reads a request.
    ///
    /// # Errors
    ///
    /// Arguments that are none.
    pub fn decode(
        from: &mut Decoder<'_>,
        dialect: &ServeDialect,
    ) -> Result<ServeRequest, DecodeError> {
        let store_dir = &dialect.store_dir;
        Ok(match from.number()? {
            1 => {
                let lock = if from.flag()? { Lock::Yes } else { Lock::No };
                let substitute = if from.flag()? { Substitute::Yes } else { Substitute::No };
                ServeRequest::QueryValidPaths(lock, substitute, from.paths(store_dir)?)
            }
            2 => ServeRequest::QueryPathInfos(from.paths(store_dir)?),
            3 => ServeRequest::DumpStorePath(from.path(store_dir)?),
            4 => ServeRequest::ImportPaths,
            6 => {
                let paths = from.list(|from| from.text().map(str::to_owned))?;
                ServeRequest::BuildPaths(paths, ServeBuildOptions::decode(from, dialect.version)?)
            }
            7 => match from.flag()? {
                false => ServeRequest::QueryClosure(from.paths(store_dir)?),
                true => ServeRequest::QueryClosureWithOutputs(from.paths(store_dir)?),
            },
            8 => {
                let path = from.path(store_dir)?;
                let derivation = Box::new(decode_derivation(from, store_dir, &path)?);
                let options = ServeBuildOptions::decode(from, dialect.version)?;
                ServeRequest::BuildDerivation(path, derivation, options)
            }
            9 => {
                let path = from.path(store_dir)?;
                let mut info = decode_contents(from, store_dir, path)?;
                info.ultimate = from.flag()?;
                info.signatures = decode_signatures(from)?;
                decode_content_address(from, &mut info)?;
                ServeRequest::AddToStoreNar(info)
            }
            command => ServeRequest::Unknown(command),
        })
    }
}

impl ServeBuildOptions {
    fn encode(&self, out: &mut Encoder, version: Version) {
        out.number(self.max_silent_time);
        out.number(self.timeout);
        out.number(self.max_log_size);
        out.number(0); // obsolete: further rounds
        out.number(0); // obsolete: enforce determinism
        if version.minor >= 7 {
            out.flag(self.keep_failed);
        }
    }

    fn decode(from: &mut Decoder<'_>, version: Version) -> Result<Self, DecodeError> {
        let mut options = ServeBuildOptions {
            max_silent_time: from.number()?,
            timeout: from.number()?,
            max_log_size: from.number()?,
            keep_failed: false,
        };
        from.number_up_to("number of further rounds", 0)?;
        from.number()?;
        options.keep_failed = version.minor >= 7 && from.flag()?;
        Ok(options)
    }
}

fn result_form(version: Version) -> ResultForm {
    ResultForm {
        times: Presence::Present,
        cpu: Presence::Absent,
        outputs: match version.minor {
            8.. => OutputsForm::Paths,
            6..=7 => OutputsForm::Json,
            _ => OutputsForm::None,
        },
    }
}

/// Appends the answer to [`ServeRequest::BuildDerivation`].
pub fn encode_serve_build_result(out: &mut Encoder, dialect: &ServeDialect, result: &BuildResult) {
    result.encode_as(out, &dialect.store_dir, result_form(dialect.version));
}

/// Reads the answer to [`ServeRequest::BuildDerivation`].
///
/// # Errors
///
/// An unknown status, or outputs that are none.
pub fn decode_serve_build_result(
    from: &mut Decoder<'_>,
    dialect: &ServeDialect,
) -> Result<BuildResult, DecodeError> {
    BuildResult::decode_as(from, &dialect.store_dir, result_form(dialect.version))
}

/// Appends the answer to [`ServeRequest::QueryPathInfos`].
pub fn encode_serve_path_infos(out: &mut Encoder, dialect: &ServeDialect, infos: &[PathInfo]) {
    for info in infos {
        out.path(&dialect.store_dir, &info.path);
        out.optional_path(&dialect.store_dir, info.deriver.as_ref());
        out.paths(&dialect.store_dir, &info.references);
        out.number(info.nar_size.0); // download size
        out.number(info.nar_size.0);
        out.text(&info.nar_hash.to_string());
        encode_content_address(out, info);
        encode_signatures(out, &info.signatures);
    }
    out.text("");
}

/// Reads the answer to [`ServeRequest::QueryPathInfos`].
///
/// # Errors
///
/// Fields that are none, or a path that was not asked for.
pub fn decode_serve_path_infos(
    from: &mut Decoder<'_>,
    dialect: &ServeDialect,
    asked: &BTreeSet<StorePath>,
) -> Result<BTreeMap<StorePath, PathInfo>, DecodeError> {
    let store_dir = &dialect.store_dir;
    let mut infos = BTreeMap::new();
    while let Some(path) = from.optional_path(store_dir)? {
        if !asked.contains(&path) {
            return Err(DecodeError::text("path of an info", path.base_name()));
        }
        let deriver = from.optional_path(store_dir)?;
        let references = from.paths(store_dir)?;
        from.number()?;
        let nar_size = NarSize(from.number()?);
        let hash = from.text()?;
        let mut info = PathInfo {
            path: path.clone(),
            deriver,
            nar_hash: NarHash::parse(hash).map_err(|_| DecodeError::text("NAR hash", hash))?,
            nar_size,
            references,
            registration_time: 0,
            ultimate: false,
            signatures: BTreeSet::new(),
            content_address: None,
        };
        decode_content_address(from, &mut info)?;
        info.signatures = decode_signatures(from)?;
        infos.insert(path, info);
    }
    Ok(infos)
}
