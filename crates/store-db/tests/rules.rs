//! What is refused, what is durable, and what is left when something fails.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use drover_core::{Realisation, StoreDir};
use drover_store_db::{
    Database, DbError, Mode, OpenOptions, Registration, hold_reserve, release_reserve,
};
use rstest::rstest;
use support::{create, info, options, path};

fn refuse<T>(result: Result<T, DbError>) -> DbError {
    result.err().expect("it was taken")
}

#[test]
fn registers_and_answers() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut database = create(folder.path());
    let a = info("a", &[]);
    let mut b = info("b", &[&a.path, &path("b")]);
    b.deriver = Some(path("b.drv"));
    b.ultimate = true;
    b.signatures = BTreeSet::from([format!("k:{}==", "A".repeat(86)).parse().expect("one")]);
    let absent = path("absent");
    // The order doesn't matter within one call.
    database.register(&[b.clone().into(), a.clone().into()]).expect("registered");
    let infos = database.path_infos(&[b.path.clone(), absent.clone(), a.path.clone()]);
    assert_eq!(infos.expect("infos"), [Some(b.clone()), None, Some(a.clone())]);
    let both = BTreeSet::from([a.path.clone(), b.path.clone()]);
    assert_eq!(
        database.valid(&[a.path.clone(), absent.clone(), b.path.clone()]).expect("valid"),
        both
    );
    assert_eq!(database.all_paths().expect("all"), both);
    assert_eq!(database.referrers(&a.path).expect("referrers"), BTreeSet::from([b.path.clone()]));
    assert_eq!(database.by_hash_part(a.path.hash_part()).expect("found"), Some(a.path.clone()));
    assert_eq!(database.by_hash_part(absent.hash_part()).expect("none"), None);
}

#[test]
fn a_missing_reference_undoes_all() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut database = create(folder.path());
    let good = info("good", &[]);
    let bad = info("bad", &[&path("missing")]);
    let error = refuse(database.register(&[good.into(), bad.into()]));
    let expected = format!(
        "cannot register path '/nix/store/{}' because it refers to '/nix/store/{}', which is not valid",
        path("bad"),
        path("missing"),
    );
    assert_eq!(error.to_string(), expected);
    assert_eq!(database.all_paths().expect("all"), BTreeSet::new());
}

#[test]
fn cycles_are_refused_and_self_references_are_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut database = create(folder.path());
    let names = ["a", "b", "c"];
    let ring: Vec<Registration> = (0..3)
        .map(|at| info(names[at], &[&path(names[(at + 1) % 3]), &path(names[at])]).into())
        .collect();
    let error = refuse(database.register(&ring)).to_string();
    assert!(error.starts_with("cycle detected in the references of '/nix/store/"), "{error}");
    assert_eq!(database.all_paths().expect("all"), BTreeSet::new());
    database.register(&[info("itself", &[&path("itself")]).into()]).expect("registered");
    database.invalidate(&[path("itself")]).expect("invalidated");
}

#[test]
fn what_is_referred_to_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut database = create(folder.path());
    let a = info("a", &[]);
    let b = info("b", &[&a.path]);
    let c = info("c", &[&a.path, &b.path]);
    let all = [a.clone().into(), b.clone().into(), c.clone().into()];
    database.register(&all).expect("registered");
    let error = refuse(database.invalidate(&[c.path.clone(), a.path.clone()]));
    let expected = format!(
        "cannot delete path '/nix/store/{}' because it is in use by '/nix/store/{}'",
        a.path, b.path
    );
    assert_eq!(error.to_string(), expected);
    assert_eq!(database.all_paths().expect("all").len(), 3, "half of it was done");
    let order = [a.path.clone(), path("absent"), c.path.clone(), b.path.clone()];
    database.invalidate(&order).expect("all of them together, in any order");
    assert_eq!(database.all_paths().expect("all"), BTreeSet::new());
}

#[test]
fn derivations_know_their_outputs() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut database = create(folder.path());
    let outputs = BTreeMap::from([
        ("out".parse().expect("a name"), path("x")),
        ("dev".parse().expect("a name"), path("x-dev")),
    ]);
    let derivation = Registration { info: info("x.drv", &[]), outputs: outputs.clone() };
    let mut x = info("x", &[]);
    x.deriver = Some(path("x.drv"));
    database.register(&[derivation, x.into()]).expect("registered");
    assert_eq!(database.outputs(&path("x.drv")).expect("outputs"), Some(outputs));
    assert_eq!(database.outputs(&path("y.drv")).expect("none"), None);
    let derivers = BTreeSet::from([path("x.drv")]);
    assert_eq!(database.valid_derivers(&path("x-dev")).expect("derivers"), derivers);

    let (graph, derivations) = database.load_graph_with_derivations().expect("a graph");
    let node = |name: &str| graph.find(&path(name)).expect("a node");
    assert_eq!(derivations.outputs.of(node("x.drv")), [node("x")], "x-dev isn't valid");
    assert_eq!(derivations.derivers.of(node("x")), [node("x.drv")]);
    assert_eq!(derivations.deriver[node("x").index()], Some(node("x.drv")));
}

#[test]
fn signatures_are_added_to_what_is_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut database = create(folder.path());
    database.register(&[info("a", &[]).into()]).expect("registered");
    // Whatever another Nix may have put there stays.
    let raw = rusqlite::Connection::open(folder.path().join("db.sqlite")).expect("open");
    raw.execute("update ValidPaths set sigs = 'old:AAAA'", []).expect("updated");
    let one = format!("k:{}==", "A".repeat(86)).parse().expect("a signature");
    let signatures = BTreeSet::from([one]);
    for _ in 0..2 {
        database.add_signatures(&path("a"), &signatures).expect("added");
    }
    let text: String =
        raw.query_row("select sigs from ValidPaths", [], |row| row.get(0)).expect("a row");
    assert_eq!(text, format!("k:{}== old:AAAA", "A".repeat(86)));
    let found = database.path_infos(&[path("a")]).expect("infos");
    assert_eq!(found[0].as_ref().expect("valid").signatures, signatures);
    let error = refuse(database.add_signatures(&path("b"), &signatures));
    assert!(matches!(error, DbError::NotValid { .. }), "{error:?}");
}

/// What a build has made comes whole, or not at all.
#[test]
fn builds() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut database = create(folder.path());
    let id: drover_core::DrvOutput = format!("sha256:{}!out", "0".repeat(64)).parse().expect("one");
    let of =
        |name| Realisation { id: id.clone(), out_path: path(name), signatures: BTreeSet::new() };
    let [a, b] = ["a", "b"].map(|name| info(name, &[]).into());
    database.register_built(&[a], &[of("a")]).expect("registered");
    assert_eq!(database.realisation(&id).expect("one"), Some(of("a")));
    // another path can't be the same output, and so isn't valid either
    refuse(database.register_built(&[b], &[of("b")]));
    assert_eq!(database.all_paths().expect("all"), BTreeSet::from([path("a")]));
}

#[test]
fn realisations() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut database = create(folder.path());
    let id = format!("sha256:{}!out", "a".repeat(64)).parse().expect("an output");
    let realisation = Realisation { id, out_path: path("a"), signatures: BTreeSet::new() };
    assert_eq!(database.realisation(&realisation.id).expect("none"), None);
    let error = refuse(database.register_realisation(&realisation));
    assert!(matches!(error, DbError::NotValid { .. }), "{error:?}");
    database.register(&[info("a", &[]).into(), info("b", &[]).into()]).expect("registered");
    database.register_realisation(&realisation).expect("registered");
    let signature = format!("k:{}==", "A".repeat(86)).parse().expect("a signature");
    let signed = Realisation { signatures: BTreeSet::from([signature]), ..realisation.clone() };
    database.register_realisation(&signed).expect("signatures are added");
    assert_eq!(database.realisation(&realisation.id).expect("one"), Some(signed));
    let other = Realisation { out_path: path("b"), ..realisation.clone() };
    let error = refuse(database.register_realisation(&other)).to_string();
    assert!(error.starts_with("Trying to register a realisation of 'sha256:aaaa"), "{error}");
    database.invalidate(&[path("a")]).expect("invalidated");
    assert_eq!(database.realisation(&realisation.id).expect("none"), None);
}

#[rstest]
#[case::empty("", "is corrupt: it holds '' instead of a number")]
#[case::no_number("x\n", "is corrupt: it holds 'x\\n'")]
#[case::old("7", "schema is version 7, too old")]
#[case::new("11", "current Nix store schema is version 11, but I only support 10")]
fn unknown_schemas_are_refused(#[case] version: &str, #[case] expected: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    drop(create(folder.path()));
    assert_eq!(fs::read_to_string(folder.path().join("schema")).expect("a file"), "10");
    fs::write(folder.path().join("schema"), version).expect("written");
    for mode in [Mode::ReadOnly, Mode::ReadWrite, Mode::Create] {
        let options = options(folder.path(), &StoreDir::default(), mode);
        let error = refuse(Database::open(&options)).to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[rstest]
#[case(Mode::ReadOnly)]
#[case(Mode::ReadWrite)]
fn an_absent_database_is_not_made(#[case] mode: Mode) {
    let folder = tempfile::tempdir().expect("a folder");
    let error = refuse(Database::open(&options(folder.path(), &StoreDir::default(), mode)));
    assert!(matches!(error, DbError::Absent { .. }), "{error:?}");
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
}

#[test]
fn a_corrupt_database_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(create(folder.path()));
    fs::write(folder.path().join("db.sqlite"), "no database at all".repeat(300)).expect("written");
    for mode in [Mode::ReadOnly, Mode::ReadWrite] {
        let options = options(folder.path(), &StoreDir::default(), mode);
        let error = refuse(Database::open(&options));
        assert!(matches!(error, DbError::Corrupt { .. }), "{error:?}");
        assert!(error.to_string().contains("db.sqlite' is corrupt"), "{error}");
    }
}

#[test]
fn a_row_that_makes_no_sense_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut database = create(folder.path());
    database.register(&[info("a", &[]).into()]).expect("registered");
    let raw = rusqlite::Connection::open(folder.path().join("db.sqlite")).expect("open");
    raw.execute("update ValidPaths set hash = 'sha256:xyz'", []).expect("updated");
    let error = refuse(database.path_infos(&[path("a")])).to_string();
    let expected = format!("invalid-path entry for '/nix/store/{}': its hash is", path("a"));
    assert!(error.starts_with(&expected), "{error}");
    raw.execute("update ValidPaths set path = '/elsewhere/x'", []).expect("updated");
    assert!(matches!(refuse(database.all_paths()), DbError::BadRow { .. }));
    assert!(matches!(refuse(database.load_graph()), DbError::BadRow { .. }));
}

#[test]
fn a_lock_that_is_kept_ends_the_wait() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(create(folder.path()));
    let holder = rusqlite::Connection::open(folder.path().join("db.sqlite")).expect("open");
    holder.execute_batch("begin immediate").expect("locked");
    let busy_timeout = Duration::from_millis(200);
    let options = options(folder.path(), &StoreDir::default(), Mode::ReadWrite);
    let mut database =
        Database::open(&OpenOptions { busy_timeout, ..options }).expect("reading needs no lock");
    assert_eq!(database.all_paths().expect("nor does this").len(), 0);
    let error = refuse(database.register(&[info("a", &[]).into()]));
    assert!(matches!(error, DbError::Busy { waited, .. } if waited >= busy_timeout), "{error:?}");
    holder.execute_batch("rollback").expect("unlocked");
    database.register(&[info("a", &[]).into()]).expect("registered");
}

#[test]
fn notices_that_the_store_was_remade() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("db");
    fs::create_dir(&dir).expect("a folder");
    let database = create(&dir);
    assert!(database.is_current());
    fs::rename(&dir, folder.path().join("old")).expect("moved");
    assert!(!database.is_current());
    fs::create_dir(&dir).expect("a folder");
    let second = create(&dir);
    assert!(!database.is_current());
    assert!(second.is_current());
}

#[test]
fn a_read_only_database_is_only_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut writer = create(folder.path());
    writer.register(&[info("a", &[]).into()]).expect("registered");
    let options = options(folder.path(), &StoreDir::default(), Mode::ReadOnly);
    // What the writer has in its log only is seen, too.
    let mut reader = Database::open(&options).expect("open");
    assert_eq!(reader.all_paths().expect("all").len(), 1);
    assert!(reader.register(&[info("b", &[]).into()]).is_err());
}

#[test]
fn space_is_reserved() {
    let folder = tempfile::tempdir().expect("a folder");
    let size = || fs::metadata(folder.path().join("reserved")).map(|file| file.len()).ok();
    hold_reserve(folder.path(), 8192).expect("held");
    assert_eq!(size(), Some(8192));
    hold_reserve(folder.path(), 4096).expect("held");
    assert_eq!(size(), Some(4096));
    for _ in 0..2 {
        release_reserve(folder.path()).expect("released");
        assert_eq!(size(), None);
    }
}

#[rstest]
#[case::asked_for_one_by_one(5)]
#[case::read_as_a_whole(2500)]
fn requisites_come_each_after_what_it_refers_to(#[case] count: usize) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut database = create(folder.path());
    // A chain against the order of names, and beside it what nobody asks for.
    let name = |number: usize| format!("p{number:05}");
    let mut registrations: Vec<Registration> = Vec::new();
    for number in 0..count {
        let next = (number + 1 < count).then(|| path(&name(number + 1)));
        let own = path(&name(number));
        let references: Vec<_> = next.iter().chain([&own]).collect();
        registrations.push(info(&name(number), &references).into());
    }
    registrations.push(info("top-b", &[&path(&name(0)), &path("top-a")]).into());
    registrations.push(info("top-a", &[]).into());
    registrations.push(info("elsewhere", &[&path("top-b")]).into());
    database.register(&registrations).expect("registered");
    let mut expected: Vec<_> = (0..count).rev().map(|number| path(&name(number))).collect();
    expected.extend([path("top-a"), path("top-b")]);
    let starts = BTreeSet::from([path("top-b"), path(&name(1))]);
    let listed = database.requisites(&starts).expect("listed").expect("all are valid");
    assert_eq!(listed.len(), expected.len());
    for (at, path) in expected.iter().enumerate() {
        let found = listed.iter().position(|listed| listed == path).expect("it is listed");
        let before = listed.get(..found).expect("a part");
        let next = expected.get(at.wrapping_sub(1)).filter(|_| at < count);
        assert!(next.is_none_or(|next| before.contains(next)), "{path} is too early");
    }
    let some = BTreeSet::from([path("top-a"), path("absent")]);
    assert_eq!(database.requisites(&some).expect("an answer"), None);
}
