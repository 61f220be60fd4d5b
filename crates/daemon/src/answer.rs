//! Operations that are a question and an answer.
//!
//! Follows `performOp` in `src/libstore/daemon.cc` of Nix, case by case.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use drover_core::{
    DrvOutput, HashAlgorithm, IngestionMethod, OutputName, PathInfo, Realisation, Signature,
    StoreName, StorePath,
};
use drover_store::{
    CollectAction, Collection, Content, Keeper, Liveness, Offered, SignatureCheck, StoreError,
    Substitute, WhenValid,
};
use drover_wire::{
    Dialect, GarbageRequest, GarbageResult, OutputId, RealisedOutput, Request, Response,
    SubstitutableInfo,
};

use crate::failure::Failure;
use crate::log_queue::{Level, LogQueue};
use crate::server::{Client, ClientTrust, Shared};
use crate::settings::Settings;
use crate::stream::{Piece, pieces};

/// What operations of one connection work with.
pub(crate) struct Context {
    pub(crate) shared: Arc<Shared>,
    pub(crate) keeper: Arc<dyn Keeper>,
    pub(crate) client: Client,
    pub(crate) dialect: Arc<Dialect>,
    pub(crate) log: Arc<LogQueue>,
    pub(crate) settings: Settings,
}

/// What an operation comes to.
pub(crate) type Answer = Result<Response, Failure>;

impl Context {
    /// Returns the failure that an error of the store is.
    pub(crate) fn failure(&self, error: &StoreError) -> Failure {
        Failure::of(self.keeper.store_dir(), error)
    }

    pub(crate) fn told<T>(&self, result: Result<T, StoreError>) -> Result<T, Failure> {
        result.map_err(|error| self.failure(&error))
    }

    /// Answers a request that no data follows.
    pub(crate) async fn answer(self, request: Request) -> Answer {
        match request {
            Request::IsValidPath(path) => {
                let valid = self.told(self.keeper.valid(&[path].into()).await)?;
                Ok(Response::Flag(!valid.is_empty()))
            }
            Request::QueryPathInfo(path) => {
                Ok(Response::PathInfo(self.find(&path).await?.map(Box::new)))
            }
            Request::QueryValidPaths(paths, substitute) => self.valid(paths, substitute).await,
            Request::QueryReferrers(path) => {
                self.told(self.keeper.referrers(&path).await).map(Response::Paths)
            }
            Request::QueryValidDerivers(path) => {
                self.told(self.keeper.valid_derivers(&path).await).map(Response::Paths)
            }
            Request::QueryPathFromHashPart(part) => {
                let found = self.told(self.keeper.by_hash_part(&part).await)?;
                Ok(Response::OptionalPath(found))
            }
            Request::QuerySubstitutablePaths(paths) => {
                self.substitutable(&paths).await.map(Response::Paths)
            }
            Request::QueryDerivationOutputMap(path) => {
                self.told(self.keeper.output_map(&path).await).map(Response::OutputMap)
            }
            Request::AddTempRoot(path) => {
                self.told(self.keeper.add_temporary_root(&path).await)?;
                Ok(Response::Done)
            }
            Request::EnsurePath(path) => {
                self.told(self.keeper.ensure(&path, self.settings.substitute).await)?;
                Ok(Response::Done)
            }
            Request::BuildPaths(..)
            | Request::BuildPathsWithResults(..)
            | Request::BuildDerivation(..)
            | Request::QueryMissing(_) => self.realise(request).await,
            request => self.answer_rare(request).await,
        }
    }

    /// Answers requests that change what is kept or known, and those of old clients.
    async fn answer_rare(self, request: Request) -> Answer {
        match request {
            Request::AddTextToStore(name, text, references) => {
                self.add_text(&name, text, references).await
            }
            Request::AddSignatures(path, signatures) => self.sign(&path, &signatures).await,
            Request::AddIndirectRoot(link) => self.add_indirect_root(&link).await,
            Request::AddPermRoot(path, link) => {
                self.client.trust.require(
                    "you are not privileged to create perm roots\n\nhint: you can just do this \
                     client-side without special privileges, and probably want to do that instead.",
                )?;
                let link = self.told(self.keeper.add_permanent_root(&path, &link).await)?;
                Ok(Response::Text(link))
            }
            Request::SyncWithGc => Ok(Response::Done),
            Request::FindRoots => {
                let roots = self.told(self.keeper.roots().await)?;
                Ok(Response::Roots(self.client.trust.visible_roots(roots)))
            }
            Request::CollectGarbage(garbage) => self.collect(garbage).await,
            Request::OptimiseStore => self.optimise().await,
            Request::VerifyStore(contents, repair) => self.verify(contents, repair).await,
            Request::RegisterDrvOutput(realised) => self.register(realised).await,
            Request::QueryRealisation(output) => self.realisation(output).await,
            request => self.answer_old(request).await,
        }
    }

    /// Answers what only old clients ask.
    async fn answer_old(self, request: Request) -> Answer {
        match request {
            Request::HasSubstitutes(path) => {
                let found = self.substitutable(&BTreeSet::from([path.clone()])).await?;
                Ok(Response::Flag(found.contains(&path)))
            }
            Request::QueryPathHash(path) => Ok(Response::NarHash(self.info(&path).await?.nar_hash)),
            Request::QueryReferences(path) => {
                Ok(Response::Paths(self.info(&path).await?.references))
            }
            Request::QueryDeriver(path) => {
                Ok(Response::OptionalPath(self.info(&path).await?.deriver))
            }
            Request::QueryDerivationOutputs(path) => {
                let outputs = self.told(self.keeper.output_map(&path).await)?;
                Ok(Response::Paths(outputs.into_values().flatten().collect()))
            }
            Request::QueryDerivationOutputNames(path) => {
                let outputs = self.told(self.keeper.output_map(&path).await)?;
                Ok(Response::Names(outputs.into_keys().collect()))
            }
            Request::QuerySubstitutablePathInfo(path) => {
                let found = self.offered(BTreeSet::from([path.clone()])).await?.remove(&path);
                Ok(Response::Substitutable(found.map(Box::new)))
            }
            // a content address says what a store of another directory calls the path, and nothing else
            Request::QuerySubstitutablePathInfos(query) => {
                let offered = self.offered(query.into_keys().collect()).await?;
                Ok(Response::Substitutables(offered))
            }
            request => {
                let operation = request.operation();
                Err(Failure::new(format!("operation {operation} has no answer of its own")))
            }
        }
    }

    /// Looks up one path.
    pub(crate) async fn find(&self, path: &StorePath) -> Result<Option<PathInfo>, Failure> {
        let infos = self.told(self.keeper.path_infos(std::slice::from_ref(path)).await)?;
        Ok(infos.into_iter().next().flatten())
    }

    /// Looks up one path that has to be valid.
    pub(crate) async fn info(&self, path: &StorePath) -> Result<PathInfo, Failure> {
        self.find(path).await?.ok_or_else(|| {
            Failure::new(format!("path '{}' is not valid", self.keeper.store_dir().display(path)))
        })
    }

    /// Returns what substituters have, if the client wants any to be asked.
    async fn substitutable(
        &self,
        paths: &BTreeSet<StorePath>,
    ) -> Result<BTreeSet<StorePath>, Failure> {
        match self.settings.substitute {
            Substitute::Yes => self.told(self.keeper.substitutable(paths).await),
            Substitute::No => Ok(BTreeSet::new()),
        }
    }

    /// Returns what substituters say of paths, if the client wants any to be asked.
    async fn offered(
        &self,
        paths: BTreeSet<StorePath>,
    ) -> Result<BTreeMap<StorePath, SubstitutableInfo>, Failure> {
        if self.settings.substitute == Substitute::No {
            return Ok(BTreeMap::new());
        }
        let offered = self.told(self.keeper.offered(&paths).await)?;
        let info = |Offered { deriver, references, size }| SubstitutableInfo {
            deriver,
            references,
            download_size: size.download,
            nar_size: size.nar,
        };
        Ok(offered.into_iter().map(|(path, offered)| (path, info(offered))).collect())
    }

    async fn valid(&self, paths: BTreeSet<StorePath>, substitute: Substitute) -> Answer {
        if substitute == Substitute::Yes && self.settings.substitute == Substitute::Yes {
            let valid = self.keeper.hold_valid(&paths, Substitute::Yes).await;
            return self.told(valid).map(Response::Paths);
        }
        self.told(self.keeper.valid(&paths).await).map(Response::Paths)
    }

    async fn add_text(&self, name: &str, text: Vec<u8>, references: BTreeSet<StorePath>) -> Answer {
        let path = self.text_path(name, text, references).await?;
        Ok(Response::Path(path))
    }

    /// Adds a text, and returns its path.
    pub(crate) async fn text_path(
        &self,
        name: &str,
        text: Vec<u8>,
        references: BTreeSet<StorePath>,
    ) -> Result<StorePath, Failure> {
        let content = Content {
            name: store_name(name)?,
            method: IngestionMethod::Text,
            algorithm: HashAlgorithm::Sha256,
            references,
        };
        let (queue, bytes) = pieces(0);
        // both fit the queue
        if !text.is_empty() {
            drop(queue.try_send(Piece::Bytes(Bytes::from(text))));
        }
        drop(queue.try_send(Piece::End));
        let added = self.keeper.add_content(content, Box::new(bytes), WhenValid::Keep).await;
        Ok(self.told(added)?.path)
    }

    async fn add_indirect_root(&self, link: &str) -> Answer {
        if !link.starts_with('/') {
            return Err(Failure::new(format!("root '{link}' must be an absolute path")));
        }
        self.told(self.keeper.add_indirect_root(link).await)?;
        Ok(Response::Done)
    }

    async fn collect(&self, request: GarbageRequest) -> Answer {
        if request.liveness == Liveness::Ignore {
            return Err(Failure::new("you are not allowed to ignore liveness"));
        }
        let collection = Collection {
            action: request.action,
            liveness: Liveness::Respect,
            paths: request.paths,
            max_freed: Some(request.max_freed).filter(|max| *max != u64::MAX),
        };
        for step in collect_steps(request.action) {
            self.log.tell(Level::Info, step);
        }
        let deletes =
            matches!(request.action, CollectAction::DeleteDead | CollectAction::DeleteGiven);
        let keeper = Arc::clone(&self.keeper);
        let collected = self.hard(async move { keeper.collect(collection).await }).await?;
        let store_dir = self.keeper.store_dir();
        if deletes {
            for name in &collected.names {
                self.log.tell_with(Level::Info, || format!("deleting '{store_dir}/{name}'"));
            }
        }
        let whole = |name: String| format!("{store_dir}/{name}");
        Ok(Response::Garbage(Box::new(GarbageResult {
            paths: collected.names.into_iter().map(whole).collect(),
            bytes_freed: collected.bytes_freed,
        })))
    }

    /// Does work that is hard on the whole store, when it is this client's turn.
    pub(crate) async fn hard<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, Failure> {
        let done = self.shared.turns.work(&self.client, self.keeper.name(), work).await;
        self.told(done)
    }

    /// Adds signatures. One who isn't trusted can't make the store keep any number of them.
    async fn sign(&self, path: &StorePath, signatures: &BTreeSet<Signature>) -> Answer {
        let most = self.shared.limits.signatures;
        if self.client.trust == ClientTrust::NotTrusted
            && let Some(info) = self.find(path).await?
            && info.signatures.union(signatures).count() > most
        {
            let path = self.keeper.store_dir().display(path);
            return Err(Failure::new(format!(
                "path '{path}' would have more than {most} signatures, and only trusted users may \
                 add those"
            )));
        }
        self.told(self.keeper.add_signatures(path, signatures).await)?;
        Ok(Response::Done)
    }

    async fn optimise(&self) -> Answer {
        let keeper = Arc::clone(&self.keeper);
        let saved = self.hard(async move { keeper.optimise().await }).await?;
        let mebibytes = saved / (1024 * 1024);
        self.log.tell(Level::Info, &format!("{mebibytes} MiB freed by hard linking"));
        Ok(Response::Done)
    }

    /// Returns the name under which the realisation of an output of a valid derivation is kept;
    /// newer clients name the derivation itself.
    async fn output_id(
        &self,
        derivation: &StorePath,
        output: OutputName,
    ) -> Result<DrvOutput, Failure> {
        let hash = self.told(self.keeper.realisation_hash(derivation).await)?;
        Ok(DrvOutput { hash, output })
    }

    async fn register(&self, realised: RealisedOutput) -> Answer {
        let id = match realised.output {
            OutputId::Hash(id) => id,
            OutputId::Derivation(path, output) => self.output_id(&path, output).await?,
        };
        let realisation =
            Realisation { id, out_path: realised.path, signatures: realised.signatures };
        let check = match self.client.trust {
            ClientTrust::Trusted => SignatureCheck::Skip,
            ClientTrust::NotTrusted => SignatureCheck::AsConfigured,
        };
        self.told(self.keeper.register_realisation(&realisation, check).await)?;
        Ok(Response::Nothing)
    }

    async fn realisation(&self, output: OutputId) -> Answer {
        let id = match &output {
            OutputId::Hash(id) => id.clone(),
            OutputId::Derivation(path, name) => {
                // what isn't here has become nothing yet
                if self.find(path).await?.is_none() {
                    return Ok(Response::Realisation(None));
                }
                self.output_id(path, name.clone()).await?
            }
        };
        let found = self.told(self.keeper.realisation(&id).await)?;
        Ok(Response::Realisation(found.map(|found| {
            let (path, signatures) = (found.out_path, found.signatures);
            Box::new(RealisedOutput { output, path, signatures })
        })))
    }
}

/// Returns what Nix says that it does while it looks for garbage.
fn collect_steps(action: CollectAction) -> &'static [&'static str] {
    match action {
        CollectAction::ListLive | CollectAction::ListDead => {
            &["finding garbage collector roots...", "determining live/dead paths..."]
        }
        CollectAction::DeleteDead => &["finding garbage collector roots...", "deleting garbage..."],
        CollectAction::DeleteGiven => &["finding garbage collector roots..."],
    }
}

/// Reads a name that a client chose.
pub(crate) fn store_name(name: &str) -> Result<StoreName, Failure> {
    name.parse().map_err(|error| {
        Failure::new(format!("name '{}' is not valid: {error}", name.escape_default()))
    })
}
