//! What a real daemon's keeper can do, through it.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use drover_core::{
    DrvOutput, Hash, HashAlgorithm, IngestionMethod, PathInfo, Realisation, Signature, StorePath,
};
use drover_nar::{Executable, single_file_nar};
use drover_store::contract::{Given, check_store, flat_file};
use drover_store::{
    CollectAction, Collected, Collection, Content, Keeper, Liveness, Repair, SignatureCheck,
    Store as _, StoreError, Substitute, VerifyDepth, WhenValid,
};
use drover_wire::{NewContent, Request, Response};
use support::{Fake, Pieces, Site, soon, undisturbed};

async fn session(store: drover_store_remote::RemoteStore) -> Arc<dyn Keeper> {
    Arc::new(store).session().await.expect("a session")
}

/// Adds `b`, which refers to `a`.
async fn two_files(store: &dyn Keeper) -> (PathInfo, PathInfo) {
    let (a, a_nar) = flat_file("a", b"the contents of a", &[]);
    let (b, b_nar) = flat_file("b", b"the contents of b", &[&a]);
    let paths = Given::boxed([(a.clone(), a_nar), (b.clone(), b_nar)]);
    store.add_paths(paths, SignatureCheck::Skip, WhenValid::Keep).await.expect("an addition");
    (a, b)
}

fn of(paths: &[&PathInfo]) -> BTreeSet<StorePath> {
    paths.iter().map(|info| info.path.clone()).collect()
}

fn collection(action: CollectAction, paths: BTreeSet<StorePath>) -> Collection {
    Collection { action, liveness: Liveness::Respect, paths, max_freed: None }
}

async fn collect(
    store: &dyn Keeper,
    action: CollectAction,
    paths: &[&PathInfo],
) -> Result<Collected, StoreError> {
    soon(undisturbed(|| store.collect(collection(action, of(paths))))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_a_store() {
    let site = Site::new();
    let session = session(site.store()).await;
    check_store(session.as_ref(), "session").await;
    let served = Arc::new(Site::new().served()) as Arc<dyn Keeper>;
    assert!(served.all_valid().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn questions() {
    let site = Site::new();
    let store = session(site.store()).await;
    assert_eq!(store.all_valid().await.expect("paths"), BTreeSet::new());
    let (a, b) = two_files(store.as_ref()).await;
    assert_eq!(store.all_valid().await.expect("paths"), of(&[&a, &b]));
    assert_eq!(store.referrers(&a.path).await.expect("paths"), of(&[&b]));
    assert_eq!(store.referrers(&b.path).await.expect("paths"), of(&[]));
    let found = store.by_hash_part(b.path.hash_part()).await.expect("an answer");
    assert_eq!(found.as_ref(), Some(&b.path));
    let (absent, _) = flat_file("absent", b"", &[]);
    assert_eq!(store.by_hash_part(absent.path.hash_part()).await.expect("an answer"), None);
    assert_eq!(store.substitutable(&of(&[&absent])).await.expect("paths"), of(&[]));

    let derivation = site.derivation("made", "exit 1");
    let path = site.add(store.as_ref(), &derivation).await;
    let out = derivation.basic.outputs.values().next().and_then(|output| output.path()).cloned();
    let expected = BTreeMap::from([("out".to_owned(), out.clone())]);
    assert_eq!(store.output_map(&path).await.expect("outputs"), expected);
    let derivers = store.valid_derivers(&out.expect("a path")).await.expect("paths");
    assert_eq!(derivers, BTreeSet::from([path]));
    assert!(matches!(store.output_map(&absent.path).await, Err(StoreError::Refused { .. })));
    assert!(store.ensure(&a.path, Substitute::Yes).await.is_ok());
    assert!(matches!(
        store.ensure(&absent.path, Substitute::Yes).await,
        Err(StoreError::Refused { .. })
    ));
    assert!(matches!(
        store.register_validity(vec![absent], drover_store::Adoption::AsGiven).await,
        Err(StoreError::Unsupported { .. })
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn contents_get_the_path_that_follows() {
    let site = Site::new();
    let store = session(site.store()).await;
    let (a, _) = two_files(store.as_ref()).await;
    let large = vec![7; 3 * 1024 * 1024 + 5];
    for (name, method, references) in [
        ("flat", IngestionMethod::Flat, BTreeSet::new()),
        ("nar", IngestionMethod::Nar, of(&[&a])),
        ("text", IngestionMethod::Text, of(&[&a])),
    ] {
        let algorithm = HashAlgorithm::Sha256;
        let name = name.parse().expect("a name");
        let content = Content { name, method, algorithm, references: references.clone() };
        let bytes = match method {
            IngestionMethod::Nar => single_file_nar(&large, Executable::No),
            _ => large.clone(),
        };
        for when in [WhenValid::Keep, WhenValid::Keep, WhenValid::Replace] {
            let bytes = Pieces::boxed([bytes[..10].to_vec(), bytes[10..].to_vec()]);
            let info = store.add_content(content.clone(), bytes, when).await.expect("a path");
            assert_eq!(info.references, references, "{method:?}");
            let address = info.content_address.expect("a content address");
            assert_eq!(address.method, method);
            assert_eq!(
                address.hash,
                match method {
                    IngestionMethod::Nar => {
                        Hash::of(algorithm, &single_file_nar(&large, Executable::No))
                    }
                    _ => Hash::of(algorithm, &large),
                }
            );
            let files = store.read_files(&[info.path]).await.expect("a file");
            assert_eq!(files.first().map(|file| file.as_ref()), Some(large.as_slice()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contents_that_end_early_are_not_added() {
    let site = Site::new();
    let store = session(site.store()).await;
    let why = StoreError::Lost { store: "source".to_owned(), reason: "cut".to_owned() };
    let content = Content {
        name: "cut".parse().expect("a name"),
        method: IngestionMethod::Flat,
        algorithm: HashAlgorithm::Sha256,
        references: BTreeSet::new(),
    };
    let bytes = Box::new(Pieces([b"the beginning".to_vec()].into(), Some(why)));
    let added = soon(store.add_content(content, bytes, WhenValid::Keep)).await;
    assert!(
        matches!(&added, Err(StoreError::Lost { store, .. }) if store == "source"),
        "{added:?}"
    );
    assert_eq!(store.all_valid().await.expect("paths"), BTreeSet::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_are_asked_for_and_added() {
    let site = Site::new();
    let store = session(site.store()).await;
    let (a, nar) = flat_file("a", b"the contents of a", &[]);
    let paths = || Given::boxed([(a.clone(), nar.clone())]);
    let checked = store.add_paths(paths(), SignatureCheck::AsConfigured, WhenValid::Keep).await;
    let Err(StoreError::Refused { message, .. }) = checked else { panic!("{checked:?}") };
    assert!(message.contains("signature"), "{message}");
    store.add_paths(paths(), SignatureCheck::Skip, WhenValid::Keep).await.expect("an addition");

    let signature: Signature = format!("key-1:{}==", "A".repeat(86)).parse().expect("a signature");
    let signatures = BTreeSet::from([signature]);
    store.add_signatures(&a.path, &signatures).await.expect("an addition");
    let infos = store.path_infos(std::slice::from_ref(&a.path)).await.expect("infos");
    assert_eq!(infos[0].as_ref().expect("an info").signatures, signatures);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_broken_is_found_and_replaced() {
    let site = Site::new();
    let store = session(site.store()).await;
    let (a, nar) = flat_file("a", b"the contents of a", &[]);
    let paths = || Given::boxed([(a.clone(), nar.clone())]);
    store.add_paths(paths(), SignatureCheck::Skip, WhenValid::Keep).await.expect("an addition");
    let whole = store.verify(VerifyDepth::Contents, Repair::No).await.expect("a check");
    assert_eq!(whole, Default::default());

    let file = site.folder.path().join("store").join(a.path.base_name());
    std::fs::remove_file(&file).expect("root may");
    std::fs::write(&file, "other contents").expect("root may");
    let seen = store.verify(VerifyDepth::Existence, Repair::No).await.expect("a check");
    assert_eq!(seen, Default::default());
    let seen = store.verify(VerifyDepth::Contents, Repair::No).await.expect("a check");
    assert!(seen.errors_left);
    let [problem] = seen.problems.as_slice() else { panic!("{seen:?}") };
    assert!(problem.contains(a.path.base_name()) && problem.contains("was modified"), "{problem}");

    store.add_paths(paths(), SignatureCheck::Skip, WhenValid::Keep).await.expect("nothing");
    let files = store.read_files(std::slice::from_ref(&a.path)).await;
    assert!(files.is_err(), "{files:?}");
    store.add_paths(paths(), SignatureCheck::Skip, WhenValid::Replace).await.expect("a repair");
    assert_eq!(std::fs::read(&file).expect("a file"), b"the contents of a");
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_goes_and_roots_stay() {
    let site = Site::new();
    let store = Arc::new(site.store());
    let adder = site.store();
    let (a, b) = two_files(&adder).await;
    let holder = Arc::clone(&store).session().await.expect("a session");
    holder.add_temporary_root(&a.path).await.expect("a root");

    drop(adder);
    dead_are(store.as_ref(), &b).await;
    let live = collect(store.as_ref(), CollectAction::ListLive, &[]).await.expect("a list");
    assert_eq!(live.names, [a.path.base_name()]);
    let given = collect(store.as_ref(), CollectAction::DeleteGiven, &[&a]).await;
    let Err(StoreError::Refused { message, .. }) = given else { panic!("{given:?}") };
    assert!(message.contains("still alive"), "{message}");
    let ignoring = Collection {
        liveness: Liveness::Ignore,
        ..collection(CollectAction::DeleteGiven, of(&[&a]))
    };
    assert!(matches!(store.collect(ignoring).await, Err(StoreError::Refused { .. })));
    let gone = collect(store.as_ref(), CollectAction::DeleteDead, &[]).await.expect("a gc");
    assert!(gone.names.contains(&b.path.base_name().to_owned()), "{gone:?}");
    assert_eq!(store.all_valid().await.expect("paths"), of(&[&a]));

    // the root ends with the session, as soon as the server has noticed
    drop(holder);
    let ended = async {
        while collect(store.as_ref(), CollectAction::DeleteGiven, &[&a]).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    soon(ended).await;
    assert_eq!(store.all_valid().await.expect("paths"), of(&[]));
}

#[tokio::test(flavor = "multi_thread")]
async fn roots_outlive_questions_that_are_given_up() {
    let site = Site::new();
    let store = session(site.store()).await;
    let adder = site.store();
    let (a, b) = two_files(&adder).await;
    let (unheld, nar) = flat_file("unheld", b"", &[]);
    let paths = Given::boxed([(unheld.clone(), nar)]);
    adder.add_paths(paths, SignatureCheck::Skip, WhenValid::Keep).await.expect("an addition");
    store.add_temporary_root(&b.path).await.expect("a root");
    for _ in 0..3 {
        let question = store.path_infos(std::slice::from_ref(&a.path));
        assert!(futures::poll!(Box::pin(question)).is_pending());
    }
    drop(adder);
    dead_are(store.as_ref(), &unheld).await;
}

/// Waits until the server has noticed that those are gone who held this path: who adds paths holds
/// them, too. Then it must be all that is dead.
async fn dead_are(store: &dyn Keeper, info: &PathInfo) {
    let noticed = async {
        loop {
            let dead = collect(store, CollectAction::ListDead, &[]).await.expect("a list").names;
            if dead == [info.path.base_name()] {
                break;
            }
            assert_eq!(dead, [""; 0]);
        }
    };
    soon(noticed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn permanent_roots_are_links() {
    let site = Site::new();
    let (store, _daemon) = site.socket().await;
    let store = session(store).await;
    let (a, b) = two_files(store.as_ref()).await;
    let link = site.folder.path().join("links/result").display().to_string();
    for path in [&a.path, &b.path, &b.path] {
        let made = store.add_permanent_root(path, &link).await.expect("a root");
        assert_eq!(made, link);
        let target = std::fs::read_link(&link).expect("a link");
        assert_eq!(target.display().to_string(), site.store_dir.display(path));
    }
    let roots = soon(undisturbed(|| store.roots())).await.expect("roots");
    assert!(roots.contains(&(link, b.path.clone())), "{roots:?}");

    let file = site.folder.path().join("file").display().to_string();
    std::fs::write(&file, "").expect("a file");
    let inside = format!("{}/link", site.store_dir.as_str());
    for (link, words) in
        [(file, "already exists"), (inside, "is forbidden"), ("here".into(), "absolute")]
    {
        let made = store.add_permanent_root(&a.path, &link).await;
        let Err(StoreError::Refused { message, .. }) = made else { panic!("{made:?}") };
        assert!(message.contains(words), "{message}");
    }

    // a daemon that needn't be this machine's makes the link itself, from Nix 2.20 on
    let far = site.store();
    let protocol = far.connect().await.expect("a connection").protocol;
    let minor = protocol.rsplit('.').next().and_then(|minor| minor.parse::<u8>().ok());
    let link = site.folder.path().join("far").display().to_string();
    let made = far.add_permanent_root(&a.path, &link).await;
    match minor.expect("a version") {
        36.. => assert_eq!(made.expect("a root"), link),
        _ => assert!(matches!(made, Err(StoreError::Unsupported { .. })), "{made:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_files_are_linked() {
    use std::os::unix::fs::MetadataExt as _;
    let site = Site::new();
    let store = session(site.store()).await;
    let contents = b"the same contents";
    let (a, a_nar) = flat_file("a", contents, &[]);
    let (b, b_nar) = flat_file("b", contents, &[]);
    let paths = Given::boxed([(a.clone(), a_nar), (b.clone(), b_nar)]);
    store.add_paths(paths, SignatureCheck::Skip, WhenValid::Keep).await.expect("an addition");
    store.optimise().await.expect("an optimisation");
    let inode = |info: &PathInfo| {
        let file = site.folder.path().join("store").join(info.path.base_name());
        std::fs::metadata(file).expect("a file").ino()
    };
    assert_eq!(inode(&a), inode(&b));
}

#[tokio::test(flavor = "multi_thread")]
async fn build_logs_are_kept_and_told() {
    let site = Site::new();
    let store = site.store().with_log_dir(site.folder.path().join("log"));
    let path = site.add(&store, &site.derivation("made", "exit 1")).await;
    let store = session(store).await;
    assert!(store.build_log(&path).await.expect("an answer").is_none());
    let log = b"a line\n".repeat(100_000);
    store.add_build_log(&path, Pieces::boxed([log.clone()])).await.expect("an addition");
    let mut stream = store.build_log(&path).await.expect("an answer").expect("a log");
    let mut told = Vec::new();
    while let Some(bytes) = stream.chunk().await.expect("a piece") {
        told.extend_from_slice(&bytes);
    }
    assert_eq!(told, log);
    let far = site.store();
    assert!(matches!(far.build_log(&path).await, Err(StoreError::Unsupported { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn realisations_are_registered_and_told() {
    let site = Site::new();
    let folder = site.folder.path();
    let store = session(site.store()).await;
    let conf = std::fs::read_to_string(folder.join("nix.conf")).expect("a file");
    std::fs::write(
        folder.join("nix.conf"),
        format!("{conf}experimental-features = ca-derivations\nrequire-sigs = false\n"),
    )
    .expect("a file");
    let (a, _) = two_files(store.as_ref()).await;
    let hash = Hash::of(HashAlgorithm::Sha256, b"some derivation");
    let id = DrvOutput { hash, output: "out".parse().expect("a name") };
    assert_eq!(store.realisation(&id).await.expect("an answer"), None);
    let realisation = Realisation { id: id.clone(), out_path: a.path, signatures: BTreeSet::new() };
    let registered = store.register_realisation(&realisation, SignatureCheck::Skip).await;
    registered.expect("a registration");
    assert_eq!(store.realisation(&id).await.expect("an answer"), Some(realisation));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_serve_protocol_says_what_it_cannot() {
    let site = Site::new();
    let store = Arc::new(site.served());
    let session = Arc::clone(&store).session().await.expect("a session");
    check_store(session.as_ref(), "serve").await;
    let (a, b) = two_files(session.as_ref()).await;
    session.add_temporary_root(&b.path).await.expect("a root");
    let dead = collect(&site.store(), CollectAction::ListDead, &[]).await;
    let dead = dead.expect("a list").names;
    assert!(!dead.iter().any(|name| name == a.path.base_name() || name == b.path.base_name()));
    let refused = |what: &str, result: Result<(), StoreError>| {
        assert!(matches!(result, Err(StoreError::Unsupported { .. })), "{what}: {result:?}");
    };
    refused("all", session.all_valid().await.map(drop));
    refused("roots", session.roots().await.map(drop));
    refused("ensure", session.ensure(&a.path, Substitute::Yes).await);
    refused("outputs", session.output_map(&a.path).await.map(drop));
    refused("gc", session.collect(collection(CollectAction::DeleteDead, of(&[]))).await.map(drop));
    refused("verify", session.verify(VerifyDepth::Contents, Repair::No).await.map(drop));
    refused("optimise", session.optimise().await.map(drop));
    let add = session.add_paths(Given::boxed([]), SignatureCheck::AsConfigured, WhenValid::Keep);
    refused("signatures", add.await);
    let valid = session.hold_valid(&of(&[&a, &b]), Substitute::No).await.expect("paths");
    assert_eq!(valid, of(&[&a, &b]));
}

/// Nix 2.3 speaks 1.21: contents come as a bare NAR, whatever they are.
#[tokio::test(flavor = "multi_thread")]
async fn contents_for_an_old_server() {
    let (info, _) = flat_file("old", b"contents", &[]);
    let answered = info.clone();
    let fake = Fake::new(move |_, mut client| {
        let info = answered.clone();
        async move {
            let Some(dialect) = client.greet(21).await else { return };
            while let Some(request) = client.request(&dialect).await {
                match request {
                    Request::AddToStore(NewContent { name, .. }) => {
                        assert_eq!(name, "old");
                        let nar = single_file_nar(b"contents", Executable::No);
                        assert_eq!(client.bytes(nar.len()).await, Some(nar));
                        client.answer(&dialect, &Response::Path(info.path.clone())).await;
                    }
                    Request::AddTextToStore(_, text, _) => {
                        assert_eq!(text, b"contents");
                        client.answer(&dialect, &Response::Path(info.path.clone())).await;
                    }
                    Request::QueryPathInfo(_) => {
                        let known = Response::PathInfo(Some(Box::new(info.clone())));
                        client.answer(&dialect, &known).await;
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    });
    let store = fake.store();
    let content = |method, references| Content {
        name: "old".parse().expect("a name"),
        method,
        algorithm: HashAlgorithm::Sha256,
        references,
    };
    let nar = single_file_nar(b"contents", Executable::No);
    let bytes = |nar: &[u8]| Pieces::boxed(nar.chunks(7).map(<[u8]>::to_vec));
    for method in [IngestionMethod::Flat, IngestionMethod::Nar, IngestionMethod::Text] {
        let sent = if method == IngestionMethod::Nar { nar.as_slice() } else { b"contents" };
        let content = content(method, BTreeSet::new());
        let added = soon(store.add_content(content, bytes(sent), WhenValid::Keep)).await;
        assert_eq!(added.expect("a path"), info);
    }
    let refused = [
        (content(IngestionMethod::Flat, of(&[&info])), WhenValid::Keep),
        (content(IngestionMethod::Flat, of(&[])), WhenValid::Replace),
    ];
    for (content, when) in refused {
        let added = store.add_content(content, bytes(b"contents"), when).await;
        assert!(matches!(added, Err(StoreError::Unsupported { .. })), "{added:?}");
    }
    // what is behind the NAR's end would be taken for requests
    let more = [nar.as_slice(), b"\x09\0\0\0\0\0\0\0"].concat();
    for bad in [more.as_slice(), &nar[..40], b"no NAR at all"] {
        let content = content(IngestionMethod::Nar, BTreeSet::new());
        let added = soon(store.add_content(content, bytes(bad), WhenValid::Keep)).await;
        assert!(matches!(added, Err(StoreError::Refused { .. })), "{added:?}");
    }
}
