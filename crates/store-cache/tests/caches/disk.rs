//! What caches said, kept from run to run.

use std::path::Path;
use std::time::Duration;

use drover_store::Store as _;
use drover_store::contract::flat_file;
use drover_store_cache::CacheSettings;

use crate::server::{Mischief, Server};
use crate::{fetch, fill, infos, names, nar_of, narinfo_of, open, quick, read_back, three};

fn keeping(folder: &Path) -> CacheSettings {
    CacheSettings { disk_cache: Some(folder.join("kept")), ..quick() }
}

fn file(folder: &Path) -> std::path::PathBuf {
    folder.join("kept/binary-caches-v1.sqlite")
}

#[tokio::test]
async fn answers_are_kept_from_run_to_run() {
    let folder = tempfile::tempdir().unwrap();
    let paths = three();
    fill(folder.path(), "", &paths).await;
    let server = Server::start(folder.path().to_owned()).await;
    let (absent, _) = flat_file("absent", b"nobody has this", &[]);
    for _ in 0..3 {
        let store = open(&server.url(), keeping(folder.path()));
        read_back(&store, &paths).await;
        assert_eq!(store.path_infos(std::slice::from_ref(&absent.path)).await.unwrap(), [None]);
    }
    assert_eq!(server.count("/nix-cache-info"), 1);
    for info in infos(&paths).iter().chain([&absent]) {
        assert_eq!(server.count(&narinfo_of(info)), 1, "{}", info.path);
    }
    // Another cache has said nothing yet.
    let other = Server::start(folder.path().to_owned()).await;
    read_back(&open(&other.url(), keeping(folder.path())), &paths).await;
    assert_eq!(other.count(&narinfo_of(&paths[0].0)), 1);
}

#[tokio::test]
async fn answers_grow_old() {
    let folder = tempfile::tempdir().unwrap();
    let paths = three();
    fill(folder.path(), "", &paths).await;
    let server = Server::start(folder.path().to_owned()).await;
    let (absent, _) = flat_file("absent", b"nobody has this", &[]);
    let asked = [paths[0].0.path.clone(), absent.path.clone()];
    let settings = keeping(folder.path());
    for settings in [
        settings.clone(),
        CacheSettings { negative_ttl: Duration::ZERO, ..settings.clone() },
        CacheSettings { positive_ttl: Duration::ZERO, ..settings },
    ] {
        open(&server.url(), settings).path_infos(&asked).await.unwrap();
    }
    assert_eq!(server.count(&narinfo_of(&paths[0].0)), 2);
    assert_eq!(server.count(&narinfo_of(&absent)), 2);
    assert_eq!(server.count("/nix-cache-info"), 2);
}

/// What a server can't say isn't kept.
#[tokio::test]
async fn trouble_is_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let paths = three();
    fill(folder.path(), "", &paths).await;
    let server = Server::start(folder.path().to_owned()).await;
    let narinfo = narinfo_of(&paths[0].0);
    server.misbehave(&narinfo, Mischief::Status(500, "", Vec::new()), 3);
    let store = open(&server.url(), keeping(folder.path()));
    assert!(store.path_infos(&names(&paths)).await.is_err());
    read_back(&open(&server.url(), keeping(folder.path())), &paths).await;
}

#[tokio::test]
async fn what_turned_out_to_be_wrong_is_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let paths = three();
    fill(folder.path(), "", &paths).await;
    let server = Server::start(folder.path().to_owned()).await;
    open(&server.url(), keeping(folder.path())).path_infos(&names(&paths)).await.unwrap();
    let nar = folder.path().join(&nar_of(folder.path(), &paths[0].0)[1..]);
    std::fs::rename(&nar, folder.path().join("away")).unwrap();
    let store = open(&server.url(), keeping(folder.path()));
    assert!(fetch(&store, &paths[0].0).await.is_err());
    std::fs::remove_file(folder.path().join(&narinfo_of(&paths[0].0)[1..])).unwrap();
    let store = open(&server.url(), keeping(folder.path()));
    let found = store.path_infos(&names(&paths)).await.unwrap();
    assert!(found[0].is_none() && found[1].is_some());
}

/// A file that is none, is cut, or has been overwritten in the middle is made anew.
#[tokio::test]
async fn a_broken_file_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let paths = three();
    fill(folder.path(), "", &paths).await;
    let server = Server::start(folder.path().to_owned()).await;
    read_back(&open(&server.url(), keeping(folder.path())), &paths).await;
    let good = std::fs::read(file(folder.path())).unwrap();
    let mut holes = good.clone();
    let len = holes.len();
    holes[100..len].fill(0xa5);
    for bytes in [b"no database at all".repeat(1000), holes, good[..good.len() / 2].to_vec()] {
        for ending in ["-wal", "-shm"] {
            drop(std::fs::remove_file(format!("{}{ending}", file(folder.path()).display())));
        }
        std::fs::write(file(folder.path()), bytes).unwrap();
        let before = server.count(&narinfo_of(&paths[0].0));
        for _ in 0..2 {
            read_back(&open(&server.url(), keeping(folder.path())), &paths).await;
        }
        // It was asked again at the most once, and the file is good since.
        assert!(server.count(&narinfo_of(&paths[0].0)) <= before + 1);
    }
}

/// Where nothing can be kept, all is asked.
#[tokio::test]
async fn a_folder_that_cannot_be_is_done_without() {
    let folder = tempfile::tempdir().unwrap();
    let paths = three();
    fill(folder.path(), "", &paths).await;
    let server = Server::start(folder.path().to_owned()).await;
    std::fs::write(folder.path().join("kept"), "a file").unwrap();
    for _ in 0..2 {
        read_back(&open(&server.url(), keeping(folder.path())), &paths).await;
    }
    assert_eq!(server.count(&narinfo_of(&paths[0].0)), 2);
}

/// Many at once share the file, also while it is made.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_share_it() {
    let folder = tempfile::tempdir().unwrap();
    let paths = three();
    fill(folder.path(), "", &paths).await;
    let server = Server::start(folder.path().to_owned()).await;
    std::fs::create_dir(folder.path().join("kept")).unwrap();
    std::fs::write(file(folder.path()), b"no database at all".repeat(1000)).unwrap();
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let (url, settings, paths) = (server.url(), keeping(folder.path()), paths.clone());
        all.spawn(async move { read_back(&open(&url, settings), &paths).await });
    }
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
    let before = server.count(&narinfo_of(&paths[0].0));
    read_back(&open(&server.url(), keeping(folder.path())), &paths).await;
    assert_eq!(server.count(&narinfo_of(&paths[0].0)), before, "nothing was kept");
}

/// What lies at the lock's name is neither written through, where it's a link, nor waited for for ever;
/// then nothing is kept, and all is asked.
#[rstest::rstest]
#[case::a_link(false)]
#[case::locked(true)]
#[tokio::test]
async fn a_lock_that_cannot_be_had_is_no_obstacle(#[case] locked: bool) {
    let folder = tempfile::tempdir().unwrap();
    let paths = three();
    fill(folder.path(), "", &paths).await;
    let server = Server::start(folder.path().to_owned()).await;
    let (lock, victim) =
        (folder.path().join("kept/binary-caches-v1.sqlite.lock"), folder.path().join("victim"));
    std::fs::create_dir(folder.path().join("kept")).unwrap();
    std::fs::write(&victim, "of somebody").unwrap();
    std::fs::write(file(folder.path()), b"no database at all".repeat(1000)).unwrap();
    let held = match locked {
        true => {
            let held = std::fs::File::create(&lock).unwrap();
            rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
            Some(held)
        }
        false => {
            std::os::unix::fs::symlink(&victim, &lock).unwrap();
            None
        }
    };
    let store = open(&server.url(), keeping(folder.path()));
    let reading = read_back(&store, &paths);
    tokio::time::timeout(Duration::from_secs(60), reading).await.expect("nobody waits for ever");
    assert_eq!(std::fs::read(&victim).unwrap(), b"of somebody");
    drop(held);
}
