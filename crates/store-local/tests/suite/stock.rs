//! Stock Nix and this store at the same time.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use drover_store::contract::{Given, flat_file};
use drover_store::{Keeper, Store};
use drover_store_local::{ContentSync, LocalOptions, MetadataSync};

use crate::support::{Home, everything};

#[tokio::test]
async fn reads_what_stock_adds() {
    let home = Home::new();
    let tree = home.path("tree");
    std::fs::create_dir_all(tree.join("below")).expect("a folder");
    std::fs::write(tree.join("below/file"), "contents").expect("written");
    std::os::unix::fs::symlink("below", tree.join("link")).expect("a link");
    let added = home.stock("nix-store", &["--add", tree.to_str().expect("text")]).expect("added");
    let store = home.store();
    let path = store.store_dir().parse(added.trim()).expect("a path");
    let infos = store.path_infos(&[path]).await.expect("infos");
    let info = infos[0].clone().expect("valid");
    let nar = store.small_nar(info.clone()).await.expect("a NAR");
    let other = Home::new();
    // Another store directory, the same contents.
    let (mut copy, _) = flat_file("copy", b"", &[]);
    (copy.nar_hash, copy.nar_size) = (info.nar_hash, info.nar_size);
    other.store().import(Given::boxed([(copy, nar)])).await.expect("the hash that stock says");
    other.verify().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_add_at_the_same_time() {
    const EACH: usize = 60;
    let home = Home::new();
    let store = home.store();
    store.connect().await.expect("open");
    let stock = async {
        for at in 0..EACH / 4 {
            let files: Vec<String> = (0..4)
                .map(|file| {
                    let file = home.path(&format!("stock-{at}-{file}"));
                    std::fs::write(&file, format!("{at}")).expect("written");
                    file.to_str().expect("text").to_owned()
                })
                .collect();
            let args: Vec<&str> =
                ["--add"].into_iter().chain(files.iter().map(String::as_str)).collect();
            tokio::task::block_in_place(|| home.stock("nix-store", &args)).expect("added");
            tokio::task::yield_now().await;
        }
    };
    let ours = async {
        let (common, common_nar) = flat_file("common", b"common", &[]);
        for at in 0..EACH {
            let (one, nar) = flat_file(&format!("ours-{at}"), b"x", &[&common]);
            let paths = Given::boxed([(common.clone(), common_nar.clone()), (one, nar)]);
            store.import(paths).await.expect("added");
        }
    };
    tokio::join!(stock, ours);
    let names: BTreeSet<String> =
        store.all_valid().await.expect("all").iter().map(|path| path.name().to_owned()).collect();
    assert_eq!(names.len(), 2 * EACH + 1, "{names:?}");
    home.verify().await;
}

/// T06: what was just added is there, for as long as the one who added it lives, and for ever with a
/// root; whatever a collector does meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_paths_beside_a_collector() {
    const ADDERS: usize = 4;
    const EACH: usize = 250;
    let home = Home::new();
    let options = LocalOptions {
        contents: ContentSync::Off,
        reserved: 0,
        // Their transactions are synced, and there are many of them.
        metadata: MetadataSync::Off,
        ..LocalOptions::default()
    };
    let store = home.store_with(options);
    std::fs::create_dir_all(home.path("roots")).expect("a folder");
    let (ended, mut collections) = (AtomicBool::new(false), 0);
    let adders = (0..ADDERS).map(|adder| {
        let (store, roots) = (store.clone(), home.path("roots"));
        async move {
            for number in 0..EACH {
                let session = store.clone().session().await.expect("a session");
                let (info, nar) = flat_file(&format!("x-{adder}-{number}"), b"x", &[]);
                session.import(Given::boxed([(info.clone(), nar)])).await.expect("added");
                for _ in 0..3 {
                    let path = std::slice::from_ref(&info.path);
                    let known = session.path_infos(path).await.expect("infos");
                    assert!(known[0].is_some(), "{} is gone", info.path);
                    tokio::task::yield_now().await;
                }
                let link = roots.join(info.path.base_name());
                let link = link.to_str().expect("text");
                session.add_permanent_root(&info.path, link).await.expect("a root");
            }
        }
    });
    let mut adding: tokio::task::JoinSet<()> = adders.collect();
    let collect = async {
        while !ended.load(Ordering::SeqCst) {
            // Something to delete each time.
            let garbage = flat_file(&format!("garbage-{collections}"), b"", &[]);
            let session = store.clone().session().await.expect("a session");
            session.import(Given::boxed([garbage])).await.expect("added");
            drop(session);
            store.collect(everything()).await.expect("collected");
            collections += 1;
        }
    };
    let add = async {
        while let Some(done) = adding.join_next().await {
            done.expect("nothing is lost");
        }
        ended.store(true, Ordering::SeqCst);
    };
    tokio::join!(add, collect);
    println!("{collections} collections");
    assert!(3 < collections);
    store.collect(everything()).await.expect("collected");
    assert_eq!(store.all_valid().await.expect("all").len(), ADDERS * EACH);
    home.verify().await;
}
