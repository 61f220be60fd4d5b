//! T04: no room, no inodes, no descriptors. All tests that mount take root.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use drover_core::{HashAlgorithm, IngestionMethod, PathInfo};
use drover_nar::{Executable, Writer};
use drover_store::contract::{Given, flat_file};
use drover_store::{Content, Keeper, Store, WhenValid};
use drover_store_local::{LocalOptions, LocalStore};

use crate::support::{Home, Mounted, Pieces, everything};

fn small(name: &str) -> (PathInfo, Bytes) {
    flat_file(name, name.as_bytes(), &[])
}

async fn add(store: &LocalStore, path: &(PathInfo, Bytes)) -> Result<(), String> {
    store.import(Given::boxed([path.clone()])).await.map_err(|error| error.to_string())
}

/// A directory of so many files, as a NAR.
fn tree(files: usize) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new()).expect("written");
    let mut write = || {
        writer.directory()?;
        for file in 0..files {
            writer.entry(format!("{file:03}").as_bytes())?;
            writer.regular(Executable::No, 0)?;
        }
        writer.directory_end()
    };
    write().expect("written");
    writer.finish().expect("whole")
}

async fn add_tree(store: &LocalStore, name: &str, files: usize) -> Result<PathInfo, String> {
    let content = Content {
        name: name.parse().expect("a name"),
        method: IngestionMethod::Nar,
        algorithm: HashAlgorithm::Sha256,
        references: BTreeSet::new(),
    };
    let added = store.add_content(content, Pieces::boxed(tree(files), 4096), WhenValid::Keep);
    added.await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_full_disk_is_named_and_leaves_no_valid_path() {
    let home = Home::new();
    let _disk = Mounted::new(home.path("store"), "size=2m");
    let store = home.store();
    let (a, large) = (small("small"), flat_file("large", &vec![1; 4 << 20], &[]));
    let error = store.import(Given::boxed([a.clone(), large])).await.expect_err("refused");
    assert!(error.to_string().contains("No space left on device"), "{error}");
    assert_eq!(store.all_valid().await.expect("all"), BTreeSet::from([a.0.path.clone()]));
    assert_eq!(home.entries(), [a.0.path.base_name()], "something is left");
    home.verify().await;
}

#[tokio::test]
async fn a_full_disk_under_the_database() {
    let home = Home::new();
    let disk = Mounted::new(home.path("state"), "size=3m");
    let store = home.store_with(LocalOptions { reserved: 100_000, ..LocalOptions::default() });
    let [a, b] = ["a", "b"].map(small);
    add(&store, &a).await.expect("added");
    let fill = disk.fill();
    let mut refused = Err(String::new());
    for number in 0..200 {
        // The log of the database has room for some.
        refused = add(&store, &small(&format!("x{number}"))).await;
        if refused.is_err() {
            break;
        }
    }
    let error = refused.expect_err("there is no room for ever");
    let named = error.to_lowercase().contains("no space left") && error.contains("state");
    assert!(named, "{error}");
    let valid = store.all_valid().await.expect("all");
    assert!(valid.contains(&a.0.path));
    let there: BTreeSet<String> = valid.iter().map(|path| path.base_name().to_owned()).collect();
    assert_eq!(home.entries().into_iter().collect::<BTreeSet<_>>(), there, "something is left");
    let mut freed = 0;
    if let Ok(collected) = home.store().collect(everything()).await {
        freed = collected.names.len();
    }
    std::fs::remove_file(fill).expect("removed");
    add(&store, &b).await.expect("added");
    home.verify().await;
    println!("{} paths before there was no room; {freed} collected then", there.len());
}

/// Who opens the database has to have room for the index of its log.
#[tokio::test]
async fn a_full_disk_can_be_looked_at_and_collected() {
    let home = Home::new();
    let disk = Mounted::new(home.path("state"), "size=3m");
    let options = LocalOptions { reserved: 200_000, ..LocalOptions::default() };
    let store = home.store_with(options.clone());
    let a = small("a");
    add(&store, &a).await.expect("added");
    drop(store);
    let _fill = disk.fill();
    let store = home.store_with(options);
    assert_eq!(store.all_valid().await.expect("all"), BTreeSet::from([a.0.path.clone()]));
    let collected = store.collect(everything()).await.expect("collected");
    assert!(collected.names.iter().any(|name| name.contains("-a")), "{collected:?}");
}

#[tokio::test]
async fn a_full_disk_under_the_logs() {
    let home = Home::new();
    let disk = Mounted::new(home.path("log"), "size=1m");
    let store = home.store();
    let derivation = small("x.drv").0.path;
    let fill = disk.fill();
    // So that it can't be packed into the last page.
    let text: Vec<u8> = (0..400_000_u32).flat_map(|at| at.wrapping_mul(at).to_le_bytes()).collect();
    let kept = store.add_build_log(&derivation, Pieces::boxed(text.clone(), 4096)).await;
    let error = kept.expect_err("refused").to_string();
    assert!(error.contains("No space left on device"), "{error}");
    assert!(store.build_log(&derivation).await.expect("asked").is_none(), "half a log");
    std::fs::remove_file(fill).expect("removed");
    let kept = store.add_build_log(&derivation, Pieces::boxed("text", 4096));
    kept.await.expect("kept");
    assert!(store.build_log(&derivation).await.expect("asked").is_some());
}

#[tokio::test]
async fn without_inodes() {
    let home = Home::new();
    let _disk = Mounted::new(home.path("store"), "nr_inodes=60");
    let store = home.store();
    let error = add_tree(&store, "many", 100).await.expect_err("refused");
    assert!(error.contains("No space left on device"), "{error}");
    assert_eq!(home.entries(), Vec::<String>::new(), "something is left");
    add_tree(&store, "some", 40).await.expect("added");
    drop(store);
    let mut files = Vec::new();
    for number in 0.. {
        match std::fs::File::create(home.path("store").join(format!("fill-{number}"))) {
            Ok(_) => files.push(format!("fill-{number}")),
            Err(_) => break,
        }
    }
    assert!(!files.is_empty());
    // There is none for the directory into which the collector moves what it deletes.
    let collected = home.store().collect(everything()).await.expect("collected");
    assert_eq!(collected.names.len(), 1 + files.len());
    assert_eq!(home.entries(), Vec::<String>::new(), "something is left");
    add_tree(&home.store(), "some", 40).await.expect("added");
    home.verify().await;
}

const HOME: &str = "STORE_LOCAL_FEW_DESCRIPTORS";

/// Adds paths, each of which takes a descriptor for its lock: alone, or as the process that has too
/// few of them.
#[tokio::test]
async fn adds_a_batch() {
    let own = Home::new();
    let few = std::env::var_os(HOME);
    let mut layout = own.layout();
    if let Some(home) = &few {
        let home = PathBuf::from(home);
        layout.real = home.join("store");
        layout.store_dir = layout.real.to_str().expect("text").parse().expect("a directory");
        (layout.state, layout.log) = (home.join("state"), home.join("log"));
    }
    let store = LocalStore::new(layout, LocalOptions::default());
    let paths: Vec<_> = (0..100).map(|number| small(&format!("x{number}"))).collect();
    let added = store.import(Given::boxed(paths)).await;
    if few.is_some() {
        let error = added.expect_err("refused").to_string();
        assert!(error.contains("Too many open files"), "{error}");
        // It goes on with what it can.
        add(&store, &small("one")).await.expect("added");
    } else {
        added.expect("added");
    }
}

#[tokio::test]
async fn without_descriptors() {
    let home = Home::new();
    let output = Command::new("prlimit")
        .arg("--nofile=60")
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", "full::adds_a_batch"])
        .env(HOME, home.path(""))
        .output()
        .expect("prlimit");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{said}");
    let one = small("one").0.path;
    assert_eq!(home.entries(), [one.base_name()], "something is left");
    assert_eq!(home.store().all_valid().await.expect("all"), BTreeSet::from([one]));
    home.verify().await;
}

/// `min-free`: who adds something where little is free begins a collection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn little_free_space_begins_a_collection() {
    const MIB: u64 = 1 << 20;
    let home = Home::new();
    let _disk = Mounted::new(home.path("store"), "size=16m");
    let garbage = ["a", "b", "c"].map(|name| flat_file(name, &vec![1; 3 << 20], &[]));
    for path in &garbage {
        add(&home.store(), path).await.expect("added");
    }
    let options = |min_free| LocalOptions {
        min_free,
        max_free: 9 * MIB,
        free_interval: Duration::ZERO,
        ..LocalOptions::default()
    };
    // Some 7 MiB are free.
    let store = home.store_with(options(5 * MIB));
    add(&store, &small("enough")).await.expect("added");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(store.all_valid().await.expect("all").len(), 4, "nothing had to go");
    drop(store);

    let store = home.store_with(options(8 * MIB));
    let new = small("new");
    add(&store, &new).await.expect("added");
    let began = std::time::Instant::now();
    let left = loop {
        let valid = store.all_valid().await.expect("all");
        if valid.len() < 5 {
            break valid;
        }
        assert!(began.elapsed() < Duration::from_secs(120), "nothing was collected");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(left.contains(&new.0.path), "what a session uses stays");
    // It ends when enough is free.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let left = store.all_valid().await.expect("all");
    assert!(garbage.iter().any(|(info, _)| left.contains(&info.path)), "too much is gone");
    home.verify().await;
}
