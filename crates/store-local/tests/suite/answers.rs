//! What the store does for those who ask rightly.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use drover_core::{
    ContentAddress, Hash, HashAlgorithm, IngestionMethod, NarHash, NarSize, OutputName, PathInfo,
    SecretKey, StorePath, TrustedKeys,
};
use drover_derivation::{BasicDerivation, Derivation, HashModuloCache, Output, output_path};
use drover_nar::{Executable, Writer, single_file_nar};
use drover_store::contract::{Given, check_store, flat_file};
use drover_store::{
    Adoption, Content, Keeper, OwnSetting, Repair, SignatureCheck, Store, Substitute, Substituter,
    VerifyDepth, Vouching, WhenValid,
};
use drover_store_local::{LocalOptions, LocalStore, LogForm, Optimise, Sources};

use crate::support::{Home, Pieces, read_all};

#[tokio::test]
async fn does_what_stores_do() {
    let home = Home::new();
    check_store(&*home.store(), "local").await;
    home.verify().await;
    assert_eq!(home.entries().len(), 2, "something is left: {:?}", home.entries());
}

/// A directory with a program, a link, an empty file and a directory.
fn tree() -> Vec<u8> {
    let mut writer = Writer::new(Vec::new()).expect("written");
    let mut write = || {
        writer.directory()?;
        writer.entry(b"bin")?;
        writer.directory()?;
        writer.entry(b"program")?;
        writer.regular(Executable::Yes, 300_000)?;
        writer.contents(&vec![7; 300_000])?;
        writer.directory_end()?;
        writer.entry(b"empty")?;
        writer.regular(Executable::No, 0)?;
        writer.entry(b"link")?;
        writer.symlink(b"bin/program")?;
        writer.directory_end()
    };
    write().expect("written");
    writer.finish().expect("whole")
}

fn content(name: &str, method: IngestionMethod, algorithm: HashAlgorithm) -> Content {
    let name = name.parse().expect("a name");
    Content { name, method, algorithm, references: BTreeSet::new() }
}

#[tokio::test]
async fn contents_get_the_paths_that_stock_gives_them() {
    let (home, stock) = (Home::new(), Home::new());
    let store = home.store();
    let nar = tree();
    for piece in [7, 4096, usize::MAX] {
        let content = content("tree", IngestionMethod::Nar, HashAlgorithm::Sha256);
        let added = store.add_content(content, Pieces::boxed(nar.clone(), piece), WhenValid::Keep);
        let added = added.await.expect("added");
        let infos = store.path_infos(std::slice::from_ref(&added.path)).await.expect("infos");
        assert_eq!(infos[0].as_ref(), Some(&added));
        let mut stream = store.export(vec![added.clone()]).await.expect("a stream");
        stream.next_path().await.expect("a path");
        let mut out = Vec::new();
        while let Some(chunk) = stream.chunk().await.expect("bytes") {
            out.extend_from_slice(&chunk);
        }
        assert_eq!(out, nar);
    }
    let file = stock.path("file");
    std::fs::write(&file, "flat contents").expect("written");
    let file = file.to_str().expect("text");
    for (method, flags, algorithm) in [
        (IngestionMethod::Flat, &["--add-fixed", "sha256", file][..], HashAlgorithm::Sha256),
        (IngestionMethod::Flat, &["--add-fixed", "md5", file][..], HashAlgorithm::Md5),
        (
            IngestionMethod::Nar,
            &["--add-fixed", "--recursive", "sha1", file][..],
            HashAlgorithm::Sha1,
        ),
        (IngestionMethod::Nar, &["--add", file][..], HashAlgorithm::Sha256),
    ] {
        let theirs = stock.stock("nix-store", flags).expect("added");
        let bytes = match method {
            IngestionMethod::Nar => single_file_nar(b"flat contents", Executable::No),
            _ => b"flat contents".to_vec(),
        };
        // The store directories differ, so the paths are compared where they are the same.
        let theirs = stock.layout().store_dir.parse(theirs.trim()).expect("a path");
        let same = stock.store();
        let content = content("file", method, algorithm);
        let ours = same.add_content(content, Pieces::boxed(bytes, 5), WhenValid::Replace).await;
        assert_eq!(ours.expect("added").path, theirs, "{flags:?}");
    }
    home.verify().await;
    stock.verify().await;
}

/// The paths are those that `nix store add --mode git` of Nix 2.34 prints for the same files.
#[tokio::test]
async fn contents_by_their_git_hash() {
    let home = Home::new();
    let mut layout = home.layout();
    layout.store_dir = "/nix/store".parse().expect("a store directory");
    let store = LocalStore::new(layout, LocalOptions::default());
    let mut tree = Writer::new(Vec::new()).expect("written");
    let mut write = || {
        tree.directory()?;
        tree.entry(b"a")?;
        tree.directory()?;
        tree.entry(b"f")?;
        tree.regular(Executable::No, 4)?;
        tree.contents(b"in a")?;
        tree.directory_end()?;
        tree.entry(b"a.txt")?;
        tree.regular(Executable::No, 1)?;
        tree.contents(b"x")?;
        tree.entry(b"empty")?;
        tree.directory()?;
        tree.directory_end()?;
        tree.entry(b"link")?;
        tree.symlink(b"a/f")?;
        tree.entry(b"run")?;
        tree.regular(Executable::Yes, 10)?;
        tree.contents(b"#!/bin/sh\n")?;
        tree.entry(b"sub")?;
        tree.directory()?;
        tree.entry(b"deep")?;
        tree.regular(Executable::No, 4)?;
        tree.contents(b"deep")?;
        tree.entry(b"none")?;
        tree.regular(Executable::No, 0)?;
        tree.directory_end()?;
        tree.directory_end()
    };
    write().expect("written");
    let tree = tree.finish().expect("whole");
    let file = single_file_nar(b"flat contents", Executable::No);
    let add = async |name: &str, nar: &[u8], algorithm| {
        let content = content(name, IngestionMethod::Git, algorithm);
        let bytes = Pieces::boxed(nar.to_vec(), 100);
        store.add_content(content, bytes, WhenValid::Keep).await
    };
    for (name, nar, algorithm, expected) in [
        ("file", &file, HashAlgorithm::Sha1, "l9rzw39ywng1755kvv30c6fpkmq7n5ah-file"),
        ("file", &file, HashAlgorithm::Sha256, "s7l09dagghsgsk3xvi590ys05wpablx4-file"),
        ("tree", &tree, HashAlgorithm::Sha1, "glmzvsc2v2qzx28z78il7i1a1wi30akj-tree"),
        ("tree", &tree, HashAlgorithm::Sha256, "pwgp4l3fxnpjjd4g4k8q6k2mdw9fvy23-tree"),
    ] {
        assert_eq!(add(name, nar, algorithm).await.expect("added").path.base_name(), expected);
    }
    let known = add("tree", &tree, HashAlgorithm::Sha1).await.expect("added");
    let address = known.content_address.clone().expect("an address").to_string();
    assert_eq!(address, "fixed:git:sha1:zvsn3dpg6j60fas3yag8vkv32v1xj8d0");
    assert!(add("tree", &tree, HashAlgorithm::Md5).await.is_err());

    // From another store, by that address.
    let other = Home::new();
    let mut layout = other.layout();
    layout.store_dir = "/nix/store".parse().expect("a store directory");
    let other = LocalStore::new(layout, LocalOptions::default());
    let as_it_is = Given::boxed([(known.clone(), tree.into())]);
    let check = SignatureCheck::AsConfigured;
    other.add_paths(as_it_is, check, WhenValid::Keep).await.expect("addressed by its contents");
    let (other_info, nar) = flat_file("tree", b"something else", &[]);
    let claims = PathInfo { nar_hash: other_info.nar_hash, nar_size: other_info.nar_size, ..known };
    let refused = other.add_paths(Given::boxed([(claims, nar)]), check, WhenValid::Replace).await;
    let refused = refused.expect_err("refused").to_string();
    assert!(refused.contains("ca hash mismatch importing path"), "{refused}");
}

/// A derivation named `name` with one output.
fn derivation(store: &LocalStore, name: &str) -> (Derivation, StorePath) {
    derivation_of(store, name, &[])
}

/// A derivation that needs others.
fn derivation_of(
    store: &LocalStore,
    name: &str,
    inputs: &[&Derivation],
) -> (Derivation, StorePath) {
    let store_dir = store.store_dir();
    let mut hashes = HashModuloCache::new();
    let mut input_derivations = BTreeMap::new();
    for input in inputs {
        let path = input.derivation_path(store_dir).expect("a path");
        hashes.insert(store_dir, &path, input).expect("a hash");
        input_derivations.insert(path, OutputName::out().into());
    }
    let basic = BasicDerivation {
        name: name.parse().expect("a name"),
        outputs: [(OutputName::out(), Output::Deferred)].into(),
        input_sources: BTreeSet::new(),
        system: name.to_owned(),
        builder: "/bin/sh".into(),
        args: Vec::new(),
        environment: [("out".to_owned(), String::new())].into_iter().collect(),
    };
    let mut derivation = Derivation::from(basic);
    derivation.input_derivations = input_derivations;
    let hash = hashes.masked(store_dir, &derivation).expect("a hash").to_hash();
    let out = output_path(store_dir, &derivation.name, &OutputName::out(), &hash).expect("a path");
    derivation.basic.outputs = [(OutputName::out(), Output::InputAddressed(out.clone()))].into();
    derivation.basic.environment =
        [("out".to_owned(), store_dir.display(&out))].into_iter().collect();
    (derivation, out)
}

#[tokio::test]
async fn derivations_are_checked_and_their_outputs_known() {
    let home = Home::new();
    let store = home.store();
    let (good, out) = derivation(&store, "good");
    let add = async |name: &str, text: Vec<u8>| {
        let content = content(name, IngestionMethod::Text, HashAlgorithm::Sha256);
        store.add_content(content, Pieces::boxed(text, 100), WhenValid::Keep).await
    };
    let added = add("good.drv", good.to_aterm(store.store_dir())).await.expect("added");
    let outputs = store.output_map(&added.path).await.expect("outputs");
    assert_eq!(outputs, [("out".to_owned(), Some(out.clone()))].into());
    let derivers = store.valid_derivers(&out).await.expect("derivers");
    assert_eq!(derivers, BTreeSet::from([added.path.clone()]));
    let missing = store.missing(&derivers).await.expect("missing");
    assert_eq!(missing.build, derivers);

    let (_, others) = derivation(&store, "others");
    let text = String::from_utf8(good.to_aterm(store.store_dir())).expect("text");
    let claims =
        text.replace(&store.store_dir().display(&out), &store.store_dir().display(&others));
    // As somebody who edits a derivation would have it: under the name of the output it claims.
    let error = add("others.drv", claims.into_bytes()).await.expect_err("refused").to_string();
    assert!(error.contains("others.drv"), "{error}");
    assert!(add("bad.drv", b"Derive(nonsense".to_vec()).await.is_err());
    assert_eq!(store.all_valid().await.expect("all").len(), 1);
    home.verify().await;
}

/// As a NAR, with the info that a sender would send.
fn text_path(
    store: &LocalStore,
    name: &str,
    text: Vec<u8>,
    references: &[&PathInfo],
) -> (PathInfo, bytes::Bytes) {
    let (mut info, nar) = flat_file(name, &text, references);
    let hash = Hash::of(HashAlgorithm::Sha256, &text);
    let name = info.path.store_name();
    info.path = store.store_dir().text_path(&text, info.references.iter().cloned(), &name);
    info.content_address = Some(ContentAddress { method: IngestionMethod::Text, hash });
    (info, nar)
}

#[tokio::test]
async fn derivations_that_come_together_are_checked_with_each_other() {
    let home = Home::new();
    let store = home.store();
    let (a, _) = derivation(&store, "a");
    let (b, b_out) = derivation_of(&store, "b", &[&a]);
    let (wrong, _) = derivation_of(&store, "wrong", &[&a]);
    let a = text_path(&store, "a.drv", a.to_aterm(store.store_dir()), &[]);
    let b = text_path(&store, "b.drv", b.to_aterm(store.store_dir()), &[&a.0]);
    // The text of one derivation as another one with an input: its output doesn't follow from it.
    let text = String::from_utf8(wrong.to_aterm(store.store_dir())).expect("text");
    let text = text.replace("/bin/sh", "/bin/zsh");
    let wrong = text_path(&store, "wrong.drv", text.into_bytes(), &[&a.0]);
    let error = store.import(Given::boxed([a.clone(), b.clone(), wrong])).await;
    let error = error.expect_err("refused").to_string();
    assert!(error.contains("wrong.drv' cannot be added"), "{error}");
    let valid = BTreeSet::from([a.0.path.clone(), b.0.path.clone()]);
    assert_eq!(store.all_valid().await.expect("all"), valid);
    let derivers = store.valid_derivers(&b_out).await.expect("derivers");
    assert_eq!(derivers, BTreeSet::from([b.0.path.clone()]));
    home.verify().await;
    let whole = store.store_dir().display(&b.0.path);
    let outputs = home.stock("nix-store", &["-q", "--outputs", &whole]).expect("outputs");
    assert_eq!(outputs.trim(), store.store_dir().display(&b_out));
}

#[tokio::test]
async fn signs_as_stock_does() {
    let home = Home::new();
    let store = home.store();
    let (a, nar) = flat_file("a", b"a", &[]);
    store.import(Given::boxed([(a.clone(), nar)])).await.expect("imported");
    let file = |name| home.path(name).to_str().expect("text").to_owned();
    let (secret, public) = (file("secret"), file("public"));
    let generate = ["--generate-binary-cache-key", "k-1", &secret, &public];
    home.stock("nix-store", &generate).expect("keys");
    let whole = store.store_dir().display(&a.path);
    home.stock("nix", &["store", "sign", "--key-file", &secret, &whole]).expect("signed");
    let infos = store.path_infos(std::slice::from_ref(&a.path)).await.expect("infos");
    let signed = infos[0].clone().expect("valid");
    let text = std::fs::read_to_string(&secret).expect("a key");
    let key: SecretKey = text.parse().expect("a key");
    assert_eq!(key.to_text().as_str(), text.trim());
    let text = std::fs::read_to_string(&public).expect("a key");
    assert_eq!(key.public_key().to_string(), text.trim());
    let ours = key.sign(&a.fingerprint(store.store_dir()));
    assert_eq!(signed.signatures, BTreeSet::from([ours.clone()]));
    store.add_signatures(&a.path, &BTreeSet::from([ours])).await.expect("added");
    let keys = TrustedKeys::parse([text.trim()]).expect("keys");
    assert!(keys.vouch_for(&signed, store.store_dir()));
}

#[tokio::test]
async fn sessions_hold_what_they_were_told() {
    let home = Home::new();
    let store = home.store();
    let (a, a_nar) = flat_file("a", b"a", &[]);
    store.import(Given::boxed([(a.clone(), a_nar)])).await.expect("imported");
    let whole = store.store_dir().display(&a.path);
    drop(store);
    let store = home.store();
    let session = store.clone().session().await.expect("a session");
    let asked = BTreeSet::from([a.path.clone()]);
    let held = session.hold_valid(&asked, Substitute::No).await.expect("held");
    assert_eq!(held, asked);
    assert!(home.stock("nix-store", &["--delete", &whole]).is_err(), "a held path was deleted");
    drop(session);
    home.stock("nix-store", &["--delete", &whole]).expect("deleted");
    assert_eq!(store.hold_valid(&asked, Substitute::No).await.expect("held"), BTreeSet::new());
}

#[tokio::test]
async fn replaces_damaged_files() {
    let home = Home::new();
    let store = home.store();
    let (a, nar) = flat_file("a", b"good", &[]);
    let paths = || Given::boxed([(a.clone(), nar.clone())]);
    store.import(paths()).await.expect("imported");
    let file = home.path("store").join(a.path.base_name());
    std::fs::remove_file(&file).expect("removed");
    std::fs::write(&file, "evil").expect("written");
    let found = store.verify(VerifyDepth::Contents, Repair::No).await.expect("verified");
    assert!(found.errors_left);
    assert!(found.problems[0].contains("was modified! expected hash"), "{found:?}");
    store.import(paths()).await.expect("a valid path stays");
    assert_eq!(std::fs::read(&file).expect("a file"), b"evil");
    let add = store.add_paths(paths(), SignatureCheck::Skip, WhenValid::Replace);
    add.await.expect("replaced");
    assert_eq!(std::fs::read(&file).expect("a file"), b"good");
    home.verify().await;
}

/// From the first store that has the contents that are registered.
#[tokio::test]
async fn repairs_what_another_store_has() {
    let (home, other, wrong) = (Home::new(), Home::new(), Home::new());
    let (a, a_nar) = flat_file("a", b"good", &[]);
    let (b, b_nar) = flat_file("b", b"b", &[&a]);
    let (c, c_nar) = flat_file("c", b"c", &[]);
    let all = [(a.clone(), a_nar), (b.clone(), b_nar), (c.clone(), c_nar)];
    home.store().import(Given::boxed(all.clone())).await.expect("imported");
    other.store().import(Given::boxed(all[..2].to_vec())).await.expect("imported");
    // The same path with other contents, as a build that isn't reproducible leaves it.
    let (mut others, others_nar) = flat_file("a", b"evil", &[]);
    others.path = a.path.clone();
    wrong.store().import(Given::boxed([(others, others_nar)])).await.expect("imported");
    let stores: [Arc<dyn Store>; 2] = [wrong.store(), other.store()];
    let substituter = |store| Substituter { store, vouching: Vouching::Signature, priority: None };
    let unasked = vec!["'http://x' was not asked".to_owned()];
    let substituters = stores.map(substituter).into();
    let sources = Sources { substituters, unasked, ..Sources::default() };
    let (layout, options) = (home.layout(), LocalOptions::default());
    let store = Arc::new(LocalStore::new(layout, options).substituting_from(sources));
    let store = store.session().await.expect("a session");
    let found = store.verify(VerifyDepth::Contents, Repair::Yes).await.expect("verified");
    assert_eq!(found, Default::default(), "a sound store");

    let file = |path: &StorePath| home.path("store").join(path.base_name());
    std::fs::remove_file(file(&a.path)).expect("removed");
    for path in [&b.path, &c.path] {
        std::fs::remove_file(file(path)).expect("removed");
        std::fs::write(file(path), "evil").expect("written");
    }
    let link = home.path("store/.links").join("0".repeat(52));
    std::fs::write(&link, "other contents").expect("written");
    let found = store.verify(VerifyDepth::Contents, Repair::Yes).await.expect("verified");
    assert!(!link.exists() && found.problems.iter().any(|text| text.starts_with("link '")));
    let unmended: Vec<&StorePath> = found.unmended.iter().map(|each| &each.path).collect();
    assert_eq!((unmended, found.errors_left), (vec![&c.path], false), "nobody has c: {found:?}");
    // who sees to what is damaged is told of it by its contents
    let all = BTreeSet::from([a.path.clone(), b.path.clone(), c.path.clone()]);
    assert_eq!(store.damaged(&all).await.expect("looked at"), BTreeSet::from([c.path.clone()]));
    let has = |text: String| found.problems.iter().any(|problem| problem.contains(&text));
    assert!(
        has(format!("{}' disappeared, but it still has valid referrers!", a.path)),
        "{found:?}"
    );
    assert!(has(format!("{}' was modified!", b.path)), "{found:?}");
    let whole = store.store_dir().display(&c.path);
    let why = &found.unmended[0].why;
    assert!(why.contains(&format!("cannot repair path '{whole}'")), "{why}");
    assert!(why.contains("registered; 'http://x' was not asked"), "{why}");
    assert_eq!(found.problems.len(), 4, "{found:?}");
    for (path, contents) in [(&a.path, "good"), (&b.path, "b"), (&c.path, "evil")] {
        assert_eq!(std::fs::read_to_string(file(path)).expect("a file"), contents);
    }
    let infos = store.path_infos(&[a.path.clone(), b.path.clone()]).await.expect("infos");
    let references = |at: usize| infos[at].clone().expect("valid").references;
    assert_eq!([references(0), references(1)], [BTreeSet::new(), BTreeSet::from([a.path])]);
    std::fs::remove_file(file(&c.path)).expect("removed");
    std::fs::write(file(&c.path), "c").expect("written");
    drop(store);
    home.verify().await;
}

/// The damaged file is also the one that others are linked to.
#[tokio::test]
async fn replaces_damaged_files_that_are_linked() {
    let home = Home::new();
    let options = LocalOptions { optimise: Optimise::OnImport, ..LocalOptions::default() };
    let store = home.store_with(options);
    let (a, nar) = flat_file("a", b"good", &[]);
    let paths = || Given::boxed([(a.clone(), nar.clone())]);
    store.import(paths()).await.expect("imported");
    let file = home.path("store").join(a.path.base_name());
    assert_eq!(std::fs::metadata(&file).expect("a file").nlink(), 2);
    std::fs::write(&file, "evil").expect("root may");
    let add = store.add_paths(paths(), SignatureCheck::Skip, WhenValid::Replace);
    add.await.expect("replaced");
    assert_eq!(std::fs::read(&file).expect("a file"), b"good");
    home.verify().await;
}

#[tokio::test]
async fn what_vanished_is_forgotten_unless_it_is_needed() {
    let home = Home::new();
    let store = home.store();
    let (a, a_nar) = flat_file("a", b"a", &[]);
    let (b, b_nar) = flat_file("b", b"b", &[&a]);
    let (c, c_nar) = flat_file("c", b"c", &[]);
    let all = [(a.clone(), a_nar), (b.clone(), b_nar), (c.clone(), c_nar)];
    store.import(Given::boxed(all)).await.expect("imported");
    for path in [&a.path, &c.path] {
        std::fs::remove_file(home.path("store").join(path.base_name())).expect("removed");
    }
    let found = store.verify(VerifyDepth::Existence, Repair::No).await.expect("verified");
    let has = |text: &str| found.problems.iter().any(|problem| problem.contains(text));
    assert!(
        has(&format!("{}' disappeared, but it still has valid referrers!", a.path)),
        "{found:?}"
    );
    assert!(has(&format!("{}' disappeared, removing from database", c.path)), "{found:?}");
    assert!(found.errors_left);
    let left = BTreeSet::from([a.path.clone(), b.path.clone()]);
    assert_eq!(store.all_valid().await.expect("all"), left);
}

#[tokio::test]
async fn logs_are_kept_and_read_as_nix_keeps_them() {
    let home = Home::new();
    let text: String = (0..40_000).map(|line| format!("line {line}\n")).collect();
    let (path, _) = flat_file("x.drv", b"x", &[]);
    let (plain, _) = flat_file("y.drv", b"y", &[]);
    let store = home.store();
    store.add_build_log(&path.path, Pieces::boxed(text.clone(), 9999)).await.expect("kept");
    let options = LocalOptions { logs: LogForm::Plain, ..LocalOptions::default() };
    let other = home.store_with(options);
    other.add_build_log(&plain.path, Pieces::boxed("plain", 2)).await.expect("kept");
    for (of, expected) in [(&path, text.as_str()), (&plain, "plain")] {
        let log = store.build_log(&of.path).await.expect("a log").expect("kept");
        assert_eq!(read_all(log).await, expected.as_bytes());
        let whole = store.store_dir().display(&of.path);
        assert_eq!(home.stock("nix-store", &["--read-log", &whole]).as_deref(), Ok(expected));
    }
    assert!(store.build_log(&flat_file("z.drv", b"", &[]).0.path).await.expect("none").is_none());
}

#[tokio::test]
async fn goes_on_with_a_store_that_was_made_anew() {
    let home = Home::new();
    let store: Arc<LocalStore> = home.store();
    let (a, nar) = flat_file("a", b"a", &[]);
    let paths = || Given::boxed([(a.clone(), nar.clone())]);
    store.import(paths()).await.expect("imported");
    for folder in ["store", "state"] {
        std::fs::remove_dir_all(home.path(folder)).expect("removed");
    }
    assert_eq!(store.all_valid().await.expect("all"), BTreeSet::new());
    store.import(paths()).await.expect("imported");
    assert_eq!(store.all_valid().await.expect("all").len(), 1);
    home.verify().await;
}

/// The directory of an empty store may be removed alone; what is added next brings it back.
#[tokio::test]
async fn goes_on_with_a_directory_that_was_removed() {
    let home = Home::new();
    let store: Arc<LocalStore> = home.store();
    assert_eq!(store.all_valid().await.expect("all"), BTreeSet::new());
    std::fs::remove_dir_all(home.path("store")).expect("removed");
    let (a, nar) = flat_file("a", b"a", &[]);
    store.import(Given::boxed([(a, nar)])).await.expect("imported");
    home.verify().await;
}

/// Of what lies in the store, hash and size are taken from the files.
#[tokio::test]
async fn registers_what_lies_there() {
    let home = Home::new();
    let store: Arc<LocalStore> = home.store();
    assert_eq!(store.all_valid().await.expect("all"), BTreeSet::new());
    let (a, _) = flat_file("a", b"lying there", &[]);
    std::fs::write(home.path("store").join(a.path.base_name()), b"lying there").expect("written");
    let said = PathInfo { nar_hash: NarHash([0; 32]), nar_size: NarSize(0), ..a.clone() };
    store.register_validity(vec![said], Adoption::Measured).await.expect("registered");
    let known = store.path_infos(std::slice::from_ref(&a.path)).await.expect("infos");
    let known = known.into_iter().flatten().next().expect("valid");
    assert_eq!((known.nar_hash, known.nar_size), (a.nar_hash, a.nar_size));
    home.verify().await;
}

/// The database says that a path is valid whose files went with the folder; what is added goes into
/// the new one.
#[tokio::test]
async fn goes_on_with_a_folder_that_was_made_anew() {
    let home = Home::new();
    let store = home.store();
    let (a, a_nar) = flat_file("a", b"a", &[]);
    let (b, b_nar) = flat_file("b", b"b", &[]);
    store.import(Given::boxed([(a.clone(), a_nar.clone())])).await.expect("imported");
    std::fs::remove_dir_all(home.path("store")).expect("removed");
    std::fs::create_dir(home.path("store")).expect("made");
    store.import(Given::boxed([(b.clone(), b_nar)])).await.expect("imported");
    assert_eq!(home.entries(), [b.path.base_name()]);
    let found = store.verify(VerifyDepth::Existence, Repair::No).await.expect("verified");
    assert!(found.problems[0].contains("disappeared, removing from database"), "{found:?}");
    store.import(Given::boxed([(a, a_nar)])).await.expect("imported");
    assert_eq!(store.all_valid().await.expect("all").len(), 2);
    home.verify().await;
}

#[tokio::test]
async fn permanent_roots() {
    let home = Home::new();
    let store = home.store();
    let (a, nar) = flat_file("a", b"a", &[]);
    store.import(Given::boxed([(a.clone(), nar)])).await.expect("imported");
    let link = home.path("link");
    let link = link.to_str().expect("text");
    for _ in 0..2 {
        assert_eq!(store.add_permanent_root(&a.path, link).await.as_deref().ok(), Some(link));
    }
    let whole = store.store_dir().display(&a.path);
    drop(store);
    let roots = home.stock("nix-store", &["-q", "--roots", &whole]).expect("roots");
    assert!(roots.contains(link), "{roots}");
    assert!(home.stock("nix-store", &["--delete", &whole]).is_err());
    std::fs::remove_file(link).expect("removed");
    std::fs::write(link, "mine").expect("written");
    let refused = home.store().add_permanent_root(&a.path, link).await.expect_err("refused");
    assert!(refused.to_string().contains("already exists"), "{refused}");
}

/// What one session has otherwise is its own, and goes when it says so.
#[tokio::test]
async fn sessions_have_settings_of_their_own() {
    let home = Home::new();
    let store = home.store();
    let own = Arc::clone(&store).session().await.expect("a session");
    own.set_own(&[OwnSetting::Optimise(Optimise::OnImport)]);
    let files = ["a", "b", "c", "d"].map(|name| flat_file(name, &[7; 1000], &[]));
    let add = |by: Arc<dyn Keeper>, at: usize| {
        let paths = Given::boxed([files[at].clone()]);
        async move { by.add_paths(paths, SignatureCheck::Skip, WhenValid::Keep).await }
    };
    let links = |at: usize| {
        let file = home.path("store").join(files[at].0.path.base_name());
        std::fs::metadata(file).expect("a file").nlink()
    };
    add(Arc::clone(&own), 0).await.expect("added");
    add(Arc::clone(&own), 1).await.expect("added");
    assert_eq!((links(0), links(1)), (3, 3));
    let plain: Arc<dyn Keeper> = store.clone();
    add(plain, 2).await.expect("added");
    own.set_own(&[]);
    add(own, 3).await.expect("added");
    assert_eq!((links(0), links(2), links(3)), (3, 1, 1));
}

#[tokio::test]
async fn equal_files_become_one() {
    let home = Home::new();
    let options = LocalOptions { optimise: Optimise::OnImport, ..LocalOptions::default() };
    let contents = vec![7; 100_000];
    let (a, a_nar) = flat_file("a", &contents, &[]);
    let (b, b_nar) = flat_file("b", &contents, &[]);
    let (c, c_nar) = flat_file("c", &contents, &[]);
    let store = home.store_with(options);
    store.import(Given::boxed([(a.clone(), a_nar), (b.clone(), b_nar)])).await.expect("imported");
    let inode = |path: &StorePath| {
        std::fs::metadata(home.path("store").join(path.base_name())).expect("a file").ino()
    };
    assert_eq!(inode(&a.path), inode(&b.path));
    let later = home.store();
    later.import(Given::boxed([(c.clone(), c_nar)])).await.expect("imported");
    assert_ne!(inode(&a.path), inode(&c.path));
    assert_eq!(later.optimise().await.expect("optimised"), 100_000);
    assert_eq!(inode(&a.path), inode(&c.path));
    home.verify().await;
    drop(store);
    home.stock("nix-store", &["--optimise"]).expect("nothing left to do");
    assert_eq!(inode(&a.path), inode(&c.path));
}
