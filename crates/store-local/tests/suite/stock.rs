//! Stock Nix and this store at the same time.

use std::collections::BTreeSet;

use drover_store::contract::{Given, flat_file};
use drover_store::{Keeper, Store};

use crate::support::Home;

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
