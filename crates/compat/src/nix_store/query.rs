//! `nix-store --query`, `--print-env` and `--read-log`.
//!
//! Follows `opQuery` and its neighbours (`src/nix/nix-store/nix-store.cc`) of Nix.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};

use drover_core::StorePath;

use super::graph;
use super::keep::{Roots, force};
use super::request::{ClosureOutputs, Force, Query, QueryKind, Subject};
use super::run::{Session, parse_path, read_derivation};
use crate::closure::{
    Keeps, closure_with_outputs, path_info, path_infos, referrers_closure, sorted_paths,
};
use crate::error::CompatError;
use crate::host::Switch;

/// Answers a query.
pub(super) async fn query(
    session: &mut Session<'_>,
    query: Query,
    mut roots: Roots,
) -> Result<(), CompatError> {
    match query.kind {
        QueryKind::Resolve => {
            for argument in &query.paths {
                let path = session.follow(argument)?;
                session.print_path(&path).await?;
            }
            Ok(())
        }
        QueryKind::Deriver => print_derivers(session, &query.paths).await,
        QueryKind::ValidDerivers => {
            let mut derivers = BTreeSet::new();
            for path in session.follow_all(&query.paths)? {
                derivers.extend(session.store.valid_derivers(&path).await?);
            }
            print_sorted(session, derivers).await
        }
        QueryKind::Binding => print_bindings(session, &query).await,
        QueryKind::Tree => {
            let mut done = BTreeSet::new();
            for argument in &query.paths {
                let path = session.follow(argument)?;
                graph::tree(session, path, &mut done).await?;
            }
            Ok(())
        }
        QueryKind::Outputs | QueryKind::Hash | QueryKind::Size => {
            for argument in &query.paths {
                let paths = subjects(session, &query, argument, &mut roots).await?;
                print_each(session, query.kind, paths).await?;
            }
            Ok(())
        }
        _ => {
            let mut paths = BTreeSet::new();
            for argument in &query.paths {
                paths.extend(subjects(session, &query, argument, &mut roots).await?);
            }
            print_all(session, &query, paths).await
        }
    }
}

/// Returns what an argument stands for: a path, or the outputs of a derivation.
async fn subjects(
    session: &mut Session<'_>,
    query: &Query,
    argument: &OsStr,
    roots: &mut Roots,
) -> Result<BTreeSet<StorePath>, CompatError> {
    let path = session.follow(argument)?;
    if query.force == Force::Realise {
        force(session, &path, roots).await?;
    }
    let wants_outputs = query.subject == Subject::Outputs || query.kind == QueryKind::Outputs;
    if !wants_outputs || !path.is_derivation() {
        return Ok([path].into());
    }
    path_info(&*session.store, &path).await?;
    let outputs = session.store.output_map(&path).await?;
    outputs
        .into_values()
        .map(|output| {
            output.ok_or_else(|| {
                CompatError::usage(
                    "Cannot use output path of floating content-addressing derivation until we \
                     know what it is (e.g. by building it)",
                )
            })
        })
        .collect()
}

/// Answers for each path on its own.
async fn print_each(
    session: &mut Session<'_>,
    kind: QueryKind,
    paths: BTreeSet<StorePath>,
) -> Result<(), CompatError> {
    for path in paths {
        if kind == QueryKind::Outputs {
            session.print_path(&path).await?;
            continue;
        }
        let info = path_info(&*session.store, &path).await?;
        let line = match kind {
            QueryKind::Size => info.nar_size.0.to_string(),
            _ => info.nar_hash.to_string(),
        };
        session.console.line(line).await?;
    }
    Ok(())
}

/// Answers for all paths together.
async fn print_all(
    session: &mut Session<'_>,
    query: &Query,
    paths: BTreeSet<StorePath>,
) -> Result<(), CompatError> {
    let found = match query.kind {
        QueryKind::Graph => return graph::dot(session, paths).await,
        QueryKind::GraphMl => return graph::graph_ml(session, paths).await,
        QueryKind::Roots => return print_roots(session, paths).await,
        QueryKind::References => {
            let paths: Vec<StorePath> = paths.into_iter().collect();
            let infos = path_infos(&*session.store, &paths).await?;
            infos.into_iter().flat_map(|info| info.references).collect()
        }
        QueryKind::Referrers => {
            let mut referrers = BTreeSet::new();
            for path in paths {
                referrers.extend(session.store.referrers(&path).await?);
            }
            referrers
        }
        QueryKind::ReferrersClosure => {
            referrers_closure(&*session.store, paths, Keeps::REFERENCES).await?
        }
        _ => match query.closure_outputs {
            ClosureOutputs::Without => {
                if let Some(listed) = session.store.requisites(&paths).await? {
                    return print_listed(session, listed).await;
                }
                session.requisites(paths).await?
            }
            ClosureOutputs::Included => {
                closure_with_outputs(&*session.store, paths).await?.into_keys().collect()
            }
        },
    };
    print_sorted(session, found).await
}

/// Prints paths, references first.
async fn print_sorted(
    session: &mut Session<'_>,
    paths: BTreeSet<StorePath>,
) -> Result<(), CompatError> {
    let listed = sorted_paths(&*session.store, paths).await?;
    print_listed(session, listed).await
}

async fn print_listed(session: &mut Session<'_>, paths: Vec<StorePath>) -> Result<(), CompatError> {
    for path in paths {
        session.print_path(&path).await?;
    }
    Ok(())
}

async fn print_derivers(
    session: &mut Session<'_>,
    arguments: &[OsString],
) -> Result<(), CompatError> {
    for argument in arguments {
        let path = session.follow(argument)?;
        let deriver = path_info(&*session.store, &path).await?.deriver;
        let deriver = deriver.map(|deriver| session.shown(&deriver));
        session.console.line(deriver.as_deref().unwrap_or("unknown-deriver")).await?;
    }
    Ok(())
}

async fn print_bindings(session: &mut Session<'_>, query: &Query) -> Result<(), CompatError> {
    for argument in &query.paths {
        let path = session.deriver_of(session.follow(argument)?).await?;
        let derivation = read_derivation(&*session.store, &path).await?;
        let Some(value) = derivation.environment.get(&query.binding) else {
            let (path, name) = (session.shown(&path), &query.binding);
            return Err(CompatError::failed(format!(
                "derivation '{path}' has no environment binding named '{name}'"
            )));
        };
        session.console.line(value).await?;
    }
    Ok(())
}

async fn print_roots(
    session: &mut Session<'_>,
    paths: BTreeSet<StorePath>,
) -> Result<(), CompatError> {
    let settings = session.host.settings(session.options)?;
    let keeps = Keeps {
        outputs: settings.switch("keep-outputs", Switch::Off),
        derivations: settings.switch("keep-derivations", Switch::On),
    };
    let kept = referrers_closure(&*session.store, paths, keeps).await?;
    for (link, path) in session.store.roots().await? {
        if kept.contains(&path) {
            let path = session.shown(&path);
            session.console.line(format!("{link} -> {path}")).await?;
        }
    }
    Ok(())
}

/// Prints the variables of a build, and its arguments, for a shell to read.
///
/// With an empty line behind each variable, as Nix 2.34 puts it; 2.8 has none, and quotes the
/// arguments in a way that no shell reads back.
pub(super) async fn print_environment(
    session: &mut Session<'_>,
    argument: &OsStr,
) -> Result<(), CompatError> {
    let path = parse_path(&*session.store, argument)?;
    let derivation = read_derivation(&*session.store, &path).await?;
    for (name, value) in derivation.environment.iter() {
        let quoted = shell_quoted(value);
        let line = [b"export ", name, b"; ", name, b"=", quoted.as_slice(), b"\n"].concat();
        session.console.line(line).await?;
    }
    let arguments: Vec<&[u8]> = derivation.args.iter().map(AsRef::as_ref).collect();
    let quoted = shell_quoted(&arguments.join(b" ".as_slice()));
    session.console.line([b"export _args; _args=", quoted.as_slice()].concat()).await
}

/// Returns bytes in single quotes, as a shell reads them back.
fn shell_quoted(bytes: &[u8]) -> Vec<u8> {
    let mut quoted = vec![b'\''];
    for byte in bytes {
        match byte {
            b'\'' => quoted.extend_from_slice(b"'\\''"),
            byte => quoted.push(*byte),
        }
    }
    quoted.push(b'\'');
    quoted
}

/// Prints the logs of builds.
pub(super) async fn read_log(
    session: &mut Session<'_>,
    arguments: &[OsString],
) -> Result<(), CompatError> {
    for argument in arguments {
        let path = session.follow(argument)?;
        print_log(session, &path).await?;
    }
    Ok(())
}

async fn print_log(session: &mut Session<'_>, path: &StorePath) -> Result<(), CompatError> {
    let Some(mut log) = build_log(&*session.store, path).await? else {
        let path = session.shown(path);
        return Err(CompatError::failed(format!(
            "build log of derivation '{path}' is not available"
        )));
    };
    while let Some(chunk) = log.chunk().await? {
        session.console.write(&chunk).await?;
    }
    Ok(())
}

/// Returns the log of a derivation, or of the one that an output was built from.
pub(crate) async fn build_log(
    store: &dyn drover_store::Keeper,
    path: &StorePath,
) -> Result<Option<Box<dyn drover_store::ByteStream>>, CompatError> {
    let derivation = match path.is_derivation() {
        true => Some(path.clone()),
        false => {
            let info = store.path_infos(std::slice::from_ref(path)).await?;
            info.into_iter().next().flatten().and_then(|info| info.deriver)
        }
    };
    match derivation {
        Some(derivation) => Ok(store.build_log(&derivation).await?),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_for_a_shell() {
        assert_eq!(shell_quoted(b"it's $x"), b"'it'\\''s $x'");
        assert_eq!(shell_quoted(b""), b"''");
    }
}
