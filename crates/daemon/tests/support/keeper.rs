//! A store in memory with all that a keeper does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::{
    ContentAddress, DrvOutput, Hash, HashAlgorithm, IngestionMethod, NarHash, NarSize, PathInfo,
    Realisation, References, Signature, StoreDir, StorePath,
};
use drover_derivation::{Derivation, derivation_name};
use drover_nar::{Executable, single_file_nar};
use drover_store::contract::Given;
use drover_store::{
    ByteStream, CollectAction, Collected, Collection, Content, Description, FetchEvent,
    FetchObserver, FetchSize, Keeper, Missing, Offered, OwnSetting, PathStream, Repair, Roots,
    SignatureCheck, Store, StoreError, Substitute, Trust, Verification, Verified, VerifyDepth,
    WhenValid,
};
use tokio::sync::watch;

const NAME: &str = "memory";

#[derive(Default)]
pub struct State {
    pub paths: BTreeMap<StorePath, (PathInfo, Bytes)>,
    pub realisations: BTreeMap<DrvOutput, Realisation>,
    pub temporary: BTreeMap<u64, BTreeSet<StorePath>>,
    pub links: BTreeMap<String, Option<StorePath>>,
    pub logs: BTreeMap<StorePath, Vec<u8>>,
    pub substitutable: BTreeSet<StorePath>,
    /// Who is told of what is fetched for each view.
    pub followers: BTreeMap<u64, Arc<dyn FetchObserver>>,
    /// What the last view was told that the store does otherwise for it.
    pub own: Vec<OwnSetting>,
}

#[derive(Default)]
pub struct TestKeeper {
    store_dir: StoreDir,
    state: Arc<Mutex<State>>,
    /// The number of this view; 0 for the store itself.
    view: u64,
    views: Arc<AtomicU64>,
    collections: Arc<Collections>,
}

/// Collections that go on, and whether they may end.
pub struct Collections {
    going_on: watch::Sender<usize>,
    held: watch::Sender<bool>,
}

impl Default for Collections {
    fn default() -> Collections {
        Collections { going_on: watch::Sender::new(0), held: watch::Sender::new(false) }
    }
}

impl Drop for TestKeeper {
    fn drop(&mut self) {
        self.state().temporary.remove(&self.view);
    }
}

fn refused(message: String) -> StoreError {
    StoreError::refused(NAME, message)
}

impl TestKeeper {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    pub fn put(&self, info: &PathInfo, nar: &Bytes) {
        self.state().paths.insert(info.path.clone(), (info.clone(), nar.clone()));
    }

    pub fn has(&self, path: &StorePath) -> bool {
        self.state().paths.contains_key(path)
    }

    /// Lets no collection end from now on.
    pub fn hold_collections(&self) {
        self.collections.held.send_replace(true);
    }

    pub fn let_collections_end(&self) {
        self.collections.held.send_replace(false);
    }

    pub fn collecting(&self) -> usize {
        *self.collections.going_on.borrow()
    }

    pub async fn until_collecting(&self, count: usize) {
        let mut going_on = self.collections.going_on.subscribe();
        going_on.wait_for(|now| *now == count).await.expect("it is there");
    }

    fn not_valid(path: &StorePath) -> StoreError {
        StoreError::NotValid { store: NAME.to_owned(), path: path.clone() }
    }

    fn register(&self, info: PathInfo, nar: Bytes, when: WhenValid) -> Result<(), StoreError> {
        let mut state = self.state();
        for path in &info.references {
            if *path != info.path && !state.paths.contains_key(path) {
                return Err(Self::not_valid(path));
            }
        }
        if when == WhenValid::Replace || !state.paths.contains_key(&info.path) {
            state.paths.insert(info.path.clone(), (info, nar));
        }
        Ok(())
    }

    fn live(&self) -> BTreeSet<StorePath> {
        let mut todo: Vec<StorePath> = self.all_roots().into_iter().map(|(_, path)| path).collect();
        let state = self.state();
        let mut live = BTreeSet::new();
        while let Some(path) = todo.pop() {
            if let Some((info, _)) = state.paths.get(&path)
                && live.insert(path)
            {
                todo.extend(info.references.iter().cloned());
            }
        }
        live
    }

    fn all_roots(&self) -> Roots {
        let state = self.state();
        let mut roots = Roots::new();
        for (view, paths) in &state.temporary {
            roots.extend(paths.iter().map(|path| (format!("{{temp:{view}}}"), path.clone())));
        }
        for (link, path) in &state.links {
            let pointed = std::fs::read_link(link)
                .ok()
                .and_then(|to| self.store_dir.parse(to.to_str()?).ok());
            roots.extend(path.clone().or(pointed).map(|path| (link.clone(), path)));
        }
        roots
    }

    fn derivation(&self, path: &StorePath) -> Result<Derivation, StoreError> {
        let state = self.state();
        let (_, nar) = state.paths.get(path).ok_or_else(|| Self::not_valid(path))?;
        let text = drover_nar::regular_file_of(nar).expect("a file");
        let name = derivation_name(path).ok_or_else(|| refused("no derivation".to_owned()))?;
        Derivation::parse_aterm(&self.store_dir, &name, text)
            .map_err(|error| refused(error.to_string()))
    }
}

#[async_trait]
impl Store for TestKeeper {
    fn name(&self) -> &str {
        NAME
    }

    fn store_dir(&self) -> &StoreDir {
        &self.store_dir
    }

    async fn connect(&self) -> Result<Description, StoreError> {
        let trust = Trust::Trusted;
        Ok(Description { protocol: "none".to_owned(), nix_version: None, trust })
    }

    async fn hold_valid(
        &self,
        paths: &BTreeSet<StorePath>,
        substitute: Substitute,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        if substitute == Substitute::Yes {
            for path in paths {
                self.ensure(path, Substitute::Yes).await.or_else(|error| match error {
                    StoreError::NotValid { .. } => Ok(()),
                    error => Err(error),
                })?;
            }
        }
        let mut state = self.state();
        state.temporary.entry(self.view).or_default().extend(paths.iter().cloned());
        Ok(paths.iter().filter(|path| state.paths.contains_key(path)).cloned().collect())
    }

    async fn path_infos(&self, paths: &[StorePath]) -> Result<Vec<Option<PathInfo>>, StoreError> {
        let state = self.state();
        Ok(paths.iter().map(|path| state.paths.get(path).map(|(info, _)| info.clone())).collect())
    }

    async fn export(&self, infos: Vec<PathInfo>) -> Result<Box<dyn PathStream>, StoreError> {
        let state = self.state();
        let mut given = Vec::new();
        for info in infos {
            let (_, nar) =
                state.paths.get(&info.path).ok_or_else(|| Self::not_valid(&info.path))?;
            given.push((info, nar.clone()));
        }
        Ok(Given::boxed(given))
    }

    async fn import(&self, paths: Box<dyn PathStream>) -> Result<(), StoreError> {
        self.add_paths(paths, SignatureCheck::Skip, WhenValid::Keep).await
    }

    async fn missing(&self, derivations: &BTreeSet<StorePath>) -> Result<Missing, StoreError> {
        Ok(Missing { build: derivations.clone(), ..Missing::default() })
    }

    async fn add_indirect_root(&self, link: &str) -> Result<(), StoreError> {
        self.state().links.insert(link.to_owned(), None);
        Ok(())
    }
}

/// A path that is made of nothing but a name.
pub fn path_named(name: &str) -> StorePath {
    let hash = "3880j94arxkya3irs3d8nr2x076sp1m8";
    StorePath::from_base_name(&format!("{hash}-{name}")).expect("a name")
}

#[async_trait]
impl Keeper for TestKeeper {
    async fn session(self: Arc<Self>) -> Result<Arc<dyn Keeper>, StoreError> {
        Ok(Arc::new(TestKeeper {
            store_dir: self.store_dir.clone(),
            state: Arc::clone(&self.state),
            view: self.views.fetch_add(1, Ordering::Relaxed) + 1,
            views: Arc::clone(&self.views),
            collections: Arc::clone(&self.collections),
        }))
    }

    fn set_own(&self, settings: &[OwnSetting]) {
        self.state().own = settings.to_vec();
    }

    async fn add_temporary_root(&self, path: &StorePath) -> Result<(), StoreError> {
        self.state().temporary.entry(self.view).or_default().insert(path.clone());
        Ok(())
    }

    async fn all_valid(&self) -> Result<BTreeSet<StorePath>, StoreError> {
        Ok(self.state().paths.keys().cloned().collect())
    }

    async fn referrers(&self, path: &StorePath) -> Result<BTreeSet<StorePath>, StoreError> {
        let state = self.state();
        let refer = state.paths.values().filter(|(info, _)| info.references.contains(path));
        Ok(refer.map(|(info, _)| info.path.clone()).collect())
    }

    async fn valid_derivers(&self, output: &StorePath) -> Result<BTreeSet<StorePath>, StoreError> {
        let state = self.state();
        let deriver = state.paths.get(output).and_then(|(info, _)| info.deriver.clone());
        Ok(deriver.into_iter().filter(|path| state.paths.contains_key(path)).collect())
    }

    async fn by_hash_part(&self, hash_part: &str) -> Result<Option<StorePath>, StoreError> {
        Ok(self.state().paths.keys().find(|path| path.hash_part() == hash_part).cloned())
    }

    async fn output_map(
        &self,
        derivation: &StorePath,
    ) -> Result<BTreeMap<String, Option<StorePath>>, StoreError> {
        let parsed = self.derivation(derivation)?;
        let outputs = parsed.outputs.iter();
        Ok(outputs.map(|(name, out)| (name.to_string(), out.path().cloned())).collect())
    }

    async fn substitutable(
        &self,
        paths: &BTreeSet<StorePath>,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        Ok(self.state().substitutable.intersection(paths).cloned().collect())
    }

    async fn offered(
        &self,
        paths: &BTreeSet<StorePath>,
    ) -> Result<BTreeMap<StorePath, Offered>, StoreError> {
        let references = BTreeSet::from([path_named("dep")]);
        let size = FetchSize { download: 7, nar: 77 };
        let offered = Offered { deriver: Some(path_named("thing.drv")), references, size };
        let found = self.substitutable(paths).await?;
        Ok(found.into_iter().map(|path| (path, offered.clone())).collect())
    }

    fn follow_fetches(&self, follower: Arc<dyn FetchObserver>) {
        self.state().followers.insert(self.view, follower);
    }

    async fn ensure(&self, path: &StorePath, _: Substitute) -> Result<(), StoreError> {
        if self.has(path) {
            return Ok(());
        }
        if !self.state().substitutable.contains(path) {
            return Err(Self::not_valid(path));
        }
        let (mut info, nar) = drover_store::contract::flat_file(path.name(), b"substituted", &[]);
        info.path = path.clone();
        let follower = self.state().followers.get(&self.view).cloned();
        if let Some(follower) = follower {
            let (number, size) = (3, info.nar_size.0);
            let substituter = "https://cache".to_owned();
            follower.event(FetchEvent::Started { number, path: path.clone(), substituter });
            follower.event(FetchEvent::Progress { number, done: size, size });
            follower.event(FetchEvent::Ended { number });
        }
        self.put(&info, &nar);
        Ok(())
    }

    async fn add_paths(
        &self,
        mut paths: Box<dyn PathStream>,
        signatures: SignatureCheck,
        when_valid: WhenValid,
    ) -> Result<(), StoreError> {
        while let Some(info) = paths.next_path().await? {
            let vouched = info.content_address.is_some()
                || info.signatures.iter().any(|signature| signature.key() == "trusted-1");
            if signatures == SignatureCheck::AsConfigured && !vouched {
                let path = self.store_dir.display(&info.path);
                return Err(refused(format!(
                    "cannot add path '{path}' because it lacks a signature by a trusted key"
                )));
            }
            let mut verified = Verified::new(NAME.to_owned(), info.clone());
            let mut nar = Vec::new();
            while let Some(chunk) = paths.chunk().await? {
                verified.pass(&chunk)?;
                nar.extend_from_slice(&chunk);
            }
            verified.finish()?;
            self.register(info, nar.into(), when_valid)?;
        }
        Ok(())
    }

    async fn add_content(
        &self,
        content: Content,
        mut bytes: Box<dyn ByteStream>,
        when_valid: WhenValid,
    ) -> Result<PathInfo, StoreError> {
        let mut all = Vec::new();
        while let Some(chunk) = bytes.chunk().await? {
            all.extend_from_slice(&chunk);
        }
        let address =
            ContentAddress { method: content.method, hash: Hash::of(content.algorithm, &all) };
        let nar = match content.method {
            IngestionMethod::Nar | IngestionMethod::Git => all,
            IngestionMethod::Flat | IngestionMethod::Text => single_file_nar(&all, Executable::No),
        };
        let references = References { others: content.references.clone(), itself: false };
        let path = self
            .store_dir
            .content_addressed_path(&address, &references, &content.name)
            .map_err(|error| refused(error.to_string()))?;
        let digest = Hash::of(HashAlgorithm::Sha256, &nar);
        let info = PathInfo {
            path,
            deriver: None,
            nar_hash: NarHash(digest.digest().try_into().expect("32 bytes")),
            nar_size: NarSize(nar.len() as u64),
            references: content.references,
            registration_time: 1,
            ultimate: false,
            signatures: BTreeSet::new(),
            content_address: Some(address),
        };
        self.register(info.clone(), nar.into(), when_valid)?;
        Ok(info)
    }

    async fn add_signatures(
        &self,
        path: &StorePath,
        signatures: &BTreeSet<Signature>,
    ) -> Result<(), StoreError> {
        let mut state = self.state();
        let (info, _) = state.paths.get_mut(path).ok_or_else(|| Self::not_valid(path))?;
        info.signatures.extend(signatures.iter().cloned());
        Ok(())
    }

    async fn realisation(&self, output: &DrvOutput) -> Result<Option<Realisation>, StoreError> {
        Ok(self.state().realisations.get(output).cloned())
    }

    async fn register_realisation(
        &self,
        realisation: &Realisation,
        _: SignatureCheck,
    ) -> Result<(), StoreError> {
        self.state().realisations.insert(realisation.id.clone(), realisation.clone());
        Ok(())
    }

    async fn add_permanent_root(&self, path: &StorePath, link: &str) -> Result<String, StoreError> {
        self.state().links.insert(link.to_owned(), Some(path.clone()));
        Ok(link.to_owned())
    }

    async fn roots(&self) -> Result<Roots, StoreError> {
        Ok(self.all_roots())
    }

    async fn collect(&self, collection: Collection) -> Result<Collected, StoreError> {
        self.collections.going_on.send_modify(|count| *count += 1);
        let mut held = self.collections.held.subscribe();
        held.wait_for(|held| !*held).await.expect("it is there");
        self.collections.going_on.send_modify(|count| *count -= 1);
        let live = self.live();
        let mut state = self.state();
        let dead = state.paths.keys().filter(|path| !live.contains(path)).cloned();
        let chosen: Vec<StorePath> = match collection.action {
            CollectAction::ListLive => live.into_iter().collect(),
            CollectAction::ListDead | CollectAction::DeleteDead => dead.collect(),
            CollectAction::DeleteGiven => {
                if let Some(path) = collection.paths.iter().find(|path| live.contains(*path)) {
                    let path = self.store_dir.display(path);
                    return Err(refused(format!(
                        "cannot delete path '{path}' since it is still alive"
                    )));
                }
                collection.paths.into_iter().collect()
            }
        };
        let mut bytes_freed = 0;
        if matches!(collection.action, CollectAction::DeleteDead | CollectAction::DeleteGiven) {
            for path in &chosen {
                bytes_freed += state.paths.remove(path).map_or(0, |(_, nar)| nar.len() as u64);
            }
        }
        let names = chosen.iter().map(|path| path.base_name().to_owned()).collect();
        Ok(Collected { names, bytes_freed })
    }

    async fn optimise(&self) -> Result<u64, StoreError> {
        Ok(3 << 20)
    }

    async fn verify(&self, _: VerifyDepth, repair: Repair) -> Result<Verification, StoreError> {
        let problems = vec!["path '/nix/store/x' was modified!".to_owned()];
        Ok(Verification { problems, errors_left: repair == Repair::No, unmended: Vec::new() })
    }

    async fn add_build_log(
        &self,
        derivation: &StorePath,
        mut log: Box<dyn ByteStream>,
    ) -> Result<(), StoreError> {
        let mut all = Vec::new();
        while let Some(chunk) = log.chunk().await? {
            all.extend_from_slice(&chunk);
        }
        self.state().logs.insert(derivation.clone(), all);
        Ok(())
    }

    async fn build_log(&self, _: &StorePath) -> Result<Option<Box<dyn ByteStream>>, StoreError> {
        Ok(None)
    }
}
