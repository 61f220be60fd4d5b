//! A store at the other end of a connection.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::{DrvOutput, PathInfo, StoreDir, StorePath, ToldRealisation};
use drover_store::{
    BuildLog, BuildSettings, Description, FetchObserver, LogKeeper, Missing, PathStream, SilentLog,
    Store, StoreError, Substitute, Verified,
};
use drover_wire::{DerivedPath, Request, Response};

use crate::dial::{Address, ConnectOptions, Dialler, Program, Wire};
use crate::fetches::Fetches;
use crate::import::Addition;
use crate::log::Listener;
use crate::nar_stream::{Hashed, NarStream};
use crate::opener::{Opener, Protocol};
use crate::pool::{Lease, Pool, Purpose};
use crate::real_files;
use crate::realiser::RemoteRealiser;
use crate::session::{Language, patience};
use crate::turn_lane::{self, TurnStream};

/// Bytes up to which a NAR is fetched on the steady channel, where others wait behind it.
const SMALL: u64 = 1024 * 1024;

/// A store at the other end of a connection; it also builds.
pub struct RemoteStore {
    pub(crate) pool: Arc<Pool>,
    pub(crate) place: Place,
    /// Where the store's files are on this machine, if they are.
    real_dir: Option<PathBuf>,
    /// Where the logs of its builds are on this machine, if they are.
    pub(crate) log_dir: Option<PathBuf>,
    /// Gets what the server says during work that takes long.
    pub(crate) notes: Arc<dyn BuildLog>,
    /// Follows what the server fetches from its substituters.
    fetches: Option<Arc<dyn FetchObserver>>,
    /// Keeps the logs of what is built there.
    pub(crate) logs: Option<Arc<dyn LogKeeper>>,
}

/// Where a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It is the daemon of this machine.
    ThisMachine,
    /// Its files needn't be ours.
    Elsewhere,
}

impl RemoteStore {
    /// Returns the store at `address`; nothing is connected yet.
    pub fn new(
        name: &str,
        store_dir: StoreDir,
        address: Address,
        options: &ConnectOptions,
        settings: BuildSettings,
    ) -> RemoteStore {
        let protocol = match &address {
            Address::Local(Program::Serve { .. }) | Address::Ssh(_, Program::Serve { .. }) => {
                Protocol::Serve
            }
            _ => Protocol::Worker,
        };
        let place = match &address {
            Address::Socket(_) => Place::ThisMachine,
            Address::Local(_) | Address::Ssh(..) => Place::Elsewhere,
        };
        let dialler = Dialler::new(name, address, options);
        let limit = options.connect_timeout;
        let opener = Opener::new(name.to_owned(), store_dir, dialler, protocol, limit, settings);
        RemoteStore {
            pool: Pool::new(opener),
            place,
            real_dir: None,
            log_dir: None,
            notes: Arc::new(SilentLog),
            fetches: None,
            logs: None,
        }
    }

    /// Bounds the number of connections to the store that are open at once (`max-connections`), those
    /// of each view apart. With a bound nothing is sent ahead, and one connection is kept from builds
    /// unless it is the only one: see [`builds_at_once`](crate::builds_at_once).
    pub fn with_connections(self, bound: NonZeroU32) -> RemoteStore {
        RemoteStore { pool: self.pool.bounded(bound), ..self }
    }

    /// Says where the store's files are on this machine, so that derivations can be read there.
    pub fn with_real_dir(self, real_dir: PathBuf) -> RemoteStore {
        RemoteStore { real_dir: Some(real_dir), ..self }
    }

    /// Says where the logs of builds are on this machine (`/nix/var/log/nix`), so that
    /// [`Keeper::build_log`](drover_store::Keeper::build_log) can read them there: the protocol
    /// doesn't tell them.
    pub fn with_log_dir(self, log_dir: PathBuf) -> RemoteStore {
        RemoteStore { log_dir: Some(log_dir), ..self }
    }

    /// Says who gets what the server says while it fetches a path, collects garbage, or checks or
    /// optimises itself. Nobody does otherwise.
    pub fn with_notes(self, notes: Arc<dyn BuildLog>) -> RemoteStore {
        RemoteStore { notes, ..self }
    }

    /// Says who keeps the logs of what is built there. Nobody does otherwise, if not the server.
    pub fn with_build_logs(self, logs: Arc<dyn LogKeeper>) -> RemoteStore {
        RemoteStore { logs: Some(logs), ..self }
    }

    /// Says who follows what the server fetches from its substituters, and whom it asks for that.
    pub fn with_fetches(self, observer: Arc<dyn FetchObserver>) -> RemoteStore {
        RemoteStore { fetches: Some(observer), ..self }
    }

    /// Returns what makes paths valid in this store by building there, on connections of its own.
    pub fn realiser(&self) -> RemoteRealiser {
        RemoteRealiser::new(Arc::clone(&self.pool))
    }

    /// Opens a connection to the store's server and says nothing yet: for one who passes on what
    /// somebody else has to say to it. Nothing where the server speaks another protocol than the
    /// worker protocol.
    ///
    /// # Errors
    ///
    /// A server that can't be reached.
    pub async fn dial(&self) -> Result<Option<Wire>, StoreError> {
        match self.pool.opener().protocol() {
            Protocol::Worker => self.pool.opener().dial().await.map(Some),
            Protocol::Serve => Ok(None),
        }
    }

    /// Returns the same store with channels of its own.
    pub(crate) fn apart(&self) -> RemoteStore {
        RemoteStore {
            pool: self.pool.apart(),
            place: self.place,
            real_dir: self.real_dir.clone(),
            log_dir: self.log_dir.clone(),
            notes: Arc::clone(&self.notes),
            fetches: self.fetches.clone(),
            logs: self.logs.clone(),
        }
    }

    async fn stream(
        &self,
        infos: Vec<PathInfo>,
        hashed: Hashed,
    ) -> Result<Box<dyn PathStream>, StoreError> {
        if self.pool.takes_turns() {
            return Ok(Box::new(TurnStream::new(Arc::clone(&self.pool), infos, hashed)));
        }
        let lease = self.pool.lease(Purpose::Read).await?;
        Ok(Box::new(NarStream::new(self.pool.name().to_owned(), lease, infos, hashed)))
    }

    /// Takes a channel for questions.
    async fn lease(&self) -> Result<Lease, StoreError> {
        self.pool.lease(Purpose::Question).await
    }

    /// Asks something that only the worker protocol has.
    pub(crate) async fn ask(
        &self,
        what: &'static str,
        request: Request,
    ) -> Result<Response, StoreError> {
        self.ask_heard(what, request, Listener::nobody()).await
    }

    async fn ask_heard(
        &self,
        what: &'static str,
        request: Request,
        listener: Listener,
    ) -> Result<Response, StoreError> {
        let lease = self.lease().await?;
        match &lease.session().language {
            Language::Worker(dialect) => {
                let patience = patience(&request);
                lease.session().ask_with(dialect, request, patience, listener).await
            }
            Language::Serve(_) => {
                Err(StoreError::Unsupported { store: self.pool.name().to_owned(), what })
            }
        }
    }

    /// Returns who listens while the server deals with its substituters.
    fn fetch_listener(&self) -> Listener {
        match &self.fetches {
            Some(observer) => {
                let fetches = Fetches::new(self.store_dir().clone(), Arc::clone(observer));
                Listener::Messages(Arc::new(fetches))
            }
            None => Listener::nobody(),
        }
    }

    /// Has the server fetch those of some paths that it lacks, on a channel where nobody else waits.
    async fn fetch(
        &self,
        paths: &BTreeSet<StorePath>,
        listener: Listener,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        let mut valid = self.pool.hold_valid(paths, Substitute::No).await?;
        let lacking: BTreeSet<StorePath> = paths.difference(&valid).cloned().collect();
        if lacking.is_empty() {
            return Ok(valid);
        }
        let lease = self.lease().await?;
        let yes = Substitute::Yes;
        let Language::Worker(dialect) = &lease.session().language else {
            valid.extend(lease.session().valid_paths(&lacking, yes).await?);
            return Ok(valid);
        };
        let request = Request::QueryValidPaths(lacking, yes);
        let patience = patience(&request);
        let asked = lease.session().ask_with(dialect, request, patience, listener);
        match asked.await? {
            Response::Paths(paths) => valid.extend(paths),
            _ => return Err(self.unexpected()),
        }
        Ok(valid)
    }
}

#[async_trait]
impl Store for RemoteStore {
    fn name(&self) -> &str {
        self.pool.name()
    }

    fn store_dir(&self) -> &StoreDir {
        &self.pool.opener().store_dir
    }

    async fn connect(&self) -> Result<Description, StoreError> {
        let known = self.pool.connect().await?;
        let trust = self.pool.trust();
        Ok(Description { protocol: known.description, nix_version: known.info.nix_version, trust })
    }

    fn round_trip(&self) -> Option<Duration> {
        self.pool.round_trip()
    }

    async fn hold_valid(
        &self,
        paths: &BTreeSet<StorePath>,
        substitute: Substitute,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        if paths.is_empty() {
            return Ok(BTreeSet::new());
        }
        match substitute {
            Substitute::Yes if self.fetches.is_some() => {
                self.fetch(paths, self.fetch_listener()).await
            }
            _ => self.pool.hold_valid(paths, substitute).await,
        }
    }

    async fn hold_and_seek(
        &self,
        held: &BTreeSet<StorePath>,
        sought: &BTreeSet<StorePath>,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        if held.is_empty() && sought.is_empty() {
            return Ok(BTreeSet::new());
        }
        let since = tokio::time::Instant::now();
        let valid = self.pool.hold_and_seek(held, sought, Substitute::No).await?;
        let (has, of, ms) = (valid.len(), held.union(sought).count(), since.elapsed().as_millis());
        tracing::debug!("'{}' has {has} of {of} paths (after {ms} ms)", self.name());
        Ok(valid)
    }

    async fn substitute(
        &self,
        paths: &BTreeSet<StorePath>,
        log: Arc<dyn BuildLog>,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        if paths.is_empty() {
            return Ok(BTreeSet::new());
        }
        self.fetch(paths, self.fetch_listener().and(Listener::Build(log))).await
    }

    async fn path_infos(&self, paths: &[StorePath]) -> Result<Vec<Option<PathInfo>>, StoreError> {
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        self.lease().await?.session().path_infos(paths).await
    }

    async fn realised(
        &self,
        ids: &[DrvOutput],
    ) -> Result<Vec<Option<ToldRealisation>>, StoreError> {
        self.realised_outputs(ids).await
    }

    async fn export(&self, infos: Vec<PathInfo>) -> Result<Box<dyn PathStream>, StoreError> {
        self.stream(infos, Hashed::Here).await
    }

    async fn export_to_checker(
        &self,
        infos: Vec<PathInfo>,
    ) -> Result<Box<dyn PathStream>, StoreError> {
        self.stream(infos, Hashed::There).await
    }

    async fn small_nar(&self, info: PathInfo) -> Result<Bytes, StoreError> {
        if info.nar_size.0 > SMALL || self.pool.takes_turns() {
            return drover_store::read_exported_nar(self, info).await;
        }
        let session = self.pool.steady().await?;
        let nar = session.whole_nar(&info).await?;
        let mut verified = Verified::new(self.pool.name().to_owned(), info);
        let checked = verified.pass(&nar).and_then(|()| verified.finish());
        if let Err(error) = &checked {
            session.channel.condemn(error);
        }
        checked.map(|()| nar)
    }

    async fn import(&self, paths: Box<dyn PathStream>) -> Result<(), StoreError> {
        if self.pool.takes_turns() {
            return turn_lane::import(&self.pool, paths, Addition::PLAIN).await;
        }
        let lease = self.pool.lease(Purpose::Write).await?;
        crate::import::import(lease.session(), paths, Addition::PLAIN).await
    }

    async fn read_files(&self, paths: &[StorePath]) -> Result<Vec<Bytes>, StoreError> {
        if let Some(real_dir) = &self.real_dir
            && let Some(files) = real_files::read(real_dir, paths).await
        {
            return Ok(files);
        }
        drover_store::read_exported_files(self, paths).await
    }

    async fn missing(&self, derivations: &BTreeSet<StorePath>) -> Result<Missing, StoreError> {
        let wanted = derivations.iter().cloned().map(DerivedPath::All).collect();
        let request = Request::QueryMissing(wanted);
        match self.ask_heard("say what is missing", request, self.fetch_listener()).await? {
            Response::Missing(missing) => Ok(Missing {
                build: missing.build,
                substitute: missing.substitute,
                download_size: missing.download_size,
            }),
            _ => Ok(Missing::default()),
        }
    }

    async fn add_indirect_root(&self, link: &str) -> Result<(), StoreError> {
        self.ask("keep roots", Request::AddIndirectRoot(link.to_owned())).await.map(drop)
    }
}
