//! Questions about paths, in both protocols.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;

use drover_core::{PathInfo, StorePath};
use drover_store::{StoreError, Substitute};
use drover_wire::{Lock, Request, Response, ServeDialect, ServeRequest, decode_serve_path_infos};

use crate::log::Listener;
use crate::reply::{Patience, StandardError};
use crate::session::{ANSWER_LIMIT, Language, Session};

impl Session {
    /// Asks which paths are valid.
    pub(crate) fn valid_paths(
        &self,
        paths: &BTreeSet<StorePath>,
        substitute: Substitute,
    ) -> impl Future<Output = Result<BTreeSet<StorePath>, StoreError>> + Send + use<> {
        self.valid_paths_with(paths, substitute, Listener::nobody())
    }

    /// The same, where what the server says meanwhile is heard.
    pub(crate) fn valid_paths_with(
        &self,
        paths: &BTreeSet<StorePath>,
        substitute: Substitute,
        log: Listener,
    ) -> impl Future<Output = Result<BTreeSet<StorePath>, StoreError>> + Send + use<> {
        let patience = match substitute {
            Substitute::No => Patience::Limited(ANSWER_LIMIT, "asking which paths are valid"),
            Substitute::Yes => Patience::Watched,
        };
        self.which_are_valid(paths, substitute, patience, log)
    }

    /// The same, with so much patience.
    pub(crate) fn which_are_valid(
        &self,
        paths: &BTreeSet<StorePath>,
        substitute: Substitute,
        patience: Patience,
        log: Listener,
    ) -> impl Future<Output = Result<BTreeSet<StorePath>, StoreError>> + Send + use<> {
        let store_dir = self.store_dir().clone();
        let request = match &self.language {
            Language::Worker(dialect) => {
                Request::QueryValidPaths(paths.clone(), substitute).encode(dialect)
            }
            Language::Serve(dialect) => {
                ServeRequest::QueryValidPaths(Lock::Yes, substitute, paths.clone()).encode(dialect)
            }
        };
        self.call(request, patience, log, StandardError::LastWords, move |from| {
            from.paths(&store_dir)
        })
    }

    /// Asks what is known of paths, all at once.
    pub(crate) async fn path_infos(
        &self,
        paths: &[StorePath],
    ) -> Result<Vec<Option<PathInfo>>, StoreError> {
        match &self.language {
            Language::Worker(dialect) => {
                let asked: Vec<_> = paths
                    .iter()
                    .map(|path| self.ask(dialect, Request::QueryPathInfo(path.clone())))
                    .collect();
                let mut infos = Vec::with_capacity(asked.len());
                for answer in asked {
                    infos.push(match answer.await? {
                        Response::PathInfo(info) => info.map(|info| *info),
                        _ => None,
                    });
                }
                Ok(infos)
            }
            Language::Serve(dialect) => {
                let mut infos =
                    self.serve_path_infos(dialect, paths.iter().cloned().collect()).await?;
                Ok(paths.iter().map(|path| infos.remove(path)).collect())
            }
        }
    }

    pub(crate) fn serve_path_infos(
        &self,
        dialect: &ServeDialect,
        paths: BTreeSet<StorePath>,
    ) -> impl Future<Output = Result<BTreeMap<StorePath, PathInfo>, StoreError>> + Send + use<>
    {
        let request = ServeRequest::QueryPathInfos(paths.clone()).encode(dialect);
        let dialect = dialect.clone();
        let patience = Patience::Limited(ANSWER_LIMIT, "asking about paths");
        let log = Listener::nobody();
        self.call(request, patience, log, StandardError::LastWords, move |from| {
            decode_serve_path_infos(from, &dialect, &paths)
        })
    }
}
