//! Carries out what `nix` is asked for.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;

use drover_config::StoreReference;
use drover_core::{SecretKey, StorePath};
use drover_derivation::{ShowFormat, show_json};
use drover_store::{CollectAction, Collection, Keeper, Liveness, Store, Trust};
use tokio::io::AsyncReadExt as _;

use super::parse::{NixCall, parse};
use super::path_info::print_path_infos;
use super::request::{CopyRequest, KeyRequest, Layout, NixRequest, Selection};
use super::sign::{sign, verify};
use crate::closure::{closure, sorted_paths};
use crate::command::{Program, version};
use crate::console::Console;
use crate::copy_closure::{Copy, Reach, Target, infos_to_copy};
use crate::error::CompatError;
use crate::exit::ExitStatus;
use crate::export_format::reading;
use crate::garbage;
use crate::hash;
use crate::host::{Destination, Host};
use crate::installable::follow_to_store;
use crate::nix_store::{Rehearsal, build_log, read_derivation};
use crate::options::{Options, Verbosity};
use crate::size::render_size;

/// Bytes that a key's text may have.
pub(super) const MAX_KEY: u64 = 4096;

/// Carries out a command line of `nix`; what isn't understood, or names something that is no store
/// path, goes to the real one.
pub(crate) async fn run_command_line(
    arguments: Vec<OsString>,
    host: &dyn Host,
) -> Result<ExitStatus, CompatError> {
    match parse(&arguments) {
        NixCall::Real => host.exec_real(Program::Nix.name(), &arguments).await,
        NixCall::Ours(options, request) => match try_run(*request, &options, host).await? {
            Outcome::Done(status) => Ok(status),
            Outcome::NoStorePath(_) => host.exec_real(Program::Nix.name(), &arguments).await,
        },
    }
}

/// Carries out a request.
///
/// # Errors
///
/// Whatever goes wrong, in Nix's words. An argument that is no store path is an error here.
pub async fn run_nix_request(
    request: NixRequest,
    options: &Options,
    host: &dyn Host,
) -> Result<ExitStatus, CompatError> {
    match try_run(request, options, host).await? {
        Outcome::Done(status) => Ok(status),
        Outcome::NoStorePath(error) => Err(error),
    }
}

/// What became of a request.
enum Outcome {
    /// It is carried out.
    Done(ExitStatus),
    /// An argument is no store path; nothing was done.
    NoStorePath(CompatError),
}

/// What requests are carried out with.
pub(super) struct Session<'a> {
    pub(super) host: &'a dyn Host,
    pub(super) options: &'a Options,
    pub(super) console: Console,
}

async fn try_run(
    request: NixRequest,
    options: &Options,
    host: &dyn Host,
) -> Result<Outcome, CompatError> {
    let console = Console::new(host, options.verbosity);
    let mut session = Session { host, options, console };
    let outcome = session.carry_out(request).await;
    session.console.flush().await?;
    match outcome {
        Ok(status) => Ok(Outcome::Done(status)),
        Err(Stop::NoStorePath(error)) => Ok(Outcome::NoStorePath(error)),
        Err(Stop::Error(error)) => Err(error),
    }
}

/// Why a request ended early.
pub(super) enum Stop {
    NoStorePath(CompatError),
    Error(CompatError),
}

impl<E: Into<CompatError>> From<E> for Stop {
    fn from(error: E) -> Stop {
        Stop::Error(error.into())
    }
}

impl Session<'_> {
    async fn carry_out(&mut self, request: NixRequest) -> Result<ExitStatus, Stop> {
        match request {
            NixRequest::Version => self.console.line(version(Program::Nix, self.host)).await?,
            NixRequest::StoreInfo(layout) => self.store_info(layout).await?,
            NixRequest::StoreGc { rehearsal, max_freed } => {
                self.collect(rehearsal, max_freed).await?;
            }
            NixRequest::StoreOptimise => {
                let saved = render_size(self.keeper().await?.optimise().await?);
                let line = format!("{saved} freed by hard-linking");
                self.console.say(Verbosity::INFO, &line).await?;
            }
            NixRequest::StoreDelete { paths, liveness } => self.delete(paths, liveness).await?,
            NixRequest::StoreVerify(request) => return verify(self, request).await,
            NixRequest::StoreSign { paths, key_file } => sign(self, paths, &key_file).await?,
            NixRequest::PathInfo(request) => {
                let (store, paths) = self.selected_in_store(request.paths).await?;
                print_path_infos(&*store, paths, request.style, self).await?;
            }
            NixRequest::Copy(request) => self.copy(request).await?,
            NixRequest::Key(request) => self.key(request).await?,
            NixRequest::ShowDerivation { paths, format, layout } => {
                self.show_derivations(paths, format, layout).await?;
            }
            NixRequest::Log(path) => self.log(&path).await?,
            NixRequest::Hash(request) => {
                return Ok(hash::run(request, self.options, self.host).await?);
            }
            NixRequest::Daemon(request) => {
                return Ok(self.host.run_daemon(request, self.options).await?);
            }
        }
        Ok(ExitStatus::SUCCESS)
    }

    pub(super) async fn keeper(&self) -> Result<Arc<dyn Keeper>, CompatError> {
        Ok(self.host.keeper(None, self.options).await?.session().await?)
    }

    /// Returns whether JSON gets line feeds.
    pub(super) fn is_pretty(&self, layout: Layout) -> bool {
        match layout {
            Layout::JsonPretty => true,
            Layout::JsonCompact => false,
            Layout::Text | Layout::Json => self.host.destination() == Destination::Terminal,
        }
    }

    fn follow(&self, store: &dyn Store, argument: &OsStr) -> Result<StorePath, Stop> {
        follow_to_store(store.store_dir(), argument, &self.host.working_dir())
            .map_err(Stop::NoStorePath)
    }

    /// Returns the store that the settings name, and the paths that are meant, references first.
    pub(super) async fn selected(
        &self,
        selection: Selection,
    ) -> Result<(Arc<dyn Keeper>, Vec<StorePath>), Stop> {
        let store = self.keeper().await?;
        let paths = match selection {
            Selection::All => store.all_valid().await?,
            Selection::Named(arguments, reach) => self.named(&*store, &arguments, reach).await?,
        };
        let paths = sorted_paths(&*store, paths).await?;
        Ok((store, paths))
    }

    /// Returns the same where being able to ask the store is enough.
    async fn selected_in_store(
        &self,
        selection: Selection,
    ) -> Result<(Arc<dyn Store>, Vec<StorePath>), Stop> {
        let Selection::Named(arguments, reach) = selection else {
            let (keeper, paths) = self.selected(selection).await?;
            return Ok((keeper, paths));
        };
        let store = self.host.store(None, self.options).await?;
        let paths = self.named(&*store, &arguments, reach).await?;
        let paths = sorted_paths(&*store, paths).await?;
        Ok((store, paths))
    }

    async fn named(
        &self,
        store: &(impl Store + ?Sized),
        arguments: &[OsString],
        reach: Reach,
    ) -> Result<BTreeSet<StorePath>, Stop> {
        let base = self.host.working_dir();
        let mut paths = BTreeSet::new();
        for argument in arguments {
            let path = follow_to_store(store.store_dir(), argument, &base);
            paths.insert(path.map_err(Stop::NoStorePath)?);
        }
        match reach {
            Reach::Paths => Ok(paths),
            Reach::Closure => Ok(closure(store, paths).await?.into_keys().collect()),
        }
    }

    /// Tells who is there, as `src/nix/store-info.cc` of Nix does.
    async fn store_info(&mut self, layout: Layout) -> Result<(), CompatError> {
        let store = self.host.store(None, self.options).await?;
        let url = store.name().to_owned();
        if layout == Layout::Text {
            self.console.say(Verbosity::NOTICE, &format!("Store URL: {url}")).await?;
        }
        let found = store.connect().await?;
        let trusted = match found.trust {
            Trust::Unknown => None,
            Trust::Trusted => Some(true),
            Trust::NotTrusted => Some(false),
        };
        if layout == Layout::Text {
            if let Some(version) = found.nix_version {
                self.console.say(Verbosity::NOTICE, &format!("Version: {version}")).await?;
            }
            if let Some(trusted) = trusted {
                let line = format!("Trusted: {}", u8::from(trusted));
                self.console.say(Verbosity::NOTICE, &line).await?;
            }
            return Ok(());
        }
        let mut told = serde_json::Map::from_iter([("url".to_owned(), url.into())]);
        told.extend(found.nix_version.map(|version| ("version".to_owned(), version.into())));
        told.extend(trusted.map(|trusted| ("trusted".to_owned(), trusted.into())));
        let told = serde_json::Value::Object(told);
        let text = match self.is_pretty(layout) {
            true => format!("{told:#}"),
            false => told.to_string(),
        };
        self.console.line(text).await
    }

    async fn collect(
        &mut self,
        rehearsal: Rehearsal,
        max_freed: Option<u64>,
    ) -> Result<(), CompatError> {
        let store = self.keeper().await?;
        match rehearsal {
            Rehearsal::Yes => garbage::rehearse(&*store, &mut self.console).await,
            Rehearsal::No => {
                let collection = garbage::whole(CollectAction::DeleteDead, max_freed);
                garbage::delete(&*store, collection, &mut self.console).await
            }
        }
    }

    async fn delete(&mut self, paths: Selection, liveness: Liveness) -> Result<(), Stop> {
        let (store, paths) = self.selected(paths).await?;
        let collection = Collection {
            action: CollectAction::DeleteGiven,
            liveness,
            paths: paths.into_iter().collect(),
            max_freed: None,
        };
        Ok(garbage::delete(&*store, collection, &mut self.console).await?)
    }

    async fn copy(&mut self, request: CopyRequest) -> Result<(), Stop> {
        let address = |text: Option<String>| -> Result<Option<StoreReference>, CompatError> {
            let parse = |text: String| text.parse::<StoreReference>();
            text.map(parse).transpose().map_err(|error| CompatError::usage(error.to_string()))
        };
        let (from, to) = (address(request.from)?, address(request.to)?);
        let source = self.host.store(from.as_ref(), self.options).await?;
        let infos = match request.paths {
            Selection::All => {
                let keeper = self.host.keeper(from.as_ref(), self.options).await?;
                let paths = keeper.all_valid().await?.into_iter().collect();
                infos_to_copy(&*source, paths, Reach::Paths).await?
            }
            Selection::Named(arguments, reach) => {
                let mut paths = Vec::with_capacity(arguments.len());
                for argument in &arguments {
                    paths.push(self.follow(&*source, argument)?);
                }
                infos_to_copy(&*source, paths, reach).await?
            }
        };
        let target = match to {
            None => Target::Keeper(self.keeper().await?, request.signatures),
            Some(to) => Target::Store(self.host.store(Some(&to), self.options).await?),
        };
        let copy = Copy { source, infos, substitute: request.substitute };
        Ok(copy.run(target, Rehearsal::No, &mut self.console).await?)
    }

    async fn key(&mut self, request: KeyRequest) -> Result<(), CompatError> {
        match request {
            KeyRequest::Generate { name } => {
                let key = SecretKey::generate(&name)?;
                self.console.write(key.to_text().as_bytes()).await
            }
            KeyRequest::ToPublic => {
                let mut text = zeroize::Zeroizing::new(String::new());
                let mut input = self.host.stdin().take(MAX_KEY);
                input.read_to_string(&mut text).await.map_err(reading)?;
                let key: SecretKey = text.parse()?;
                self.console.write(key.public_key().to_string().as_bytes()).await
            }
        }
    }

    async fn show_derivations(
        &mut self,
        paths: Selection,
        format: Option<ShowFormat>,
        layout: Layout,
    ) -> Result<(), Stop> {
        let (store, paths) = self.selected(paths).await?;
        let mut derivations = Vec::new();
        for path in paths {
            let derivation = match path.is_derivation() {
                true => path,
                false => {
                    let info = crate::closure::path_info(&*store, &path).await?;
                    let shown = store.store_dir().display(&path);
                    info.deriver.ok_or_else(|| {
                        CompatError::failed(format!("'{shown}' does not have a known derivation"))
                    })?
                }
            };
            let read = read_derivation(&*store, &derivation).await?;
            derivations.push((derivation, read));
        }
        let newest = match self.is_pretty(layout) {
            true => ShowFormat::Nix2_34Pretty,
            false => ShowFormat::Nix2_34,
        };
        let shown = derivations.iter().map(|(path, derivation)| (path, derivation));
        let json = show_json(store.store_dir(), shown, format.unwrap_or(newest))?;
        Ok(self.console.line(json).await?)
    }

    async fn log(&mut self, argument: &OsStr) -> Result<(), Stop> {
        // `DRV^out` and `FLAKE#NAME` are the real one's
        if argument.as_bytes().contains(&b'^') {
            let error = CompatError::failed("outputs are not understood here");
            return Err(Stop::NoStorePath(error));
        }
        let store = self.keeper().await?;
        let path = self.follow(&*store, argument)?;
        let Some(mut log) = build_log(&*store, &path).await? else {
            let path = store.store_dir().display(&path);
            let message = format!("build log of '{path}' is not available");
            return Err(CompatError::failed(message).into());
        };
        while let Some(chunk) = log.chunk().await? {
            self.console.write(&chunk).await?;
        }
        Ok(())
    }
}
