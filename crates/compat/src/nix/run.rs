//! Carries out what `nix` is asked for.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use drover_core::{SecretKey, StorePath};
use drover_derivation::{ShowFormat, show_json};
use drover_store::{Keeper, Store, Trust};
use tokio::io::AsyncReadExt as _;

use super::parse::{NixCall, Words, parse, try_parse};
use super::path_info::print_path_infos;
use super::request::{KeyRequest, Layout, NixRequest, Selection};
use super::sign::{sign, verify};
use crate::closure::{closure, sorted_paths};
use crate::command::{Program, version};
use crate::console::Console;
use crate::copy_closure::Reach;
use crate::error::CompatError;
use crate::exit::ExitStatus;
use crate::export_format::reading;
use crate::foreign::is_in_foreign_store;
use crate::hash;
use crate::host::{Destination, Host};
use crate::installable::follow_to_store;
use crate::nix_store::{build_log, read_derivation};
use crate::options::{Options, Verbosity};
use crate::repair::Repairer;

/// Bytes that a key's text may have.
pub(super) const MAX_KEY: u64 = 4096;

/// Carries out a command line of `nix`; what isn't understood, or names something that is no store
/// path or a kind of store that isn't known here, goes to the real one.
pub(crate) async fn run_command_line(
    arguments: Vec<OsString>,
    host: &dyn Host,
) -> Result<ExitStatus, CompatError> {
    match parse(&arguments) {
        NixCall::Real => host.exec_real(Program::Nix.name(), &arguments).await,
        NixCall::Ours(options, request)
            if request.is_about_a_store() && is_in_foreign_store(&options, host) =>
        {
            host.exec_real(Program::Nix.name(), &arguments).await
        }
        NixCall::Ours(options, request) => match try_run(*request, &options, host).await? {
            Outcome::Done(status) => Ok(status),
            Outcome::ForTheReal(_) => host.exec_real(Program::Nix.name(), &arguments).await,
        },
    }
}

/// Carries out a command line that is drover's own and has the words of `nix`. Nothing of it goes to
/// another program.
pub(crate) async fn run_own_words(
    arguments: &[OsString],
    host: &dyn Host,
) -> Result<ExitStatus, CompatError> {
    let (options, request) = try_parse(arguments, Words::Own)?;
    run_nix_request(request, &options, host).await
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
        Outcome::ForTheReal(error) => Err(error),
    }
}

/// What became of a request.
enum Outcome {
    /// It is carried out.
    Done(ExitStatus),
    /// An argument is no store path, or a store of a kind that isn't known here; nothing was done.
    ForTheReal(CompatError),
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
    let console = Console::of(host, options);
    let mut session = Session { host, options, console };
    let outcome = session.carry_out(request).await;
    session.console.flush().await?;
    match outcome {
        Ok(status) => Ok(Outcome::Done(status)),
        Err(Stop::ForTheReal(error)) => Ok(Outcome::ForTheReal(error)),
        Err(Stop::Error(error)) => Err(error),
    }
}

/// Why a request ended early.
pub(super) enum Stop {
    ForTheReal(CompatError),
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
            NixRequest::Version => {
                for line in version(Program::Nix, self.options, self.host)? {
                    self.console.line(line).await?;
                }
            }
            NixRequest::StoreInfo(layout) => self.store_info(layout).await?,
            NixRequest::StoreGc { rehearsal, max_freed, layout } => {
                self.collect(rehearsal, max_freed, layout).await?;
            }
            NixRequest::StoreOptimise(layout) => self.optimise(layout).await?,
            NixRequest::StoreDelete { paths, liveness, layout } => {
                self.delete(paths, liveness, layout).await?;
            }
            NixRequest::StoreVerify(request) => return verify(self, request).await,
            NixRequest::StoreRepair(paths) => {
                let (store, paths) = self.selected(paths).await?;
                let repairer = Repairer { host: self.host, options: self.options, store };
                for path in paths {
                    repairer.repair(path, &mut self.console).await?;
                }
            }
            NixRequest::StoreSign { paths, key_file, layout } => {
                sign(self, paths, &key_file, layout).await?;
            }
            NixRequest::PathInfo(request) => {
                let (store, paths) = self.selected_in_store(request.paths).await?;
                print_path_infos(&*store, paths, request.style, self).await?;
            }
            NixRequest::Copy(request) => self.copy(request).await?,
            NixRequest::Key(request) => self.key(request).await?,
            NixRequest::ShowDerivation { paths, layout } => {
                self.show_derivations(paths, layout).await?;
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

    /// Tells what was done, as JSON.
    pub(super) async fn tell(
        &mut self,
        layout: Layout,
        told: serde_json::Value,
    ) -> Result<(), CompatError> {
        let text = match self.is_pretty(layout) {
            true => format!("{told:#}"),
            false => told.to_string(),
        };
        self.console.line(text).await
    }

    /// Returns whether JSON gets line feeds.
    pub(super) fn is_pretty(&self, layout: Layout) -> bool {
        match layout {
            Layout::JsonPretty => true,
            Layout::JsonCompact => false,
            Layout::Text | Layout::Json => self.host.destination() == Destination::Terminal,
        }
    }

    pub(super) fn follow(&self, store: &dyn Store, argument: &OsStr) -> Result<StorePath, Stop> {
        follow(store, argument, &self.host.working_dir())
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
            Selection::Derivations(arguments, reach) => {
                self.derivations(&*store, &arguments, reach).await?
            }
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
            paths.insert(follow(store, argument, &base)?);
        }
        match reach {
            Reach::Paths => Ok(paths),
            Reach::Closure => Ok(closure(store, paths).await?.into_keys().collect()),
        }
    }

    /// Returns what paths were built from, and derivations themselves.
    pub(super) async fn derivations(
        &self,
        store: &(impl Store + ?Sized),
        arguments: &[OsString],
        reach: Reach,
    ) -> Result<BTreeSet<StorePath>, Stop> {
        let mut paths = BTreeSet::new();
        for path in self.named(store, arguments, Reach::Paths).await? {
            paths.insert(derivation_of(store, path).await?);
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
        // what opens the files itself is this program
        let own = || (found.protocol == "local").then(|| self.host.nix_version());
        let version = found.nix_version.clone().or_else(own);
        let trusted = match found.trust {
            Trust::Unknown => None,
            Trust::Trusted => Some(true),
            Trust::NotTrusted => Some(false),
        };
        if layout == Layout::Text {
            if let Some(version) = version {
                self.console.say(Verbosity::NOTICE, &format!("Version: {version}")).await?;
            }
            if let Some(trusted) = trusted {
                let line = format!("Trusted: {}", u8::from(trusted));
                self.console.say(Verbosity::NOTICE, &line).await?;
            }
            return Ok(());
        }
        let mut told = serde_json::Map::from_iter([("url".to_owned(), url.into())]);
        told.extend(version.map(|version| ("version".to_owned(), version.into())));
        told.extend(trusted.map(|trusted| ("trusted".to_owned(), trusted.into())));
        self.tell(layout, serde_json::Value::Object(told)).await
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

    /// Shows derivations, and with a closure those among what they need, as
    /// `src/nix/derivation-show.cc` of Nix does.
    async fn show_derivations(&mut self, paths: Selection, layout: Layout) -> Result<(), Stop> {
        let store = self.keeper().await?;
        let mut paths = match paths {
            Selection::All => {
                let mut derivations = BTreeSet::new();
                for path in store.all_valid().await? {
                    derivations.insert(derivation_of(&*store, path).await?);
                }
                derivations
            }
            Selection::Named(arguments, reach) | Selection::Derivations(arguments, reach) => {
                self.derivations(&*store, &arguments, reach).await?
            }
        };
        paths.retain(StorePath::is_derivation);
        let mut derivations = Vec::with_capacity(paths.len());
        for path in paths {
            let read = read_derivation(&*store, &path).await?;
            derivations.push((path, read));
        }
        let format = match self.is_pretty(layout) {
            true => ShowFormat::Nix2_34Pretty,
            false => ShowFormat::Nix2_34,
        };
        let shown = derivations.iter().map(|(path, derivation)| (path, derivation));
        let json = show_json(store.store_dir(), shown, format)?;
        Ok(self.console.line(json).await?)
    }

    async fn log(&mut self, argument: &OsStr) -> Result<(), Stop> {
        // `DRV^out` and `FLAKE#NAME` are the real one's
        if argument.as_bytes().contains(&b'^') {
            let error = CompatError::failed("outputs are not understood here");
            return Err(Stop::ForTheReal(error));
        }
        let store = self.keeper().await?;
        let path = self.follow(&*store, argument)?;
        let Some(mut log) = build_log(&*store, &path).await? else {
            let path = store.store_dir().display(&path);
            let message = format!("build log of '{path}' is not available");
            // the real one also asks substituters
            return Err(Stop::ForTheReal(CompatError::failed(message)));
        };
        while let Some(chunk) = log.chunk().await? {
            self.console.write(&chunk).await?;
        }
        Ok(())
    }
}

/// Returns the store path that an argument leads to. A word without a slash names a flake.
fn follow(store: &(impl Store + ?Sized), argument: &OsStr, base: &Path) -> Result<StorePath, Stop> {
    if !argument.as_bytes().contains(&b'/') {
        let message = format!("'{}' is not a path", argument.display());
        return Err(Stop::ForTheReal(CompatError::failed(message)));
    }
    follow_to_store(store.store_dir(), argument, base).map_err(Stop::ForTheReal)
}

/// Returns what a path was built from; a derivation stands for itself.
async fn derivation_of(
    store: &(impl Store + ?Sized),
    path: StorePath,
) -> Result<StorePath, CompatError> {
    if path.is_derivation() {
        return Ok(path);
    }
    let info = crate::closure::path_info(store, &path).await?;
    info.deriver.ok_or_else(|| {
        let shown = store.store_dir().display(&path);
        CompatError::failed(format!("'{shown}' does not have a known derivation"))
    })
}
