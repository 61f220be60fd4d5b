//! Carries out what `nix-store` is asked for.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::sync::Arc;

use drover_core::{HashAlgorithm, Hasher, PathInfo, StorePath};
use drover_store::{CollectAction, Collection, Keeper, Liveness, Repair, Unmended, VerifyDepth};
use serde_json::json;
use tokio::io::AsyncReadExt as _;

use super::keep::Roots;
use super::parse::{StoreCall, Words};
use super::request::{Collect, Invalid, Operation, StoreRequest};
use super::{files, keep, query, registration, transfer};
use crate::closure::{closure, not_valid, path_info};
use crate::console::Console;
use crate::error::CompatError;
use crate::exit::ExitStatus;
use crate::export_format::reading;
use crate::garbage;
use crate::host::Host;
use crate::installable::{absolute, follow_to_store};
use crate::options::{Options, Verbosity};
use crate::repair::Repairer;
use crate::size::render_size;

/// Bytes of words that standard input may have.
const MAX_WORDS: u64 = 256 << 20;

/// Carries out a call, with the words of standard input where it asks for them.
pub(crate) async fn run(
    mut call: StoreCall,
    options: &Options,
    host: &dyn Host,
) -> Result<ExitStatus, CompatError> {
    if call.words == Words::FromInput {
        read_words(host, &mut call.arguments).await?;
    }
    run_store_request(call.request()?, options, host).await
}

async fn read_words(host: &dyn Host, words: &mut VecDeque<OsString>) -> Result<(), CompatError> {
    let mut bytes = Vec::new();
    host.stdin().take(MAX_WORDS + 1).read_to_end(&mut bytes).await.map_err(reading)?;
    if bytes.len() as u64 > MAX_WORDS {
        return Err(CompatError::failed("more than 256 MiB of paths on standard input"));
    }
    let found = bytes.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    words.extend(found.map(|word| OsString::from_vec(word.to_vec())));
    Ok(())
}

/// What a request is carried out with.
pub(super) struct Session<'a> {
    pub(super) host: &'a dyn Host,
    pub(super) options: &'a Options,
    pub(super) store: Arc<dyn Keeper>,
    pub(super) console: Console,
}

/// Carries out a request to `nix-store`.
///
/// # Errors
///
/// Whatever goes wrong, in Nix's words; nothing has been printed of it.
pub async fn run_store_request(
    request: StoreRequest,
    options: &Options,
    host: &dyn Host,
) -> Result<ExitStatus, CompatError> {
    let mut console = Console::of(host, options);
    // these need no store
    match &request.operation {
        Operation::Dump(path) => {
            files::dump(absolute(path, &host.working_dir()), &mut console).await?;
            return Ok(ExitStatus::SUCCESS);
        }
        Operation::Restore(path) => {
            let path = host.working_dir().join(path);
            crate::unpack::unpack(host.stdin(), path).await?;
            return Ok(ExitStatus::SUCCESS);
        }
        Operation::GenerateKey { name, secret_file, public_file } => {
            files::generate_key(name, secret_file, public_file)?;
            return Ok(ExitStatus::SUCCESS);
        }
        Operation::Serve(access) => return host.run_serve(*access, options).await,
        _ => {}
    }
    let store = host.keeper(None, options).await?.session().await?;
    let mut session = Session { host, options, store, console };
    let outcome = session.carry_out(request).await;
    if outcome.is_ok() {
        session.console.finish_list().await?;
    }
    session.console.flush().await?;
    outcome
}

impl Session<'_> {
    async fn carry_out(&mut self, request: StoreRequest) -> Result<ExitStatus, CompatError> {
        let roots = Roots::new(request.root);
        match request.operation {
            Operation::Realise(realise) => {
                keep::realise(self, realise, request.results, roots).await?;
            }
            Operation::Query(query) => query::query(self, query, roots).await?,
            Operation::Add { method, algorithm, files } => {
                files::add(self, method, algorithm, files).await?;
            }
            Operation::PrintFixedPath { method, hash, name } => {
                files::print_fixed_path(self, method, hash, &name).await?;
            }
            Operation::PrintEnvironment(path) => query::print_environment(self, &path).await?,
            Operation::ReadLog(paths) => query::read_log(self, &paths).await?,
            Operation::DumpDatabase(paths) => registration::dump(self, &paths).await?,
            Operation::Register { registered, adoption } => {
                registration::register(self, registered, adoption).await?;
            }
            Operation::CheckValidity { invalid, paths } => {
                self.check_validity(invalid, &paths).await?;
            }
            Operation::Collect(collect) => self.collect(collect).await?,
            Operation::Delete { liveness, paths } => self.delete(liveness, &paths).await?,
            Operation::Export(paths) => {
                let paths = self.follow_all(&paths)?;
                transfer::export(&*self.store, paths, &mut self.console).await?;
            }
            Operation::Import => {
                for path in transfer::import(&self.store, self.host.stdin()).await? {
                    self.print_path(&path).await?;
                }
            }
            Operation::Verify { depth, repair } => return self.verify(depth, repair).await,
            Operation::VerifyPaths(paths) => return self.verify_paths(&paths).await,
            Operation::RepairPaths(paths) => self.repair_paths(&paths).await?,
            Operation::Optimise => {
                let saved = render_size(self.store.optimise().await?);
                let line = format!("{saved} freed by hard-linking");
                self.console.say(Verbosity::INFO, &line).await?;
            }
            // a store of this machine is made where it is absent
            Operation::Initialise => drop(self.store.connect().await?),
            Operation::Dump(_)
            | Operation::Restore(_)
            | Operation::GenerateKey { .. }
            | Operation::Serve(_) => {}
        }
        Ok(ExitStatus::SUCCESS)
    }

    /// Returns the store path that an argument names.
    pub(super) fn follow(&self, argument: &OsStr) -> Result<StorePath, CompatError> {
        follow_to_store(self.store.store_dir(), argument, &self.host.working_dir())
    }

    pub(super) fn follow_all(
        &self,
        arguments: &[OsString],
    ) -> Result<BTreeSet<StorePath>, CompatError> {
        arguments.iter().map(|argument| self.follow(argument)).collect()
    }

    pub(super) fn shown(&self, path: &StorePath) -> String {
        self.store.store_dir().display(path)
    }

    pub(super) async fn print_path(&mut self, path: &StorePath) -> Result<(), CompatError> {
        let shown = self.shown(path);
        self.console.line(shown).await
    }

    async fn check_validity(
        &mut self,
        invalid: Invalid,
        paths: &[OsString],
    ) -> Result<(), CompatError> {
        let paths: Vec<StorePath> =
            paths.iter().map(|path| self.follow(path)).collect::<Result<_, _>>()?;
        let infos = self.store.path_infos(&paths).await?;
        for (path, info) in paths.iter().zip(infos) {
            match (info, invalid) {
                (Some(_), _) => {}
                (None, Invalid::Print) => self.print_path(path).await?,
                (None, Invalid::Refuse) => return Err(not_valid(self.store.store_dir(), path)),
            }
        }
        Ok(())
    }

    async fn collect(&mut self, collect: Collect) -> Result<(), CompatError> {
        let (store, console) = (&*self.store, &mut self.console);
        match collect {
            Collect::PrintRoots => {
                for (link, path) in store.roots().await? {
                    let path = store.store_dir().display(&path);
                    let line = format!("{} -> {path}", quoted(&link));
                    console.line_or(&line, json!({ "link": link, "path": path })).await?;
                }
                Ok(())
            }
            Collect::PrintLive => garbage::list(store, CollectAction::ListLive, console).await,
            Collect::PrintDead => garbage::list(store, CollectAction::ListDead, console).await,
            Collect::Delete { max_freed } => {
                let collection = garbage::whole(CollectAction::DeleteDead, max_freed);
                garbage::delete(store, collection, console).await
            }
        }
    }

    async fn delete(&mut self, liveness: Liveness, paths: &[OsString]) -> Result<(), CompatError> {
        let collection = Collection {
            action: CollectAction::DeleteGiven,
            liveness,
            paths: self.follow_all(paths)?,
            max_freed: None,
        };
        garbage::delete(&*self.store, collection, &mut self.console).await
    }

    async fn verify(
        &mut self,
        depth: VerifyDepth,
        repair: Repair,
    ) -> Result<ExitStatus, CompatError> {
        self.console.say(Verbosity::INFO, "reading the Nix store...").await?;
        let found = self.store.verify(depth, repair).await?;
        for problem in &found.problems {
            self.console.say(Verbosity::ERROR, problem).await?;
        }
        let mut errors_left = found.errors_left;
        for Unmended { path, .. } in found.unmended {
            let store = self.store.clone();
            let repairer = Repairer { host: self.host, options: self.options, store };
            if let Err(error) = repairer.build_again(path, &mut self.console).await {
                self.console.say(Verbosity::ERROR, &error.to_string()).await?;
                errors_left = true;
            }
        }
        if !errors_left {
            return Ok(ExitStatus::SUCCESS);
        }
        self.console.warn("not all store errors were fixed").await?;
        Ok(ExitStatus::FAILURE)
    }

    async fn verify_paths(&mut self, paths: &[OsString]) -> Result<ExitStatus, CompatError> {
        let mut status = ExitStatus::SUCCESS;
        for argument in paths {
            let path = self.follow(argument)?;
            let line = format!("checking path '{}'...", self.shown(&path));
            self.console.say(Verbosity::TALKATIVE, &line).await?;
            let info = path_info(&*self.store, &path).await?;
            if let Some(problem) = modified(&*self.store, &info).await? {
                self.console.say(Verbosity::ERROR, &problem).await?;
                status = ExitStatus::FAILURE;
            }
        }
        Ok(status)
    }

    async fn repair_paths(&mut self, paths: &[OsString]) -> Result<(), CompatError> {
        let store = self.store.clone();
        let repairer = Repairer { host: self.host, options: self.options, store };
        for path in self.follow_all(paths)? {
            repairer.repair(path, &mut self.console).await?;
        }
        Ok(())
    }

    /// Returns the derivation that a path is, or was built from.
    pub(super) async fn deriver_of(&self, path: StorePath) -> Result<StorePath, CompatError> {
        if path.is_derivation() {
            return Ok(path);
        }
        let unknown =
            || CompatError::failed(format!("deriver of path '{}' is not known", self.shown(&path)));
        path_info(&*self.store, &path).await?.deriver.ok_or_else(unknown)
    }

    /// Returns the infos of all that paths refer to.
    pub(super) async fn requisites(
        &self,
        paths: BTreeSet<StorePath>,
    ) -> Result<BTreeSet<StorePath>, CompatError> {
        Ok(closure(&*self.store, paths).await?.into_keys().collect())
    }
}

/// Returns a file's name as Nix prints it since 2.34, in quotes (`std::quoted`); older releases print
/// it bare.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Says what Nix says of a path whose contents are not those registered.
pub(crate) async fn modified(
    store: &dyn Keeper,
    info: &PathInfo,
) -> Result<Option<String>, CompatError> {
    use drover_store::StoreError;

    // the store's own check speaks of the first difference, so the hash is taken here where it can
    let mut hasher = Hasher::new(HashAlgorithm::Sha256);
    let mut stream = store.export(vec![info.clone()]).await?;
    let mut actual = None;
    if stream.next_path().await?.is_some() {
        loop {
            match stream.chunk().await {
                Ok(Some(chunk)) => hasher.update(&chunk),
                Ok(None) => break,
                Err(StoreError::HashMismatch { actual: found, .. }) => {
                    actual = Some(found.to_string());
                    break;
                }
                Err(StoreError::SizeMismatch { .. }) => {
                    actual = Some("one of another size".to_owned());
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    let whole = hasher.finish();
    if actual.is_none() && whole == info.nar_hash.to_hash() {
        return Ok(None);
    }
    Ok(Some(format!(
        "path '{}' was modified! expected hash '{}', got '{}'",
        store.store_dir().display(&info.path),
        info.nar_hash,
        actual.unwrap_or_else(|| whole.display(drover_core::HashNotation::Base32)),
    )))
}

/// Reads a derivation that must be valid.
pub(crate) async fn read_derivation(
    store: &dyn Keeper,
    path: &StorePath,
) -> Result<drover_derivation::Derivation, CompatError> {
    let shown = store.store_dir().display(path);
    let name = drover_derivation::derivation_name(path)
        .ok_or_else(|| CompatError::failed(format!("path '{shown}' is not a derivation")))?;
    path_info(store, path).await?;
    let bytes = store.read_files(std::slice::from_ref(path)).await?;
    let bytes = bytes.into_iter().next().unwrap_or_default();
    Ok(drover_derivation::Derivation::parse_aterm(store.store_dir(), &name, &bytes)?)
}

/// Returns an argument's bytes as a store path of this store, without following links.
pub(super) fn parse_path(store: &dyn Keeper, argument: &OsStr) -> Result<StorePath, CompatError> {
    let text = std::str::from_utf8(argument.as_bytes()).map_err(|_| {
        CompatError::failed(format!("path '{}' is not in the Nix store", argument.display()))
    })?;
    Ok(store.store_dir().parse(text)?)
}
