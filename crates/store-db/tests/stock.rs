//! Stock Nix and this crate use one database.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use drover_core::{Realisation, StorePath};
use drover_store_db::{Database, Mode, OpenOptions, Registration};
use support::{Stock, info, path};

/// Puts a path's file into the store, in canonical form.
fn put(stock: &Stock, name: &str) {
    let file = stock.dir("store").join(path(name).base_name());
    fs::write(&file, name).expect("written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o444)).expect("its mode");
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1);
    fs::File::open(&file).and_then(|file| file.set_modified(time)).expect("its time");
}

#[test]
fn stock_reads_what_we_wrote() {
    let stock = Stock::new();
    let mut database = stock.open(Mode::Create);
    let a = info("a", &[]);
    let mut b = info("b", &[&a.path, &path("b")]);
    b.deriver = Some(path("b.drv"));
    for name in ["a", "b"] {
        put(&stock, name);
    }
    database.register(&[b.clone().into(), a.clone().into()]).expect("registered");
    drop(database);
    let verified = stock.run("nix-store", &["--verify", "--check-contents"]).expect("sound");
    assert!(!verified.contains("warning") && !verified.contains("error"), "{verified}");
    let whole = |path: &StorePath| stock.store_dir.display(path);
    let ask = |question: &str, of: &StorePath| -> BTreeSet<String> {
        let answer = stock.run("nix-store", &["-q", question, &whole(of)]).expect(question);
        answer.lines().map(str::to_owned).collect()
    };
    let both = BTreeSet::from([whole(&a.path), whole(&b.path)]);
    assert_eq!(ask("--requisites", &b.path), both);
    assert_eq!(ask("--referrers", &a.path), BTreeSet::from([whole(&b.path)]));
    assert_eq!(ask("--deriver", &b.path), BTreeSet::from([whole(&path("b.drv"))]));
    assert_eq!(ask("--hash", &a.path), BTreeSet::from([a.nar_hash.to_string()]));
    assert_eq!(ask("--size", &a.path), BTreeSet::from([a.nar_size.0.to_string()]));
    stock.run("nix-store", &["--delete", &whole(&b.path)]).expect("deleted");
    let database = stock.open(Mode::ReadWrite);
    assert_eq!(database.all_paths().expect("all"), BTreeSet::from([a.path]));
}

#[test]
fn we_read_what_stock_wrote() {
    let stock = Stock::new();
    let source = stock.dir("source");
    fs::write(&source, "contents").expect("written");
    let source = source.to_str().expect("text");
    let added = stock.run("nix-store", &["--add", source]).expect("added");
    let added = stock.store_dir.parse(added.trim()).expect("a path");
    let expression = format!(
        r#"derivation {{ name = "x"; system = "x"; builder = "/bin/sh"; outputs = ["out" "dev"];
            input = builtins.storePath "{}"; }}"#,
        stock.store_dir.display(&added)
    );

    let derivation = stock.run("nix-instantiate", &["-E", &expression]).expect("instantiated");
    let derivation = derivation.lines().find(|line| line.ends_with(".drv")).expect("a path");
    let derivation = stock.store_dir.parse(derivation).expect("a path");

    let mut database = stock.open(Mode::ReadWrite);
    let infos = database.path_infos(&[added.clone(), derivation.clone()]).expect("infos");
    let [Some(for_added), Some(for_derivation)] = infos.as_slice() else { panic!("{infos:?}") };
    let address = for_added.content_address.as_ref().expect("an address").to_string();
    assert!(address.starts_with("fixed:r:sha256:"), "{address}");
    assert_eq!(for_derivation.references, BTreeSet::from([added.clone()]));
    let hash = stock.run("nix-store", &["-q", "--hash", &stock.store_dir.display(&added)]);
    assert_eq!(for_added.nar_hash.to_string(), hash.expect("a hash").trim());
    let outputs = database.outputs(&derivation).expect("outputs").expect("valid");
    assert_eq!(outputs.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["dev", "out"]);
    for output in outputs.values() {
        let derivers = database.valid_derivers(output).expect("derivers");
        assert_eq!(derivers, BTreeSet::from([derivation.clone()]));
    }

    // And both at once: stock has the database open while we write.
    put(&stock, "ours");
    database.register(&[info("ours", &[&added]).into()]).expect("registered");
    let delete = stock.run("nix-store", &["--delete", &stock.store_dir.display(&added)]);
    assert!(delete.is_err(), "deleted what a path of ours refers to");
}

#[test]
fn stock_takes_our_realisations() {
    let stock = Stock::new();
    let mut database = stock.open(Mode::Create);
    put(&stock, "a");
    database.register(&[Registration::from(info("a", &[]))]).expect("registered");
    let id = format!("sha256:{}!out", "a".repeat(64)).parse().expect("an output");
    let realisation = Realisation { id, out_path: path("a"), signatures: BTreeSet::new() };
    database.register_realisation(&realisation).expect("registered");
    drop(database);
    // With `ca-derivations` on, stock looks after these tables when it opens the store.
    stock.run("nix-store", &["--verify"]).expect("sound");
    let mut database = stock.open(Mode::ReadWrite);
    assert_eq!(database.realisation(&realisation.id).expect("one"), Some(realisation.clone()));
    database.register_realisation(&realisation).expect("once more");
    let whole = stock.store_dir.display(&path("a"));
    stock.run("nix-store", &["--delete", &whole]).expect("deleted");
    assert_eq!(database.realisation(&realisation.id).expect("none"), None);
}

/// `data/nix-2.34.sql` is what `sqlite3 db.sqlite .dump` prints of a store of Nix 2.34 that was
/// made with `ca-derivations` on: a file, a text, derivations and a realisation.
#[test]
fn a_database_of_nix_2_34() {
    let folder = tempfile::tempdir().expect("a folder");
    let raw = rusqlite::Connection::open(folder.path().join("db.sqlite")).expect("open");
    raw.execute_batch(include_str!("data/nix-2.34.sql")).expect("the dump");
    drop(raw);
    fs::write(folder.path().join("schema"), "10").expect("written");
    let store_dir = "/nix/store".parse().expect("a store directory");
    let options = OpenOptions::new(folder.path(), &store_dir, Mode::ReadWrite);
    let database = Database::open(&options).expect("open");
    let all: Vec<StorePath> = database.all_paths().expect("all").into_iter().collect();
    let infos = database.path_infos(&all).expect("infos");
    assert!(infos.iter().all(Option::is_some) && infos.len() >= 3, "{infos:?}");
    let derivation = all.iter().find(|path| path.name() == "x.drv").expect("a derivation");
    let outputs = database.outputs(derivation).expect("outputs").expect("valid");
    assert!(!outputs.is_empty());
    let graph = database.load_graph().expect("a graph");
    assert_eq!(graph.len(), all.len());
    assert!(!graph.references().is_empty());
}
