//! What is refused, and what slow clients and many of them do.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::{PathInfo, SecretKey, Signature, TrustedKeys};
use drover_store::contract::{Given, flat_file};
use drover_store::{Keeper, PathStream, SignatureCheck, Store, StoreError, WhenValid};
use drover_store_local::{LocalOptions, LocalStore, RequiredSignatures, Symlinks};
use drover_store_locks::{PathLocks, RealStore, SharedGcLock};
use rstest::rstest;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::support::{Home, everything};

#[tokio::test]
async fn unsigned_paths_are_refused_where_that_is_asked() {
    let home = Home::new();
    let key = SecretKey::generate("k-1").expect("a key");
    let mut keys = TrustedKeys::default();
    keys.add(key.public_key());
    let signatures = RequiredSignatures::By(keys);
    let store = home.store_with(LocalOptions { signatures, ..LocalOptions::default() });
    let (unsigned, nar) = flat_file("a", b"a", &[]);
    let mut signed = unsigned.clone();
    let add = async |info: &PathInfo| {
        let paths = Given::boxed([(info.clone(), nar.clone())]);
        store.add_paths(paths, SignatureCheck::AsConfigured, WhenValid::Keep).await
    };
    let error = add(&unsigned).await.expect_err("refused").to_string();
    let whole = store.store_dir().display(&unsigned.path);
    let expected =
        format!("cannot add path '{whole}' because it lacks a signature by a trusted key");
    assert_eq!(error, expected);
    let other: Signature = key.sign("something else");
    signed.signatures = BTreeSet::from([other]);
    let error = add(&signed).await.expect_err("refused").to_string();
    assert_eq!(error, format!("{expected} (saw: k-1)"));
    signed.signatures.insert(key.sign(&signed.fingerprint(store.store_dir())));
    add(&signed).await.expect("signed");
    // What stock thinks of the signature.
    let text = key.public_key().to_string();
    let args = ["store", "verify", "--no-contents", "--trusted-public-keys", &text, &whole];
    home.stock("nix", &args).expect("signed by whom stock trusts");
}

#[tokio::test]
async fn a_path_that_is_not_content_addressed_as_it_says() {
    let home = Home::new();
    let store = home.store();
    let (mut info, nar) = flat_file("a", b"a", &[]);
    info.content_address = Some(format!("fixed:sha256:{}", "0".repeat(52)).parse().expect("one"));
    let error = store.import(Given::boxed([(info.clone(), nar.clone())])).await;
    let error = error.expect_err("refused").to_string();
    assert!(error.contains("claims to be content-addressed but isn't"), "{error}");
    // And one whose path follows from an address that the contents haven't.
    let name = info.path.store_name();
    let address = info.content_address.clone().expect("an address");
    let references = Default::default();
    let path = store.store_dir().content_addressed_path(&address, &references, &name);
    info.path = path.expect("a path");
    let error = store.import(Given::boxed([(info, nar)])).await.expect_err("refused").to_string();
    assert!(error.contains("ca hash mismatch importing path"), "{error}");
    assert_eq!(home.entries(), Vec::<String>::new());
}

/// Where the store's folder, or one above it, could be exchanged, nothing is to be looked for below it.
#[rstest]
#[case::itself("elsewhere", "store")]
#[case::above("elsewhere/store", "store/above")]
#[tokio::test]
async fn a_store_behind_a_symlink_is_refused(#[case] real: &str, #[case] named: &str) {
    let home = Home::new();
    std::fs::create_dir_all(home.path(real)).expect("a folder");
    let real = home.path("elsewhere");
    std::os::unix::fs::symlink(&real, home.path("store")).expect("a link");
    let layout = home.layout_of(named);
    let refused = LocalStore::new(layout.clone(), LocalOptions::default());
    let error = refused.connect().await.expect_err("refused").to_string();
    let link = home.path("store");
    let expected = format!("the path '{}' is a symlink; this is not allowed", link.display());
    assert!(error.contains(&expected), "{error}");
    let options = LocalOptions { symlinks: Symlinks::Allowed, ..LocalOptions::default() };
    LocalStore::new(layout, options).connect().await.expect("where it's allowed it isn't");
}

/// The good paths before a bad one are added, the bad one and those behind it aren't.
#[tokio::test]
async fn what_was_whole_before_a_failure_stays() {
    let home = Home::new();
    let store = home.store();
    let (a, a_nar) = flat_file("a", b"a", &[]);
    let (absent, _) = flat_file("absent", b"", &[]);
    let (bad, bad_nar) = flat_file("bad", b"bad", &[&absent]);
    let (c, c_nar) = flat_file("c", b"c", &[]);
    let paths = Given::boxed([(a.clone(), a_nar), (bad, bad_nar), (c, c_nar)]);
    let error = store.import(paths).await.expect_err("refused").to_string();
    assert!(error.contains("which is not valid"), "{error}");
    assert_eq!(store.all_valid().await.expect("all"), BTreeSet::from([a.path.clone()]));
    assert_eq!(home.entries(), [a.path.base_name()], "something is left");
    home.verify().await;
}

/// Sends a path's first bytes, and the rest when it is told to.
struct Slow {
    info: Option<PathInfo>,
    pieces: Vec<Bytes>,
    go: Option<oneshot::Receiver<()>>,
    began: Option<oneshot::Sender<()>>,
}

#[async_trait]
impl PathStream for Slow {
    fn count(&self) -> usize {
        1
    }

    async fn next_path(&mut self) -> Result<Option<PathInfo>, StoreError> {
        Ok(self.info.take())
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        if self.pieces.len() == 1
            && let Some(go) = self.go.take()
        {
            self.began.take().map(|began| began.send(()));
            go.await.ok();
        }
        Ok(self.pieces.pop())
    }
}

#[tokio::test]
async fn a_slow_client_keeps_nobody_off() {
    let home = Home::new();
    let store = home.store();
    let (a, nar) = flat_file("a", b"contents", &[]);
    let (go, wait) = oneshot::channel();
    let (began, has_begun) = oneshot::channel();
    let slow = Slow {
        info: Some(a.clone()),
        pieces: vec![nar.slice(50..), nar.slice(..50)],
        go: Some(wait),
        began: Some(began),
    };
    let fast = async {
        has_begun.await.expect("begun");
        let paths = Given::boxed([(a.clone(), nar.clone())]);
        let added = tokio::time::timeout(Duration::from_secs(120), store.import(paths)).await;
        added.expect("the slow client holds the path").expect("added");
        let whole = store.store_dir().display(&a.path);
        home.stock("nix-store", &["--check-validity", &whole]).expect("valid");
        go.send(()).expect("sent");
    };
    let (slow, ()) = tokio::join!(store.import(Box::new(slow)), fast);
    slow.expect("added already");
    assert_eq!(home.entries(), [a.path.base_name()], "something is left");
    home.verify().await;
}

/// More imports of a path that somebody builds than may work at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_lock_keeps_nobody_off() {
    let home = Home::new();
    let store = home.store();
    store.connect().await.expect("open");
    let (a, a_nar) = flat_file("a", b"a", &[]);
    let real = Arc::new(RealStore::open(&home.path("store")).expect("a store"));
    let building = PathLocks::try_acquire(&real, &BTreeSet::from([a.path.clone()]));
    let building = building.expect("tried").held().expect("free");
    let mut waiting = JoinSet::new();
    for _ in 0..64 {
        let (store, a) = (store.clone(), Given::boxed([(a.clone(), a_nar.clone())]));
        waiting.spawn(async move { store.import(a).await });
    }
    // They all get as far as they can.
    while home.entries().iter().filter(|name| name.contains("-tmp-")).count() < 64 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (b, b_nar) = flat_file("b", b"b", &[]);
    for keeper in [store.clone(), home.store()] {
        let paths = Given::boxed([(b.clone(), b_nar.clone())]);
        let added = tokio::time::timeout(Duration::from_secs(120), keeper.import(paths)).await;
        added.expect("those who wait keep others off").expect("added");
    }
    assert_eq!(waiting.len(), 64);
    assert!(waiting.try_join_next().is_none(), "one did not wait");
    drop(building);
    while let Some(done) = waiting.join_next().await {
        done.expect("its end").expect("added");
    }
    let both = BTreeSet::from([a.path, b.path]);
    assert_eq!(store.all_valid().await.expect("all"), both);
    assert_eq!(home.entries().len(), 2, "something is left: {:?}", home.entries());
}

/// T07: one of them writes, the others find that it has.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_add_one_path_at_the_same_time() {
    let home = Home::new();
    let store = home.store();
    let (a, nar) = flat_file("a", &[7; 300_000], &[]);
    let mut adding = JoinSet::new();
    for number in 0..32 {
        // Sessions of one process, and others that know nothing of each other.
        let store = if number % 2 == 0 { store.clone() } else { home.store() };
        let paths = Given::boxed([(a.clone(), nar.clone())]);
        adding.spawn(async move { store.import(paths).await });
    }
    let mut inodes = BTreeSet::new();
    let all = async {
        while let Some(done) = adding.join_next().await {
            done.expect("its end").expect("added");
            let file = home.path("store").join(a.path.base_name());
            inodes.insert(std::fs::metadata(file).expect("a file").ino());
        }
    };
    tokio::time::timeout(Duration::from_secs(180), all).await.expect("they wait for each other");
    assert_eq!(inodes.len(), 1, "more than one has written it");
    assert_eq!(home.entries(), [a.path.base_name()], "something is left");
    home.verify().await;
}

/// A collection that waits for its turn ends with whoever wanted it.
#[tokio::test]
async fn a_collection_that_nobody_waits_for_does_not_happen() {
    let home = Home::new();
    let (a, nar) = flat_file("a", b"a", &[]);
    home.store().import(Given::boxed([(a.clone(), nar)])).await.expect("imported");
    let store = home.store();
    let other = SharedGcLock::try_acquire(&home.path("state")).expect("tried").expect("free");
    let waits = tokio::time::timeout(Duration::from_millis(200), store.collect(everything()));
    assert!(waits.await.is_err(), "it did not wait");
    drop(other);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let valid = BTreeSet::from([a.path]);
    assert_eq!(store.all_valid().await.expect("all"), valid);
    assert_eq!(store.collect(everything()).await.expect("collected").names.len(), 1);
}

#[tokio::test]
async fn a_client_that_leaves_leaves_nothing() {
    let home = Home::new();
    let store = home.store();
    let (a, nar) = flat_file("a", b"contents", &[]);
    let (_go, wait) = oneshot::channel();
    let (began, has_begun) = oneshot::channel();
    let slow = Slow {
        info: Some(a.clone()),
        pieces: vec![nar.slice(50..), nar.slice(..50)],
        go: Some(wait),
        began: Some(began),
    };
    tokio::select! {
        _ = store.import(Box::new(slow)) => panic!("it can't end"),
        begun = has_begun => begun.expect("begun"),
    }
    // What was handed to a blocking thread ends by itself.
    for _ in 0..12_000 {
        if home.entries().is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("something is left: {:?}", home.entries());
}
