//! Copying closures from store to store: `nix-copy-closure`, `nix copy`, `drover copy`.
//!
//! The command line follows `src/nix/nix-copy-closure/nix-copy-closure.cc` of Nix, the copying
//! `copyClosure` (`src/libstore/store-api.cc`).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::sync::Arc;

use drover_config::StoreReference;
use drover_core::{PathInfo, Realisation, StorePath};
use drover_store::{
    Keeper, SignatureCheck, Store, StoreError, Substitute, WhenValid, closure_order,
};

use crate::closure::{closure, closure_with_outputs, path_infos};
use crate::command::{Parsed, information};
use crate::console::Console;
use crate::error::CompatError;
use crate::exit::ExitStatus;
use crate::host::Host;
use crate::installable::follow_to_store;
use crate::nix_store::{ClosureOutputs, Rehearsal};
use crate::options::{Options, Taken, Verbosity, parse_command_line, text};

/// Which of the two stores is the other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Paths go there.
    To,
    /// Paths come from there.
    From,
}

/// A call of `nix-copy-closure`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyClosure {
    /// Which of the two stores is the host's.
    pub direction: Direction,
    /// The host, as `ssh` takes it.
    pub host: String,
    /// Whether the connection is compressed.
    pub compression: Compression,
    /// Whether the receiving side may fetch from its substituters.
    pub substitute: Substitute,
    /// Whether the outputs of derivations are copied too.
    pub outputs: ClosureOutputs,
    /// Whether it is done or only told.
    pub rehearsal: Rehearsal,
    /// The paths.
    pub paths: Vec<OsString>,
}

/// Whether a connection is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// It isn't, unless the user's own configuration says so.
    AsConfigured,
    /// It is (`--gzip`).
    On,
}

/// Parses the arguments of `nix-copy-closure`. As for Nix, whatever isn't known is the host, and
/// then a path.
pub(crate) fn parse(arguments: Vec<OsString>) -> Result<Parsed<CopyClosure>, CompatError> {
    let mut request = CopyClosure {
        direction: Direction::To,
        host: String::new(),
        compression: Compression::AsConfigured,
        substitute: Substitute::No,
        outputs: ClosureOutputs::Without,
        rehearsal: Rehearsal::No,
        paths: Vec::new(),
    };
    let mut asked = None;
    let options = parse_command_line(arguments, |argument, _| {
        let flag = argument.to_str().unwrap_or_default();
        if let Taken::Yes = information(flag, &mut asked) {
            return Ok(Taken::Yes);
        }
        match flag {
            "--gzip" | "--bzip2" | "--xz" => request.compression = Compression::On,
            "--from" => request.direction = Direction::From,
            "--to" => request.direction = Direction::To,
            "--include-outputs" => request.outputs = ClosureOutputs::Included,
            "--show-progress" => {}
            "--dry-run" => request.rehearsal = Rehearsal::Yes,
            "--use-substitutes" | "-s" => request.substitute = Substitute::Yes,
            _ if request.host.is_empty() => request.host = text(argument.to_owned())?,
            _ => request.paths.push(argument.to_owned()),
        }
        Ok(Taken::Yes)
    })?;
    if request.host.is_empty() && asked.is_none() {
        return Err(CompatError::usage("no host name specified"));
    }
    Ok(Parsed::new(options, asked, request))
}

/// Copies closures as `nix-copy-closure` does: over `ssh://`, without asking for signatures.
pub(crate) async fn run(
    request: CopyClosure,
    options: &Options,
    host: &dyn Host,
) -> Result<ExitStatus, CompatError> {
    let mut console = Console::of(host, options);
    let address = address(&request)?;
    let base = host.working_dir();
    let mut paths = BTreeSet::new();
    match request.direction {
        Direction::To => {
            let local = host.keeper(None, options).await?.session().await?;
            for path in &request.paths {
                paths.insert(follow_to_store(local.store_dir(), path, &base)?);
            }
            let infos = match request.outputs {
                ClosureOutputs::Without => closure(&*local, paths).await?,
                ClosureOutputs::Included => closure_with_outputs(&*local, paths).await?,
            };
            let remote = host.store(Some(&address), options).await?;
            let copy = Copy { source: local, infos, substitute: request.substitute };
            copy.run(&Target::Store(remote), request.rehearsal, &mut console).await?;
        }
        Direction::From => {
            let remote = host.store(Some(&address), options).await?;
            for path in &request.paths {
                paths.insert(follow_to_store(remote.store_dir(), path, &base)?);
            }
            let local = host.keeper(None, options).await?.session().await?;
            let infos = closure(&*remote, paths).await?;
            let copy = Copy { source: remote, infos, substitute: request.substitute };
            let target = Target::Keeper(local, SignatureCheck::Skip);
            copy.run(&target, request.rehearsal, &mut console).await?;
        }
    }
    console.flush().await?;
    Ok(ExitStatus::SUCCESS)
}

fn address(request: &CopyClosure) -> Result<StoreReference, CompatError> {
    let CopyClosure { host, compression, .. } = request;
    let address = format!("ssh://{host}");
    let address: StoreReference =
        address.parse().map_err(|error| CompatError::failed(format!("{error}")))?;
    Ok(match compression {
        Compression::AsConfigured => address,
        Compression::On => address.with_param("compress", "true"),
    })
}

/// Where paths are copied to.
pub(crate) enum Target {
    /// A store of this machine, which checks signatures or doesn't.
    Keeper(Arc<dyn Keeper>, SignatureCheck),
    /// Any other.
    Store(Arc<dyn Store>),
}

impl Target {
    fn store(&self) -> &dyn Store {
        match self {
            Target::Keeper(keeper, _) => &**keeper,
            Target::Store(store) => &**store,
        }
    }

    /// Tells it what outputs became whose paths it has.
    pub(crate) async fn take_realised(&self, realised: &[Realisation]) -> Result<(), StoreError> {
        match self {
            Target::Store(_) if realised.is_empty() => Ok(()),
            Target::Store(store) => store.keep_realised(realised).await,
            Target::Keeper(keeper, check) => {
                for realisation in realised {
                    keeper.register_realisation(realisation, *check).await?;
                }
                Ok(())
            }
        }
    }
}

/// Paths that are to be copied.
pub(crate) struct Copy<S: Store + ?Sized> {
    pub(crate) source: Arc<S>,
    pub(crate) infos: BTreeMap<StorePath, PathInfo>,
    pub(crate) substitute: Substitute,
}

impl<S: Store + ?Sized> Copy<S> {
    /// Copies what the target lacks, and returns it.
    pub(crate) async fn run(
        self,
        target: &Target,
        rehearsal: Rehearsal,
        console: &mut Console,
    ) -> Result<Vec<StorePath>, CompatError> {
        let all: BTreeSet<StorePath> = self.infos.keys().cloned().collect();
        let valid = target.store().hold_valid(&all, self.substitute).await?;
        // that a store has built a path itself says nothing of another that has it from there
        let missing: Vec<PathInfo> = self
            .infos
            .into_values()
            .filter(|info| !valid.contains(&info.path))
            .map(|info| PathInfo { ultimate: false, ..info })
            .collect();
        let paths: Vec<StorePath> = missing.iter().map(|info| info.path.clone()).collect();
        let missing = closure_order(missing);
        let way = way(self.source.name(), target.store().name());
        let store_dir = self.source.store_dir();
        let mut lines = vec![format!("copying {} paths...", missing.len())];
        lines.extend(missing.iter().map(|info| {
            let path = store_dir.display(&info.path);
            format!("copying path '{path}' {way}...")
        }));
        let lines: Vec<_> = lines.into_iter().map(|line| (Verbosity::INFO, line)).collect();
        console.say_all(&lines).await?;
        if rehearsal == Rehearsal::Yes || missing.is_empty() {
            return Ok(paths);
        }
        let stream = self.source.export_to_checker(missing).await?;
        let copied: Result<(), StoreError> = match target {
            Target::Keeper(keeper, check) => {
                keeper.add_paths(stream, *check, WhenValid::Keep).await
            }
            Target::Store(store) => store.import(stream).await,
        };
        copied?;
        Ok(paths)
    }
}

/// Says where paths come from and go to, but for the store of this machine, as `makeCopyPathMessage` of
/// Nix does.
fn way(from: &str, to: &str) -> String {
    let is_usual = |name: &str| {
        let name = name.split('?').next().unwrap_or(name);
        matches!(name, "auto" | "local" | "daemon" | "local://" | "unix://")
    };
    match (is_usual(from), is_usual(to)) {
        (true, _) => format!("to '{to}'"),
        (false, true) => format!("from '{from}'"),
        (false, false) => format!("from '{from}' to '{to}'"),
    }
}

/// Returns the infos of paths alone, or of all that they refer to.
pub(crate) async fn infos_to_copy<S: Store + ?Sized>(
    source: &S,
    paths: Vec<StorePath>,
    reach: Reach,
) -> Result<BTreeMap<StorePath, PathInfo>, CompatError> {
    match reach {
        Reach::Closure => closure(source, paths).await,
        Reach::Paths => {
            let infos = path_infos(source, &paths).await?;
            Ok(infos.into_iter().map(|info| (info.path.clone(), info)).collect())
        }
    }
}

/// How far from the paths that are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// They alone.
    Paths,
    /// All that they refer to.
    Closure,
}
