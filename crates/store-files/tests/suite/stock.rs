//! The same trees through stock Nix and through this: what comes out must be the same.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use drover_store_files::{
    FileName, Finding, Form, LinkCheck, Links, Optimised, Packer, Unpacker, measure,
};
use proptest::prelude::*;

use crate::place::{Place, assert_canonical, name, state};
use crate::tree::{Tree, many, trees};

fn nix_store(arguments: &[&str], input: Option<&Path>) -> Vec<u8> {
    let input = input.map_or_else(Stdio::null, |path| fs::File::open(path).unwrap().into());
    let run = Command::new("nix-store").args(arguments).stdin(input).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    run.stdout
}

fn pack(place: &Place, what: &str) -> Vec<u8> {
    let mut packer = Packer::new(place.dir(), &name(what)).unwrap();
    let mut nar = Vec::new();
    while let Some(block) = packer.next_block().unwrap() {
        nar.extend_from_slice(&block);
    }
    nar
}

/// Paths, modes and targets of a tree.
fn shape(path: &Path) -> BTreeMap<PathBuf, (u32, Option<PathBuf>)> {
    let stat = fs::symlink_metadata(path).unwrap();
    let own = (path.to_owned(), (stat.mode(), fs::read_link(path).ok()));
    let mut shape = BTreeMap::from([own]);
    if stat.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            shape.extend(shape_below(&entry.unwrap().path()));
        }
    }
    shape
}

fn shape_below(path: &Path) -> BTreeMap<PathBuf, (u32, Option<PathBuf>)> {
    shape(path)
}

/// [`shape`], with paths relative to the root.
fn relative(path: &Path) -> BTreeMap<PathBuf, (u32, Option<PathBuf>)> {
    let strip = |(inner, what): (PathBuf, _)| (inner.strip_prefix(path).unwrap().to_owned(), what);
    shape(path).into_iter().map(strip).collect()
}

fn same_as_stock(tree: &Tree) {
    let place = Place::new();
    let nar = tree.nar();
    fs::write(place.path("nar"), &nar).unwrap();
    let theirs = place.path("theirs");
    nix_store(&["--restore", theirs.to_str().unwrap()], Some(&place.path("nar")));
    let mut unpacker =
        Unpacker::with_form(place.dir(), &name("ours"), Default::default(), Form::Personal)
            .unwrap();
    unpacker.push(&nar).unwrap();
    unpacker.finish().unwrap();
    assert_eq!(relative(&place.path("ours")), relative(&theirs));
    assert!(pack(&place, "theirs") == nar);
    let ours = place.path("ours");
    assert!(nix_store(&["--dump", ours.to_str().unwrap()], None) == nar);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn dump_and_restore_are_stocks(tree in trees()) {
        same_as_stock(&tree);
    }
}

#[test]
fn dump_and_restore_of_many_files_are_stocks() {
    same_as_stock(&many(100, 30));
}

/// A store of stock Nix in a folder of its own.
struct Store(Place);

impl Store {
    fn new() -> Store {
        let store = Store(Place::new());
        store.nix(&["--init"]);
        store
    }

    fn nix(&self, arguments: &[&str]) -> String {
        let root = self.0.path("").canonicalize().unwrap();
        let run = || {
            Command::new("nix-store")
                .args(arguments)
                .env("NIX_STORE_DIR", root.join("store"))
                .env("NIX_STATE_DIR", root.join("var"))
                .env("NIX_LOG_DIR", root.join("log"))
                .env("NIX_CONF_DIR", &root)
                .env("HOME", &root)
                .env("NIX_CONFIG", "build-users-group =\nsubstituters =\nsandbox = false")
                .env_remove("NIX_REMOTE")
                .stdin(Stdio::null())
                .output()
                .unwrap()
        };
        // Its collector looks at what all processes have open, and ends at a name that is too long for it:
        // other tests in this one have such names open for a while.
        let is_of_others = |run: &Output| {
            !run.status.success()
                && String::from_utf8_lossy(&run.stderr).contains("File name too long")
        };
        let run = (0..100)
            .map(|_| {
                let run = run();
                if is_of_others(&run) {
                    std::thread::sleep(Duration::from_millis(200));
                }
                run
            })
            .find(|run| !is_of_others(run))
            .expect("stock Nix to get through once");
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        String::from_utf8(run.stdout).unwrap() + &String::from_utf8(run.stderr).unwrap()
    }

    /// Adds a tree; returns the name of its path.
    fn add(&self, tree: &Tree, called: &str) -> FileName {
        self.0.unpack(called, &tree.nar()).unwrap();
        let path = self.nix(&["--add", self.0.path(called).to_str().unwrap()]);
        self.0.remove(called);
        name(path.trim_end().rsplit('/').next().unwrap())
    }

    fn dir(&self) -> fs::File {
        fs::File::open(self.0.path("store")).unwrap()
    }

    fn path(&self, below: &str) -> PathBuf {
        self.0.path("store").join(below)
    }

    /// The names in `.links`, with how many links what they name has.
    fn links(&self) -> BTreeMap<String, u64> {
        let entries = fs::read_dir(self.path(".links")).unwrap().map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().nlink())
        });
        entries.collect()
    }

    fn text(name: &FileName) -> &str {
        std::str::from_utf8(name.as_bytes()).unwrap()
    }
}

/// Files with equal contents in three trees, links and an empty file among them.
fn similar() -> [Tree; 3] {
    let run = Tree::File(drover_nar::Executable::Yes, b"same".to_vec());
    let below = Tree::directory([
        ("same", Tree::file("same")),
        ("run", run.clone()),
        ("large", Tree::file(&"large".repeat(20_000))),
        ("link", Tree::Symlink(b"same".to_vec())),
    ]);
    [
        Tree::directory([
            ("a", below.clone()),
            ("empty", Tree::file("")),
            ("own", Tree::file("own")),
        ]),
        Tree::directory([("a", below), ("b", Tree::file("same")), ("empty", Tree::file(""))]),
        Tree::file("same"),
    ]
}

fn optimise_all(store: &Store, names: &[FileName]) -> Optimised {
    let dir = store.dir();
    let mut links = Links::open(std::os::fd::AsFd::as_fd(&dir)).unwrap();
    links.load().unwrap();
    let mut all = Optimised::default();
    for name in names {
        let Optimised { files, bytes, findings } = links.optimise(name, LinkCheck::Size).unwrap();
        all.files += files;
        all.bytes += bytes;
        all.findings.extend(findings);
    }
    all
}

#[test]
fn links_are_those_of_stock() {
    let [ours, theirs] = [(); 2].map(|()| Store::new());
    let names = |store: &Store| {
        let add = |(number, tree): (usize, &Tree)| store.add(tree, &format!("tree{number}"));
        similar().iter().enumerate().map(add).collect::<Vec<_>>()
    };
    let (our_names, _) = (names(&ours), names(&theirs));
    let said = theirs.nix(&["--optimise"]);
    let optimised = optimise_all(&ours, &our_names);
    assert_eq!(ours.links(), theirs.links());
    assert!(said.contains(&format!("by hard-linking {} files", optimised.files)), "{said}");
    assert_eq!(optimised.findings, []);
    // same, run, large, link, empty, then b, then the file; sizes are those of the contents.
    assert_eq!((optimised.files, optimised.bytes), (7, 3 * 4 + 4 + 100_000 + 4));
    for name in &our_names {
        assert_canonical(&ours.path(Store::text(name)));
    }
    ours.nix(&["--verify", "--check-contents"]);

    assert_eq!(
        optimise_all(&ours, &our_names),
        Optimised::default(),
        "there is nothing left to do"
    );
    assert!(ours.nix(&["--optimise"]).contains("by hard-linking 0 files"));
    let left: Vec<_> =
        fs::read_dir(ours.path(".")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 4, "{left:?}");
}

#[test]
fn corrupt_links_are_replaced_and_writable_files_skipped() {
    let store = Store::new();
    let [one, two, _] = similar();
    let first = store.add(&one, "one");
    assert_eq!(optimise_all(&store, std::slice::from_ref(&first)).findings, []);
    let second = store.add(&two, "two");

    let dir = store.dir();
    let dir = std::os::fd::AsFd::as_fd(&dir);
    let own = fs::File::open(store.path(Store::text(&first))).unwrap();
    let hash = measure(std::os::fd::AsFd::as_fd(&own), &name("own")).unwrap().hash;
    let below = fs::File::open(store.path(Store::text(&second)).join("a")).unwrap();
    let same = measure(std::os::fd::AsFd::as_fd(&below), &name("same")).unwrap().hash;
    let link = |hash: drover_core::NarHash| {
        store.path(".links").join(hash.to_string().strip_prefix("sha256:").unwrap())
    };
    assert!(link(hash).exists());
    // Of another size, and of the same size with other contents.
    fs::remove_file(link(same)).unwrap();
    fs::write(link(same), "other than that").unwrap();
    let writable = store.path(Store::text(&second)).join("b");
    fs::set_permissions(&writable, fs::Permissions::from_mode(0o644)).unwrap();

    let mut links = Links::open(dir).unwrap();
    let optimised = links.optimise(&second, LinkCheck::Size).unwrap();
    let mut found: Vec<_> = optimised.findings.iter().map(Finding::to_string).collect();
    found.sort();
    let digits = link(same).file_name().unwrap().to_str().unwrap().to_owned();
    let path = Store::text(&second);
    assert_eq!(
        found,
        [
            format!("removing corrupted link '.links/{digits}'"),
            format!("skipping suspicious writable file '{path}/b'"),
        ]
    );
    assert_eq!(fs::read_to_string(link(same)).unwrap(), "same");

    fs::remove_file(link(same)).unwrap();
    fs::write(link(same), "SAME").unwrap();
    let third = store.add(&Tree::directory([("x", Tree::file("same"))]), "three");
    let optimised = links.optimise(&third, LinkCheck::Contents).unwrap();
    assert_eq!(optimised.findings.len(), 1, "{optimised:?}");
    assert_eq!(fs::read_to_string(store.path(Store::text(&third)).join("x")).unwrap(), "same");
}

#[test]
fn a_sweep_leaves_what_stocks_collector_leaves() {
    let [ours, theirs] = [(); 2].map(|()| Store::new());
    for store in [&ours, &theirs] {
        let [one, two, three] = similar();
        let large = Tree::file(&"large".repeat(1 << 20));
        let names = [
            store.add(&one, "one"),
            store.add(&two, "two"),
            store.add(&three, "three"),
            store.add(&large, "large"),
            store.add(&Tree::directory([("large", large)]), "larger"),
        ];
        store.nix(&["--optimise"]);
        // The first has what no other has.
        let path = store.path(Store::text(&names[0]));
        let root = store.0.path("root");
        for keep in &names[1..] {
            let keep = store.path(Store::text(keep));
            let link =
                format!("{}-{}", root.display(), keep.file_name().unwrap().to_str().unwrap());
            store.nix(&["--realise", keep.to_str().unwrap(), "--add-root", &link, "--indirect"]);
        }
        assert!(path.exists());
    }
    let path = fs::read_dir(ours.path("."))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let path = path.into_iter().find(|name| name.ends_with("-one")).unwrap();
    let said = theirs.nix(&["--gc"]);
    ours.nix(&["--delete", "--ignore-liveness", ours.path(&path).to_str().unwrap()]);
    // Stock has swept when it deleted; a link that nobody needs is put back.
    fs::write(ours.path(".links/unneeded"), "x".repeat(5000)).unwrap();
    let before = fs::metadata(ours.path(".links/unneeded")).unwrap().blocks() * 512;
    let dir = ours.dir();
    let swept = Links::open(std::os::fd::AsFd::as_fd(&dir)).unwrap().sweep().unwrap();
    assert_eq!((swept.removed, swept.disk), (1, before));
    assert_eq!(ours.links(), theirs.links());
    let megabytes = swept.saving as f64 / 1024.0 / 1024.0;
    // Later versions have the words in another order.
    assert!(said.trim_end().ends_with(&format!("{megabytes:.2} MiB")), "{said} {swept:?}");
    assert!(4.5 < megabytes, "{swept:?}");
    assert_eq!(state(&ours.path(".links")).0, 0o755);
}
