//! A store at the other end of a connection.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::{PathInfo, StoreDir, StorePath};
use drover_store::{
    BuildSettings, Builder, Description, Lane, Missing, PathStream, Store, StoreError, Substitute,
    Trust, Verified,
};
use drover_wire::{DerivedPath, Request, Response};

use crate::dial::{Address, ConnectOptions, Dialler, Program};
use crate::lane::RemoteLane;
use crate::nar_stream::NarStream;
use crate::pool::{Lease, Pool, Protocol, Purpose};
use crate::reply::NarChunk;
use crate::session::Language;

/// A store at the other end of a connection; it also builds.
pub struct RemoteStore {
    pool: Arc<Pool>,
    /// The channel for small NARs, which many ask for at once.
    small: tokio::sync::Mutex<Option<Arc<Lease>>>,
    /// Where the store's files are on this machine, if they are.
    real_dir: Option<PathBuf>,
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
        let dialler = Dialler::new(name, address, options);
        let limit = options.connect_timeout;
        let pool = Pool::new(name.to_owned(), store_dir, dialler, protocol, limit, settings);
        RemoteStore { pool: Arc::new(pool), small: tokio::sync::Mutex::default(), real_dir: None }
    }

    /// Says where the store's files are on this machine, so that derivations can be read there.
    pub fn with_real_dir(self, real_dir: PathBuf) -> RemoteStore {
        RemoteStore { real_dir: Some(real_dir), ..self }
    }

    /// Takes a channel for questions.
    async fn lease(&self) -> Result<Lease, StoreError> {
        self.pool.lease(Purpose::Other).await
    }

    /// Returns the channel for small NARs; a new one if the last broke.
    async fn small_lease(&self) -> Result<Arc<Lease>, StoreError> {
        let mut small = self.small.lock().await;
        match small.as_ref().filter(|lease| lease.session().channel.is_open()) {
            Some(lease) => Ok(Arc::clone(lease)),
            None => Ok(Arc::clone(small.insert(Arc::new(self.lease().await?)))),
        }
    }

    /// Asks something that only the worker protocol has.
    async fn ask(&self, what: &'static str, request: Request) -> Result<Response, StoreError> {
        let lease = self.lease().await?;
        match &lease.session().language {
            Language::Worker(dialect) => lease.session().ask(dialect, request).await,
            Language::Serve(_) => {
                Err(StoreError::Unsupported { store: self.pool.name().to_owned(), what })
            }
        }
    }
}

fn wire_substitute(substitute: Substitute) -> drover_wire::Substitute {
    match substitute {
        Substitute::Yes => drover_wire::Substitute::Yes,
        Substitute::No => drover_wire::Substitute::No,
    }
}

#[async_trait]
impl Store for RemoteStore {
    fn name(&self) -> &str {
        self.pool.name()
    }

    fn store_dir(&self) -> &StoreDir {
        self.pool.store_dir()
    }

    async fn connect(&self) -> Result<Description, StoreError> {
        let known = self.pool.connect().await?;
        let trust = match self.pool.trust() {
            drover_wire::Trust::Unknown => Trust::Unknown,
            drover_wire::Trust::Trusted => Trust::Trusted,
            drover_wire::Trust::NotTrusted => Trust::NotTrusted,
        };
        Ok(Description { protocol: known.description, nix_version: known.info.nix_version, trust })
    }

    async fn hold_valid(
        &self,
        paths: &BTreeSet<StorePath>,
        substitute: Substitute,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        if paths.is_empty() {
            return Ok(BTreeSet::new());
        }
        let lease = self.lease().await?;
        let session = lease.session();
        if let Language::Worker(dialect) = &session.language {
            for path in paths {
                drop(session.ask(dialect, Request::AddTempRoot(path.clone())));
            }
        }
        session.valid_paths(paths, wire_substitute(substitute)).await
    }

    async fn path_infos(
        &self,
        paths: &[StorePath],
    ) -> Result<Vec<Option<PathInfo>>, StoreError> {
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        self.lease().await?.session().path_infos(paths).await
    }

    async fn export(&self, infos: Vec<PathInfo>) -> Result<Box<dyn PathStream>, StoreError> {
        let lease = self.pool.lease(Purpose::Read).await?;
        Ok(Box::new(NarStream::new(self.pool.name().to_owned(), lease, infos)))
    }

    async fn small_nar(&self, info: PathInfo) -> Result<Bytes, StoreError> {
        let lease = self.small_lease().await?;
        let mut chunks = lease.session().nar(&info.path, info.nar_size.0);
        let mut verified = Verified::new(self.pool.name().to_owned(), info);
        let mut nar = Vec::new();
        while let Some(chunk) = chunks.recv().await {
            match chunk? {
                NarChunk::Bytes(bytes) => {
                    verified.pass(&bytes)?;
                    nar.extend_from_slice(&bytes);
                }
                NarChunk::End => return verified.finish().map(|()| nar.into()),
            }
        }
        Err(lease.session().channel.ending())
    }

    async fn import(&self, paths: Box<dyn PathStream>) -> Result<(), StoreError> {
        let lease = self.pool.lease(Purpose::Write).await?;
        crate::import::import(lease.session(), paths).await
    }

    async fn read_files(&self, paths: &[StorePath]) -> Result<Vec<Bytes>, StoreError> {
        if let Some(real_dir) = &self.real_dir {
            let files: Vec<PathBuf> =
                paths.iter().map(|path| real_dir.join(path.base_name())).collect();
            let read = tokio::task::spawn_blocking(move || {
                files.into_iter().map(|file| fs_err::read(file).map(Bytes::from)).collect()
            });
            // a store elsewhere under the same name, or one we may not read: then by the protocol
            if let Ok(Ok::<Vec<Bytes>, std::io::Error>(files)) = read.await {
                return Ok(files);
            }
        }
        drover_store::read_exported_files(self, paths).await
    }

    async fn substitute(&self, paths: &BTreeSet<StorePath>) -> Result<(), StoreError> {
        for path in paths {
            self.ask("substitute", Request::EnsurePath(path.clone())).await?;
        }
        Ok(())
    }

    async fn missing(&self, derivations: &BTreeSet<StorePath>) -> Result<Missing, StoreError> {
        let wanted = derivations.iter().cloned().map(DerivedPath::All).collect();
        match self.ask("say what is missing", Request::QueryMissing(wanted)).await? {
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

#[async_trait]
impl Builder for RemoteStore {
    fn expect(&self, channels: usize) {
        self.pool.warm(channels);
    }

    async fn open_lane(&self) -> Result<Box<dyn Lane>, StoreError> {
        let lease = self.lease().await?;
        Ok(Box::new(RemoteLane::new(lease, Arc::clone(&self.pool))))
    }
}
