//! `drover derivation show`: derivations as the JSON that Nix prints.

use std::collections::BTreeSet;
use std::io::{IsTerminal as _, Read as _};
use std::path::Path;

use anyhow::{Context as _, anyhow};
use drover_core::{StoreDir, StorePath};
use drover_derivation::{Derivation, MAX_ATERM_SIZE, ShowFormat, derivation_name, show_json};
use drover_fleet::Graph;
use drover_store::Store;

use crate::arguments::{SettingArguments, ShowArguments, ShowFormatArgument, SourceArguments};
use crate::configuration::Configuration;
use crate::connector::Connector;
use crate::evaluate::{Evaluator, common_arguments};
use crate::exit::ExitStatus;
use crate::installable::{Installable, is_derivation};
use crate::local_store::LocalStore;
use crate::terminal::Terminal;
use crate::wanted;

/// A derivation's path by its name, and what is in its file.
type PlainFile = (StorePath, Vec<u8>);

/// Prints derivations.
pub(crate) async fn show(
    arguments: ShowArguments,
    terminal: &Terminal,
) -> anyhow::Result<ExitStatus> {
    let configuration = Configuration::load_beside_nix(&arguments.settings.overrides(), terminal)?;
    if !wanted::takes_evaluation(&arguments.source) {
        configuration.warn_of_unknown(terminal);
    }
    let local = LocalStore::choose(&configuration)?;
    let current_dir = &configuration.host.environment.current_dir;
    let (files, source) = take_plain_files(&arguments.source, &local, current_dir)?;
    let mut derivations = Vec::new();
    for (path, bytes) in files {
        derivations.push((path.clone(), parse(&local.store_dir, path, &bytes)?));
    }
    if !is_empty(&source) || derivations.is_empty() {
        let connector = Connector::new(&configuration)?;
        let store = connector.open_local(&local, &Default::default());
        let roots = tempfile::tempdir().context("cannot make a temporary folder")?;
        let evaluator = Evaluator {
            source: &source,
            local: &local,
            store: &store,
            common: common_arguments(&arguments.settings, &[], &local, terminal),
            roots: roots.path(),
        };
        let targets = wanted::targets(&source, &evaluator, current_dir).await?;
        let mut paths: Vec<StorePath> =
            targets.into_iter().map(|target| target.derivation).collect();
        paths.sort();
        paths.dedup();
        derivations.extend(match arguments.recursive {
            true => read_closure(&store, &paths).await?,
            false => read(&store, &paths).await?,
        });
    }
    if arguments.features {
        for (path, derivation) in &derivations {
            terminal.print(&requirement(&local.store_dir, path, derivation)?)?;
        }
        return Ok(ExitStatus::SUCCESS);
    }
    tell_features(&derivations, terminal)?;
    let shown = derivations.iter().map(|(path, derivation)| (path, derivation));
    terminal.print(&show_json(&local.store_dir, shown, format(arguments.format))?)?;
    Ok(ExitStatus::SUCCESS)
}

/// Returns the derivations that would have to be built for what is wanted, and those that are wanted.
///
/// # Errors
///
/// What can't be evaluated or read.
pub(crate) async fn to_build(
    source: &SourceArguments,
    settings: &SettingArguments,
    configuration: &Configuration,
    terminal: &Terminal,
) -> anyhow::Result<Vec<(StorePath, Derivation)>> {
    let local = LocalStore::choose(configuration)?;
    let connector = Connector::new(configuration)?;
    let store = connector.open_local(&local, &Default::default());
    let roots = tempfile::tempdir().context("cannot make a temporary folder")?;
    let evaluator = Evaluator {
        source,
        local: &local,
        store: &store,
        common: common_arguments(settings, &[], &local, terminal),
        roots: roots.path(),
    };
    let current_dir = &configuration.host.environment.current_dir;
    let targets = wanted::targets(source, &evaluator, current_dir).await?;
    let mut paths: BTreeSet<StorePath> =
        targets.into_iter().map(|target| target.derivation).collect();
    paths.extend(store.missing(&paths).await?.build);
    read(&store, &paths.into_iter().collect::<Vec<_>>()).await
}

fn format(format: ShowFormatArgument) -> ShowFormat {
    match format {
        ShowFormatArgument::Nix2_8 => ShowFormat::Nix2_8,
        ShowFormatArgument::Nix2_26 => ShowFormat::Nix2_26,
        ShowFormatArgument::Nix2_34 if std::io::stdout().is_terminal() => ShowFormat::Nix2_34Pretty,
        ShowFormatArgument::Nix2_34 => ShowFormat::Nix2_34,
    }
}

fn is_empty(source: &SourceArguments) -> bool {
    source.installables.is_empty() && source.file.is_none() && source.expr.is_none()
}

/// Takes those derivations out that are files outside of any store, copied from one: they can be
/// shown without it.
fn take_plain_files(
    source: &SourceArguments,
    local: &LocalStore,
    current_dir: &Path,
) -> anyhow::Result<(Vec<PlainFile>, SourceArguments)> {
    let mut files = Vec::new();
    let mut rest = Vec::new();
    for text in &source.installables {
        match plain_file(text, local, current_dir)? {
            Some(file) => files.push(file),
            None => rest.push(text.clone()),
        }
    }
    let source = SourceArguments { installables: rest, ..source.clone() };
    Ok((files, source))
}

fn plain_file(
    text: &str,
    local: &LocalStore,
    current_dir: &Path,
) -> anyhow::Result<Option<PlainFile>> {
    if !is_derivation(text) {
        return Ok(None);
    }
    let Installable::Derivation { path, .. } = Installable::parse(text, local.store_dir.as_str())?
    else {
        return Ok(None);
    };
    let file = current_dir.join(&path);
    let name = file.file_name().and_then(|name| StorePath::from_base_name(name.to_str()?).ok());
    match (wanted::derivation_path(&path, local, current_dir), name) {
        (Err(_), Some(name)) if file.is_file() => {
            let mut bytes = Vec::new();
            // one byte more, so that it's refused for its size
            fs_err::File::open(&file)?.take(MAX_ATERM_SIZE as u64 + 1).read_to_end(&mut bytes)?;
            Ok(Some((name, bytes)))
        }
        _ => Ok(None),
    }
}

fn parse(store_dir: &StoreDir, path: StorePath, bytes: &[u8]) -> anyhow::Result<Derivation> {
    let name = derivation_name(&path)
        .ok_or_else(|| anyhow!("'{path}' is not a derivation: its name does not end in .drv"))?;
    Derivation::parse_aterm(store_dir, &name, bytes)
        .with_context(|| format!("cannot read '{path}'"))
}

async fn read(
    store: &dyn Store,
    paths: &[StorePath],
) -> anyhow::Result<Vec<(StorePath, Derivation)>> {
    let files = store.read_files(paths).await?;
    let derivations = paths
        .iter()
        .zip(files)
        .map(|(path, file)| Ok((path.clone(), parse(store.store_dir(), path.clone(), &file)?)));
    derivations.collect()
}

async fn read_closure(
    store: &dyn Store,
    paths: &[StorePath],
) -> anyhow::Result<Vec<(StorePath, Derivation)>> {
    let graph = Graph::read(store, paths).await?;
    Ok(graph.iter().map(|(_, node)| (node.path.clone(), (*node.derivation).clone())).collect())
}

/// Returns what a machine must have, as the second and sixth column of its line would say it.
fn requirement(
    store_dir: &StoreDir,
    path: &StorePath,
    derivation: &Derivation,
) -> anyhow::Result<String> {
    let features: Vec<String> = derivation.required_system_features()?.into_iter().collect();
    let features = match features.is_empty() {
        true => "-".to_owned(),
        false => features.join(","),
    };
    Ok(format!("{} {} {features}", store_dir.display(path), derivation.system))
}

/// Says which features a machine must have beside what the JSON says; that none are needed is for
/// those who want to know more.
fn tell_features(
    derivations: &[(StorePath, Derivation)],
    terminal: &Terminal,
) -> anyhow::Result<()> {
    for (path, derivation) in derivations {
        let features: Vec<String> = derivation.required_system_features()?.into_iter().collect();
        let requires = format!("{path} requires {} with", derivation.system);
        match features.is_empty() {
            true => terminal.detail(&format!("{requires} no features")),
            false => terminal.info(&format!("{requires} {}", features.join(", "))),
        }
    }
    Ok(())
}
