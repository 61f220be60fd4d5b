//! Builders that are part of Nix: what they are given, and the program that is run for them.
//!
//! They run where any builder does, as the same user, shut in the same way, and by the launcher's own
//! program (`drover_builtins::run`). What they need of the machine and can't see from there, as the
//! certificates, is read here. Follows `DerivationBuilderImpl::runChild` of Nix 2.34
//! (`src/libstore/unix/build/derivation-builder.cc`).

use std::io;
use std::path::Path;

use drover_builtins::{Builtin, Fetching, FlatHash, Task};
use drover_core::{HashNotation, IngestionMethod, OutputName};
use drover_derivation::{BasicDerivation, DerivationKind, Output};
use drover_recipe::Given;
use drover_sandbox::{HardLimit, Limit, Program, Resource};
use drover_store::{BuildFailure, LogEvent, Store as _};

use crate::failure::{Failing, Trouble, failed};
use crate::job::{Job, Subject};
use crate::settings::LocalSettings;

/// Bytes of address space that a builder of ours takes at most: what it unpacks comes from anybody.
const ADDRESS_SPACE: u64 = 4 << 30;

/// Returns the limits of a build.
pub(crate) fn limits(builder: &[u8]) -> Vec<Limit> {
    let limit = |resource, soft| Limit { resource, soft: Some(soft), hard: HardLimit::Unchanged };
    let core = limit(Resource::Core, 0);
    match Builtin::of_builder(builder) {
        Some(_) => vec![core, limit(Resource::AddressSpace, ADDRESS_SPACE)],
        None => vec![core],
    }
}

/// Returns what is run: the derivation's builder, or one of ours in its place.
pub(crate) async fn program(
    job: &Job<'_>,
    subject: &Subject,
    given: &Given,
) -> Result<Program, Trouble> {
    let builder = &subject.derivation.builder;
    let Some(builtin) = Builtin::of_builder(builder) else {
        return Ok(Program::File(builder.to_vec()));
    };
    let name = String::from_utf8_lossy(builder);
    let Some(out) = subject.scratch.get(&OutputName::out()) else {
        return Err(failed(format!("'{name}' requires an 'out' output")).into());
    };
    let fetching = match builtin {
        Builtin::Fetchurl => {
            if !matches!(subject.kind, DerivationKind::Fixed | DerivationKind::Impure) {
                let shown = &subject.shown;
                let text = format!(
                    "cannot build '{shown}': '{name}' must be a fixed-output or impure derivation"
                );
                return Err(failed(text).into());
            }
            fetching(job.settings, subject).await?
        }
        Builtin::Buildenv | Builtin::UnpackChannel => Fetching::default(),
    };
    let out = job.store.store_dir().display(out).into_bytes();
    let environment = given.environment.clone();
    let task = Task { builtin, environment, out, fetching };
    Ok(Program::Own(task.to_bytes().map_err(|error| failed(error.to_string()))?))
}

/// Fails a build by a builder that no Nix has, as Nix does: as one that has run, and said so.
pub(crate) fn unknown(
    job: &Job<'_>,
    shown: &str,
    derivation: &BasicDerivation,
    name: &str,
) -> BuildFailure {
    let name = name.strip_prefix("builtin:").unwrap_or(name);
    let said = format!("error: unsupported builtin builder '{name}'");
    job.log.event(LogEvent::Started);
    job.log.event(LogEvent::Line(said.clone()));
    let known = derivation.outputs.values().filter_map(Output::path);
    let outputs = known.map(|path| job.store.store_dir().display(path)).collect();
    Failing { derivation: shown, outputs, tail: &[said] }.of_code(1)
}

/// Returns what downloads need to know.
async fn fetching(settings: &LocalSettings, subject: &Subject) -> Result<Fetching, Trouble> {
    let hash = match subject.derivation.outputs.get(&OutputName::out()) {
        Some(Output::Fixed { address, .. }) if address.method == IngestionMethod::Flat => {
            Some(FlatHash {
                algorithm: address.hash.algorithm().to_string(),
                digits: address.hash.digits(HashNotation::Base16),
            })
        }
        _ => None,
    };
    let variable = |name: &str| {
        let value = (settings.outside.0)(name)?;
        Some((name.to_owned(), String::from_utf8(value).ok()?))
    };
    Ok(Fetching {
        certificates: read(settings.certificates.as_deref()).await?,
        netrc: String::from_utf8_lossy(&read(settings.netrc.as_deref()).await?).into_owned(),
        hash,
        proxies: Fetching::PROXY_VARIABLES.into_iter().filter_map(variable).collect(),
        ..settings.fetching.clone()
    })
}

/// Returns what is in a file of the machine; nothing where it isn't there.
async fn read(file: Option<&Path>) -> Result<Vec<u8>, Trouble> {
    let Some(file) = file else { return Ok(Vec::new()) };
    match tokio::fs::read(file).await {
        Ok(contents) => Ok(contents),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        // as in Nix: what needs it fails for the want of it, and nothing else
        Err(error) => {
            tracing::warn!("cannot read '{}': {error}", file.display());
            Ok(Vec::new())
        }
    }
}
