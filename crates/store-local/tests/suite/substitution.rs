//! Paths that come from substituters, and what becomes of bad ones.

#![allow(clippy::unwrap_used, reason = "a test shows what went wrong by failing")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::{PathInfo, SecretKey, StoreDir, StorePath, TrustedKeys};
use drover_store::contract::{Given, flat_file};
use drover_store::{
    BuildLog, Description, FetchEvent, FetchObserver, FetchSize, Keeper, LogEvent, Missing,
    OwnSetting, PathStream, Store, StoreError, Substitute, Substituter, Trust, Vouching,
};
use drover_store_local::{LocalOptions, LocalStore, RequiredSignatures, Sources};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::support::Home;

/// A store with paths, some of which may be bad.
struct Shop {
    name: String,
    store_dir: StoreDir,
    paths: BTreeMap<StorePath, (PathInfo, Bytes)>,
    fault: Fault,
    /// Each path that begins to be sent takes one of these.
    gate: Semaphore,
    sent: Mutex<Vec<StorePath>>,
    questions: Mutex<Vec<usize>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    Unreachable,
    /// What it sends is something else.
    Damaged,
    /// What it sends is longer.
    Endless,
    /// The connection ends at this path.
    LostAt(usize),
    /// It has forgotten its contents.
    Forgotten,
}

impl Shop {
    fn new(name: &str, home: &Home, paths: &[(PathInfo, Bytes)], fault: Fault) -> Arc<Shop> {
        let by_path =
            paths.iter().map(|(info, nar)| (info.path.clone(), (info.clone(), nar.clone())));
        Arc::new(Shop {
            name: name.to_owned(),
            store_dir: home.layout().store_dir,
            paths: by_path.collect(),
            fault,
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
            sent: Mutex::default(),
            questions: Mutex::default(),
        })
    }

    fn sent(&self) -> Vec<String> {
        self.sent.lock().unwrap().iter().map(|path| path.name().to_owned()).collect()
    }

    fn lost(&self) -> StoreError {
        StoreError::Lost { store: self.name.clone(), reason: "the lights went out".to_owned() }
    }
}

#[async_trait]
impl Store for Shop {
    fn name(&self) -> &str {
        &self.name
    }

    fn store_dir(&self) -> &StoreDir {
        &self.store_dir
    }

    async fn connect(&self) -> Result<Description, StoreError> {
        Ok(Description { protocol: String::new(), nix_version: None, trust: Trust::NotTrusted })
    }

    async fn hold_valid(
        &self,
        paths: &BTreeSet<StorePath>,
        _: Substitute,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        Ok(paths.iter().filter(|path| self.paths.contains_key(path)).cloned().collect())
    }

    async fn path_infos(&self, paths: &[StorePath]) -> Result<Vec<Option<PathInfo>>, StoreError> {
        self.questions.lock().unwrap().push(paths.len());
        if self.fault == Fault::Unreachable {
            let reason = "nobody is at home".to_owned();
            return Err(StoreError::Unreachable { store: self.name.clone(), reason });
        }
        let info = |path| self.paths.get(path).map(|(info, _)| info.clone());
        Ok(paths.iter().map(info).collect())
    }

    async fn download_sizes(&self, paths: &[StorePath]) -> Result<Vec<Option<u64>>, StoreError> {
        Ok(paths.iter().map(|path| (path.name() != "b").then_some(7)).collect())
    }

    async fn export(&self, infos: Vec<PathInfo>) -> Result<Box<dyn PathStream>, StoreError> {
        let mut paths = Vec::new();
        for (at, info) in infos.into_iter().enumerate() {
            let permit = self.gate.acquire().await.unwrap();
            permit.forget();
            if self.fault == Fault::LostAt(at) {
                return Ok(Box::new(Cut { whole: Given::boxed(paths), error: Some(self.lost()) }));
            }
            if self.fault == Fault::Forgotten {
                return Err(StoreError::NotValid { store: self.name.clone(), path: info.path });
            }
            self.sent.lock().unwrap().push(info.path.clone());
            let nar = match self.fault {
                Fault::Damaged => flat_file("x", b"?", &[]).1,
                Fault::Endless => flat_file("x", b"something else", &[]).1,
                _ => self.paths[&info.path].1.clone(),
            };
            paths.push((info, nar));
        }
        Ok(Given::boxed(paths))
    }

    async fn import(&self, _: Box<dyn PathStream>) -> Result<(), StoreError> {
        Err(StoreError::Unsupported { store: self.name.clone(), what: "take paths" })
    }

    async fn missing(&self, _: &BTreeSet<StorePath>) -> Result<Missing, StoreError> {
        Ok(Missing::default())
    }

    async fn add_indirect_root(&self, _: &str) -> Result<(), StoreError> {
        Ok(())
    }
}

/// A stream that ends in an error.
struct Cut {
    whole: Box<dyn PathStream>,
    error: Option<StoreError>,
}

#[async_trait]
impl PathStream for Cut {
    fn count(&self) -> usize {
        self.whole.count() + 1
    }

    async fn next_path(&mut self) -> Result<Option<PathInfo>, StoreError> {
        match self.whole.next_path().await? {
            Some(info) => Ok(Some(info)),
            None => self.error.take().map_or(Ok(None), Err),
        }
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        self.whole.chunk().await
    }
}

#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Heard {
    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl FetchObserver for Heard {
    fn event(&self, event: FetchEvent) {
        if let FetchEvent::Note(text) = event {
            self.0.lock().unwrap().push(text);
        }
    }
}

impl BuildLog for Heard {
    fn event(&self, event: LogEvent) {
        if let LogEvent::Message(text) = event {
            self.0.lock().unwrap().push(text);
        }
    }
}

/// A store with these substituters, in their order.
fn store(home: &Home, shops: &[&Arc<Shop>], keys: &[&SecretKey]) -> (Arc<LocalStore>, Arc<Heard>) {
    let substituter = |shop: &&Arc<Shop>| Substituter {
        store: Arc::clone(*shop) as Arc<dyn Store>,
        vouching: Vouching::Signature,
        priority: None,
    };
    let heard = Arc::new(Heard::default());
    let sources = Sources {
        substituters: shops.iter().map(substituter).collect(),
        observer: Some(Arc::clone(&heard) as Arc<dyn FetchObserver>),
        ..Sources::default()
    };
    let mut trusted = TrustedKeys::default();
    for key in keys {
        trusted.add(key.public_key());
    }
    let options =
        LocalOptions { signatures: RequiredSignatures::By(trusted), ..LocalOptions::default() };
    (Arc::new(LocalStore::new(home.layout(), options).substituting_from(sources)), heard)
}

/// A chain of paths, each of which refers to the one before, signed by a key.
fn chain(home: &Home, key: &SecretKey, names: &[&str]) -> Vec<(PathInfo, Bytes)> {
    let mut paths: Vec<(PathInfo, Bytes)> = Vec::new();
    for name in names {
        let before: Vec<&PathInfo> = paths.last().map(|(info, _)| info).into_iter().collect();
        let (mut info, nar) = flat_file(name, name.as_bytes(), &before);
        info.signatures.insert(key.sign(&info.fingerprint(&home.layout().store_dir)));
        paths.push((info, nar));
    }
    paths
}

fn key(name: &str) -> SecretKey {
    SecretKey::generate(name).unwrap()
}

fn last(paths: &[(PathInfo, Bytes)]) -> BTreeSet<StorePath> {
    BTreeSet::from([paths.last().unwrap().0.path.clone()])
}

async fn fetch(store: &Arc<LocalStore>, wanted: &BTreeSet<StorePath>) -> (usize, Vec<String>) {
    let log = Arc::new(Heard::default());
    let log_as = Arc::clone(&log) as Arc<dyn BuildLog>;
    (store.substitute(wanted, log_as).await.unwrap().len(), log.all())
}

#[tokio::test]
async fn a_path_comes_with_all_that_it_refers_to() {
    let (home, key) = (Home::new(), key("k-1"));
    let paths = chain(&home, &key, &["a", "b", "c"]);
    let shop = Shop::new("shop", &home, &paths, Fault::None);
    let (store, heard) = store(&home, &[&shop], &[&key]);
    let wanted = last(&paths);
    assert_eq!(store.substitutable(&wanted).await.unwrap(), wanted);
    assert_eq!(store.hold_valid(&wanted, Substitute::No).await.unwrap(), BTreeSet::new());
    assert_eq!(fetch(&store, &wanted).await, (1, vec![]));
    assert_eq!((shop.sent(), heard.all()), (["a", "b", "c"].map(str::to_owned).into(), vec![]));
    let info = store.path_infos(&Vec::from_iter(wanted.clone())).await.unwrap().remove(0).unwrap();
    assert_eq!(info.signatures, paths[2].0.signatures, "signatures come along");
    assert!(!info.ultimate);
    assert_eq!(fetch(&store, &wanted).await, (1, vec![]));
    assert_eq!(shop.sent().len(), 3, "what is valid isn't fetched again");
    home.verify().await;
}

/// Each session's follower hears of what is fetched for that session.
#[tokio::test]
async fn who_follows_a_session_is_told_of_its_fetches() {
    #[derive(Default)]
    struct Names(Mutex<Vec<String>>);
    impl FetchObserver for Names {
        fn event(&self, event: FetchEvent) {
            let told = match event {
                FetchEvent::Started { path, substituter, .. } => {
                    format!("{} from {substituter}", path.name())
                }
                FetchEvent::Ended { .. } => "ended".to_owned(),
                _ => return,
            };
            self.0.lock().unwrap().push(told);
        }
    }
    let (home, key) = (Home::new(), key("k-1"));
    let paths = chain(&home, &key, &["a", "b"]);
    let shop = Shop::new("shop", &home, &paths, Fault::None);
    let (store, _) = store(&home, &[&shop], &[&key]);
    let [first, second] = [Arc::new(Names::default()), Arc::new(Names::default())];
    for (follower, wanted) in [(&first, &paths[..1]), (&second, &paths[..])] {
        let session = Arc::clone(&store).session().await.unwrap();
        session.follow_fetches(Arc::clone(follower) as Arc<dyn FetchObserver>);
        session.hold_valid(&last(wanted), Substitute::Yes).await.unwrap();
    }
    assert_eq!(*first.0.lock().unwrap(), ["a from shop", "ended"]);
    assert_eq!(*second.0.lock().unwrap(), ["b from shop", "ended"]);
}

/// What substituters say of paths is told whether those are valid or not.
#[tokio::test]
async fn what_is_offered_is_told_with_references_and_sizes() {
    let (home, key) = (Home::new(), key("k-1"));
    let paths = chain(&home, &key, &["a", "c"]);
    let shop = Shop::new("shop", &home, &paths, Fault::None);
    let (store, _) = store(&home, &[&shop], &[&key]);
    let wanted: BTreeSet<StorePath> = paths.iter().map(|(info, _)| info.path.clone()).collect();
    for _ in 0..2 {
        let offered = store.offered(&wanted).await.unwrap();
        assert_eq!(offered.keys().cloned().collect::<BTreeSet<_>>(), wanted);
        let (info, _) = &paths[1];
        let told = &offered[&info.path];
        assert_eq!((&told.references, &told.deriver), (&info.references, &info.deriver));
        assert_eq!(told.size, FetchSize { download: 7, nar: info.nar_size.0 });
        fetch(&store, &last(&paths)).await;
    }
    let unknown = BTreeSet::from([flat_file("x", b"x", &[]).0.path]);
    assert_eq!(store.offered(&unknown).await.unwrap(), BTreeMap::new());
}

/// What would be fetched is told with all that it refers to, and as big as the files; what could not be
/// had whole isn't told of.
#[tokio::test]
async fn what_would_be_fetched_is_told_with_its_sizes() {
    let (home, key) = (Home::new(), key("k-1"));
    let paths = chain(&home, &key, &["a", "b", "c"]);
    let shop = Shop::new("shop", &home, &paths, Fault::None);
    let (store, _) = store(&home, &[&shop], &[&key]);
    let size = |(info, _): &(PathInfo, Bytes)| {
        // the sizes of one aren't told
        let download = if info.path.name() == "b" { info.nar_size.0 } else { 7 };
        (info.path.clone(), FetchSize { download, nar: info.nar_size.0 })
    };
    let all: BTreeMap<StorePath, FetchSize> = paths.iter().map(size).collect();
    assert_eq!(store.fetchable(&last(&paths)).await.unwrap(), all);
    assert_eq!(shop.sent(), Vec::<String>::new());

    let first = BTreeSet::from([paths[0].0.path.clone()]);
    assert_eq!(fetch(&store, &first).await.0, 1);
    let rest = all.iter().filter(|(path, _)| !first.contains(path));
    let rest = rest.map(|(path, size)| (path.clone(), *size)).collect();
    assert_eq!(store.fetchable(&last(&paths)).await.unwrap(), rest);

    let home = Home::new();
    let paths = chain(&home, &key, &["a", "b", "c"]);
    let gapped = Shop::new("gapped", &home, &paths[1..], Fault::None);
    let (store, _) = self::store(&home, &[&gapped], &[&key]);
    assert_eq!(store.substitutable(&last(&paths)).await.unwrap(), last(&paths));
    assert_eq!(store.fetchable(&last(&paths)).await.unwrap(), BTreeMap::new());
}

/// The signature of an unknown key, or none, is refused with the names that were seen; a good one
/// beside a bad one will do.
#[tokio::test]
async fn what_nobody_vouches_for_is_refused() {
    let (home, good, bad) = (Home::new(), key("good-1"), key("bad-1"));
    let mut paths = chain(&home, &bad, &["a"]);
    let shop = Shop::new("shop", &home, &paths, Fault::None);
    let (refusing, heard) = store(&home, &[&shop], &[&good]);
    let wanted = last(&paths);
    assert_eq!(fetch(&refusing, &wanted).await, (0, vec![]));
    assert_eq!(shop.sent().len(), 0);
    let said = heard.all().join("\n");
    for part in ["'shop'", "-a'", "signed by 'bad-1'", "trusted keys are 'good-1'"] {
        assert!(said.contains(part), "{said}");
    }
    // a client who may trust another key
    refusing.set_own(&[OwnSetting::MoreTrustedKeys({
        let mut keys = TrustedKeys::default();
        keys.add(bad.public_key());
        keys
    })]);
    assert_eq!(refusing.substitutable(&wanted).await.unwrap(), wanted);

    // the right name, and another key
    let other = key("good-1");
    let forged = chain(&home, &other, &["a"]);
    let shop = Shop::new("shop", &home, &forged, Fault::None);
    let (refusing, heard) = store(&home, &[&shop], &[&good]);
    assert_eq!(fetch(&refusing, &wanted).await, (0, vec![]));
    let said = heard.all().join("\n");
    assert!(
        said.contains("its signature by 'good-1' doesn't fit the trusted key of that name"),
        "{said}"
    );
    assert!(!said.contains("the trusted keys are"), "{said}");

    let info = &mut paths[0].0;
    let signature = good.sign(&info.fingerprint(&home.layout().store_dir));
    info.signatures.insert(signature);
    let mut forged = bad.sign("something else").to_string();
    forged = forged.replace("bad-1:", "good-1:");
    info.signatures.insert(forged.parse().unwrap());
    let shop = Shop::new("shop", &home, &paths, Fault::None);
    let (store, heard) = store(&home, &[&shop], &[&good]);
    assert_eq!(fetch(&store, &wanted).await, (1, vec![]));
    assert_eq!(heard.all(), Vec::<String>::new());
}

/// Whatever one does wrong, the next that has the path takes over, and nothing bad is let in.
#[rstest::rstest]
#[case::unreachable(Fault::Unreachable, "nobody is at home", &["a", "b", "c", "d"])]
#[case::damaged(Fault::Damaged, "hash", &["a", "b", "c", "d"])]
#[case::endless(Fault::Endless, "exceeds its declared size", &["a", "b", "c", "d"])]
#[case::lost(Fault::LostAt(2), "the lights went out", &["c", "d"])]
#[case::forgotten(Fault::Forgotten, "does not exist in", &["a", "b", "c", "d"])]
#[tokio::test]
async fn the_next_takes_over(#[case] fault: Fault, #[case] words: &str, #[case] rest: &[&str]) {
    let (home, key) = (Home::new(), key("k-1"));
    let paths = chain(&home, &key, &["a", "b", "c", "d"]);
    let bad = Shop::new("bad", &home, &paths, fault);
    let good = Shop::new("good", &home, &paths, Fault::None);
    let (store, heard) = store(&home, &[&bad, &good], &[&key]);
    let (found, log) = fetch(&store, &last(&paths)).await;
    assert_eq!((found, good.sent()), (1, rest.iter().map(|name| (*name).to_owned()).collect()));
    let said = [heard.all(), log].concat().join("\n");
    assert!(said.contains(words) && said.contains("'bad'"), "{said}");
    home.verify().await;
}

#[tokio::test]
async fn trouble_everywhere_is_told() {
    let (home, key) = (Home::new(), key("k-1"));
    let paths = chain(&home, &key, &["a", "b"]);
    let bad = Shop::new("bad", &home, &paths, Fault::Damaged);
    let (store, _) = store(&home, &[&bad], &[&key]);
    let (found, log) = fetch(&store, &last(&paths)).await;
    assert_eq!(found, 0);
    assert!(log.len() == 1 && log[0].starts_with("warning: cannot fetch"), "{log:?}");
    let error = store.ensure(&paths[0].0.path, Substitute::Yes).await.unwrap_err().to_string();
    assert!(error.contains("-a'"), "{error}");
    assert_eq!(home.entries(), Vec::<String>::new(), "nothing bad is left");
}

/// What refers to something that nobody has is as good as not there.
#[tokio::test]
async fn half_a_closure_is_none() {
    let (home, key) = (Home::new(), key("k-1"));
    let paths = chain(&home, &key, &["a", "b", "c"]);
    let shop = Shop::new("shop", &home, &paths[1..], Fault::None);
    let (store, _) = store(&home, &[&shop], &[&key]);
    let (found, log) = fetch(&store, &last(&paths)).await;
    assert_eq!((found, shop.sent()), (0, vec![]));
    assert!(log.len() == 1 && log[0].contains("-a'") && log[0].contains("-c'"), "{log:?}");
    // and with what is here already it is one
    store.import(Given::boxed([paths[0].clone()])).await.unwrap();
    assert_eq!(fetch(&store, &last(&paths)).await.0, 1);
}

/// However many want a path at the same time, it comes once.
#[tokio::test]
async fn one_transfer_is_enough_for_all() {
    let (home, key) = (Home::new(), key("k-1"));
    let paths = chain(&home, &key, &["a", "b", "c"]);
    let shop = Shop::new("shop", &home, &paths, Fault::None);
    shop.gate.forget_permits(Semaphore::MAX_PERMITS);
    let (store, _) = store(&home, &[&shop], &[&key]);
    let some = |at: usize| BTreeSet::from([paths[at].0.path.clone()]);
    let all = futures::future::join_all((0..30).map(|number| {
        let (session, wanted) = (Arc::new(store.new_session()), some(number % 3));
        async move { fetch(&session, &wanted).await.0 }
    }));
    let open = async {
        // all have asked, and the first waits for the first path
        while shop.questions.lock().unwrap().len() < 30 {
            tokio::task::yield_now().await;
        }
        shop.gate.add_permits(3);
    };
    let (found, ()) = futures::future::join(all, open).await;
    assert_eq!(found, vec![1; 30]);
    let mut sent = shop.sent();
    sent.sort();
    assert_eq!(sent, ["a", "b", "c"]);
}

/// Who gives up lets others have it.
#[tokio::test]
async fn a_transfer_that_is_given_up_is_taken_over() {
    let (home, key) = (Home::new(), key("k-1"));
    let paths = chain(&home, &key, &["a"]);
    let shop = Shop::new("shop", &home, &paths, Fault::None);
    shop.gate.forget_permits(Semaphore::MAX_PERMITS);
    let (store, _) = store(&home, &[&shop], &[&key]);
    let wanted = last(&paths);
    let (mut first, mut second) = (JoinSet::new(), JoinSet::new());
    first.spawn({
        let (store, wanted) = (store.clone(), wanted.clone());
        async move { fetch(&store, &wanted).await }
    });
    while shop.questions.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    let session = Arc::new(store.new_session());
    second.spawn(async move { fetch(&session, &wanted).await });
    while shop.questions.lock().unwrap().len() < 2 {
        tokio::task::yield_now().await;
    }
    first.shutdown().await;
    shop.gate.add_permits(1);
    assert_eq!(second.join_next().await.unwrap().unwrap().0, 1);
}

/// A trusted client's `substituters` and `extra-substituters`.
#[tokio::test]
async fn a_session_may_have_others() {
    let (home, key) = (Home::new(), key("k-1"));
    let paths = chain(&home, &key, &["a", "b"]);
    let usual = Shop::new("usual", &home, &paths[..1], Fault::None);
    let other = Shop::new("other", &home, &paths[1..], Fault::None);
    let opened = Arc::clone(&other);
    let sources = Sources {
        substituters: vec![Substituter {
            store: usual.clone(),
            vouching: Vouching::Substituter,
            priority: None,
        }],
        open: Some(Arc::new(move |names: &str| {
            assert_eq!(names, "other");
            let store = Arc::clone(&opened) as Arc<dyn Store>;
            (vec![Substituter { store, vouching: Vouching::Substituter, priority: None }], vec![])
        })),
        ..Sources::default()
    };
    let layout = home.layout();
    let store = LocalStore::new(layout, LocalOptions::default()).substituting_from(sources);
    let wanted = last(&paths);
    let session = Arc::new(store.new_session());
    session.set_own(&[OwnSetting::Substituters("other".to_owned())]);
    assert_eq!(fetch(&session, &wanted).await.0, 0, "'usual' isn't asked");
    let session = Arc::new(store.new_session());
    session.set_own(&[OwnSetting::MoreSubstituters("other".to_owned())]);
    assert_eq!(fetch(&session, &wanted).await.0, 1);
    assert_eq!((usual.sent(), other.sent()), (vec!["a".to_owned()], vec!["b".to_owned()]));
}

/// The lowest counts most, whatever the order in which they are named.
#[rstest::rstest]
#[case::of_the_address(Some(30), Some(20), "second")]
#[case::of_the_store(Some(30), None, "second")]
#[case::the_same(None, Some(0), "first")]
#[tokio::test]
async fn priorities_decide(
    #[case] first: Option<i64>,
    #[case] second: Option<i64>,
    #[case] by: &str,
) {
    let (home, key) = (Home::new(), key("k-1"));
    let paths = chain(&home, &key, &["a"]);
    let shops = ["first", "second"].map(|name| Shop::new(name, &home, &paths, Fault::None));
    let vouching = Vouching::Substituter;
    let both = shops.iter().zip([first, second]).map(|(shop, priority)| {
        let store = Arc::clone(shop) as Arc<dyn Store>;
        Substituter { store, vouching, priority }
    });
    let sources = Sources { substituters: both.collect(), ..Sources::default() };
    let store = LocalStore::new(home.layout(), LocalOptions::default()).substituting_from(sources);
    assert_eq!(fetch(&Arc::new(store), &last(&paths)).await.0, 1);
    let sent: Vec<&str> =
        shops.iter().filter(|shop| !shop.sent().is_empty()).map(|shop| shop.name()).collect();
    assert_eq!(sent, [by]);
}
