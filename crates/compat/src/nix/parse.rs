//! The command line of `nix`, as far as it is understood here.
//!
//! The names and flags are those of Nix 2.34 (`src/nix/*.cc`), with the older names that it warns
//! of (`ping-store`, `sign-paths`, `show-derivation` …) taken without a word.

use std::ffi::OsString;

use drover_core::HashAlgorithm;

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
    match try_parse(arguments, Words::Nix) {
        Ok((options, request)) => NixCall::Ours(options, Box::new(request)),
        Err(_) => NixCall::Real,
    }
}

/// Whose words a command line is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Words {
    /// Those of `nix`.
    Nix,
    /// drover's own, which are the same and some more: there is `--json` wherever a script would
    /// want it.
    Own,
}

/// Parses the arguments of `nix`, or the same as drover's own words.
///
/// # Errors
///
/// Whatever isn't understood, by its name.
pub(crate) fn try_parse(
    arguments: &[OsString],
    whose: Words,
) -> Result<(Options, NixRequest), CompatError> {
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
                        return Err(unknown_words(&words));
                    }
                }
            }
            continue;
        }
        if flag == "--version" && name.is_none() && words.is_empty() {
            return Ok((options, NixRequest::Version));
        }
        let taken = match name {
            Some(name) if whose == Words::Own && flag == "--json" && name.tells_results() => {
                reading.style.layout = Layout::Json;
                Taken::Yes
            }
            Some(name) => own_flag(name, &argument, &mut cursor, &mut reading)?,
            None => Taken::No,
        };
        if matches!(taken, Taken::No)
            && matches!(global(flag, &mut cursor, &mut options)?, Taken::No)
        {
            let message = format!("unrecognised flag '{}'", argument.display());
            return Err(CompatError::usage(message));
        }
    }
    let Some(name) = name else {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        return Err(unknown_words(&words));
    };
    Ok((options, request(name, reading)?))
}

fn unknown_words(words: &[&str]) -> CompatError {
    match words {
        [] => CompatError::usage("no command given"),
        words => CompatError::usage(format!("'{}' is not a command", words.join(" "))),
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

/// Puts a request together.
fn request(name: Name, reading: Reading) -> Result<NixRequest, CompatError> {
    let takes_none = matches!(
        name,
        Name::StoreInfo
            | Name::StoreGc
            | Name::StoreOptimise
            | Name::KeyGenerate
            | Name::KeyToPublic
            | Name::Daemon
    );
    if let (true, Some(argument)) = (takes_none, reading.arguments.first()) {
        let message = format!("unexpected argument '{}'", argument.display());
        return Err(CompatError::usage(message));
    }
    if let Name::HashPath | Name::HashFile | Name::HashConvert | Name::HashTo(_) = name {
        return hash_request(name, reading).map(NixRequest::Hash);
    }
    let layout = match (reading.style.layout, reading.pretty) {
        (Layout::Text, _) | (_, None) => reading.style.layout,
        (_, Some(pretty)) => pretty,
    };
    Ok(match name {
        Name::StoreInfo => NixRequest::StoreInfo(layout),
        Name::StoreGc => {
            let (rehearsal, max_freed) = (reading.rehearsal, reading.max_freed);
            if rehearsal == Rehearsal::Yes && max_freed.is_some() {
                return Err(CompatError::usage("'--dry-run' and '--max' don't go together"));
            }
            NixRequest::StoreGc { rehearsal, max_freed, layout }
        }
        Name::StoreOptimise => NixRequest::StoreOptimise(layout),
        Name::KeyToPublic => NixRequest::Key(KeyRequest::ToPublic),
        Name::KeyGenerate => match reading.key_name {
            Some(name) => NixRequest::Key(KeyRequest::Generate { name }),
            None => return Err(CompatError::usage("flag '--key-name' is required")),
        },
        Name::Daemon => NixRequest::Daemon(reading.daemon),
        Name::Log => match <[OsString; 1]>::try_from(reading.arguments) {
            Ok([path]) => NixRequest::Log(path),
            Err(_) => return Err(CompatError::usage("give one path")),
        },
        name => return about_paths(name, reading, layout),
    })
}

/// Puts a request about paths together.
fn about_paths(name: Name, reading: Reading, layout: Layout) -> Result<NixRequest, CompatError> {
    let reach = match name {
        Name::Copy => Reach::Closure,
        _ => Reach::Paths,
    };
    let reach = reading.recursive.unwrap_or(reach);
    let paths = match (reading.all, reading.arguments.is_empty()) {
        (Some(()), true) => Selection::All,
        (None, false) => reading.stands_for.selects(reading.arguments, reach),
        (Some(()), false) => {
            return Err(CompatError::usage("'--all' does not expect arguments"));
        }
        // for `nix` that is the flake in the working directory
        (None, true) => return Err(CompatError::usage("give paths, or '--all'")),
    };
    Ok(match name {
        Name::StoreDelete => NixRequest::StoreDelete { paths, liveness: reading.liveness, layout },
        Name::StoreVerify => NixRequest::StoreVerify(VerifyRequest {
            paths,
            contents: reading.contents,
            trust: reading.trust,
            signatures_needed: reading.signatures_needed,
            layout,
        }),
        Name::StoreRepair => NixRequest::StoreRepair(paths),
        Name::StoreSign => match reading.key_file {
            Some(file) => NixRequest::StoreSign { paths, key_file: file.into(), layout },
            None => return Err(CompatError::usage("flag '--key-file' is required")),
        },
        Name::PathInfo => {
            let style = PathInfoStyle { layout, ..reading.style };
            NixRequest::PathInfo(PathInfoRequest { paths, style })
        }
        Name::Copy => {
            if reading.from.is_none() && reading.to.is_none() {
                return Err(CompatError::usage("you must pass '--from' and/or '--to'"));
            }
            NixRequest::Copy(CopyRequest {
                from: reading.from,
                to: reading.to,
                paths,
                signatures: reading.signatures,
                substitute: reading.substitute,
                layout,
            })
        }
        _ => NixRequest::ShowDerivation { paths, layout: reading.pretty.unwrap_or(Layout::Json) },
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
