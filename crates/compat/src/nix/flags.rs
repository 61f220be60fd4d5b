//! The flags of the commands of `nix` that are understood here.

use std::ffi::{OsStr, OsString};

use drover_core::{HashAlgorithm, HashNotation};
use drover_store::{Liveness, SignatureCheck, Substitute};

use super::name::Name;
use super::request::{JsonFormat, Layout, PathInfoStyle, Reports, Selection, Sizes};
use crate::copy_closure::Reach;
use crate::daemon::DaemonRequest;
use crate::error::CompatError;
use crate::hash::{Contents, algorithm, notation, notation_flag};
use crate::nix_store::Rehearsal;
use crate::options::{Cursor, Taken, whole_number};

/// What is meant by a path that is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StandsFor {
    Itself,
    ItsDerivation,
}

impl StandsFor {
    pub(super) fn selects(self, arguments: Vec<OsString>, reach: Reach) -> Selection {
        match self {
            StandsFor::Itself => Selection::Named(arguments, reach),
            StandsFor::ItsDerivation => Selection::Derivations(arguments, reach),
        }
    }
}

/// What has been read of a command line.
pub(super) struct Reading {
    pub(super) style: PathInfoStyle,
    pub(super) pretty: Option<Layout>,
    pub(super) recursive: Option<Reach>,
    pub(super) all: Option<()>,
    pub(super) stands_for: StandsFor,
    pub(super) rehearsal: Rehearsal,
    pub(super) max_freed: Option<u64>,
    pub(super) liveness: Liveness,
    pub(super) contents: Reports,
    pub(super) trust: Reports,
    pub(super) signatures_needed: usize,
    pub(super) key_file: Option<OsString>,
    pub(super) key_name: Option<String>,
    pub(super) from: Option<String>,
    pub(super) to: Option<String>,
    pub(super) signatures: SignatureCheck,
    pub(super) substitute: Substitute,
    pub(super) algorithm: Option<HashAlgorithm>,
    pub(super) notation: HashNotation,
    pub(super) hash_from: Option<HashNotation>,
    pub(super) hash_contents: Option<Contents>,
    pub(super) daemon: DaemonRequest,
    pub(super) arguments: Vec<OsString>,
}

impl Reading {
    pub(super) fn new() -> Reading {
        Reading {
            style: PathInfoStyle {
                layout: Layout::Text,
                format: JsonFormat::Unsaid,
                size: Reports::No,
                closure_size: Reports::No,
                sizes: Sizes::Bytes,
                signatures: Reports::No,
            },
            pretty: None,
            recursive: None,
            all: None,
            stands_for: StandsFor::Itself,
            rehearsal: Rehearsal::No,
            max_freed: None,
            liveness: Liveness::Respect,
            contents: Reports::Yes,
            trust: Reports::Yes,
            signatures_needed: 0,
            key_file: None,
            key_name: None,
            from: None,
            to: None,
            signatures: SignatureCheck::AsConfigured,
            substitute: Substitute::No,
            algorithm: None,
            notation: HashNotation::Sri,
            hash_from: None,
            hash_contents: None,
            daemon: DaemonRequest::default(),
            arguments: Vec::new(),
        }
    }
}

/// Takes a flag of one command.
pub(super) fn own_flag(
    name: Name,
    argument: &OsStr,
    cursor: &mut Cursor,
    reading: &mut Reading,
) -> Result<Taken, CompatError> {
    let flag = argument.to_str().unwrap_or_default();
    if name == Name::Daemon {
        return Ok(reading.daemon.take(flag));
    }
    let shows = matches!(name, Name::StoreInfo | Name::PathInfo | Name::ShowDerivation);
    match flag {
        "--json" if shows => reading.style.layout = Layout::Json,
        "--pretty" if shows => reading.pretty = Some(Layout::JsonPretty),
        "--no-pretty" if shows => reading.pretty = Some(Layout::JsonCompact),
        _ => match name {
            Name::PathInfo => return path_info_flag(flag, argument, cursor, reading),
            Name::Copy => return copy_flag(flag, argument, cursor, reading),
            Name::HashPath | Name::HashFile | Name::HashConvert | Name::HashTo(_) => {
                return hash_flag(name, flag, argument, cursor, reading);
            }
            _ => return store_flag(name, flag, argument, cursor, reading),
        },
    }
    Ok(Taken::Yes)
}

/// Takes a flag that says which paths are meant.
fn selection_flag(flag: &str, reading: &mut Reading) -> Taken {
    match flag {
        "-r" | "--recursive" => reading.recursive = Some(Reach::Closure),
        "--all" => reading.all = Some(()),
        "--derivation" => reading.stands_for = StandsFor::ItsDerivation,
        _ => return Taken::No,
    }
    Taken::Yes
}

fn store_flag(
    name: Name,
    flag: &str,
    argument: &OsStr,
    cursor: &mut Cursor,
    reading: &mut Reading,
) -> Result<Taken, CompatError> {
    match (name, flag) {
        (Name::StoreGc, "--dry-run") => reading.rehearsal = Rehearsal::Yes,
        (Name::StoreGc, "--max") => {
            reading.max_freed = Some(whole_number(&cursor.text(argument)?)?);
        }
        (Name::StoreDelete, "--ignore-liveness") => reading.liveness = Liveness::Ignore,
        (Name::StoreVerify, "--no-contents") => reading.contents = Reports::No,
        (Name::StoreVerify, "--no-trust") => reading.trust = Reports::No,
        (Name::StoreVerify, "--sigs-needed" | "-n") => {
            let needed = whole_number(&cursor.text(argument)?)?;
            reading.signatures_needed = usize::try_from(needed).unwrap_or(usize::MAX);
        }
        (Name::StoreSign, "--key-file" | "-k") => {
            reading.key_file = Some(cursor.argument(argument)?);
        }
        (Name::KeyGenerate, "--key-name") => reading.key_name = Some(cursor.text(argument)?),
        (
            Name::StoreDelete
            | Name::StoreVerify
            | Name::StoreRepair
            | Name::StoreSign
            | Name::ShowDerivation,
            _,
        ) => {
            return Ok(selection_flag(flag, reading));
        }
        _ => return Ok(Taken::No),
    }
    Ok(Taken::Yes)
}

fn path_info_flag(
    flag: &str,
    argument: &OsStr,
    cursor: &mut Cursor,
    reading: &mut Reading,
) -> Result<Taken, CompatError> {
    let style = &mut reading.style;
    match flag {
        "-s" | "--size" => style.size = Reports::Yes,
        "-S" | "--closure-size" => style.closure_size = Reports::Yes,
        "-h" | "--human-readable" => style.sizes = Sizes::Human,
        "--sigs" => style.signatures = Reports::Yes,
        "--json-format" => {
            style.format = match cursor.text(argument)?.as_str() {
                "1" => JsonFormat::V1,
                "2" => JsonFormat::V2,
                _ => return Ok(Taken::No),
            }
        }
        _ => return Ok(selection_flag(flag, reading)),
    }
    Ok(Taken::Yes)
}

fn copy_flag(
    flag: &str,
    argument: &OsStr,
    cursor: &mut Cursor,
    reading: &mut Reading,
) -> Result<Taken, CompatError> {
    match flag {
        "--from" => reading.from = Some(cursor.text(argument)?),
        "--to" => reading.to = Some(cursor.text(argument)?),
        "--no-check-sigs" => reading.signatures = SignatureCheck::Skip,
        "-s" | "--substitute-on-destination" => reading.substitute = Substitute::Yes,
        "--no-recursive" => reading.recursive = Some(Reach::Paths),
        "-r" | "--recursive" => return Ok(Taken::No),
        _ => return Ok(selection_flag(flag, reading)),
    }
    Ok(Taken::Yes)
}

fn hash_flag(
    name: Name,
    flag: &str,
    argument: &OsStr,
    cursor: &mut Cursor,
    reading: &mut Reading,
) -> Result<Taken, CompatError> {
    match (name, flag) {
        (Name::HashPath | Name::HashFile | Name::HashTo(_), "--type")
        | (Name::HashPath, "--algo")
        | (Name::HashConvert, "--hash-algo") => {
            reading.algorithm = Some(algorithm(&cursor.text(argument)?)?);
        }
        (Name::HashConvert, "--from") => {
            reading.hash_from = Some(notation(&cursor.text(argument)?)?);
        }
        (Name::HashConvert, "--to") | (Name::HashPath, "--format") => {
            reading.notation = notation(&cursor.text(argument)?)?;
        }
        (Name::HashPath, "--mode") => {
            reading.hash_contents = Some(match cursor.text(argument)?.as_str() {
                "nar" => Contents::Nar,
                "flat" => Contents::Flat,
                _ => return Ok(Taken::No),
            });
        }
        (Name::HashPath | Name::HashFile, _) => match notation_flag(flag) {
            Some(found) => reading.notation = found,
            None => return Ok(Taken::No),
        },
        _ => return Ok(Taken::No),
    }
    Ok(Taken::Yes)
}
