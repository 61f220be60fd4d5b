//! The command line of `nix`, as far as it is understood here.
//!
//! The names and flags are those of Nix 2.34 (`src/nix/*.cc`), with the older names that it warns
//! of (`ping-store`, `sign-paths`, `show-derivation` …) taken without a word.

use std::ffi::OsString;

use drover_core::HashAlgorithm;
use drover_derivation::ShowFormat;

use super::flags::{Reading, own_flag};
use super::name::Name;
use super::request::{
    CopyRequest, KeyRequest, Layout, NixRequest, PathInfoRequest, PathInfoStyle, Selection,
    VerifyRequest,
};
use crate::copy_closure::Reach;
use crate::error::CompatError;
use crate::hash::{Contents, HashRequest, Length};
use crate::nix_store::Rehearsal;
use crate::options::{Cursor, Options, Taken, common_flag, text};

/// A command line of `nix`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NixCall {
    /// It is understood.
    Ours(Options, Box<NixRequest>),
    /// It is for the real `nix`.
    Real,
}

/// Parses the arguments of `nix`. What isn't understood, be it evaluation, a flag or a mistake, is
/// for the real one.
pub fn parse(arguments: &[OsString]) -> NixCall {
    match try_parse(arguments) {
        Ok(Some((options, request))) => NixCall::Ours(options, Box::new(request)),
        Ok(None) | Err(_) => NixCall::Real,
    }
}

fn try_parse(arguments: &[OsString]) -> Result<Option<(Options, NixRequest)>, CompatError> {
    let mut options = Options::default();
    let mut cursor = Cursor::new(arguments.iter().cloned());
    let mut reading = Reading::new();
    let mut words: Vec<String> = Vec::new();
    let mut name = None;
    while let Some(argument) = cursor.next() {
        let flag = argument.to_str().unwrap_or_default();
        if !argument.as_encoded_bytes().starts_with(b"-") {
            match name {
                Some(_) => reading.arguments.push(argument),
                None => {
                    words.push(text(argument)?);
                    let words: Vec<&str> = words.iter().map(String::as_str).collect();
                    name = Name::of_words(&words);
                    if name.is_none() && words.len() > 1 {
                        return Ok(None);
                    }
                }
            }
            continue;
        }
        if flag == "--version" && name.is_none() && words.is_empty() {
            return Ok(Some((options, NixRequest::Version)));
        }
        let taken = match name {
            Some(name) => own_flag(name, &argument, &mut cursor, &mut reading)?,
            None => Taken::No,
        };
        if matches!(taken, Taken::No)
            && matches!(global(flag, &mut cursor, &mut options)?, Taken::No)
        {
            return Ok(None);
        }
    }
    match name {
        Some(name) => Ok(request(name, reading)?.map(|request| (options, request))),
        None => Ok(None),
    }
}

/// Takes a flag that every command of `nix` knows; `-k`, `-K` and `-Q` are the older commands'.
fn global(flag: &str, cursor: &mut Cursor, options: &mut Options) -> Result<Taken, CompatError> {
    match flag {
        "-L" | "--print-build-logs" | "--refresh" => Ok(Taken::Yes),
        "-k" | "-K" | "-Q" | "--no-build-output" | "--no-gc-warning" => Ok(Taken::No),
        _ => common_flag(flag, cursor, options),
    }
}

/// Puts a request together; none where the real `nix` has to find words for what is missing.
fn request(name: Name, reading: Reading) -> Result<Option<NixRequest>, CompatError> {
    let takes_none = matches!(
        name,
        Name::StoreInfo
            | Name::StoreGc
            | Name::StoreOptimise
            | Name::KeyGenerate
            | Name::KeyToPublic
            | Name::Daemon
    );
    if takes_none && !reading.arguments.is_empty() {
        return Ok(None);
    }
    if let Name::HashPath | Name::HashFile | Name::HashConvert | Name::HashTo(_) = name {
        return hash_request(name, reading).map(|request| Some(NixRequest::Hash(request)));
    }
    let layout = match (reading.style.layout, reading.pretty) {
        (Layout::Text, _) | (_, None) => reading.style.layout,
        (_, Some(pretty)) => pretty,
    };
    Ok(match name {
        Name::StoreInfo => Some(NixRequest::StoreInfo(layout)),
        Name::StoreGc => {
            let (rehearsal, max_freed) = (reading.rehearsal, reading.max_freed);
            let both = rehearsal == Rehearsal::Yes && max_freed.is_some();
            (!both).then_some(NixRequest::StoreGc { rehearsal, max_freed })
        }
        Name::StoreOptimise => Some(NixRequest::StoreOptimise),
        Name::KeyToPublic => Some(NixRequest::Key(KeyRequest::ToPublic)),
        Name::KeyGenerate => {
            reading.key_name.map(|name| NixRequest::Key(KeyRequest::Generate { name }))
        }
        Name::Daemon => Some(NixRequest::Daemon(reading.daemon)),
        Name::Log => match <[OsString; 1]>::try_from(reading.arguments) {
            Ok([path]) => Some(NixRequest::Log(path)),
            Err(_) => None,
        },
        name => about_paths(name, reading, layout),
    })
}

/// Puts a request about paths together.
fn about_paths(name: Name, reading: Reading, layout: Layout) -> Option<NixRequest> {
    let reach = match name {
        Name::Copy => Reach::Closure,
        _ => Reach::Paths,
    };
    let paths = match (reading.all, reading.arguments.is_empty()) {
        (Some(()), true) => Selection::All,
        (None, false) => Selection::Named(reading.arguments, reading.recursive.unwrap_or(reach)),
        // paths with `--all`, or the flake in the working directory
        _ => return None,
    };
    Some(match name {
        Name::StoreDelete => NixRequest::StoreDelete { paths, liveness: reading.liveness },
        Name::StoreVerify => NixRequest::StoreVerify(VerifyRequest {
            paths,
            contents: reading.contents,
            trust: reading.trust,
            signatures_needed: reading.signatures_needed,
        }),
        Name::StoreSign => NixRequest::StoreSign { paths, key_file: reading.key_file?.into() },
        Name::PathInfo => {
            let style = PathInfoStyle { layout, ..reading.style };
            NixRequest::PathInfo(PathInfoRequest { paths, style })
        }
        Name::Copy => {
            if reading.from.is_none() && reading.to.is_none() {
                return None;
            }
            NixRequest::Copy(CopyRequest {
                from: reading.from,
                to: reading.to,
                paths,
                signatures: reading.signatures,
                substitute: reading.substitute,
            })
        }
        name => NixRequest::ShowDerivation {
            paths,
            // who calls it by its old name expects its old form
            format: (name == Name::ShowDerivationOfOld).then_some(ShowFormat::Nix2_8),
            layout: reading.pretty.unwrap_or(Layout::Json),
        },
    })
}

fn hash_request(name: Name, reading: Reading) -> Result<HashRequest, CompatError> {
    let contents = match name {
        Name::HashFile => Contents::Flat,
        _ => reading.hash_contents.unwrap_or(Contents::Nar),
    };
    let to = match name {
        Name::HashPath | Name::HashFile => {
            return Ok(HashRequest::Files {
                contents,
                algorithm: reading.algorithm.unwrap_or(HashAlgorithm::Sha256),
                notation: reading.notation,
                length: Length::Whole,
                paths: reading.arguments.into_iter().map(Into::into).collect(),
            });
        }
        Name::HashTo(notation) => notation,
        _ => reading.notation,
    };
    Ok(HashRequest::Convert {
        algorithm: reading.algorithm,
        from: reading.hash_from,
        to,
        hashes: reading.arguments.into_iter().map(text).collect::<Result<_, _>>()?,
    })
}
