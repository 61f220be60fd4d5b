//! The command line of `nix-store`.
//!
//! Follows `main_nix_store` and the heads of the operations (`src/nix/nix-store/nix-store.cc`) of
//! Nix 2.34. An operation's own flags may stand anywhere; they are looked at once it is known.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::PathBuf;

use drover_core::{Hash, HashAlgorithm, IngestionMethod};
use drover_store::{Adoption, BuildMode, Liveness, Repair, VerifyDepth};

use super::name::Name;
use super::query_flags;
use super::request::{
    Collect, Invalid, Operation, Realise, Registered, Rehearsal, Results, StoreRequest, Unknown,
};
use crate::command::{Information, Parsed};
use crate::error::CompatError;
use crate::hash::algorithm;
use crate::host::ServeAccess;
use crate::options::{Cursor, Taken, parse_command_line, text, whole_number};

/// Where the words of a call come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Words {
    /// The command line.
    Given,
    /// Standard input too (`--stdin`).
    FromInput,
}

/// A command line of `nix-store`, sorted: its operation, and the rest for that to make sense of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoreCall {
    name: Name,
    flags: VecDeque<OsString>,
    pub(super) arguments: VecDeque<OsString>,
    root: Option<PathBuf>,
    results: Results,
    pub(super) words: Words,
}

/// Sorts the arguments of `nix-store`.
pub(crate) fn parse(arguments: Vec<OsString>) -> Result<Parsed<StoreCall>, CompatError> {
    let mut name = None;
    let mut asked = None;
    let mut call = StoreCall {
        name: Name::Init,
        flags: VecDeque::new(),
        arguments: VecDeque::new(),
        root: None,
        results: Results::Printed,
        words: Words::Given,
    };
    let options = parse_command_line(arguments, |argument, cursor| {
        take(argument, cursor, &mut call, &mut name, &mut asked)?;
        Ok(Taken::Yes)
    })?;
    if matches!(call.name, Name::Import | Name::Restore | Name::Serve) {
        call.words = Words::Given;
    }
    match (name, asked) {
        (None, None) => Err(CompatError::usage("no operation specified")),
        (_, asked) => {
            call.name = name.unwrap_or(Name::Init);
            Ok(Parsed::new(options, asked, call))
        }
    }
}

fn take(
    argument: &std::ffi::OsStr,
    cursor: &mut Cursor,
    call: &mut StoreCall,
    name: &mut Option<Name>,
    asked: &mut Option<Information>,
) -> Result<(), CompatError> {
    let flag = argument.to_str().unwrap_or_default();
    if let Taken::Yes = crate::command::information(flag, asked) {
        return Ok(());
    }
    if let Some(found) = Name::of_flag(flag) {
        if name.replace(found).is_some_and(|before| before != found) {
            return Err(CompatError::usage("only one operation may be specified"));
        }
        return Ok(());
    }
    match flag {
        "--add-root" => call.root = Some(cursor.argument(argument)?.into()),
        "--indirect" => {}
        "--no-output" => call.results = Results::Hidden,
        "--stdin" => call.words = Words::FromInput,
        "--max-freed" | "--max-links" | "--max-atime" => {
            call.flags.push_back(argument.to_owned());
            call.flags.push_back(cursor.argument(argument)?);
        }
        _ if argument.as_encoded_bytes().starts_with(b"-") => {
            call.flags.push_back(argument.to_owned());
        }
        _ => call.arguments.push_back(argument.to_owned()),
    }
    Ok(())
}

impl StoreCall {
    /// Returns what is to be done.
    ///
    /// # Errors
    ///
    /// Flags that the operation doesn't know, and arguments that it can't have.
    pub(crate) fn request(self) -> Result<StoreRequest, CompatError> {
        let StoreCall { name, mut flags, arguments, root, results, .. } = self;
        let operation = match name {
            Name::Realise => realise(flags, arguments)?,
            Name::Query => Operation::Query(query_flags::parse(flags, arguments)?),
            Name::AddFixed => add_fixed(flags, arguments)?,
            Name::PrintFixedPath => print_fixed_path(flags, arguments)?,
            Name::Delete => {
                let liveness =
                    switch(flags, "--ignore-liveness", Liveness::Respect, Liveness::Ignore)?;
                Operation::Delete { liveness, paths: arguments.into() }
            }
            Name::CheckValidity => {
                let invalid = switch(flags, "--print-invalid", Invalid::Refuse, Invalid::Print)?;
                Operation::CheckValidity { invalid, paths: arguments.into() }
            }
            Name::Gc => collect(flags, arguments)?,
            Name::RegisterValidity => register(flags, arguments)?,
            Name::Verify => verify(flags, arguments)?,
            Name::Serve => {
                let access = switch(flags, "--write", ServeAccess::Read, ServeAccess::Write)?;
                none(&arguments)?;
                Operation::Serve(access)
            }
            // these two name the flag, the others don't
            Name::Export | Name::Import if !flags.is_empty() => return Err(unknown_flag(&flags)),
            Name::GenerateBinaryCacheKey if !flags.is_empty() => return Err(unknown_flag(&flags)),
            Name::VerifyPath | Name::RepairPath if !flags.is_empty() => {
                return Err(CompatError::usage("no flags expected"));
            }
            Name::Optimise if !flags.is_empty() => {
                return Err(CompatError::usage("no arguments expected"));
            }
            _ if flags.pop_front().is_some() => return Err(CompatError::usage("unknown flag")),
            name => without_flags(name, arguments)?,
        };
        Ok(StoreRequest { operation, root, results })
    }
}

/// Reads the arguments of operations that have no flags.
fn without_flags(name: Name, arguments: VecDeque<OsString>) -> Result<Operation, CompatError> {
    Ok(match name {
        Name::Add => Operation::Add {
            method: IngestionMethod::Nar,
            algorithm: HashAlgorithm::Sha256,
            files: arguments.into_iter().map(PathBuf::from).collect(),
        },
        Name::PrintEnv => {
            let rule = "'--print-env' requires one derivation store path";
            let [derivation] = exactly(arguments, rule)?;
            Operation::PrintEnvironment(derivation)
        }
        Name::ReadLog => Operation::ReadLog(arguments.into()),
        Name::DumpDb => Operation::DumpDatabase(arguments.into()),
        Name::Export => Operation::Export(arguments.into()),
        Name::VerifyPath => Operation::VerifyPaths(arguments.into()),
        Name::RepairPath => Operation::RepairPaths(arguments.into()),
        Name::Dump => {
            let [path] = exactly(arguments, "only one argument allowed")?;
            Operation::Dump(path.into())
        }
        Name::Restore => {
            let [path] = exactly(arguments, "only one argument allowed")?;
            Operation::Restore(path.into())
        }
        Name::GenerateBinaryCacheKey => {
            let [name, secret_file, public_file] = exactly(arguments, "three arguments expected")?;
            let (secret_file, public_file) = (secret_file.into(), public_file.into());
            Operation::GenerateKey { name: text(name)?, secret_file, public_file }
        }
        _ => {
            none(&arguments)?;
            match name {
                Name::LoadDb => Operation::Register {
                    registered: Registered::Anew,
                    adoption: Adoption::AsGiven,
                },
                Name::Import => Operation::Import,
                Name::Optimise => Operation::Optimise,
                _ => Operation::Initialise,
            }
        }
    })
}

fn realise(
    flags: VecDeque<OsString>,
    arguments: VecDeque<OsString>,
) -> Result<Operation, CompatError> {
    let mut realise = Realise {
        paths: arguments.into(),
        rehearsal: Rehearsal::No,
        mode: BuildMode::Normal,
        unknown: Unknown::Refuse,
    };
    for flag in &flags {
        match flag.to_str() {
            Some("--dry-run") => realise.rehearsal = Rehearsal::Yes,
            Some("--repair") => realise.mode = BuildMode::Repair,
            Some("--check") => realise.mode = BuildMode::Check,
            Some("--ignore-unknown") => realise.unknown = Unknown::Ignore,
            _ => return Err(unknown(flag)),
        }
    }
    Ok(Operation::Realise(realise))
}

fn add_fixed(
    flags: VecDeque<OsString>,
    mut arguments: VecDeque<OsString>,
) -> Result<Operation, CompatError> {
    let method = switch(flags, "--recursive", IngestionMethod::Flat, IngestionMethod::Nar)?;
    let first = arguments.pop_front();
    let first = first.ok_or_else(|| CompatError::usage("first argument must be hash algorithm"))?;
    let algorithm = algorithm(&text(first)?)?;
    let files = arguments.into_iter().map(PathBuf::from).collect();
    Ok(Operation::Add { method, algorithm, files })
}

fn print_fixed_path(
    flags: VecDeque<OsString>,
    arguments: VecDeque<OsString>,
) -> Result<Operation, CompatError> {
    let method = switch(flags, "--recursive", IngestionMethod::Flat, IngestionMethod::Nar)?;
    let [kind, hash, name] = exactly(arguments, "'--print-fixed-path' requires three arguments")?;
    let algorithm = algorithm(&text(kind)?)?;
    let hash = Hash::parse(&text(hash)?, Some(algorithm))?;
    let name = text(name)?;
    let name = name
        .parse()
        .map_err(|error| CompatError::failed(format!("name '{name}' is not valid: {error}")))?;
    Ok(Operation::PrintFixedPath { method, hash, name })
}

fn collect(
    flags: VecDeque<OsString>,
    arguments: VecDeque<OsString>,
) -> Result<Operation, CompatError> {
    let mut collect = Collect::Delete { max_freed: None };
    let mut limit = None;
    let mut flags = flags.into_iter();
    while let Some(flag) = flags.next() {
        match flag.to_str() {
            Some("--print-roots") => collect = Collect::PrintRoots,
            Some("--print-live") if collect != Collect::PrintRoots => collect = Collect::PrintLive,
            Some("--print-dead") if collect != Collect::PrintRoots => collect = Collect::PrintDead,
            Some("--print-live" | "--print-dead") => {}
            Some("--max-freed") => {
                limit = Some(max_freed(&text(flags.next().unwrap_or_default())?)?)
            }
            _ => {
                let flag = flag.display();
                return Err(CompatError::usage(format!("bad sub-operation '{flag}' in GC")));
            }
        }
    }
    none(&arguments)?;
    if let Collect::Delete { max_freed } = &mut collect {
        *max_freed = limit;
    } else if limit.is_some() {
        let rule = "option --max-freed cannot be combined with --print-live, --print-dead, or \
                    --print-roots";
        return Err(CompatError::usage(rule));
    }
    Ok(Operation::Collect(collect))
}

/// Reads a number of bytes after which a collection ends; one below zero counts as zero.
fn max_freed(text: &str) -> Result<u64, CompatError> {
    match text.strip_prefix('-') {
        Some(number) => whole_number(number).map(|_| 0),
        None => whole_number(text),
    }
}

fn register(
    flags: VecDeque<OsString>,
    arguments: VecDeque<OsString>,
) -> Result<Operation, CompatError> {
    let mut registered = Registered::Keep;
    let mut adoption = Adoption::Measured;
    for flag in &flags {
        match flag.to_str() {
            Some("--reregister") => registered = Registered::Anew,
            Some("--hash-given") => adoption = Adoption::Canonical,
            _ => return Err(unknown(flag)),
        }
    }
    none(&arguments)?;
    Ok(Operation::Register { registered, adoption })
}

fn verify(
    flags: VecDeque<OsString>,
    arguments: VecDeque<OsString>,
) -> Result<Operation, CompatError> {
    none(&arguments)?;
    let mut depth = VerifyDepth::Existence;
    let mut repair = Repair::No;
    for flag in &flags {
        match flag.to_str() {
            Some("--check-contents") => depth = VerifyDepth::Contents,
            Some("--repair") => repair = Repair::Yes,
            _ => return Err(unknown(flag)),
        }
    }
    Ok(Operation::Verify { depth, repair })
}

/// Reads the flags of an operation that knows but one.
fn switch<T>(flags: VecDeque<OsString>, name: &str, without: T, with: T) -> Result<T, CompatError> {
    match flags.iter().find(|flag| *flag != name) {
        Some(flag) => Err(unknown(flag)),
        None if flags.is_empty() => Ok(without),
        None => Ok(with),
    }
}

fn exactly<const N: usize>(
    arguments: VecDeque<OsString>,
    rule: &str,
) -> Result<[OsString; N], CompatError> {
    Vec::from(arguments).try_into().map_err(|_| CompatError::usage(rule))
}

fn none(arguments: &VecDeque<OsString>) -> Result<(), CompatError> {
    match arguments.is_empty() {
        true => Ok(()),
        false => Err(CompatError::usage("no arguments expected")),
    }
}

fn unknown_flag(flags: &VecDeque<OsString>) -> CompatError {
    unknown(flags.front().unwrap_or(&OsString::new()))
}

pub(super) fn unknown(flag: &OsString) -> CompatError {
    CompatError::usage(format!("unknown flag '{}'", flag.display()))
}
