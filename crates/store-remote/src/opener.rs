//! Opens channels to one server: dials, greets, and sends the user's settings.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use drover_core::StoreDir;
use drover_store::{BuildSettings, StoreError};
use drover_wire::{ClientOptions, Dialect, Request, ServerInfo, Trust, Version, WORKER_LATEST};

use crate::channel::Channel;
use crate::dial::Dialler;
use crate::handshake::{self, Greeting};
use crate::reader::Reader;
use crate::session::{Language, Session};

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
    expected: Mutex<Option<Version>>,
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
        let expected = Mutex::new(Some(WORKER_LATEST));
        Opener { name, store_dir, settings, dialler, protocol, limit, expected }
    }

    /// Opens one more channel. A server that was exchanged for one of another version meanwhile is
    /// greeted again.
    pub(crate) async fn open(&self) -> Result<(Session, Known), StoreError> {
        let expected = *self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        let (session, known) = match self.try_open(expected).await? {
            Opened::Ready(session, known) => (*session, known),
            Opened::OtherVersion(version) => match self.try_open(Some(version)).await? {
                Opened::Ready(session, known) => (*session, known),
                Opened::OtherVersion(_) => {
                    let (store, reason) =
                        (self.name.clone(), "it speaks another version each time");
                    return Err(StoreError::Protocol { store, reason: reason.to_owned() });
                }
            },
        };
        if let Language::Worker(dialect) = &session.language {
            let version = Some(dialect.version);
            *self.expected.lock().unwrap_or_else(PoisonError::into_inner) = version;
            self.send_settings(&session, dialect);
        }
        Ok((session, known))
    }

    /// Opens a channel, unless the server speaks another version than expected.
    async fn try_open(&self, expected: Option<Version>) -> Result<Opened, StoreError> {
        let wire = self.dialler.open(&self.name).await?;
        let mut reader = Reader::new(wire.reader, wire.peer);
        let mut writer = wire.writer;
        let (store_dir, limit) = (&self.store_dir, self.limit);
        let (language, info) = match self.protocol {
            Protocol::Worker => {
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
        let known = Known { description: language.describe(), info };
        let channel = Channel::start(reader, writer, wire.keep_alive);
        Ok(Opened::Ready(Box::new(Session::new(channel, language)), known))
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
