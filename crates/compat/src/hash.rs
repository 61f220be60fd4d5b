//! `nix-hash`, `nix hash path`, `nix hash file`, `nix hash convert` and `nix hash to-*`.
//!
//! Follows `src/nix/hash.cc` of Nix.

use std::ffi::OsString;
use std::path::PathBuf;

use drover_core::{Hash, HashAlgorithm, HashError, HashNotation, Hasher, encode_base32};

use crate::command::{Parsed, information};
use crate::console::Console;
use crate::error::CompatError;
use crate::exit::ExitStatus;
use crate::host::Host;
use crate::installable::absolute;
use crate::options::{Options, Taken, parse_command_line, text};
use crate::pack::{Form, pack};

/// Whether a hash is cut to 20 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// It isn't.
    Whole,
    /// Longer ones are (`--truncate`).
    Truncated,
}

/// How contents are hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// As the NAR of the tree.
    Nar,
    /// As the bytes of one file.
    Flat,
}

/// What is hashed or converted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashRequest {
    /// Files and folders.
    Files {
        /// How they become bytes.
        contents: Contents,
        /// The algorithm.
        algorithm: HashAlgorithm,
        /// How the hash is written.
        notation: HashNotation,
        /// Whether it is cut.
        length: Length,
        /// The files.
        paths: Vec<PathBuf>,
    },
    /// Hashes in another notation.
    Convert {
        /// The algorithm, where the hashes don't say it.
        algorithm: Option<HashAlgorithm>,
        /// The notation that they must be in.
        from: Option<HashNotation>,
        /// How they are to be written.
        to: HashNotation,
        /// The hashes.
        hashes: Vec<String>,
    },
}

/// Returns the algorithm of that name.
///
/// # Errors
///
/// None of that name, in Nix's words. `blake3` is one of Nix's that isn't known here.
pub(crate) fn algorithm(name: &str) -> Result<HashAlgorithm, CompatError> {
    name.parse().map_err(|_: HashError| {
        CompatError::usage(format!(
            "unknown hash algorithm '{name}', expect 'md5', 'sha1', 'sha256', or 'sha512'"
        ))
    })
}

/// Parses the arguments of `nix-hash`.
pub(crate) fn parse(arguments: Vec<OsString>) -> Result<Parsed<HashRequest>, CompatError> {
    let (mut contents, mut length, mut kind) = (Contents::Nar, Length::Whole, None);
    let (mut notation, mut converts) = (HashNotation::Base16, None);
    let mut words = Vec::new();
    let mut asked = None;
    let options = parse_command_line(arguments, |argument, cursor| {
        let flag = argument.to_str().unwrap_or_default();
        if let Taken::Yes = information(flag, &mut asked) {
            return Ok(Taken::Yes);
        }
        match flag {
            "--flat" => contents = Contents::Flat,
            "--truncate" => length = Length::Truncated,
            "--type" => kind = Some(algorithm(&cursor.text(argument)?)?),
            _ => match (notation_flag(flag), flag.strip_prefix("--to-").and_then(notation_name)) {
                (Some(found), _) => notation = found,
                (None, Some(found)) => (notation, converts) = (found, Some(())),
                (None, None) if argument.as_encoded_bytes().starts_with(b"-") => {
                    return Ok(Taken::No);
                }
                (None, None) => words.push(argument.to_owned()),
            },
        }
        Ok(Taken::Yes)
    })?;
    let request = match converts {
        None => HashRequest::Files {
            contents,
            algorithm: kind.unwrap_or(HashAlgorithm::Md5),
            notation,
            length,
            paths: words.into_iter().map(PathBuf::from).collect(),
        },
        Some(()) => HashRequest::Convert {
            algorithm: kind,
            from: None,
            to: notation,
            hashes: words.into_iter().map(text).collect::<Result<_, _>>()?,
        },
    };
    Ok(Parsed::new(options, asked, request))
}

/// Returns the notation that a flag such as `--base32` names.
pub(crate) fn notation_flag(flag: &str) -> Option<HashNotation> {
    flag.strip_prefix("--").and_then(notation_name)
}

fn notation_name(name: &str) -> Option<HashNotation> {
    Some(match name {
        "base16" => HashNotation::Base16,
        "base32" => HashNotation::Base32,
        "base64" => HashNotation::Base64,
        "sri" => HashNotation::Sri,
        _ => return None,
    })
}

/// Returns the notation that `nix hash convert` calls so.
pub(crate) fn notation(name: &str) -> Result<HashNotation, CompatError> {
    if name == "nix32" {
        return Ok(HashNotation::Base32);
    }
    notation_name(name).ok_or_else(|| {
        CompatError::usage(format!(
            "unknown hash format '{name}', expect 'base16', 'base32', 'base64', or 'sri'"
        ))
    })
}

/// Hashes or converts, and prints the results.
pub(crate) async fn run(
    request: HashRequest,
    options: &Options,
    host: &dyn Host,
) -> Result<ExitStatus, CompatError> {
    let mut console = Console::of(host, options);
    match request {
        HashRequest::Files { contents, algorithm, notation, length, paths } => {
            for path in paths {
                let hash =
                    hash_file(absolute(&path, &host.working_dir()), contents, algorithm).await?;
                console.line(written(&hash, notation, length)).await?;
            }
        }
        HashRequest::Convert { algorithm, from, to, hashes } => {
            for text in hashes {
                let hash = parse_hash(&text, algorithm)?;
                check_notation(&text, &hash, from)?;
                console.line(written(&hash, to, Length::Whole)).await?;
            }
        }
    }
    console.flush().await?;
    Ok(ExitStatus::SUCCESS)
}

async fn hash_file(
    path: PathBuf,
    contents: Contents,
    algorithm: HashAlgorithm,
) -> Result<Hash, CompatError> {
    let form = match contents {
        Contents::Nar => Form::Nar,
        Contents::Flat => Form::Flat,
    };
    let mut hasher = Hasher::new(algorithm);
    let mut packed = pack(path, form);
    while let Some(piece) = packed.piece().await? {
        hasher.update(&piece);
    }
    Ok(hasher.finish())
}

/// Reads a hash; the errors are in Nix's words.
fn parse_hash(text: &str, algorithm: Option<HashAlgorithm>) -> Result<Hash, CompatError> {
    Hash::parse(text, algorithm).map_err(|error| match error {
        HashError::NoAlgorithm { text } => CompatError::failed(format!(
            "hash '{text}' does not include a type, nor is the type otherwise known from context"
        )),
        HashError::Length { algorithm, .. } => CompatError::failed(format!(
            "hash '{text}' has wrong length for hash algorithm '{algorithm}'"
        )),
        error => error.into(),
    })
}

/// Refuses a hash that is not written as `--from` says.
fn check_notation(text: &str, hash: &Hash, from: Option<HashNotation>) -> Result<(), CompatError> {
    let Some(from) = from else { return Ok(()) };
    let digits = text.split_once(':').map_or(text, |(_, digits)| digits);
    let all = [HashNotation::Sri, HashNotation::Base16, HashNotation::Base32, HashNotation::Base64];
    let found = all.into_iter().find(|notation| match notation {
        HashNotation::Sri => text == hash.display(HashNotation::Sri),
        notation => digits.eq_ignore_ascii_case(&hash.digits(*notation)),
    });
    let Some(found) = found.filter(|found| *found != from) else { return Ok(()) };
    let name = |notation| match notation {
        HashNotation::Base16 => "base16",
        HashNotation::Base32 => "nix32",
        HashNotation::Base64 => "base64",
        HashNotation::Sri => "sri",
    };
    Err(CompatError::failed(format!(
        "input hash '{text}' has format '{}', but '--from {}' was specified",
        name(found),
        name(from)
    )))
}

/// Returns how Nix prints a hash: only SRI says the algorithm.
fn written(hash: &Hash, notation: HashNotation, length: Length) -> String {
    const SHORT: usize = 20;
    if length == Length::Whole || hash.digest().len() <= SHORT {
        return match notation {
            HashNotation::Sri => hash.display(notation),
            notation => hash.digits(notation),
        };
    }
    // all bytes are folded into the first ones, as in the hash part of a store path
    let mut short = [0u8; SHORT];
    for chunk in hash.digest().chunks(SHORT) {
        short.iter_mut().zip(chunk).for_each(|(short, byte)| *short ^= byte);
    }
    match notation {
        HashNotation::Base16 => data_encoding::HEXLOWER.encode(&short),
        HashNotation::Base32 => encode_base32(&short),
        HashNotation::Base64 => data_encoding::BASE64.encode(&short),
        HashNotation::Sri => {
            format!("{}-{}", hash.algorithm(), data_encoding::BASE64.encode(&short))
        }
    }
}
