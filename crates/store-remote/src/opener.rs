//! Opens channels to one server: dials, greets, and sends the user's settings.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use drover_core::{StoreDir, StorePath};
use drover_store::{BuildSettings, Pending, StoreError, Trust};
use drover_wire::{Request, ServerInfo, Version, WORKER_LATEST};
use tokio::time::{Instant, sleep};

use crate::channel::Channel;
use crate::dial::{Dialler, Wire};
use crate::handshake::{self, Expected, Greeting};
use crate::master::Need;
use crate::reader::Reader;
use crate::session::{Language, Session, client_options};
use crate::steady::Questions;
use crate::watch::Watch;

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
    /// A daemon that listens has closed the connection without a word.
    EndedAtOnce(StoreError),
}

/// How soon that is.
const AT_ONCE: Duration = Duration::from_secs(1);

/// After how long a daemon that ended a connection at once is greeted again: Nix's does so while others
/// open its database, too, and says why on its own log only.
const AGAIN: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(400), Duration::from_millis(1500)];

/// Opens channels to one server.
pub(crate) struct Opener {
    pub(crate) name: String,
    pub(crate) store_dir: StoreDir,
    pub(crate) settings: BuildSettings,
    dialler: Dialler,
    protocol: Protocol,
    limit: Duration,
    pub(crate) watch: Arc<Watch>,
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
        let watch = Arc::new(Watch::new(limit));
        Opener { name, store_dir, settings, dialler, protocol, limit, watch, expected }
    }

    pub(crate) fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Opens a connection on which nothing has been said.
    pub(crate) async fn dial(&self) -> Result<Wire, StoreError> {
        self.dialler.open(&self.name, Need::Other).await
    }

    /// Whether somebody waits for others to end what they have open.
    pub(crate) fn is_crowded(&self) -> bool {
        self.dialler.is_crowded()
    }

    /// Begins what comes before the first channel.
    pub(crate) fn approach(&self) {
        self.dialler.approach();
    }

    /// Opens one more channel. A server that was exchanged for one of another version meanwhile is
    /// greeted again.
    pub(crate) async fn open(&self, need: Need) -> Result<(Session, Known), StoreError> {
        self.open_asking(&Questions::default(), need)
            .await
            .map(|(session, known, _)| (session, known))
    }

    /// Opens a channel, and asks the first questions together with the greeting where they are few.
    /// The answer can be waited for apart.
    pub(crate) async fn open_asking(
        &self,
        questions: &Questions,
        need: Need,
    ) -> Result<(Session, Known, Answered), StoreError> {
        let expected = *self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut version, mut versions, mut pauses) = (expected, 1, AGAIN.into_iter());
        let began = Instant::now();
        let (session, known) = loop {
            match self.try_open(version, questions, need).await? {
                Opened::Ready(session, known) => break (*session, known),
                Opened::OtherVersion(other) if versions == 1 => (version, versions) = (other, 2),
                Opened::OtherVersion(_) => {
                    let (store, reason) =
                        (self.name.clone(), "it speaks another version each time");
                    return Err(StoreError::Protocol { store, reason: reason.to_owned() });
                }
                // Whoever takes the limit to have been waited for in vain would think that it hangs.
                Opened::EndedAtOnce(error) => match pauses.next() {
                    Some(pause) if began.elapsed() + pause < self.limit => sleep(pause).await,
                    _ => return Err(error),
                },
            }
        };
        if let Language::Worker(dialect) = &session.language {
            *self.expected.lock().unwrap_or_else(PoisonError::into_inner) = dialect.version;
            // Before the questions, so that nothing is owed any more when those are answered: who
            // asked them gives the channel back then, and it must live on with its roots.
            session.settle(dialect, &self.settings);
        }
        let answered: Answered = match questions.is_empty() {
            true => Box::pin(std::future::ready(Ok(BTreeSet::new()))),
            false => Box::pin(questions.ask(&session)),
        };
        Ok((session, known, answered))
    }

    /// Opens a channel, unless the server speaks another version than expected.
    async fn try_open(
        &self,
        version: Version,
        questions: &Questions,
        need: Need,
    ) -> Result<Opened, StoreError> {
        let wire = self.dialler.open(&self.name, need).await?;
        let mut reader = Reader::new(wire.reader, wire.peer);
        reader.watched_by(&self.watch);
        let mut writer = wire.writer;
        let (store_dir, limit) = (&self.store_dir, self.limit);
        let greeting = Instant::now();
        let (mut sent_ahead, mut requests) = (Vec::new(), 0);
        let (language, info) = match self.protocol {
            Protocol::Worker => {
                (sent_ahead, requests) = self.ahead(questions, version);
                let expected = Expected { version, ahead: sent_ahead.clone() };
                let greeted =
                    handshake::worker(&mut reader, &mut writer, store_dir, limit, expected);
                match greeted.await {
                    Ok(Greeting::Agreed(dialect, info)) => (Language::Worker(dialect), info),
                    Ok(Greeting::Unexpected(version)) => return Ok(Opened::OtherVersion(version)),
                    Err(error @ StoreError::Unreachable { .. })
                        if self.dialler.is_socket() && greeting.elapsed() < AT_ONCE =>
                    {
                        return Ok(Opened::EndedAtOnce(error));
                    }
                    Err(error) => return Err(error),
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
        let channel = Channel::start(reader, writer, requests, wire.keep_alive);
        let session = Session::new(channel, language, self.dialler.way(), sent_ahead);
        Ok(Opened::Ready(Box::new(session), known))
    }

    /// Returns what goes with the greeting, and how many requests that is: the settings and the first
    /// questions, if there are any.
    fn ahead(&self, questions: &Questions, version: Version) -> (Vec<u8>, usize) {
        let dialect = Expected::dialect(version, &self.store_dir);
        let asked = questions.ahead(&dialect);
        if asked.is_empty() {
            return (asked, 0);
        }
        let settings = (!self.settings.asks_for_nothing())
            .then(|| Request::SetOptions(client_options(&self.settings)).encode(&dialect));
        let requests = questions.requests() + usize::from(settings.is_some());
        ([settings.unwrap_or_default(), asked].concat(), requests)
    }
}
