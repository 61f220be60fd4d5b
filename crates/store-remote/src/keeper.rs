//! What the keeper of a store can do, by the worker protocol.
//!
//! Follows `src/libstore/remote-store.cc` of Nix. Over the serve protocol, which knows little of
//! this, what it can't say is refused by name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use drover_core::{DrvOutput, PathInfo, Realisation, Signature, StorePath, ToldRealisation};
use drover_store::{
    ByteStream, Collected, Collection, Content, FetchSize, Keeper, Offered, PathStream, Repair,
    Roots, SignatureCheck, Store as _, StoreError, Substitute, Trust, Verification, VerifyDepth,
    WhenValid,
};
use drover_wire::{
    Dialect, GarbageRequest, GarbageResult, OutputId, RealisedOutput, Request, Response,
};
use futures::future::try_join_all;

use crate::findings::Findings;
use crate::import::Addition;
use crate::log::Listener;
use crate::pool::{Lease, Purpose};
use crate::session::{Language, patience};
use crate::store::{Place, RemoteStore};
use crate::{content, log_file, output_map, root_link};

impl RemoteStore {
    pub(crate) fn cannot<T>(&self, what: &'static str) -> Result<T, StoreError> {
        Err(StoreError::Unsupported { store: self.name().to_owned(), what })
    }

    /// Takes a channel on which the worker protocol is spoken. Given up, what the server does ends.
    async fn worker(
        &self,
        purpose: Purpose,
        what: &'static str,
    ) -> Result<(Lease, Dialect), StoreError> {
        let lease = self.pool.lease(purpose).await?;
        match &lease.session().language {
            Language::Worker(dialect) => {
                let dialect = dialect.clone();
                Ok((lease, dialect))
            }
            Language::Serve(_) => self.cannot(what),
        }
    }

    /// Asks what outputs became, all in one go.
    pub(crate) async fn realised_outputs(
        &self,
        outputs: &[DrvOutput],
    ) -> Result<Vec<Option<ToldRealisation>>, StoreError> {
        const WHAT: &str = "say what outputs became whose paths follow from their contents";
        let (lease, dialect) = self.worker(Purpose::Question, WHAT).await?;
        if dialect.realisations_with_path() || !dialect.since(27) {
            return self.cannot(WHAT);
        }
        let asked = outputs.iter().map(|output| {
            let request = Request::QueryRealisation(OutputId::Hash(output.clone()));
            lease.session().ask(&dialect, request)
        });
        let answers = try_join_all(asked).await?;
        let answer = |(id, answer): (&DrvOutput, Response)| match answer {
            Response::Realisation(found) => Ok(found.map(|found| {
                let (id, out_path) = (id.clone(), found.path);
                Realisation { id, out_path, signatures: found.signatures }.into()
            })),
            _ => Err(self.unexpected()),
        };
        outputs.iter().zip(answers).map(answer).collect()
    }

    /// Asks for something that may take long; what the server says meanwhile is for the user.
    async fn work(
        &self,
        what: &'static str,
        request: Request,
        listener: Listener,
    ) -> Result<Response, StoreError> {
        let (lease, dialect) = self.worker(Purpose::Lane, what).await?;
        let patience = patience(&request);
        lease.session().ask_with(&dialect, request, patience, listener).await
    }

    async fn ask_paths(
        &self,
        what: &'static str,
        request: Request,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        match self.ask(what, request).await? {
            Response::Paths(paths) => Ok(paths),
            _ => Err(self.unexpected()),
        }
    }

    /// Returns the error of an answer of another kind than the request's; the decoder knows no such.
    pub(crate) fn unexpected(&self) -> StoreError {
        let reason = "it answered something else than was asked".to_owned();
        StoreError::Protocol { store: self.name().to_owned(), reason }
    }

    fn notes(&self) -> Listener {
        Listener::Build(Arc::clone(&self.notes))
    }
}

fn addition(check: SignatureCheck, when_valid: WhenValid) -> Addition {
    let repair = match when_valid {
        WhenValid::Keep => Repair::No,
        WhenValid::Replace => Repair::Yes,
    };
    Addition { check, repair }
}

#[async_trait]
impl Keeper for RemoteStore {
    async fn session(self: Arc<Self>) -> Result<Arc<dyn Keeper>, StoreError> {
        Ok(Arc::new(self.apart()))
    }

    async fn add_temporary_root(&self, path: &StorePath) -> Result<(), StoreError> {
        self.pool.hold_for_good(&BTreeSet::from([path.clone()])).await
    }

    async fn all_valid(&self) -> Result<BTreeSet<StorePath>, StoreError> {
        self.ask_paths("list its paths", Request::QueryAllValidPaths).await
    }

    async fn referrers(&self, path: &StorePath) -> Result<BTreeSet<StorePath>, StoreError> {
        self.ask_paths("say what refers to a path", Request::QueryReferrers(path.clone())).await
    }

    async fn valid_derivers(&self, output: &StorePath) -> Result<BTreeSet<StorePath>, StoreError> {
        let request = Request::QueryValidDerivers(output.clone());
        self.ask_paths("say which derivations make a path", request).await
    }

    async fn by_hash_part(&self, hash_part: &str) -> Result<Option<StorePath>, StoreError> {
        let request = Request::QueryPathFromHashPart(hash_part.to_owned());
        match self.ask("find a path by its hash part", request).await? {
            Response::OptionalPath(path) => Ok(path),
            _ => Err(self.unexpected()),
        }
    }

    async fn output_map(
        &self,
        derivation: &StorePath,
    ) -> Result<BTreeMap<String, Option<StorePath>>, StoreError> {
        let (lease, dialect) =
            self.worker(Purpose::Question, "say what a derivation makes").await?;
        if !dialect.since(22) {
            drop(lease);
            return output_map::read(self, derivation).await;
        }
        let request = Request::QueryDerivationOutputMap(derivation.clone());
        match lease.session().ask(&dialect, request).await? {
            Response::OutputMap(outputs) => Ok(outputs),
            _ => Err(self.unexpected()),
        }
    }

    async fn substitutable(
        &self,
        paths: &BTreeSet<StorePath>,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        if paths.is_empty() {
            return Ok(BTreeSet::new());
        }
        let request = Request::QuerySubstitutablePaths(paths.clone());
        self.ask_paths("say what its substituters have", request).await
    }

    async fn offered(
        &self,
        paths: &BTreeSet<StorePath>,
    ) -> Result<BTreeMap<StorePath, Offered>, StoreError> {
        if paths.is_empty() {
            return Ok(BTreeMap::new());
        }
        let query = paths.iter().map(|path| (path.clone(), None)).collect();
        let request = Request::QuerySubstitutablePathInfos(query);
        let answer = self.ask("say what its substituters have", request).await?;
        let Response::Substitutables(infos) = answer else { return Err(self.unexpected()) };
        let offered = infos.into_iter().map(|(path, info)| {
            let size = FetchSize { download: info.download_size, nar: info.nar_size };
            (path, Offered { deriver: info.deriver, references: info.references, size })
        });
        Ok(offered.collect())
    }

    /// Whoever keeps it has been told whether its substituters may be asked.
    async fn ensure(&self, path: &StorePath, _: Substitute) -> Result<(), StoreError> {
        let request = Request::EnsurePath(path.clone());
        self.work("fetch a path from substituters", request, self.notes()).await.map(drop)
    }

    async fn add_paths(
        &self,
        paths: Box<dyn PathStream>,
        signatures: SignatureCheck,
        when_valid: WhenValid,
    ) -> Result<(), StoreError> {
        let addition = addition(signatures, when_valid);
        let paths = match self.pool.takes_turns() {
            // nothing is waited for while a turn is held
            true => crate::spool::spooled(paths, self.pool.name()).await?,
            false => paths,
        };
        let lease = self.pool.lease(Purpose::Write).await?;
        if let (Language::Serve(_), true) = (&lease.session().language, addition != Addition::PLAIN)
        {
            return self.cannot("check signatures of what is added, or replace it");
        }
        crate::import::import(lease.session(), paths, addition).await
    }

    async fn add_content(
        &self,
        content: Content,
        bytes: Box<dyn ByteStream>,
        when_valid: WhenValid,
    ) -> Result<PathInfo, StoreError> {
        let (lease, dialect) = self.worker(Purpose::Write, "find a path for contents").await?;
        content::add(lease.session(), &dialect, content, bytes, when_valid).await
    }

    async fn add_signatures(
        &self,
        path: &StorePath,
        signatures: &BTreeSet<Signature>,
    ) -> Result<(), StoreError> {
        let request = Request::AddSignatures(path.clone(), signatures.clone());
        self.ask("add signatures", request).await.map(drop)
    }

    async fn realisation(&self, output: &DrvOutput) -> Result<Option<Realisation>, StoreError> {
        let (lease, dialect) = self.worker(Purpose::Question, "tell realisations").await?;
        if dialect.realisations_with_path() {
            return self.cannot("tell a realisation by the hash of its derivation");
        }
        if !dialect.since(27) {
            // such a server knows no outputs but those of derivations that name them
            return Ok(None);
        }
        let request = Request::QueryRealisation(OutputId::Hash(output.clone()));
        match lease.session().ask(&dialect, request).await? {
            Response::Realisation(found) => Ok(found.map(|found| Realisation {
                id: output.clone(),
                out_path: found.path,
                signatures: found.signatures,
            })),
            _ => Err(self.unexpected()),
        }
    }

    /// The protocol can't ask the server to pass over signatures: it judges by its own settings.
    async fn register_realisation(
        &self,
        realisation: &Realisation,
        _: SignatureCheck,
    ) -> Result<(), StoreError> {
        let (lease, dialect) = self.worker(Purpose::Question, "register realisations").await?;
        if dialect.realisations_with_path() || !dialect.since(27) {
            return self.cannot("register a realisation under the hash of its derivation");
        }
        let request = Request::RegisterDrvOutput(RealisedOutput {
            output: OutputId::Hash(realisation.id.clone()),
            path: realisation.out_path.clone(),
            signatures: realisation.signatures.clone(),
        });
        lease.session().ask(&dialect, request).await.map(drop)
    }

    async fn add_permanent_root(&self, path: &StorePath, link: &str) -> Result<String, StoreError> {
        if self.place == Place::ThisMachine {
            // as the user's own, so that he can only make links where he may
            self.add_temporary_root(path).await?;
            root_link::make(self.name(), self.store_dir(), path, link).await?;
            self.add_indirect_root(link).await?;
            return Ok(link.to_owned());
        }
        let (lease, dialect) = self.worker(Purpose::Question, "make permanent roots").await?;
        if !dialect.since(36) {
            return self.cannot("make permanent roots (its Nix is too old)");
        }
        let request = Request::AddPermRoot(path.clone(), link.to_owned());
        match lease.session().ask(&dialect, request).await? {
            Response::Text(link) => Ok(link),
            _ => Err(self.unexpected()),
        }
    }

    async fn roots(&self) -> Result<Roots, StoreError> {
        match self.ask("list its roots", Request::FindRoots).await? {
            Response::Roots(roots) => Ok(roots),
            _ => Err(self.unexpected()),
        }
    }

    async fn collect(&self, collection: Collection) -> Result<Collected, StoreError> {
        let request = Request::CollectGarbage(garbage_request(collection));
        match self.work("collect garbage", request, self.notes()).await? {
            Response::Garbage(result) => Ok(collected(self.store_dir().as_str(), *result)),
            _ => Err(self.unexpected()),
        }
    }

    /// The protocol doesn't tell how much was saved: the answer is always 0.
    async fn optimise(&self) -> Result<u64, StoreError> {
        self.work("link equal files", Request::OptimiseStore, self.notes()).await.map(|_| 0)
    }

    async fn verify(&self, depth: VerifyDepth, repair: Repair) -> Result<Verification, StoreError> {
        let findings = Arc::new(Findings::new(Arc::clone(&self.notes)));
        let request = Request::VerifyStore(depth, repair);
        let listener = Listener::Build(Arc::clone(&findings) as _);
        match self.work("check itself", request, listener).await? {
            Response::Flag(errors_left) => {
                Ok(Verification { problems: findings.take(), errors_left, unmended: Vec::new() })
            }
            _ => Err(self.unexpected()),
        }
    }

    async fn add_build_log(
        &self,
        derivation: &StorePath,
        log: Box<dyn ByteStream>,
    ) -> Result<(), StoreError> {
        let (lease, dialect) = self.worker(Purpose::Write, "keep build logs").await?;
        if !dialect.since(32) {
            return self.cannot("keep build logs (its Nix is too old)");
        }
        if self.pool.trust() == Trust::NotTrusted {
            // it would refuse before it has read the log, and take that for requests
            return self.cannot("keep build logs of clients that it does not trust");
        }
        content::add_log(lease.session(), &dialect, derivation, log).await
    }

    async fn build_log(
        &self,
        derivation: &StorePath,
    ) -> Result<Option<Box<dyn ByteStream>>, StoreError> {
        match &self.log_dir {
            Some(folder) => log_file::read(self.name(), folder, derivation).await,
            None => self.cannot("tell build logs"),
        }
    }
}

fn garbage_request(collection: Collection) -> GarbageRequest {
    GarbageRequest {
        action: collection.action,
        paths: collection.paths,
        liveness: collection.liveness,
        max_freed: collection.max_freed.unwrap_or(u64::MAX),
    }
}

/// Returns what was done, by base names: the server tells whole paths.
fn collected(store_dir: &str, result: GarbageResult) -> Collected {
    let base_name = |path: String| match path.strip_prefix(store_dir) {
        Some(rest) => rest.trim_start_matches('/').to_owned(),
        None => path,
    };
    Collected {
        names: result.paths.into_iter().map(base_name).collect(),
        bytes_freed: result.bytes_freed,
    }
}
