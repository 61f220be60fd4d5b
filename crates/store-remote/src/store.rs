//! A store at the other end of a connection.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::{PathInfo, StoreDir, StorePath};
use drover_store::{
    BuildSettings, Builder, Description, Lane, Missing, PathStream, Store, StoreError, Substitute,
    Trust,
};
use drover_wire::{DerivedPath, Dialect, Request, Response};
use tokio::sync::OnceCell;

use crate::dial::{Address, ConnectOptions, Dialler, Program};
use crate::lane::RemoteLane;
use crate::nar_stream::NarStream;
use crate::pool::{Lease, Pool, Protocol, Purpose};
use crate::session::{Language, Session};

/// A store at the other end of a connection; it also builds.
pub struct RemoteStore {
    pool: Arc<Pool>,
    /// The channel for questions, held for as long as the store is open, as temporary roots live
    /// as long as their connection.
    control: OnceCell<Lease>,
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
        RemoteStore { pool: Arc::new(pool), control: OnceCell::new(), real_dir: None }
    }

    /// Says where the store's files are on this machine, so that derivations can be read there.
    pub fn with_real_dir(self, real_dir: PathBuf) -> RemoteStore {
        RemoteStore { real_dir: Some(real_dir), ..self }
    }

    async fn control(&self) -> Result<&Session, StoreError> {
        let lease = self.control.get_or_try_init(|| self.pool.lease(Purpose::Lane)).await?;
        Ok(lease.session())
    }

    /// Returns the channel for questions that only the worker protocol has.
    async fn worker(&self, what: &'static str) -> Result<(&Session, &Dialect), StoreError> {
        let session = self.control().await?;
        match &session.language {
            Language::Worker(dialect) => Ok((session, dialect)),
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
        let session = self.control().await?;
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
        self.control().await?.path_infos(paths).await
    }

    async fn export(&self, infos: Vec<PathInfo>) -> Result<Box<dyn PathStream>, StoreError> {
        let lease = self.pool.lease(Purpose::Read).await?;
        Ok(Box::new(NarStream::new(self.pool.name().to_owned(), lease, infos)))
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
        let (session, dialect) = self.worker("substitute").await?;
        let asked: Vec<_> = paths
            .iter()
            .map(|path| session.ask(dialect, Request::EnsurePath(path.clone())))
            .collect();
        for answer in asked {
            answer.await?;
        }
        Ok(())
    }

    async fn missing(&self, derivations: &BTreeSet<StorePath>) -> Result<Missing, StoreError> {
        let (session, dialect) = self.worker("say what is missing").await?;
        let wanted = derivations.iter().cloned().map(DerivedPath::All).collect();
        match session.ask(dialect, Request::QueryMissing(wanted)).await? {
            Response::Missing(missing) => Ok(Missing {
                build: missing.build,
                substitute: missing.substitute,
                download_size: missing.download_size,
            }),
            _ => Ok(Missing::default()),
        }
    }

    async fn add_indirect_root(&self, link: &str) -> Result<(), StoreError> {
        let (session, dialect) = self.worker("keep roots").await?;
        session.ask(dialect, Request::AddIndirectRoot(link.to_owned())).await.map(drop)
    }
}

#[async_trait]
impl Builder for RemoteStore {
    async fn open_lane(&self) -> Result<Box<dyn Lane>, StoreError> {
        let lease = self.pool.lease(Purpose::Lane).await?;
        Ok(Box::new(RemoteLane::new(lease, Arc::clone(&self.pool))))
    }
}
