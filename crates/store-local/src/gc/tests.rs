//! Collections of stores that stock Nix knows too, and beside its processes.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use drover_core::{Hash, HashAlgorithm, NarHash, NarSize, PathInfo, StorePath};
use drover_store::{CollectAction, Collected, Collection, Liveness};
use drover_store_db::{Database, Mode, OpenOptions, Registration};
use drover_store_locks::{
    Delay, GcLock, PathLocks, RealStore, RootsServer, TempDir, TempRoots, Verdict, Wait,
};

use super::sweep::Sweep;
use super::world::{Dead, World};
use super::{GcError, Keep, Site, Wanted, collect, find_roots, list};
use crate::failpoint::{Point, at};
use crate::{Access, Layout};

fn silent(_: Delay<'_>) -> Verdict {
    Verdict::Wait
}

fn patience() -> Wait<'static> {
    Wait::up_to(Duration::from_secs(60), &silent)
}

/// A store of stock Nix, as a collector of ours sees it.
struct TestStore {
    _folder: Option<tempfile::TempDir>,
    layout: Layout,
    database: OpenOptions,
    keep: Keep,
}

impl TestStore {
    fn new() -> TestStore {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        let store = TestStore { _folder: Some(folder), ..TestStore::at(&path) };
        store.nix(&["--init"]);
        store
    }

    fn at(folder: &Path) -> TestStore {
        let real = folder.join("store");
        let layout = Layout {
            name: "local".to_owned(),
            store_dir: real.to_str().unwrap().parse().unwrap(),
            state: folder.join("var"),
            log: folder.join("log"),
            access: Access::ReadWrite,
            real,
        };
        let database = OpenOptions::new(&layout.db(), &layout.store_dir, Mode::ReadWrite);
        TestStore { _folder: None, layout, database, keep: Keep::default() }
    }

    fn folder(&self) -> &Path {
        self.layout.real.parent().unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("nix-store");
        let settings = format!(
            "build-users-group =\nsubstituters =\nsandbox = false\nkeep-outputs = {}\n\
             keep-derivations = {}",
            self.keep.outputs, self.keep.derivations
        );
        command
            .args(arguments)
            .env("NIX_STORE_DIR", &self.layout.real)
            .env("NIX_STATE_DIR", &self.layout.state)
            .env("NIX_LOG_DIR", &self.layout.log)
            .env("NIX_CONF_DIR", self.folder())
            .env("HOME", self.folder())
            .env("NIX_CONFIG", settings)
            .env_remove("NIX_REMOTE")
            .stdin(Stdio::null());
        command
    }

    fn nix(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "nix-store {arguments:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn add(&self, name: &str, contents: &str) -> StorePath {
        let file = self.folder().join(name);
        fs::write(&file, contents).unwrap();
        let path = self.nix(&["--add", file.to_str().unwrap()]);
        self.layout.store_dir.parse(path.trim_end()).unwrap()
    }

    /// Base names of what `nix-store --gc --print-…` prints.
    fn stock_list(&self, what: &str) -> BTreeSet<String> {
        let printed = self.nix(&["--gc", what]);
        let base = |line: &str| Path::new(line).file_name().unwrap().to_str().unwrap().to_owned();
        printed.lines().map(base).collect()
    }

    fn site<'a>(&'a self, wanted: &'a Wanted) -> Site<'a> {
        Site {
            layout: &self.layout,
            database: &self.database,
            keep: self.keep,
            reserved: 1 << 20,
            wanted,
        }
    }

    fn run(&self, collection: &Collection) -> Result<Collected, GcError> {
        let lock = GcLock::acquire(&self.layout.state, patience())?;
        collect(&self.site(&Wanted::default()), collection, lock)
    }

    /// Lists as of a store that can't be changed.
    fn list_unlocked(&self, action: CollectAction) -> BTreeSet<String> {
        list(&self.site(&Wanted::default()), action).unwrap().names.into_iter().collect()
    }

    fn list(&self, action: CollectAction) -> BTreeSet<String> {
        self.run(&collection(action)).unwrap().names.into_iter().collect()
    }

    fn delete(&self, paths: &[&StorePath], liveness: Liveness) -> Result<Collected, GcError> {
        let paths = paths.iter().copied().cloned().collect();
        self.run(&Collection { paths, liveness, ..collection(CollectAction::DeleteGiven) })
    }

    fn has(&self, path: &StorePath) -> bool {
        self.layout.real_path(path).symlink_metadata().is_ok()
    }

    fn valid(&self) -> BTreeSet<StorePath> {
        Database::open(&self.database).unwrap().all_paths().unwrap()
    }

    fn verify(&self) {
        self.nix(&["--verify", "--check-contents"]);
    }

    /// Makes paths valid without stock Nix, with a file each.
    fn register(&self, paths: &[(StorePath, Vec<StorePath>)]) {
        let nar = |path: &StorePath| {
            let contents = format!("{path}\n");
            fs::write(self.layout.real_path(path), &contents).unwrap();
            contents
        };
        let registrations: Vec<Registration> = paths
            .iter()
            .map(|(path, references)| {
                let contents = nar(path);
                let digest = Hash::of(HashAlgorithm::Sha256, contents.as_bytes());
                Registration::from(PathInfo {
                    path: path.clone(),
                    deriver: None,
                    nar_hash: NarHash(digest.digest().try_into().unwrap()),
                    nar_size: NarSize(120),
                    references: references.iter().cloned().collect(),
                    registration_time: 1,
                    ultimate: false,
                    signatures: BTreeSet::new(),
                    content_address: None,
                })
            })
            .collect();
        Database::open(&self.database).unwrap().register(&registrations).unwrap();
    }

    fn root(&self, name: &str, target: &str) {
        let link = self.layout.roots().join(name);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(target, link).unwrap();
    }

    fn display(&self, path: &StorePath) -> String {
        self.layout.store_dir.display(path)
    }
}

fn collection(action: CollectAction) -> Collection {
    Collection { action, liveness: Liveness::Respect, paths: BTreeSet::new(), max_freed: None }
}

fn path(number: usize, name: &str) -> StorePath {
    StorePath::from_base_name(&format!("{number:032}-{name}")).unwrap()
}

/// Numbers that look random and are the same every time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(self.0 >> 33).unwrap() % end
    }
}

/// Paths that refer to some of those before them.
fn random_paths(count: usize) -> Vec<(StorePath, Vec<StorePath>)> {
    let mut numbers = Numbers(42);
    let mut paths: Vec<(StorePath, Vec<StorePath>)> = Vec::new();
    for number in 0..count {
        let mut references = BTreeSet::new();
        for _ in 0..numbers.below(5) {
            let before = number.saturating_sub(1 + numbers.below(60));
            references.extend(paths.get(before).map(|(path, _)| path.clone()));
        }
        // Some refer to themselves.
        if numbers.below(10) == 0 {
            references.insert(path(number, "x"));
        }
        paths.push((path(number, "x"), references.into_iter().collect()));
    }
    paths
}

/// Roots of all kinds, and rubbish; returns what has to live on.
fn furnish(store: &TestStore, count: usize) -> (TempRoots, Vec<PathBuf>) {
    store.register(&random_paths(count));
    let real = |number: usize| store.display(&path(number, "x"));
    let step = count / 10;
    store.root("direct", &real(step));
    store.root("deep/er/inside", &format!("{}/bin/sh", real(step * 2)));
    let profiles = store.layout.state.join("profiles/per-user/me");
    fs::create_dir_all(&profiles).unwrap();
    symlink(real(step * 3), profiles.join("profile-1-link")).unwrap();
    symlink("profile-1-link", profiles.join("profile")).unwrap();
    let result = store.folder().join("result");
    symlink(real(step * 4), &result).unwrap();
    store.root("auto/indirect", result.to_str().unwrap());
    store.root("auto/stale", store.folder().join("gone").to_str().unwrap());
    store.root("not-valid", &real(count + 5));
    store.root("elsewhere", "/etc/passwd");
    fs::write(store.layout.roots().join(path(step * 5, "x").base_name()), "").unwrap();
    let roots = TempRoots::new(&store.layout.state, &store.layout.store_dir);
    roots.add([&path(step * 6, "x"), &path(count + 1, "temporary")], patience()).unwrap();
    let rubbish = [
        path(count + 1, "temporary").to_string(),
        path(count + 1, "temporary.lock").to_string(),
        path(count + 2, "dead").to_string(),
        path(count + 3, "dead.lock").to_string(),
    ];
    let rubbish: Vec<PathBuf> = rubbish.iter().map(|name| store.layout.real.join(name)).collect();
    for file in &rubbish {
        fs::write(file, "").unwrap();
    }
    (roots, rubbish)
}

/// Listing after listing, as stock's deletes the stale link as well.
#[rstest::rstest]
#[case::plain(Keep::default())]
#[case::both(Keep { outputs: true, derivations: true })]
fn the_same_lists_as_stock(#[case] keep: Keep) {
    let store = TestStore { keep, ..TestStore::new() };
    let (_roots, rubbish) = furnish(&store, 2000);
    let stale = store.layout.roots().join("auto/stale");
    assert!(stale.symlink_metadata().is_ok());
    let dead = store.list(CollectAction::ListDead);
    let live = store.list(CollectAction::ListLive);
    assert!(stale.symlink_metadata().is_err(), "a link that leads nowhere");
    assert!(100 < dead.len() && 100 < live.len(), "{} {}", dead.len(), live.len());
    assert_eq!(dead, store.stock_list("--print-dead"));
    assert_eq!(live, store.stock_list("--print-live"));
    // without the lock, as where nothing can be written
    let held = GcLock::acquire(&store.layout.state, patience()).unwrap();
    assert_eq!(store.list_unlocked(CollectAction::ListDead), dead);
    assert_eq!(store.list_unlocked(CollectAction::ListLive), live);
    drop(held);

    let collected = store.run(&collection(CollectAction::DeleteDead)).unwrap();
    assert_eq!(collected.names.iter().cloned().collect::<BTreeSet<_>>(), dead);
    assert!(0 < collected.bytes_freed);
    assert_eq!(store.stock_list("--print-dead"), BTreeSet::new());
    assert_eq!(store.stock_list("--print-live"), live);
    let there = rubbish.iter().map(|file| file.exists());
    assert_eq!(there.collect::<Vec<_>>(), [true, true, false, false]);
    let left: BTreeSet<String> = fs::read_dir(&store.layout.real)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != ".links")
        .collect();
    assert_eq!(left, live);
}

/// A derivation and its output, each kept by a root on the other, or not.
#[test]
fn outputs_and_derivations_as_stock() {
    let store = TestStore::new();
    let drv = path(1, "x.drv");
    let out = path(2, "x");
    let other = path(3, "y");
    store.register(&[(drv.clone(), vec![]), (out.clone(), vec![]), (other.clone(), vec![])]);
    // As a build leaves it.
    let sql = format!(
        "insert into DerivationOutputs select id, 'out', '{out}' from ValidPaths where path = \
         '{drv}'; update ValidPaths set deriver = '{drv}' where path = '{out}';",
        out = store.display(&out),
        drv = store.display(&drv),
    );
    let db = store.layout.db().join("db.sqlite");
    assert!(Command::new("sqlite3").arg(&db).arg(sql).status().unwrap().success());
    for (rooted, keep, expected) in [
        (&drv, (false, false), [true, false]),
        (&drv, (true, false), [true, true]),
        (&drv, (false, true), [true, false]),
        (&out, (false, false), [false, true]),
        (&out, (true, false), [false, true]),
        (&out, (false, true), [true, true]),
    ] {
        let link = store.layout.roots().join("root");
        fs::remove_file(&link).ok();
        store.root("root", &store.display(rooted));
        let keep = Keep { outputs: keep.0, derivations: keep.1 };
        let store = TestStore { keep, ..TestStore::at(store.folder()) };
        let live = store.list(CollectAction::ListLive);
        let lives = [&drv, &out].map(|path| live.contains(path.base_name()));
        assert_eq!(lives, expected, "{rooted} {keep:?}");
        assert!(!live.contains(other.base_name()));
    }
}

#[test]
fn roots_as_stock_prints_them() {
    let store = TestStore::new();
    let (_roots, _) = furnish(&store, 500);
    let site = Site {
        layout: &store.layout,
        database: &store.database,
        keep: Keep::default(),
        reserved: 0,
        wanted: &Wanted::default(),
    };
    let ours: BTreeSet<String> = find_roots(&site)
        .unwrap()
        .into_iter()
        .map(|(link, path)| format!("{link} -> {}", store.display(&path)))
        .filter(|line| !line.starts_with("/proc/"))
        .collect();
    let stock: BTreeSet<String> = store
        .nix(&["--gc", "--print-roots"])
        .lines()
        .map(|line| line.replace('"', ""))
        .filter(|line| !line.starts_with("/proc/"))
        .collect();
    assert_eq!(ours, stock);
    assert_eq!(ours.len(), 7, "{ours:?}");
}

/// An open file, a folder, an argument of the environment, a library that is mapped.
#[test]
fn what_processes_use_is_kept() {
    let store = TestStore::new();
    let [file, folder, named, dead] = [1, 2, 3, 4].map(|number| path(number, "x"));
    store.register(&[&file, &named, &dead].map(|path| (path.clone(), vec![])));
    fs::create_dir(store.layout.real_path(&folder)).unwrap();
    let db = store.layout.db().join("db.sqlite");
    let sql = format!(
        "insert into ValidPaths (path, hash, registrationTime) values ('{}', 'sha256:{}', 1)",
        store.display(&folder),
        "0".repeat(64)
    );
    assert!(Command::new("sqlite3").arg(&db).arg(sql).status().unwrap().success());
    let mut user = Command::new("sleep")
        .arg("60")
        .current_dir(store.layout.real_path(&folder))
        .stdin(fs::File::open(store.layout.real_path(&file)).unwrap())
        .env("USES", format!("x:{}/bin:y", store.display(&named)))
        .spawn()
        .unwrap();
    let collected = store.run(&collection(CollectAction::DeleteDead)).unwrap();
    user.kill().unwrap();
    user.wait().unwrap();
    assert_eq!(collected.names, [dead.to_string()]);
    let collected = store.run(&collection(CollectAction::DeleteDead)).unwrap();
    assert_eq!(collected.names.len(), 3);
    assert_eq!(store.valid(), BTreeSet::new());
}

#[test]
fn deleting_what_is_given() {
    let store = TestStore::new();
    let [a, b, c, d] = [1, 2, 3, 4].map(|number| path(number, "x"));
    // a <- b <- c, and c has a root; d has none and refers to a.
    store.register(&[
        (a.clone(), vec![]),
        (b.clone(), vec![a.clone()]),
        (c.clone(), vec![b.clone()]),
        (d.clone(), vec![a.clone(), d.clone()]),
    ]);
    store.root("root", &store.display(&c));
    let refused = store.delete(&[&a, &d], Liveness::Respect).unwrap_err().to_string();
    let root = store.layout.roots().join("root");
    assert_eq!(
        refused,
        format!(
            "Cannot delete path '{}' since it is still alive. To find out why, use: nix-store \
             --query --roots and nix-store --query --referrers\n  the root {}\n  needs {c}\n  \
             needs {b}\n  needs {a}",
            store.display(&a),
            root.display()
        )
    );
    assert!(store.has(&d), "all or none");
    let refused = store.delete(&[&a], Liveness::Ignore).unwrap_err().to_string();
    assert!(refused.contains(&format!("it is needed by {b}")), "{refused}");
    assert_eq!(store.delete(&[&d], Liveness::Respect).unwrap().names, [d.to_string()]);
    let gone = path(9, "never-was");
    assert_eq!(store.delete(&[&gone], Liveness::Respect).unwrap().names, [gone.to_string()]);

    let session = TempRoots::new(&store.layout.state, &store.layout.store_dir);
    session.add([&c], patience()).unwrap();
    let refused = store.delete(&[&c, &b], Liveness::Ignore).unwrap_err().to_string();
    assert!(refused.contains("{temp:"), "{refused}");
    drop(session);
    let all = store.delete(&[&a, &b, &c], Liveness::Ignore).unwrap();
    assert_eq!(all.names, [&c, &b, &a].map(ToString::to_string), "referrers first");
    assert_eq!(store.valid(), BTreeSet::new());
}

#[test]
fn a_limit_ends_it() {
    let store = TestStore::new();
    let paths: Vec<StorePath> = (0..50).map(|number| path(number, "x")).collect();
    store.register(&paths.iter().map(|path| (path.clone(), vec![])).collect::<Vec<_>>());
    let some = |max_freed| Collection {
        max_freed: Some(max_freed),
        ..collection(CollectAction::DeleteDead)
    };
    assert_eq!(store.run(&some(0)).unwrap(), Collected::default());
    // Each has a file of 35 bytes.
    let one = store.run(&some(1)).unwrap();
    assert_eq!((one.names.len(), one.bytes_freed), (1, 35));
    let more = store.run(&some(350)).unwrap();
    assert_eq!((more.names.len(), more.bytes_freed), (11, 385));
    assert_eq!(store.valid().len(), 38);
}

#[test]
fn what_somebody_makes_is_left_alone() {
    let store = TestStore::new();
    let real = std::sync::Arc::new(RealStore::open(&store.layout.real).unwrap());
    let session = TempRoots::new(&store.layout.state, &store.layout.store_dir);
    let used = TempDir::new(&real, &session, patience()).unwrap();
    let other = path(2, "locked");
    let _lock = PathLocks::try_acquire(&real, &BTreeSet::from([other.clone()])).unwrap();
    fs::create_dir(store.layout.real_path(&other)).unwrap();
    // A directory such as Nix 2.34 makes, with its lock.
    let stock = store.layout.real.join("tmp-1-0");
    fs::create_dir(&stock).unwrap();
    let mut holder = Command::new("flock")
        .args(["--no-fork", stock.to_str().unwrap(), "sh", "-c", "echo; exec sleep 60"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut [0]).unwrap();
    // One such as Nix 2.8 makes, without.
    let old = store.layout.real.join(format!("add-{}-0", std::process::id()));
    fs::create_dir(&old).unwrap();
    let stale = store.layout.real.join("add-4194305-0");
    fs::create_dir(&stale).unwrap();
    // Links that any Nix is about to put where they belong.
    let link = store.layout.real.join(format!(".tmp-link-{}-0", std::process::id()));
    fs::write(&link, "").unwrap();
    fs::write(store.layout.real.join(".tmp-link-4194305-0"), "").unwrap();
    let mut gone = store.run(&collection(CollectAction::DeleteDead)).unwrap().names;
    gone.sort();
    assert_eq!(gone, [".tmp-link-4194305-0", "add-4194305-0"]);
    assert!(store.has(used.name()) && store.has(&other) && stock.exists() && old.exists());
    assert!(link.exists());
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(store.run(&collection(CollectAction::DeleteDead)).unwrap().names, ["tmp-1-0"]);
}

/// Nix 87716847d4: the collector has found everything dead, and has deleted some of it; then somebody
/// announces a path that is still there. That path, and all that it needs, stay.
#[test]
fn a_root_that_comes_in_the_middle_is_honoured() {
    let store = TestStore::new();
    let layout = &store.layout;
    // One chain: each refers to the next, so that what has the lowest number goes first.
    let next = |number| (number < 9).then(|| path(number + 1, "x"));
    let paths: Vec<(StorePath, Vec<StorePath>)> = (0..10)
        .rev()
        .map(|number| (path(number, "x"), next(number).into_iter().collect()))
        .collect();
    store.register(&paths);
    let lock = GcLock::acquire(&layout.state, patience()).unwrap();
    let server = RootsServer::start(&lock, &layout.state, &layout.store_dir).unwrap();
    let real = RealStore::open(&layout.real).unwrap();
    let database = Database::open(&store.database).unwrap();
    let mut world = World::new(&database, Keep::default()).unwrap();
    let Dead { mut order, together } = world.dead_in_order();
    assert_eq!((order.len(), together.len()), (10, 0));
    let rest = order.split_off(3);
    let wanted = Wanted::default();
    let mut sweep = Sweep::new(&real, database, &server, &wanted, None);
    let none = Vec::new;
    sweep.valid(&mut world, Dead { order, together: none() }).unwrap();

    let session = TempRoots::new(&layout.state, &layout.store_dir);
    session.add([&path(1, "x"), &path(6, "x")], patience()).unwrap();
    let left: BTreeSet<StorePath> = (3..10).map(|number| path(number, "x")).collect();
    assert_eq!(store.valid(), left, "what is gone is known to be when the root is acknowledged");

    sweep.valid(&mut world, Dead { order: rest, together: none() }).unwrap();
    let names = sweep.finish().unwrap().names;
    assert_eq!(names, [0, 1, 2, 3, 4, 5].map(|number| path(number, "x").to_string()));
    let left: BTreeSet<StorePath> = (6..10).map(|number| path(number, "x")).collect();
    assert_eq!(store.valid(), left);
    assert!(left.iter().all(|path| store.has(path)));
}

/// A path that is registered while its reference is about to go, by somebody who protects only the
/// new one: the reference stays.
#[test]
fn a_new_referrer_keeps_what_was_dead() {
    let store = TestStore::new();
    let old = path(1, "x");
    store.register(&[(old.clone(), vec![])]);
    let session = TempRoots::new(&store.layout.state, &store.layout.store_dir);
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::SeqCst) {
                store.run(&collection(CollectAction::DeleteDead)).unwrap();
            }
        });
        for number in 10..60 {
            session.add([&path(number, "y")], patience()).unwrap();
            let new = (path(number, "y"), vec![old.clone()]);
            let registered = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                store.register(std::slice::from_ref(&new));
            }));
            if registered.is_err() {
                // The reference was gone first, which is told to who registers.
                let both = TempRoots::new(&store.layout.state, &store.layout.store_dir);
                both.add([&old], patience()).unwrap();
                store.register(&[(old.clone(), vec![]), new]);
            }
            assert!(store.valid().contains(&old));
        }
        ended.store(true, Ordering::SeqCst);
    });
    assert!(store.has(&old));
}

/// Adders of stock Nix and a collector of ours, in loops.
#[test]
fn nothing_valid_is_lost_beside_stock() {
    let store = TestStore::new();
    let ended = AtomicBool::new(false);
    let kept: Vec<StorePath> = (0..5).map(|n| store.add(&format!("k{n}"), "kept")).collect();
    for path in &kept {
        store.root(path.base_name(), &store.display(path));
    }
    std::thread::scope(|scope| {
        for number in 0..3 {
            let (store, ended) = (&store, &ended);
            scope.spawn(move || {
                let mut round = 0;
                while !ended.load(Ordering::SeqCst) {
                    round += 1;
                    let file = store.folder().join(format!("f{number}"));
                    fs::write(&file, format!("{}", round % 7)).unwrap();
                    store.nix(&["--add", file.to_str().unwrap()]);
                }
            });
        }
        let began = Instant::now();
        let mut deleted = 0;
        let is_enough = |deleted| match began.elapsed().as_secs() {
            0..5 => false,
            5..60 => 10 < deleted,
            _ => true,
        };
        while !is_enough(deleted) {
            deleted += store.run(&collection(CollectAction::DeleteDead)).unwrap().names.len();
        }
        ended.store(true, Ordering::SeqCst);
        assert!(10 < deleted, "{deleted}");
    });
    store.verify();
    store.run(&collection(CollectAction::DeleteDead)).unwrap();
    store.verify();
    assert_eq!(store.valid(), kept.into_iter().collect());
}

/// The collection that [`killed_in_the_middle`] kills; alone, one of a store of its own.
#[test]
fn a_collection() {
    let own = TestStore::new();
    let store = match std::env::var_os("STORE_LOCAL_GC_FOLDER") {
        Some(folder) => TestStore::at(Path::new(&folder)),
        None => {
            own.register(&random_paths(100));
            TestStore::at(own.folder())
        }
    };
    assert!(!store.run(&collection(CollectAction::DeleteDead)).unwrap().names.is_empty());
}

/// T04: there is no byte left for the database's log, the trash or anything else, but what was kept
/// back.
#[test]
fn on_a_full_disk() {
    let folder = tempfile::tempdir().unwrap();
    let script = r#"
        set -e
        mount -t tmpfs -o size=6m tmpfs "$FOLDER"
        cd "$FOLDER"
        for number in 1 2 3 4 5; do
            head -c 100000 /dev/zero >"x$number"; nix-store --add "x$number" >/dev/null
        done
        test "$(stat -c %s var/db/reserved)" = 1000000
        cat /dev/zero >fill 2>/dev/null || true
        test "$(stat -f -c %a .)" = 0
        "$COLLECTION" --exact gc::tests::a_collection
        rm fill
        nix-store --verify --check-contents
        test "$(ls store)" = ""
    "#;
    let at = TestStore::at(&folder.path().canonicalize().unwrap());
    let settings = "build-users-group =\nsubstituters =\ngc-reserved-space = 1000000";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]);
    // The store's variables.
    command.envs(at.command(&[]).get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = command
        .env("NIX_CONFIG", settings)
        .env("FOLDER", at.folder())
        .env("STORE_LOCAL_GC_FOLDER", at.folder())
        .env("COLLECTION", std::env::current_exe().unwrap())
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
}

#[test]
fn killed_in_the_middle() {
    const DELAYS: [u64; 12] = [5, 10, 20, 30, 40, 60, 80, 120, 160, 0, 1, 2];
    let mut halves = 0;
    // which of them is in the middle is up to the machine and who else uses it
    for (round, delay) in DELAYS.into_iter().cycle().take(5 * DELAYS.len()).enumerate() {
        if DELAYS.len() <= round && 0 < halves {
            break;
        }
        let store = TestStore::new();
        store.register(&random_paths(4000));
        let rooted = path(3999, "x");
        store.root("root", &store.display(&rooted));
        let live = store.list(CollectAction::ListLive);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "gc::tests::a_collection"])
            .env("STORE_LOCAL_GC_FOLDER", store.folder())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let began = Instant::now();
        while store.valid().len() == 4000 && began.elapsed() < Duration::from_secs(20) {}
        std::thread::sleep(Duration::from_millis(delay));
        child.kill().unwrap();
        child.wait().unwrap();
        let valid = store.valid();
        if live.len() < valid.len() && valid.len() < 4000 {
            halves += 1;
        }
        let lost: Vec<&StorePath> = valid.iter().filter(|path| !store.has(path)).collect();
        assert!(lost.is_empty(), "valid and not there: {lost:?}");
        store.run(&collection(CollectAction::DeleteDead)).unwrap();
        let left: BTreeSet<String> =
            store.valid().iter().map(|path| path.base_name().to_owned()).collect();
        assert_eq!(left, live);
        let there = fs::read_dir(&store.layout.real).unwrap().count();
        assert_eq!(there, live.len() + 1, "nothing else but the links' folder is left");
    }
    assert!(0 < halves, "none was killed in the middle");
}

/// Whoever wanted a collection goes away in the middle of it.
#[test]
fn what_nobody_wants_any_more_ends() {
    let store = TestStore::new();
    let paths: Vec<StorePath> = (0..1000).map(|number| path(number, "x")).collect();
    store.register(&paths.iter().map(|path| (path.clone(), vec![])).collect::<Vec<_>>());
    let (wanting, wanted) = Wanted::by_somebody();
    at(Point::CollectorDeleted, || drop(wanting));
    let site = Site {
        layout: &store.layout,
        database: &store.database,
        keep: store.keep,
        reserved: 0,
        wanted: &wanted,
    };
    let lock = GcLock::acquire(&store.layout.state, patience()).unwrap();
    let ended = collect(&site, &collection(CollectAction::DeleteDead), lock);
    assert!(matches!(ended, Err(GcError::Unwanted)), "{ended:?}");
    let valid = store.valid();
    assert!(100 < valid.len() && valid.len() < 900, "{}", valid.len());
    assert!(valid.iter().all(|path| store.has(path)));
    let there = fs::read_dir(&store.layout.real).unwrap().count();
    assert_eq!(there, valid.len() + 1, "nothing else but the links' folder is left");
    let rest = store.run(&collection(CollectAction::DeleteDead)).unwrap();
    assert_eq!(rest.names.len(), valid.len());
}

/// A session makes a link to what it uses, and ends, while the collector has read one of the two.
#[test]
fn a_link_takes_over_from_a_session() {
    let store = TestStore::new();
    let used = path(1, "x");
    store.register(&[(used.clone(), vec![])]);
    let session = TempRoots::new(&store.layout.state, &store.layout.store_dir);
    session.add([&used], patience()).unwrap();
    let link = store.layout.roots().join("link");
    let target = store.display(&used);
    at(Point::CollectorHalfway, move || {
        symlink(target, link).unwrap();
        drop(session);
    });
    assert_eq!(store.run(&collection(CollectAction::DeleteDead)).unwrap().names, [""; 0]);
    assert_eq!(store.valid(), BTreeSet::from([used]));
}

/// The same, where the collector is stock's: it reads links first, and is told again therefore.
#[test]
fn a_running_collector_is_told_of_what_a_link_keeps() {
    let store = TestStore::new();
    let used = path(1, "x");
    store.register(&[(used.clone(), vec![])]);
    let layout = &store.layout;
    let session = TempRoots::new(&layout.state, &layout.store_dir);
    session.add([&used], patience()).unwrap();
    let lock = GcLock::acquire(&layout.state, patience()).unwrap();
    let server = RootsServer::start(&lock, &layout.state, &layout.store_dir).unwrap();
    session.add([&used], patience()).unwrap();
    assert!(!server.is_root(&used), "it is in the session's file");
    session.hand_over(std::slice::from_ref(&used), patience()).unwrap();
    drop(session);
    assert!(server.is_root(&used));
}
