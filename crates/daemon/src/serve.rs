//! The server of the serve protocol: `nix-store --serve`, behind `ssh://`.
//!
//! Follows `opServe` in `src/nix/nix-store/nix-store.cc` of Nix. What goes wrong has no words in this
//! protocol, builds apart: it ends the connection, and the caller prints it to standard error.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use drover_core::{PathInfo, StorePath};
use drover_derivation::BasicDerivation;
use drover_store::{
    AfterFailure, BuildMode, BuildSettings, Keeper, RealiseObserver, RealiseSettings,
    SignatureCheck, StoreError, Substitute, WhenValid, exit_code,
};
use drover_wire::{
    BuildResult, Dialect, Encoder, Lock, SERVE_LATEST, ServeBuildOptions, ServeDialect,
    ServeRequest, WORKER_OLDEST, encode_serve_build_result, encode_serve_path_infos,
    read_serve_client_hello, serve_server_hello,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use crate::connection::{Input, Output};
use crate::error::DaemonError;
use crate::failure::Failure;
use crate::feed::{Feeder, sized_nar};
use crate::import::next_exported;
use crate::log_queue::LogQueue;
use crate::made::Making;
use crate::nar_out::NarOut;
use crate::realise::{build_result, known_by};
use crate::server::{Server, Shared};
use crate::stream::pieces;
use crate::wires::{Wires, run_fed};

/// Whether clients may add and build (`--write`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteAccess {
    /// They may.
    Allowed,
    /// They may only look.
    Denied,
}

/// A server of the serve protocol. Whoever reaches it is trusted as far as it goes.
pub struct ServeServer {
    shared: Arc<Shared>,
    write: WriteAccess,
    observer: Arc<dyn RealiseObserver>,
}

impl ServeServer {
    /// Returns a server over the store of `server`; `observer` hears of builds, as clients don't.
    pub fn new(
        server: &Server,
        write: WriteAccess,
        observer: Arc<dyn RealiseObserver>,
    ) -> ServeServer {
        ServeServer { shared: Arc::clone(&server.shared), write, observer }
    }

    /// Serves one client until it goes. Dropping the future ends what is done for it.
    ///
    /// # Errors
    ///
    /// What is to be printed to standard error: the client hasn't been told.
    pub async fn serve<R, W>(&self, input: R, output: W) -> Result<(), DaemonError>
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let limits = self.shared.limits;
        let mut wires = Wires {
            input: Input::new(Box::new(input), limits),
            output: Output::new(Box::new(output), limits),
            log: Arc::new(LogQueue::new(WORKER_OLDEST.minor)),
        };
        wires.output.push(&serve_server_hello());
        wires.output.flush().await?;
        let version = timeout(limits.handshake, wires.input.message(read_serve_client_hello))
            .await
            .map_err(|_| DaemonError::TooSlow { doing: "greeting" })??;
        tracing::debug!(%version, latest = %SERVE_LATEST, "serving");
        let keeper = self.shared.keeper().session().await?;
        let store_dir = keeper.store_dir().clone();
        let dialect = ServeDialect { store_dir, version };
        Serving { server: self, dialect, keeper, wires }.run().await
    }
}

/// One connection.
struct Serving<'a> {
    server: &'a ServeServer,
    dialect: ServeDialect,
    keeper: Arc<dyn Keeper>,
    wires: Wires,
}

impl Serving<'_> {
    async fn run(mut self) -> Result<(), DaemonError> {
        loop {
            if !self.wires.input.has_more() {
                self.wires.output.flush().await?;
                self.wires.input.rest();
                let next = tokio::select! {
                    biased;
                    next = self.wires.input.next() => next?,
                    () = self.server.shared.said_farewell() => false,
                };
                if !next {
                    return self.wires.output.close().await;
                }
            }
            let dialect = &self.dialect;
            let request =
                self.wires.input.message(|from| ServeRequest::decode(from, dialect)).await?;
            self.perform(request).await?;
        }
    }

    async fn perform(&mut self, request: ServeRequest) -> Result<(), DaemonError> {
        match request {
            ServeRequest::QueryValidPaths(lock, substitute, paths) => {
                let valid = self.valid(lock, substitute, paths).await?;
                self.reply(|out, dialect| out.paths(&dialect.store_dir, &valid));
            }
            ServeRequest::QueryPathInfos(paths) => {
                let paths: Vec<StorePath> = paths.into_iter().collect();
                let keeper = Arc::clone(&self.keeper);
                let infos = self.work(async move { keeper.path_infos(&paths).await }).await?;
                let infos: Vec<PathInfo> = infos.into_iter().flatten().collect();
                self.reply(|out, dialect| encode_serve_path_infos(out, dialect, &infos));
            }
            ServeRequest::DumpStorePath(path) => {
                let keeper = Arc::clone(&self.keeper);
                let nar = self.work(async move { NarOut::open(&*keeper, &path).await }).await?;
                nar.send(&mut self.wires.output).await?;
            }
            ServeRequest::ImportPaths => self.import().await?,
            ServeRequest::BuildPaths(paths, options) => self.build_paths(&paths, options).await?,
            ServeRequest::QueryClosure(paths) => self.closure(paths, Outputs::Without).await?,
            ServeRequest::QueryClosureWithOutputs(paths) => {
                self.closure(paths, Outputs::With).await?;
            }
            ServeRequest::BuildDerivation(path, derivation, options) => {
                self.build_derivation(path, *derivation, options).await?;
            }
            ServeRequest::AddToStoreNar(info) => self.add_nar(info).await?,
            ServeRequest::Unknown(command) => {
                let why = match command {
                    5 => ": exporting paths was removed from the protocol; dump them one by one",
                    _ => "",
                };
                let what = format!("unknown serve command {command}{why}");
                return Err(DaemonError::NotOffered { what });
            }
        }
        Ok(())
    }

    fn reply(&mut self, encode: impl FnOnce(&mut Encoder, &ServeDialect)) {
        let mut out = Encoder::new();
        encode(&mut out, &self.dialect);
        self.wires.output.push(&out.into_bytes());
    }

    /// Waits for the store. What goes wrong ends the connection.
    async fn work<T>(
        &mut self,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, DaemonError> {
        let result = self.wires.run(self.server.shared.limits, work).await?;
        result.map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &StoreError) -> DaemonError {
        let message = Failure::of(&self.dialect.store_dir, error).message;
        DaemonError::Failed { message }
    }

    fn may_write(&self, refusal: &str) -> Result<(), DaemonError> {
        match self.server.write {
            WriteAccess::Allowed => Ok(()),
            WriteAccess::Denied => Err(DaemonError::Failed { message: refusal.to_owned() }),
        }
    }

    async fn valid(
        &mut self,
        lock: Lock,
        substitute: Substitute,
        paths: BTreeSet<StorePath>,
    ) -> Result<BTreeSet<StorePath>, DaemonError> {
        let keeper = Arc::clone(&self.keeper);
        let write = self.server.write == WriteAccess::Allowed;
        let fetch = match (substitute, write) {
            (Substitute::Yes, true) => Substitute::Yes,
            _ => Substitute::No,
        };
        if fetch == Substitute::Yes || (lock == Lock::Yes && write) {
            return self.work(async move { keeper.hold_valid(&paths, fetch).await }).await;
        }
        self.work(async move { keeper.valid(&paths).await }).await
    }

    async fn closure(
        &mut self,
        paths: BTreeSet<StorePath>,
        outputs: Outputs,
    ) -> Result<(), DaemonError> {
        let keeper = Arc::clone(&self.keeper);
        let closure = self.work(async move { closure(&*keeper, paths, outputs).await }).await?;
        self.reply(|out, dialect| out.paths(&dialect.store_dir, &closure));
        Ok(())
    }

    async fn import(&mut self) -> Result<(), DaemonError> {
        self.may_write("importing paths is not allowed")?;
        let store_dir = self.dialect.store_dir.clone();
        while let Some(path) = next_exported(&mut self.wires.input, &store_dir).await? {
            let keeper = Arc::clone(&self.keeper);
            self.work(async move {
                let (signatures, when_valid) = (SignatureCheck::Skip, WhenValid::Keep);
                keeper.add_paths(Box::new(path), signatures, when_valid).await
            })
            .await?;
        }
        self.reply(|out, _| out.number(1));
        Ok(())
    }

    async fn add_nar(&mut self, mut info: PathInfo) -> Result<(), DaemonError> {
        self.may_write("importing paths is not allowed")?;
        if info.nar_size.0 == 0 {
            let message = "narInfo is too old and missing the narSize field".to_owned();
            return Err(DaemonError::Failed { message });
        }
        info.ultimate = false;
        let (queue, path) = pieces(1);
        let (failed, drain) = (Arc::new(AtomicBool::new(false)), self.server.shared.limits.drain);
        let feeder = Feeder { queue, failed: Arc::clone(&failed), drain };
        let keeper = Arc::clone(&self.keeper);
        let work = async move {
            let (signatures, when_valid) = (SignatureCheck::Skip, WhenValid::Keep);
            // the client can't be told before its NAR has ended
            Ok(keeper.add_paths(Box::new(path), signatures, when_valid).await)
        };
        let Wires { input, output, log } = &mut self.wires;
        let feed = sized_nar(input, feeder, info);
        let added = run_fed(output, log, WORKER_OLDEST.minor, &failed, work, feed).await?;
        if let Some(Err(error)) = added {
            return Err(self.failed(&error));
        }
        self.reply(|out, _| out.number(1));
        Ok(())
    }

    async fn build_paths(
        &mut self,
        paths: &[String],
        options: ServeBuildOptions,
    ) -> Result<(), DaemonError> {
        self.may_write("building paths is not allowed")?;
        // a bare derivation stands for all its outputs, as in old versions of the other protocol
        let dialect = Dialect {
            store_dir: self.dialect.store_dir.clone(),
            version: WORKER_OLDEST,
            features: BTreeSet::new(),
        };
        let parse = |path: &String| drover_wire::DerivedPath::parse(path, &dialect);
        let paths = paths.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        let shared = Arc::clone(&self.server.shared);
        let (keeper, observer) = (Arc::clone(&self.keeper), Arc::clone(&self.server.observer));
        let settings = settings(options);
        let work = async move {
            let realiser = &*shared.realiser;
            Making { realiser, keeper, settings, observer }.realise(&paths).await
        };
        let result = self.wires.run(self.server.shared.limits, work).await?;
        let (status, message) = match result {
            Err(error) => (1, Failure::of(&self.dialect.store_dir, &error).message),
            Ok(realised) => {
                let failed: Vec<_> =
                    realised.iter().filter(|each| !each.status.is_success()).collect();
                let messages: Vec<&str> =
                    failed.iter().map(|realised| realised.message.as_str()).collect();
                match failed.is_empty() {
                    true => (0, String::new()),
                    false => {
                        let causes = failed.iter().filter_map(|realised| realised.status.failure());
                        (u64::from(exit_code(causes)), messages.join("\n"))
                    }
                }
            }
        };
        self.reply(|out, _| {
            out.number(status);
            if status != 0 {
                out.text(&message);
            }
        });
        Ok(())
    }

    async fn build_derivation(
        &mut self,
        path: StorePath,
        derivation: BasicDerivation,
        options: ServeBuildOptions,
    ) -> Result<(), DaemonError> {
        self.may_write("building paths is not allowed")?;
        let shared = Arc::clone(&self.server.shared);
        let (keeper, observer) = (Arc::clone(&self.keeper), Arc::clone(&self.server.observer));
        let known_by = known_by(&self.dialect.store_dir, &derivation);
        let work = async move {
            let wanted = (path, derivation);
            shared.realiser.build_derivation(keeper, wanted, settings(options), observer).await
        };
        let realised = self.work(work).await?;
        let result = BuildResult { known_by, ..build_result(realised, None) };
        self.reply(|out, dialect| encode_serve_build_result(out, dialect, &result));
        Ok(())
    }
}

/// Returns what the protocol knows of settings; substituters are the client's business.
fn settings(options: ServeBuildOptions) -> RealiseSettings {
    let seconds = |number: u64| (number > 0).then(|| Duration::from_secs(number));
    let mut build = BuildSettings {
        timeout: seconds(options.timeout),
        max_silent_time: seconds(options.max_silent_time),
        keep_failed: options.keep_failed,
        ..BuildSettings::default()
    };
    if options.max_log_size > 0 {
        let size = options.max_log_size.to_string();
        build.overrides.insert("max-build-log-size".to_owned(), size);
    }
    RealiseSettings {
        mode: BuildMode::Normal,
        after_failure: AfterFailure::Stop,
        substitute: Substitute::No,
        build,
        client: None,
    }
}

/// Whether a closure goes from derivations to their outputs, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outputs {
    With,
    Without,
}

async fn closure(
    keeper: &dyn Keeper,
    paths: BTreeSet<StorePath>,
    outputs: Outputs,
) -> Result<BTreeSet<StorePath>, StoreError> {
    let mut closure = BTreeSet::new();
    let mut wanted: Vec<StorePath> = paths.into_iter().collect();
    // outputs needn't be valid; what is asked for and what it refers to has to be
    let mut maybe: Vec<StorePath> = Vec::new();
    while !wanted.is_empty() || !maybe.is_empty() {
        if wanted.is_empty() {
            let infos = keeper.path_infos(&maybe).await?;
            wanted =
                maybe.drain(..).zip(infos).filter_map(|(path, info)| info.map(|_| path)).collect();
            continue;
        }
        let infos = keeper.path_infos(&wanted).await?;
        let mut next = BTreeSet::new();
        for (path, info) in wanted.drain(..).zip(infos) {
            let store = || keeper.name().to_owned();
            let info =
                info.ok_or_else(|| StoreError::NotValid { store: store(), path: path.clone() })?;
            next.extend(info.references);
            if outputs == Outputs::With && path.is_derivation() {
                maybe.extend(keeper.output_map(&path).await?.into_values().flatten());
            }
            closure.insert(path);
        }
        wanted = next.into_iter().filter(|path| !closure.contains(path)).collect();
        maybe.retain(|path| !closure.contains(path));
    }
    Ok(closure)
}
