//! One connection: the greeting, and one request after another.
//!
//! Follows `processConnection` in `src/libstore/daemon.cc` of Nix. Work is a future that this polls
//! beside the connection: it ends with the connection, and tells through a queue what it has to tell.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use drover_store::{Keeper, StoreError};
use drover_wire::{
    Dialect, Encoder, FEATURE_REALISATION_WITH_PATH, LogMessage, Request, Response, ServerInfo,
    Trust, WORKER_LATEST, exchanges_features, read_client_end, read_client_magic,
    read_client_version, read_features, refused_operation, server_hello, write_features,
    write_server_info,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until, timeout};

use crate::answer::Context;
use crate::connection::{Input, Output};
use crate::error::DaemonError;
use crate::failure::Failure;
use crate::log_queue::{Level, LogQueue};
use crate::server::{Client, ClientTrust, Shared};
use crate::settings::Settings;

pub(crate) const FEATURES: &[&str] = &[FEATURE_REALISATION_WITH_PATH];

/// Bytes of answers that may wait while requests are at hand.
const MAX_BATCH: usize = 64 * 1024;

/// The two directions of a connection, and what is to be told.
pub(crate) struct Wires {
    pub(crate) input: Input,
    pub(crate) output: Output,
    pub(crate) log: Arc<LogQueue>,
}

/// One connection.
pub(crate) struct Session {
    pub(crate) shared: Arc<Shared>,
    pub(crate) client: Client,
    pub(crate) dialect: Arc<Dialect>,
    pub(crate) wires: Wires,
    pub(crate) settings: Settings,
    /// The view of the store whose temporary roots end with the connection.
    keeper: Option<Arc<dyn Keeper>>,
}

impl Session {
    /// Exchanges the first words.
    pub(crate) async fn greet(
        shared: Arc<Shared>,
        client: Client,
        input: Box<dyn AsyncRead + Send + Unpin>,
        output: Box<dyn AsyncWrite + Send + Unpin>,
    ) -> Result<Session, DaemonError> {
        let mut input = Input::new(input, shared.limits);
        let mut output = Output::new(output, shared.limits);
        let greeting = agree(&mut input, &mut output, &shared, &client);
        let dialect = timeout(shared.limits.handshake, greeting)
            .await
            .map_err(|_| DaemonError::TooSlow { doing: "greeting" })??;
        let log = Arc::new(LogQueue::new(dialect.version.minor));
        let settings = Settings::of(&shared.policy.borrow());
        Ok(Session {
            shared,
            client,
            dialect: Arc::new(dialect),
            wires: Wires { input, output, log },
            settings,
            keeper: None,
        })
    }

    /// Answers requests until the client goes.
    pub(crate) async fn serve(mut self) -> Result<(), DaemonError> {
        loop {
            if !self.wires.input.has_more() {
                self.wires.output.flush().await?;
                self.wires.input.rest();
                let shared = Arc::clone(&self.shared);
                let next = tokio::select! {
                    biased;
                    next = self.wires.input.next() => next?,
                    () = shared.said_farewell() => false,
                };
                if !next {
                    return self.wires.output.close().await;
                }
            }
            if self.wires.output.pending() > MAX_BATCH {
                self.wires.output.flush().await?;
            }
            if let Err(error) = self.next_request().await {
                return Err(self.give_up(error).await);
            }
        }
    }

    async fn next_request(&mut self) -> Result<(), DaemonError> {
        let dialect = Arc::clone(&self.dialect);
        let request = self.wires.input.message(|from| Request::decode(from, &dialect)).await?;
        let operation = request.operation();
        tracing::debug!(operation, "request");
        let performing = || format!("performing daemon worker op: {operation}");
        self.wires.log.tell_with(Level::Debug, performing);
        match request {
            Request::SetOptions(options) => {
                let policy = Arc::clone(&self.shared.policy.borrow());
                self.settings.apply(&options, self.client.trust, &policy, &self.wires.log);
                if let Some(keeper) = &self.keeper {
                    keeper.set_own(&self.settings.store);
                }
                self.reply(Ok(Response::Nothing));
                Ok(())
            }
            Request::Unknown(operation) => Err(not_offered(operation)),
            Request::QueryAllValidPaths => self.list_all().await,
            Request::AddToStore(content) => self.add_content(content).await,
            Request::AddToStoreNar(..)
            | Request::RepairToStoreNar(..)
            | Request::AddMultipleToStore(_)
            | Request::RepairMultipleToStore(_) => self.add_paths(request).await,
            Request::AddBuildLog(path) => self.add_build_log(path).await,
            Request::NarFromPath(path) => self.nar_from_path(path).await,
            request => {
                let context = self.context().await?;
                let result = self.wires.run(self.shared.limits, context.answer(request)).await?;
                self.reply(result);
                Ok(())
            }
        }
    }

    /// Tells all valid paths. The list of a large store is large, so the turn at it lasts until the
    /// client has taken it.
    async fn list_all(&mut self) -> Result<(), DaemonError> {
        let context = self.context().await?;
        let turns = Arc::clone(&context.shared);
        let work = async {
            let turn = turns.turns.take(&context.client).await;
            let all = context.keeper.all_valid().await;
            (turn, context.told(all).map(Response::Paths))
        };
        let (turn, result) = self.wires.run(self.shared.limits, work).await?;
        self.reply(result);
        self.wires.output.flush().await?;
        drop(turn);
        Ok(())
    }

    /// Returns what operations work with.
    pub(crate) async fn context(&mut self) -> Result<Context, StoreError> {
        let keeper = match &self.keeper {
            Some(keeper) => Arc::clone(keeper),
            None => {
                let keeper = self.shared.keeper().session().await?;
                keeper.set_own(&self.settings.store);
                self.keeper = Some(Arc::clone(&keeper));
                keeper
            }
        };
        Ok(Context {
            shared: Arc::clone(&self.shared),
            keeper,
            client: self.client.clone(),
            dialect: Arc::clone(&self.dialect),
            log: Arc::clone(&self.wires.log),
            settings: self.settings.clone(),
        })
    }

    /// Puts an answer behind what was told.
    pub(crate) fn reply(&mut self, result: Result<Response, Failure>) {
        self.wires.reply(&self.dialect, result);
    }

    /// Tells the client why the connection ends, where there is a way to.
    async fn give_up(&mut self, error: DaemonError) -> DaemonError {
        let failure = match &error {
            DaemonError::Lost { .. } => return error,
            DaemonError::NotOffered { what } => Failure::new(what.clone()),
            DaemonError::Store(error) => Failure::of(&self.dialect.store_dir, error),
            error => Failure::new(error.to_string()),
        };
        self.reply(Err(failure));
        match self.wires.output.close().await {
            Ok(()) => error,
            Err(_) => error,
        }
    }
}

pub(crate) fn not_offered(operation: u64) -> DaemonError {
    let why = refused_operation(operation).map(|why| format!(": {why}")).unwrap_or_default();
    DaemonError::NotOffered { what: format!("invalid operation {operation}{why}") }
}

async fn agree(
    input: &mut Input,
    output: &mut Output,
    shared: &Shared,
    client: &Client,
) -> Result<Dialect, DaemonError> {
    input.message(read_client_magic).await?;
    output.push(&server_hello(WORKER_LATEST));
    output.flush().await?;
    let version = match input.message(|from| read_client_version(from, WORKER_LATEST)).await {
        Err(DaemonError::Decode(error)) => {
            // every version understands an error of old
            let mut out = Encoder::new();
            LogMessage::Error(Failure::new(error.to_string()).to_remote()).encode(&mut out, 0);
            output.push(&out.into_bytes());
            output.close().await?;
            return Err(error.into());
        }
        version => version?,
    };
    let mut features = std::collections::BTreeSet::new();
    if exchanges_features(version) {
        features = input.message(|from| read_features(from, FEATURES)).await?;
        let mut out = Encoder::new();
        write_features(&mut out, FEATURES);
        output.push(&out.into_bytes());
        output.flush().await?;
    }
    input.message(read_client_end).await?;
    let trust = match client.trust {
        ClientTrust::Trusted => Trust::Trusted,
        ClientTrust::NotTrusted => Trust::NotTrusted,
    };
    let info = ServerInfo { nix_version: Some(shared.nix_version.clone()), trust };
    let dialect = Dialect { store_dir: shared.keeper().store_dir().clone(), version, features };
    let mut out = Encoder::new();
    write_server_info(&mut out, &dialect, &info);
    LogMessage::Last.encode(&mut out, version.minor);
    output.push(&out.into_bytes());
    Ok(dialect)
}

impl Wires {
    pub(crate) fn reply(&mut self, dialect: &Dialect, result: Result<Response, Failure>) {
        self.log.move_all_into(&mut self.output);
        let mut out = Encoder::new();
        match result {
            Ok(response) => {
                LogMessage::Last.encode(&mut out, dialect.version.minor);
                response.encode(&mut out, dialect);
            }
            Err(failure) => {
                LogMessage::Error(failure.to_remote()).encode(&mut out, dialect.version.minor);
            }
        }
        self.output.push(&out.into_bytes());
    }

    /// Waits for work, and passes on what there is to tell. The work ends when the client goes.
    pub(crate) async fn run<T>(
        &mut self,
        limits: crate::limits::Limits,
        work: impl Future<Output = T>,
    ) -> Result<T, DaemonError> {
        let Wires { input, output, log } = self;
        let mut work = pin!(work);
        let mut gone_at: Option<Instant> = None;
        loop {
            log.move_into(output);
            let deadline = gone_at.unwrap_or_else(Instant::now);
            tokio::select! {
                biased;
                value = &mut work => return Ok(value),
                flushed = output.flush(), if output.pending() > 0 => flushed?,
                () = log.ready(), if output.pending() == 0 => {}
                () = input.hangup(), if gone_at.is_none() => {
                    gone_at = Some(Instant::now() + limits.after_hangup);
                }
                () = sleep_until(deadline), if gone_at.is_some() => {
                    return Err(DaemonError::Gone { doing: "waiting for an answer" });
                }
            }
        }
    }
}

/// Waits for work that takes the client's data, and for the end of that data. A failure is told at
/// once, so that the client can stop sending; then there is nothing left to answer.
pub(crate) async fn run_fed<T>(
    output: &mut Output,
    log: &LogQueue,
    minor: u8,
    failed: &AtomicBool,
    work: impl Future<Output = Result<T, Failure>>,
    feed: impl Future<Output = Result<(), DaemonError>>,
) -> Result<Option<T>, DaemonError> {
    let (mut work, mut feed) = (pin!(work), pin!(feed));
    let (mut outcome, mut is_fed) = (None, false);
    loop {
        if is_fed && let Some(outcome) = outcome {
            return Ok(outcome);
        }
        log.move_into(output);
        tokio::select! {
            biased;
            result = &mut work, if outcome.is_none() => outcome = Some(match result {
                Ok(value) => Some(value),
                Err(failure) => {
                    failed.store(true, Ordering::Relaxed);
                    log.move_all_into(output);
                    let mut out = Encoder::new();
                    LogMessage::Error(failure.to_remote()).encode(&mut out, minor);
                    output.push(&out.into_bytes());
                    None
                }
            }),
            flushed = output.flush(), if output.pending() > 0 => flushed?,
            ended = &mut feed, if !is_fed => {
                ended?;
                is_fed = true;
            }
            () = log.ready(), if output.pending() == 0 && outcome.is_none() => {}
        }
    }
}
