//! One connection: the greeting, and one request after another.
//!
//! Follows `processConnection` in `src/libstore/daemon.cc` of Nix. Work is a future that this polls
//! beside the connection: it ends with the connection, and tells through a queue what it has to tell.

use std::sync::Arc;
use std::time::Duration;

use drover_store::{Keeper, StoreError, Trust};
use drover_wire::{
    Dialect, Encoder, FEATURE_PACKED, FEATURE_REALISATION_WITH_PATH, LogMessage, Request, Response,
    ServerInfo, WORKER_LATEST, exchanges_features, read_client_end, read_client_version,
    read_features, refused_operation, server_hello, write_features, write_server_info,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use crate::answer::Context;
use crate::connection::{Input, Output};
use crate::error::DaemonError;
use crate::failure::Failure;
use crate::fetches::FetchTeller;
use crate::log_queue::{Level, LogQueue};
use crate::opening::{Opened, open};
use crate::server::{Client, ClientTrust, Shared};
use crate::settings::Settings;
use crate::wires::Wires;

/// What is offered to clients.
const FEATURES: &[&str] = &[FEATURE_REALISATION_WITH_PATH, FEATURE_PACKED];

/// Bytes of answers that may wait while requests are at hand.
const MAX_BATCH: usize = 64 * 1024;

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
    /// Exchanges the first words; nothing where somebody only had a question, or was turned away.
    pub(crate) async fn greet(
        shared: Arc<Shared>,
        mut client: Client,
        input: Box<dyn AsyncRead + Send + Unpin>,
        output: Box<dyn AsyncWrite + Send + Unpin>,
    ) -> Result<Option<Session>, DaemonError> {
        let mut input = Input::new(input, shared.limits);
        let mut output = Output::new(output, shared.limits);
        let opening = open(&mut input, &mut output, &shared, &mut client);
        let opened = timeout(shared.limits.handshake, opening)
            .await
            .map_err(|_| DaemonError::TooSlow { doing: "greeting" })??;
        match (opened, &shared.controls) {
            (Opened::Client, _) => {}
            (Opened::Answered, _) | (Opened::Control(_), None) => {
                output.close().await?;
                // a socket that is closed too early swallows what was said
                drop(timeout(REFUSAL, input.hangup()).await);
                return Ok(None);
            }
            (Opened::Control(named), Some(controls)) => {
                let (input, output) = (input.into_source(), output.into_sink());
                controls.converse(client, named, input, output).await;
                return Ok(None);
            }
        }
        let greeting = agree(&mut input, &mut output, &shared, &client);
        let dialect = timeout(shared.limits.handshake, greeting)
            .await
            .map_err(|_| DaemonError::TooSlow { doing: "greeting" })??;
        let log = Arc::new(LogQueue::new(dialect.version.minor));
        let settings = Settings::of(&shared.policy.borrow());
        Ok(Some(Session {
            shared,
            client,
            dialect: Arc::new(dialect),
            wires: Wires { input, output, log },
            settings,
            keeper: None,
        }))
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
                let log = &self.wires.log;
                log.set_verbosity(options.verbosity);
                let warn = |text: &str| log.warn(text);
                self.settings.apply(&options, self.client.trust, &policy, &warn);
                if let Some(keeper) = &self.keeper {
                    keeper.set_own(&self.settings.store);
                }
                self.reply(Ok(Response::Nothing));
                Ok(())
            }
            Request::Pack if self.wires.output.is_packed() => {
                Err(DaemonError::NotOffered { what: "packing what is packed".to_owned() })
            }
            Request::Pack => {
                self.reply(Ok(Response::Nothing));
                self.wires.pack().await
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
                let log = Arc::clone(&self.wires.log);
                let teller = FetchTeller::new(log, keeper.store_dir().clone());
                keeper.follow_fetches(Arc::new(teller));
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

/// For how long somebody who was answered may take to read it.
const REFUSAL: Duration = Duration::from_secs(1);

async fn agree(
    input: &mut Input,
    output: &mut Output,
    shared: &Shared,
    client: &Client,
) -> Result<Dialect, DaemonError> {
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
