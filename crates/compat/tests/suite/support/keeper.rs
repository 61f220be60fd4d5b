//! A store in memory that can do what the commands ask of its keeper.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::{
    ContentAddress, DrvOutput, Hash, HashAlgorithm, IngestionMethod, NarHash, NarSize, PathInfo,
    Realisation, References, Signature, StoreDir, StorePath,
};
use drover_derivation::{BasicDerivation, Derivation, derivation_name};
use drover_nar::{Executable, single_file_nar};
use drover_store::{
    Adoption, ByteStream, CollectAction, Collected, Collection, Content, Description, FetchEvent,
    FetchObserver, Keeper, MemoryStore, Missing, MissingPaths, PathStream, RealiseObserver,
    RealiseSettings, RealiseStatus, Realised, Realiser, Repair, Roots, SignatureCheck, Store,
    StoreError, Substitute, Verification, VerifyDepth, Wanted, WhenValid,
};

type Result<T> = std::result::Result<T, StoreError>;

/// A store in memory.
#[derive(Default)]
pub(crate) struct TestKeeper {
    memory: MemoryStore,
    added: Mutex<BTreeMap<StorePath, PathInfo>>,
    pub(crate) registered: Mutex<Vec<(PathInfo, Adoption)>>,
    pub(crate) named: OnceLock<&'static str>,
    pub(crate) roots: Mutex<Roots>,
    /// What is fetched when it's realised, and who is told of that.
    pub(crate) fetches: Mutex<BTreeSet<StorePath>>,
    pub(crate) follower: Mutex<Option<Arc<dyn FetchObserver>>>,
    pub(crate) logs: Mutex<BTreeMap<StorePath, Bytes>>,
    pub(crate) collections: Mutex<Vec<Collection>>,
    pub(crate) outcomes: Mutex<BTreeMap<StorePath, Realised>>,
    /// What was asked for when paths were added.
    pub(crate) checks: Mutex<Vec<SignatureCheck>>,
    pub(crate) missing: Mutex<MissingPaths>,
    pub(crate) verification: Mutex<Verification>,
}

struct One(Option<Bytes>);

#[async_trait]
impl ByteStream for One {
    async fn chunk(&mut self) -> Result<Option<Bytes>> {
        Ok(self.0.take())
    }
}

/// Notes the infos of paths that pass.
struct Noting {
    inner: Box<dyn PathStream>,
    seen: Arc<Mutex<Vec<PathInfo>>>,
}

#[async_trait]
impl PathStream for Noting {
    fn count(&self) -> usize {
        self.inner.count()
    }

    async fn next_path(&mut self) -> Result<Option<PathInfo>> {
        let info = self.inner.next_path().await?;
        self.seen.lock().unwrap().extend(info.clone());
        Ok(info)
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>> {
        self.inner.chunk().await
    }
}

struct Single(Option<(PathInfo, Bytes)>, Option<Bytes>);

#[async_trait]
impl PathStream for Single {
    fn count(&self) -> usize {
        1
    }

    async fn next_path(&mut self) -> Result<Option<PathInfo>> {
        let Some((info, nar)) = self.0.take() else { return Ok(None) };
        self.1 = Some(nar);
        Ok(Some(info))
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>> {
        Ok(self.1.take())
    }
}

impl TestKeeper {
    /// Adds a flat file under a path of our choice.
    pub(crate) async fn add_file(&self, info: PathInfo, contents: &[u8]) -> PathInfo {
        let nar = single_file_nar(contents, Executable::No);
        let hash = Hash::of(HashAlgorithm::Sha256, &nar);
        let nar_hash = NarHash(hash.digest().try_into().unwrap());
        let info = PathInfo { nar_hash, nar_size: NarSize(nar.len() as u64), ..info };
        self.import(Box::new(Single(Some((info.clone(), nar.into())), None))).await.unwrap();
        info
    }

    fn infos(&self) -> BTreeMap<StorePath, PathInfo> {
        self.added.lock().unwrap().clone()
    }
}

#[async_trait]
impl Store for TestKeeper {
    fn name(&self) -> &str {
        self.named.get().copied().unwrap_or("memory")
    }

    fn store_dir(&self) -> &StoreDir {
        self.memory.store_dir()
    }

    async fn connect(&self) -> Result<Description> {
        let mut found = self.memory.connect().await?;
        found.nix_version = Some("2.34.8".to_owned());
        Ok(found)
    }

    async fn hold_valid(
        &self,
        paths: &BTreeSet<StorePath>,
        substitute: Substitute,
    ) -> Result<BTreeSet<StorePath>> {
        self.memory.hold_valid(paths, substitute).await
    }

    async fn path_infos(&self, paths: &[StorePath]) -> Result<Vec<Option<PathInfo>>> {
        let infos = self.infos();
        Ok(paths.iter().map(|path| infos.get(path).cloned()).collect())
    }

    async fn export(&self, infos: Vec<PathInfo>) -> Result<Box<dyn PathStream>> {
        self.memory.export(infos).await
    }

    async fn import(&self, inner: Box<dyn PathStream>) -> Result<()> {
        let seen = Arc::default();
        let noting = Noting { inner, seen: Arc::clone(&seen) };
        self.memory.import(Box::new(noting)).await?;
        for info in seen.lock().unwrap().drain(..) {
            self.added.lock().unwrap().entry(info.path.clone()).or_insert(info);
        }
        Ok(())
    }

    async fn missing(&self, derivations: &BTreeSet<StorePath>) -> Result<Missing> {
        self.memory.missing(derivations).await
    }

    async fn add_indirect_root(&self, link: &str) -> Result<()> {
        self.memory.add_indirect_root(link).await
    }
}

#[async_trait]
impl Keeper for TestKeeper {
    async fn session(self: Arc<Self>) -> Result<Arc<dyn Keeper>> {
        Ok(self)
    }

    async fn add_temporary_root(&self, _: &StorePath) -> Result<()> {
        Ok(())
    }

    async fn all_valid(&self) -> Result<BTreeSet<StorePath>> {
        Ok(self.infos().into_keys().collect())
    }

    async fn referrers(&self, path: &StorePath) -> Result<BTreeSet<StorePath>> {
        let infos = self.infos().into_values();
        Ok(infos.filter(|info| info.references.contains(path)).map(|info| info.path).collect())
    }

    async fn valid_derivers(&self, output: &StorePath) -> Result<BTreeSet<StorePath>> {
        let deriver = self.infos().get(output).and_then(|info| info.deriver.clone());
        Ok(deriver.into_iter().filter(|path| self.infos().contains_key(path)).collect())
    }

    async fn by_hash_part(&self, hash_part: &str) -> Result<Option<StorePath>> {
        Ok(self.infos().into_keys().find(|path| path.hash_part() == hash_part))
    }

    async fn output_map(
        &self,
        derivation: &StorePath,
    ) -> Result<BTreeMap<String, Option<StorePath>>> {
        let files = self.read_files(std::slice::from_ref(derivation)).await?;
        let name = derivation_name(derivation).unwrap();
        let parsed = Derivation::parse_aterm(self.store_dir(), &name, &files[0]).unwrap();
        let outputs = parsed.outputs.iter();
        Ok(outputs.map(|(name, output)| (name.to_string(), output.path().cloned())).collect())
    }

    async fn substitutable(&self, _: &BTreeSet<StorePath>) -> Result<BTreeSet<StorePath>> {
        Ok(BTreeSet::new())
    }

    async fn offered(
        &self,
        _: &BTreeSet<StorePath>,
    ) -> Result<BTreeMap<StorePath, drover_store::Offered>> {
        Ok(BTreeMap::new())
    }

    fn follow_fetches(&self, follower: Arc<dyn FetchObserver>) {
        *self.follower.lock().unwrap() = Some(follower);
    }

    async fn ensure(&self, _: &StorePath, _: Substitute) -> Result<()> {
        Ok(())
    }

    async fn add_paths(
        &self,
        paths: Box<dyn PathStream>,
        check: SignatureCheck,
        _: WhenValid,
    ) -> Result<()> {
        self.checks.lock().unwrap().push(check);
        self.import(paths).await
    }

    async fn add_content(
        &self,
        content: Content,
        mut bytes: Box<dyn ByteStream>,
        _: WhenValid,
    ) -> Result<PathInfo> {
        let mut gathered = Vec::new();
        while let Some(chunk) = bytes.chunk().await? {
            gathered.extend_from_slice(&chunk);
        }
        let hash = Hash::of(content.algorithm, &gathered);
        let nar = match content.method {
            IngestionMethod::Flat => single_file_nar(&gathered, Executable::No),
            _ => gathered,
        };
        let address = ContentAddress { method: content.method, hash };
        let references = References::default();
        let path =
            self.store_dir().content_addressed_path(&address, &references, &content.name).unwrap();
        let nar_hash = Hash::of(HashAlgorithm::Sha256, &nar);
        let info = PathInfo {
            path,
            deriver: None,
            nar_hash: NarHash(nar_hash.digest().try_into().unwrap()),
            nar_size: NarSize(nar.len() as u64),
            references: BTreeSet::new(),
            registration_time: 0,
            ultimate: false,
            signatures: BTreeSet::new(),
            content_address: Some(address),
        };
        self.import(Box::new(Single(Some((info.clone(), nar.into())), None))).await?;
        Ok(info)
    }

    async fn add_signatures(
        &self,
        path: &StorePath,
        signatures: &BTreeSet<Signature>,
    ) -> Result<()> {
        let mut added = self.added.lock().unwrap();
        added.get_mut(path).unwrap().signatures.extend(signatures.iter().cloned());
        Ok(())
    }

    async fn realisation(&self, _: &DrvOutput) -> Result<Option<Realisation>> {
        Ok(None)
    }

    async fn register_realisation(&self, _: &Realisation, _: SignatureCheck) -> Result<()> {
        Err(unsupported("register realisations"))
    }

    async fn add_permanent_root(&self, path: &StorePath, link: &str) -> Result<String> {
        self.roots.lock().unwrap().insert((link.to_owned(), path.clone()));
        Ok(link.to_owned())
    }

    async fn roots(&self) -> Result<Roots> {
        Ok(self.roots.lock().unwrap().clone())
    }

    async fn collect(&self, collection: Collection) -> Result<Collected> {
        self.collections.lock().unwrap().push(collection.clone());
        if collection.action == CollectAction::DeleteGiven {
            let message = "cannot delete path: it is still alive".to_owned();
            return Err(StoreError::refused("memory", message));
        }
        let names = self.infos().into_keys().map(|path| path.base_name().to_owned()).collect();
        Ok(Collected { names, bytes_freed: 2048 })
    }

    async fn optimise(&self) -> Result<u64> {
        Ok(3 << 20)
    }

    async fn verify(&self, _: VerifyDepth, _: Repair) -> Result<Verification> {
        Ok(self.verification.lock().unwrap().clone())
    }

    async fn add_build_log(&self, _: &StorePath, _: Box<dyn ByteStream>) -> Result<()> {
        Err(unsupported("keep logs"))
    }

    async fn build_log(&self, derivation: &StorePath) -> Result<Option<Box<dyn ByteStream>>> {
        let log = self.logs.lock().unwrap().get(derivation).cloned();
        Ok(log.map(|log| Box::new(One(Some(log))) as Box<dyn ByteStream>))
    }

    async fn register_validity(&self, infos: Vec<PathInfo>, adoption: Adoption) -> Result<()> {
        let claims = infos.into_iter().map(|info| (info, adoption));
        self.registered.lock().unwrap().extend(claims);
        Ok(())
    }
}

fn unsupported(what: &'static str) -> StoreError {
    StoreError::Unsupported { store: "memory".to_owned(), what }
}

#[async_trait]
impl Realiser for TestKeeper {
    async fn realise(
        &self,
        _: Arc<dyn Keeper>,
        wanted: Vec<Wanted>,
        _: RealiseSettings,
        observer: Arc<dyn RealiseObserver>,
    ) -> Result<Vec<Realised>> {
        let outcomes = self.outcomes.lock().unwrap();
        let valid = Realised {
            status: RealiseStatus::AlreadyValid,
            message: String::new(),
            outputs: BTreeMap::new(),
            period: None,
        };
        let results = wanted.iter().map(|wanted| {
            let (Wanted::Path(path) | Wanted::AllOutputs(path) | Wanted::Outputs(path, _)) = wanted;
            let derivation = path.clone();
            observer.event(drover_store::RealiseEvent::Line { derivation, line: "a line".into() });
            if self.fetches.lock().unwrap().contains(path)
                && let Some(follower) = &*self.follower.lock().unwrap()
            {
                let (path, substituter) = (path.clone(), "https://c".to_owned());
                follower.event(FetchEvent::Started { number: 7, path, substituter });
                follower.event(FetchEvent::Progress { number: 7, done: 5, size: 9 });
                follower.event(FetchEvent::Ended { number: 7 });
            }
            outcomes.get(path).unwrap_or(&valid).clone()
        });
        Ok(results.collect())
    }

    async fn build_derivation(
        &self,
        _: Arc<dyn Keeper>,
        _: (StorePath, BasicDerivation),
        _: RealiseSettings,
        _: Arc<dyn RealiseObserver>,
    ) -> Result<Realised> {
        Err(unsupported("build"))
    }

    async fn missing(
        &self,
        _: Arc<dyn Keeper>,
        _: Vec<Wanted>,
        _: Substitute,
    ) -> Result<MissingPaths> {
        Ok(self.missing.lock().unwrap().clone())
    }
}
