//! The channels to one server: opened as needed, reused, bounded.
//!
//! A channel is used by one at a time. Reading and writing paths have permits of their own, and who
//! does both (a copy from store to store) takes the writer's first: so whoever holds a reader's
//! permit can always go on, and nobody waits in a circle.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use drover_core::StoreDir;
use drover_store::{BuildSettings, StoreError};
use drover_wire::{ClientOptions, Request, ServerInfo, Trust, Version, WORKER_LATEST};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

use crate::channel::Channel;
use crate::dial::Dialler;
use crate::handshake::{self, Greeting};
use crate::reader::Reader;
use crate::session::{Language, Session};

/// Transfers out of one machine at once; each has a flow-control window of its own.
const READS: usize = 6;
/// Transfers into one machine at once, those on lanes apart.
const WRITES: usize = 16;

/// What a transfer does, and so which permit it takes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    Read,
    Write,
    /// Builds, whose number is the scheduler's affair, and questions.
    Other,
}

/// The channels to one server.
pub(crate) struct Pool {
    name: String,
    store_dir: StoreDir,
    dialler: Dialler,
    protocol: Protocol,
    limit: Duration,
    settings: BuildSettings,
    idle: Mutex<Vec<Session>>,
    /// Channels that are being opened before somebody asks.
    warming: Mutex<Vec<JoinHandle<Option<Session>>>>,
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
    /// What the first connection found out.
    known: OnceCell<Known>,
}

/// The protocol that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Worker,
    Serve,
}

/// What the first connection found out.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) version: Option<Version>,
    pub(crate) description: String,
    pub(crate) info: ServerInfo,
}

/// A channel that is in use. Dropped, it goes back if it is in order, and is closed otherwise.
pub(crate) struct Lease {
    session: Option<Session>,
    pool: Arc<Pool>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Lease {
    pub(crate) fn session(&self) -> &Session {
        match &self.session {
            Some(session) => session,
            None => unreachable!("the session is taken when the lease is dropped"),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(session) = self.session.take().filter(|session| session.channel.is_reusable()) {
            self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner).push(session);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let warming = self.warming.get_mut().unwrap_or_else(PoisonError::into_inner);
        warming.iter().for_each(JoinHandle::abort);
    }
}

impl Pool {
    pub(crate) fn new(
        name: String,
        store_dir: StoreDir,
        dialler: Dialler,
        protocol: Protocol,
        limit: Duration,
        settings: BuildSettings,
    ) -> Pool {
        Pool {
            name,
            store_dir,
            dialler,
            protocol,
            limit,
            settings,
            idle: Mutex::default(),
            warming: Mutex::default(),
            reads: Arc::new(Semaphore::new(READS)),
            writes: Arc::new(Semaphore::new(WRITES)),
            known: OnceCell::new(),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn store_dir(&self) -> &StoreDir {
        &self.store_dir
    }

    pub(crate) fn settings(&self) -> &BuildSettings {
        &self.settings
    }

    pub(crate) fn trust(&self) -> Trust {
        self.known.get().map_or(Trust::Unknown, |known| known.info.trust)
    }

    /// Connects, unless that was done before.
    pub(crate) async fn connect(self: &Arc<Self>) -> Result<Known, StoreError> {
        let known = self.known.get_or_try_init(|| async {
            let (session, known) = self.dial(Some(WORKER_LATEST)).await?;
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(session);
            Ok::<Known, StoreError>(known)
        });
        known.await.cloned()
    }

    /// Takes a channel that nobody uses, or opens one.
    pub(crate) async fn lease(self: &Arc<Self>, purpose: Purpose) -> Result<Lease, StoreError> {
        let semaphore = match purpose {
            Purpose::Read => Some(&self.reads),
            Purpose::Write => Some(&self.writes),
            Purpose::Other => None,
        };
        let permit = match semaphore {
            Some(semaphore) => Some(
                Arc::clone(semaphore)
                    .acquire_owned()
                    .await
                    .map_err(|_| self.closed())?,
            ),
            None => None,
        };
        let known = self.connect().await?;
        let mut found = self.take_idle();
        while found.is_none() {
            let Some(opening) = self.take_warming() else { break };
            found = opening.await.ok().flatten();
        }
        let session = match found {
            Some(session) => session,
            None => self.dial(known.version).await?.0,
        };
        Ok(Lease { session: Some(session), pool: Arc::clone(self), _permit: permit })
    }

    /// Opens channels in the background, unless so many are there or on their way, so that nobody
    /// waits for them later.
    #[allow(clippy::disallowed_methods, reason = "the handles are kept, and ended with the pool")]
    pub(crate) fn warm(self: &Arc<Self>, channels: usize) {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).len();
        let expected = self.known.get().and_then(|known| known.version);
        let mut warming = self.warming.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in idle + warming.len()..channels {
            // the pool waits for the task, not the task for the pool
            let pool = Arc::downgrade(self);
            warming.push(tokio::spawn(async move {
                let pool = pool.upgrade()?;
                pool.dial(expected).await.ok().map(|(session, _)| session)
            }));
        }
    }

    fn take_warming(&self) -> Option<JoinHandle<Option<Session>>> {
        let mut warming = self.warming.lock().unwrap_or_else(PoisonError::into_inner);
        let ready = warming.iter().position(JoinHandle::is_finished);
        match ready {
            Some(at) => Some(warming.swap_remove(at)),
            None => warming.pop(),
        }
    }

    fn closed(&self) -> StoreError {
        StoreError::Lost { store: self.name.clone(), reason: "it was closed".to_owned() }
    }

    fn take_idle(&self) -> Option<Session> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|session| session.channel.is_reusable());
        idle.pop()
    }

    async fn dial(&self, expected: Option<Version>) -> Result<(Session, Known), StoreError> {
        let (session, known) = match self.protocol {
            Protocol::Worker => self.dial_worker(expected).await?,
            Protocol::Serve => self.dial_serve().await?,
        };
        self.send_settings(&session);
        Ok((session, known))
    }

    async fn dial_worker(
        &self,
        mut expected: Option<Version>,
    ) -> Result<(Session, Known), StoreError> {
        loop {
            let wire = self.dialler.open(&self.name).await?;
            let (mut reader, mut writer) = (Reader::new(wire.reader, wire.peer), wire.writer);
            let (store_dir, limit) = (&self.store_dir, self.limit);
            let greeting =
                handshake::worker(&mut reader, &mut writer, store_dir, limit, expected).await?;
            match greeting {
                Greeting::Unexpected(version) => expected = Some(version),
                Greeting::Agreed(dialect, info) => {
                    let version = Some(dialect.version);
                    let language = Language::Worker(dialect);
                    let known = Known { version, description: language.describe(), info };
                    let channel = Channel::start(reader, writer, wire.keep_alive);
                    return Ok((Session { channel, language }, known));
                }
            }
        }
    }

    async fn dial_serve(&self) -> Result<(Session, Known), StoreError> {
        let wire = self.dialler.open(&self.name).await?;
        let (mut reader, mut writer) = (Reader::new(wire.reader, wire.peer), wire.writer);
        let dialect =
            handshake::serve(&mut reader, &mut writer, &self.store_dir, self.limit).await?;
        let language = Language::Serve(dialect);
        let info = ServerInfo { nix_version: None, trust: Trust::Unknown };
        let known = Known { version: None, description: language.describe(), info };
        let channel = Channel::start(reader, writer, wire.keep_alive);
        Ok((Session { channel, language }, known))
    }

    /// Sends the settings that the user asked for. A server's own settings hold otherwise, which is
    /// why nothing is sent where nothing was asked for.
    fn send_settings(&self, session: &Session) {
        let Language::Worker(dialect) = &session.language else { return };
        if self.settings == BuildSettings::default() {
            return;
        }
        let mut overrides = self.settings.overrides.clone();
        if let Some(timeout) = self.settings.timeout {
            overrides.insert("timeout".to_owned(), timeout.as_secs().to_string());
        }
        let options = ClientOptions {
            keep_failed: self.settings.keep_failed,
            keep_going: false,
            fallback: false,
            verbosity: 3,
            max_jobs: 1,
            max_silent_time: self.settings.max_silent_time.map_or(0, |limit| limit.as_secs()),
            verbose_build: true,
            cores: self.settings.cores.map_or(0, u64::from),
            use_substitutes: true,
            overrides,
        };
        // its failing would be the connection's, which the next request finds
        drop(session.ask(dialect, Request::SetOptions(options)));
    }
}
