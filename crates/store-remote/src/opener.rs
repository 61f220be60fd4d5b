//! Opens channels to one server: dials, greets, and sends the user's settings.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use drover_core::{StoreDir, StorePath};
use drover_store::{BuildSettings, Pending, StoreError};
use drover_wire::{ClientOptions, Dialect, Request, ServerInfo, Trust, Version, WORKER_LATEST};
use tokio::time::Instant;

use crate::channel::Channel;
use crate::dial::Dialler;
use crate::handshake::{self, Expected, Greeting};
use crate::reader::Reader;
use crate::session::{Language, Session};
use crate::steady::Questions;

/// The protocol that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Worker,
    Serve,
}

/// What the first connection found out.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) description: String,
    pub(crate) info: ServerInfo,
    /// How long a question and its answer take, about.
    pub(crate) round_trip: Duration,
}

/// The answer to the first questions: which paths are valid.
pub(crate) type Answered = Pending<BTreeSet<StorePath>>;

/// Returns how long a way there and back takes, judging by a greeting: that is two of them, one to
/// open the session and one for the words, and the start of a program.
fn round_trip(greeting: Duration) -> Duration {
    const START: Duration = Duration::from_millis(15);
    (greeting.saturating_sub(START) / 2).max(Duration::from_millis(1))
}

/// What came of dialling.
enum Opened {
    Ready(Box<Session>, Known),
    /// The server has to be greeted anew.
    OtherVersion(Version),
}

/// Opens channels to one server.
pub(crate) struct Opener {
    pub(crate) name: String,
    pub(crate) store_dir: StoreDir,
    pub(crate) settings: BuildSettings,
    dialler: Dialler,
    protocol: Protocol,
    limit: Duration,
    /// The version that the server spoke last: knowing it saves waiting for it.
    expected: Mutex<Version>,
}

impl Opener {
    pub(crate) fn new(
        name: String,
        store_dir: StoreDir,
        dialler: Dialler,
        protocol: Protocol,
        limit: Duration,
        settings: BuildSettings,
    ) -> Opener {
        // a server of today, most likely; an older one is greeted twice, once
        let expected = Mutex::new(WORKER_LATEST);
        Opener { name, store_dir, settings, dialler, protocol, limit, expected }
    }

    /// Begins what comes before the first channel.
    pub(crate) fn approach(&self) {
        self.dialler.approach();
    }

    /// Opens one more channel. A server that was exchanged for one of another version meanwhile is
    /// greeted again.
    pub(crate) async fn open(&self) -> Result<(Session, Known), StoreError> {
        self.open_asking(&Questions::default()).await.map(|(session, known, _)| (session, known))
    }

    /// Opens a channel, and asks the first questions together with the greeting where they are few.
    /// The answer can be waited for apart.
    pub(crate) async fn open_asking(
        &self,
        questions: &Questions,
    ) -> Result<(Session, Known, Answered), StoreError> {
        let expected = *self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        let (session, known) = match self.try_open(expected, questions).await? {
            Opened::Ready(session, known) => (*session, known),
            Opened::OtherVersion(version) => match self.try_open(version, questions).await? {
                Opened::Ready(session, known) => (*session, known),
                Opened::OtherVersion(_) => {
                    let (store, reason) =
                        (self.name.clone(), "it speaks another version each time");
                    return Err(StoreError::Protocol { store, reason: reason.to_owned() });
                }
            },
        };
        let answered: Answered = match questions.is_empty() {
            true => Box::pin(std::future::ready(Ok(BTreeSet::new()))),
            false => Box::pin(questions.ask(&session)),
        };
        if let Language::Worker(dialect) = &session.language {
            *self.expected.lock().unwrap_or_else(PoisonError::into_inner) = dialect.version;
            self.send_settings(&session, dialect);
        }
        Ok((session, known, answered))
    }

    /// Opens a channel, unless the server speaks another version than expected.
    async fn try_open(
        &self,
        version: Version,
        questions: &Questions,
    ) -> Result<Opened, StoreError> {
        let wire = self.dialler.open(&self.name).await?;
        let mut reader = Reader::new(wire.reader, wire.peer);
        let mut writer = wire.writer;
        let (store_dir, limit) = (&self.store_dir, self.limit);
        let greeting = Instant::now();
        let mut sent_ahead = Vec::new();
        let (language, info) = match self.protocol {
            Protocol::Worker => {
                sent_ahead = questions.ahead(&Expected::dialect(version, store_dir));
                let expected = Expected { version, ahead: sent_ahead.clone() };
                let greeted =
                    handshake::worker(&mut reader, &mut writer, store_dir, limit, expected);
                match greeted.await? {
                    Greeting::Agreed(dialect, info) => (Language::Worker(dialect), info),
                    Greeting::Unexpected(version) => return Ok(Opened::OtherVersion(version)),
                }
            }
            Protocol::Serve => {
                let dialect = handshake::serve(&mut reader, &mut writer, store_dir, limit).await?;
                let info = ServerInfo { nix_version: None, trust: Trust::Unknown };
                (Language::Serve(dialect), info)
            }
        };
        let round_trip = round_trip(greeting.elapsed());
        let known = Known { description: language.describe(), info, round_trip };
        let requests = if sent_ahead.is_empty() { 0 } else { questions.requests() };
        let channel = Channel::start(reader, writer, requests, wire.keep_alive);
        let session = Session::new(channel, language, sent_ahead);
        Ok(Opened::Ready(Box::new(session), known))
    }

    /// Sends the settings that the user asked for. A server's own settings hold otherwise, which is
    /// why nothing is sent where nothing was asked for.
    fn send_settings(&self, session: &Session, dialect: &Dialect) {
        let settings = &self.settings;
        if *settings == BuildSettings::default() {
            return;
        }
        let mut overrides = settings.overrides.clone();
        if let Some(timeout) = settings.timeout {
            overrides.insert("timeout".to_owned(), timeout.as_secs().to_string());
        }
        let options = ClientOptions {
            keep_failed: settings.keep_failed,
            keep_going: false,
            fallback: false,
            verbosity: 3,
            max_jobs: 1,
            max_silent_time: settings.max_silent_time.map_or(0, |limit| limit.as_secs()),
            verbose_build: true,
            cores: settings.cores.map_or(0, u64::from),
            use_substitutes: true,
            overrides,
        };
        // its failing would be the connection's, which the next request finds
        drop(session.ask(dialect, Request::SetOptions(options)));
    }
}
