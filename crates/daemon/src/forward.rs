//! Carries the requests of one client over to the daemon that keeps the store, one by one.
//!
//! Where the store is itself behind a daemon, that daemon knows best how each request is to be
//! answered: what it builds, which substitutes it has, what it has to tell meanwhile. So requests,
//! the data behind them, answers and activities go over unchanged. Both sides speak the same version,
//! which is why the other daemon is greeted before the client is answered. A client's settings stay
//! here, as with Nix, whose `ssh-ng` stores pass none on.
//!
//! Follows `processConnection` in `src/libstore/daemon.cc` over `src/libstore/remote-store.cc` of Nix.

use std::collections::BTreeSet;
use std::time::Duration;

use drover_core::StoreDir;
use drover_nar::{Limits as NarLimits, Parser, Progress};
use drover_wire::{
    Decoder, Dialect, Encoder, FEATURE_REALISATION_WITH_PATH, LogMessage, MAX_BYTES, Request,
    Response, Version, WORKER_LATEST, client_magic, client_version, exchanges_features,
    read_client_end, read_client_magic, read_client_version, read_features, read_frame_header,
    read_server_hello, read_server_info, server_hello, write_client_end, write_features,
    write_server_info,
};
use tokio::time::{sleep, timeout};

use crate::connection::{Input, Output};
use crate::error::DaemonError;
use crate::failure::Failure;
use crate::limits::Limits;
use crate::log_queue::Level;
use crate::session::not_offered;
use crate::stdio::Stdio;

/// What can be carried over.
const FEATURES: &[&str] = &[FEATURE_REALISATION_WITH_PATH];

/// Bytes of data that may wait to be carried over.
const MAX_WAITING: usize = 256 * 1024;

/// Carries the requests of clients over to the daemon that keeps the store.
#[derive(Clone, Debug)]
pub struct Forwarder {
    /// How much a client may take.
    pub limits: Limits,
    /// The version of Nix that it is told.
    pub nix_version: String,
    /// The store's directory.
    pub store_dir: StoreDir,
    /// How much it is told, as Nix counts, until its settings say otherwise.
    pub verbosity: u64,
}

/// From the client to the store's daemon.
struct Up {
    from: Input,
    to: Output,
}

/// From the store's daemon to the client.
struct Down {
    from: Input,
    to: Output,
}

/// What follows a request before its answer can come.
enum Data {
    Nothing,
    Framed,
    /// A NAR that ends where its grammar says.
    BareNar,
}

/// What a message of the store's daemon means for the request.
enum Heard {
    /// More will come.
    More,
    /// It wants data of the client (before 1.23).
    Wanted,
    /// The answer comes.
    Answer,
    /// It failed; no answer comes.
    Failure,
}

impl Forwarder {
    /// Carries requests over until the client goes. Dropping the future closes both connections.
    ///
    /// # Errors
    ///
    /// Why it ended otherwise than by the client's going between two requests.
    pub async fn run(mut self, client: Stdio, keeper: Stdio) -> Result<(), DaemonError> {
        // the store's daemon may think for as long as a build takes
        let patient = Limits { window: Duration::MAX, least: 0, ..self.limits };
        let mut up = Up {
            from: Input::new(client.input, self.limits),
            to: Output::new(keeper.output, self.limits),
        };
        let mut down = Down {
            from: Input::new(keeper.input, patient),
            to: Output::new(client.output, self.limits),
        };
        let greeting = timeout(self.limits.handshake, self.greet(&mut up, &mut down));
        let dialect = greeting.await.map_err(|_| DaemonError::TooSlow { doing: "greeting" })??;
        loop {
            down.to.flush().await?;
            up.from.rest();
            if !up.from.next().await? {
                return down.to.close().await;
            }
            self.carry(&mut up, &mut down, &dialect).await?;
        }
    }

    /// Brings both sides to one version.
    async fn greet(&self, up: &mut Up, down: &mut Down) -> Result<Dialect, DaemonError> {
        up.from.message(read_client_magic).await?;
        up.to.say(&client_magic()).await?;
        let latest = down.from.message(|from| read_server_hello(from, WORKER_LATEST)).await?;
        down.to.say(&server_hello(latest)).await?;
        let version = up.from.message(|from| read_client_version(from, latest)).await?;
        up.to.say(&client_version(version)).await?;
        let features = agree_on_features(up, down, version).await?;
        up.from.message(read_client_end).await?;
        let mut out = Encoder::new();
        write_client_end(&mut out);
        up.to.say(&out.into_bytes()).await?;
        let mut info = down.from.message(|from| read_server_info(from, version)).await?;
        info.nix_version = Some(self.nix_version.clone());
        let dialect = Dialect { store_dir: self.store_dir.clone(), version, features };
        let mut out = Encoder::new();
        write_server_info(&mut out, &dialect, &info);
        down.to.push(&out.into_bytes());
        loop {
            match down.hear(&dialect).await? {
                Heard::More | Heard::Wanted => {}
                Heard::Answer => return Ok(dialect),
                Heard::Failure => {
                    down.to.close().await?;
                    return Err(DaemonError::Failed {
                        message: "the store's daemon refused the connection".to_owned(),
                    });
                }
            }
        }
    }

    /// Carries one request over, and its answer back.
    async fn carry(
        &mut self,
        up: &mut Up,
        down: &mut Down,
        dialect: &Dialect,
    ) -> Result<(), DaemonError> {
        let decode = |from: &mut Decoder<'_>| Request::decode(from, dialect);
        let (request, bytes) = up.from.message_and_bytes(decode).await?;
        if self.verbosity >= Level::Debug as u64 {
            let operation = request.operation();
            let text = format!("performing daemon worker op: {operation}\n");
            down.push(&LogMessage::Next(text), dialect);
        }
        match &request {
            Request::Unknown(operation) => {
                let refused = not_offered(*operation);
                let failure = Failure::new(refused.to_string());
                down.push(&LogMessage::Error(failure.to_remote()), dialect);
                down.to.close().await?;
                return Err(refused);
            }
            Request::SetOptions(options) => {
                self.verbosity = options.verbosity;
                down.push(&LogMessage::Last, dialect);
                return Ok(());
            }
            _ => {}
        }
        up.to.say(&bytes).await?;
        self.exchange(up, down, &request, dialect).await
    }

    /// Carries the data of a request that was handed on, and its answer back.
    async fn exchange(
        &self,
        up: &mut Up,
        down: &mut Down,
        request: &Request,
        dialect: &Dialect,
    ) -> Result<(), DaemonError> {
        match data_of(request, dialect) {
            Data::Framed => {
                let (fed, answered) =
                    tokio::join!(up.framed(), down.answer(None, request, dialect));
                fed.and(answered)
            }
            Data::BareNar => {
                let (fed, answered) =
                    tokio::join!(up.bare_nar(), down.answer(None, request, dialect));
                fed.and(answered)
            }
            // the one data that is asked for piece by piece
            Data::Nothing if wants_data(request, dialect) => {
                down.answer(Some(up), request, dialect).await
            }
            Data::Nothing => {
                tokio::select! {
                    answered = down.answer(None, request, dialect) => answered,
                    () = gone(&mut up.from, self.limits.after_hangup) => {
                        Err(DaemonError::Gone { doing: "waiting for an answer" })
                    }
                }
            }
        }
    }
}

/// Waits until the client has gone and its patience is over.
async fn gone(client: &mut Input, after_hangup: Duration) {
    client.hangup().await;
    sleep(after_hangup).await;
}

async fn agree_on_features(
    up: &mut Up,
    down: &mut Down,
    version: Version,
) -> Result<BTreeSet<String>, DaemonError> {
    if !exchanges_features(version) {
        return Ok(BTreeSet::new());
    }
    let offered = up.from.message(|from| read_features(from, FEATURES)).await?;
    let offered: Vec<&str> = offered.iter().map(String::as_str).collect();
    let mut out = Encoder::new();
    write_features(&mut out, &offered);
    up.to.say(&out.into_bytes()).await?;
    let common = down.from.message(|from| read_features(from, &offered)).await?;
    let told: Vec<&str> = common.iter().map(String::as_str).collect();
    let mut out = Encoder::new();
    write_features(&mut out, &told);
    down.to.say(&out.into_bytes()).await?;
    Ok(common)
}

fn data_of(request: &Request, dialect: &Dialect) -> Data {
    match request {
        Request::AddToStore(_) if dialect.since(25) => Data::Framed,
        Request::AddToStore(_) => Data::BareNar,
        Request::AddToStoreNar(..) | Request::RepairToStoreNar(..) if dialect.since(23) => {
            Data::Framed
        }
        Request::AddMultipleToStore(_)
        | Request::RepairMultipleToStore(_)
        | Request::AddBuildLog(_) => Data::Framed,
        _ => Data::Nothing,
    }
}

fn wants_data(request: &Request, dialect: &Dialect) -> bool {
    let adds = matches!(request, Request::AddToStoreNar(..) | Request::RepairToStoreNar(..));
    adds && !dialect.since(23)
}

impl Up {
    /// Carries data in frames over.
    async fn framed(&mut self) -> Result<(), DaemonError> {
        loop {
            let (mut left, header) = self.from.message_and_bytes(read_frame_header).await?;
            self.to.push(&header);
            if left == 0 {
                return self.to.flush().await;
            }
            while left > 0 {
                let bytes = self.from.bytes(left).await?;
                left -= bytes.len() as u64;
                self.to.push(&bytes);
                if self.to.pending() > MAX_WAITING || !self.from.has_more() {
                    self.to.flush().await?;
                }
            }
        }
    }

    async fn bare_nar(&mut self) -> Result<(), DaemonError> {
        nar(&mut self.from, &mut self.to).await
    }

    /// Carries over what the store's daemon asked for.
    async fn wanted(&mut self) -> Result<(), DaemonError> {
        let decode = |from: &mut Decoder<'_>| from.bytes(MAX_BYTES).map(drop);
        let ((), bytes) = self.from.message_and_bytes(decode).await?;
        self.to.say(&bytes).await
    }
}

impl Down {
    fn push(&mut self, message: &LogMessage, dialect: &Dialect) {
        let mut out = Encoder::new();
        message.encode(&mut out, dialect.version.minor);
        self.to.push(&out.into_bytes());
    }

    /// Carries one message over. Lines end as Nix ends them.
    async fn hear(&mut self, dialect: &Dialect) -> Result<Heard, DaemonError> {
        let minor = dialect.version.minor;
        let decode = |from: &mut Decoder<'_>| LogMessage::decode(from, minor);
        let (message, bytes) = self.from.message_and_bytes(decode).await?;
        let heard = match message {
            LogMessage::Next(_) => {
                // its bytes, which needn't be UTF-8
                let text = Decoder::new(bytes.get(8..).unwrap_or_default()).bytes(MAX_BYTES)?;
                let blank = |byte: &u8| b" \t\n\r".contains(byte);
                let end = text.iter().rposition(|byte| !blank(byte)).map_or(0, |last| last + 1);
                let mut line = text.get(..end).unwrap_or_default().to_vec();
                line.push(b'\n');
                let mut out = Encoder::new();
                out.bytes(&line);
                self.to.push(bytes.get(..8).unwrap_or_default());
                self.to.push(&out.into_bytes());
                Heard::More
            }
            message => {
                self.to.push(&bytes);
                match message {
                    LogMessage::Last => Heard::Answer,
                    LogMessage::Error(_) => Heard::Failure,
                    LogMessage::Read(_) => Heard::Wanted,
                    _ => Heard::More,
                }
            }
        };
        if !self.from.has_more() {
            self.to.flush().await?;
        }
        Ok(heard)
    }

    /// Carries messages and the answer over. Data that is asked for comes from `up`.
    async fn answer(
        &mut self,
        mut up: Option<&mut Up>,
        request: &Request,
        dialect: &Dialect,
    ) -> Result<(), DaemonError> {
        loop {
            match self.hear(dialect).await? {
                Heard::More => {}
                Heard::Failure => return Ok(()),
                Heard::Answer => break,
                Heard::Wanted => {
                    self.to.flush().await?;
                    if let Some(up) = &mut up {
                        up.wanted().await?;
                    }
                }
            }
        }
        let decode = |from: &mut Decoder<'_>| Response::decode(from, dialect, request);
        let (_, bytes) = self.from.message_and_bytes(decode).await?;
        self.to.push(&bytes);
        match request {
            Request::NarFromPath(_) => nar(&mut self.from, &mut self.to).await,
            _ => Ok(()),
        }
    }
}

/// Carries a NAR over, which ends where its grammar says.
async fn nar(from: &mut Input, to: &mut Output) -> Result<(), DaemonError> {
    let mut parser = Parser::new(NarLimits::default());
    loop {
        let mut bytes = from.bytes(u64::MAX).await?;
        let progress = parser.feed(&bytes, &mut ())?;
        if let Progress::Done { consumed } = progress {
            from.put_back(&bytes.split_off(consumed));
        }
        to.send(bytes).await?;
        if progress != Progress::More {
            return Ok(());
        }
    }
}
