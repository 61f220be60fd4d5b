//! Caches in folders, as written and read by us.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::{NarInfo, PathInfo, SecretKey, StoreDir, TrustedKeys};
use drover_store::contract::{Given, check_store, flat_file};
use drover_store::{PathStream, Store as _, StoreError, Substitute};
use drover_store_cache::{CacheTrust, MassQuery};
use rstest::rstest;

use crate::{fill, infos, names, nar_of, noise, open, quick, read_back, three};

#[rstest]
#[tokio::test]
async fn does_what_stores_do(
    #[values("none", "xz", "zstd", "bzip2", "gzip", "br")] compression: &str,
) {
    let folder = tempfile::tempdir().unwrap();
    let reference = format!("file://{}?compression={compression}", folder.path().display());
    check_store(&open(&reference, quick()), "a").await;
    let paths = three();
    fill(folder.path(), &format!("compression={compression}"), &paths).await;
    read_back(&open(&reference, quick()), &paths).await;
}

#[tokio::test]
async fn leaves_nothing_behind_but_what_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&format!("file://{}", folder.path().display()), quick());
    let paths = three();
    let cut = paths[2].1.slice(..100);
    let mixed = vec![paths[0].clone(), paths[1].clone(), (paths[2].0.clone(), cut)];
    let error = store.import(Given::boxed(mixed)).await.unwrap_err();
    assert!(matches!(error, StoreError::SizeMismatch { .. }), "{error:?}");
    // What came before is there and good.
    read_back(&store, &paths[..2].to_vec()).await;
    let mut files: Vec<String> = std::fs::read_dir(folder.path())
        .unwrap()
        .chain(std::fs::read_dir(folder.path().join("nar")).unwrap())
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    let narinfos = files.iter().filter(|file| file.ends_with(".narinfo")).count();
    let nars = files.iter().filter(|file| file.ends_with(".nar.zst")).count();
    assert_eq!((narinfos, nars, files.len()), (2, 2, 6), "{files:?}");
}

/// A large path in small pieces, which looks for unfinished files when most of them have been taken.
struct Watched {
    info: Option<PathInfo>,
    pieces: Vec<Bytes>,
    nars: PathBuf,
    seen: Arc<Mutex<Vec<String>>>,
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[async_trait]
impl PathStream for Watched {
    fn count(&self) -> usize {
        1
    }

    async fn next_path(&mut self) -> Result<Option<PathInfo>, StoreError> {
        Ok(self.info.take())
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        let next = self.pieces.pop();
        if next.is_none() {
            // fewer than all of them can wait, so that somebody writes by now
            *self.seen.lock().unwrap() = names_in(&self.nars);
        }
        Ok(next)
    }
}

/// Whoever is killed in the middle leaves nothing, and what others have left is swept up.
#[tokio::test]
async fn what_is_being_written_has_no_name() {
    let folder = tempfile::tempdir().unwrap();
    let nars = folder.path().join("nar");
    std::fs::create_dir(&nars).unwrap();
    let old = std::fs::File::create(nars.join(".drover-old")).unwrap();
    old.set_modified(SystemTime::now() - Duration::from_secs(48 * 3600)).unwrap();
    let (info, nar) = flat_file("large", &noise(7, 8_000_000), &[]);
    let pieces = nar.chunks(32 * 1024).rev().map(Bytes::copy_from_slice).collect();
    let seen = Arc::new(Mutex::new(vec!["nothing was looked at".to_owned()]));
    let (paths, watched) = (vec![(info.clone(), nar)], Arc::clone(&seen));
    let watched = Watched { info: Some(info), pieces, nars: nars.clone(), seen: watched };
    let store = open(&format!("file://{}?compression=none", folder.path().display()), quick());
    store.import(Box::new(watched)).await.unwrap();
    // a file system that knows no files without names has them under one that readers pass over
    let seen = seen.lock().unwrap().clone();
    assert!(seen.iter().all(|name| name.starts_with(".drover-")), "{seen:?}");
    assert_eq!(names_in(&nars).len(), 1);
    read_back(&store, &paths).await;
}

#[tokio::test]
async fn signs_what_it_takes() {
    let folder = tempfile::tempdir().unwrap();
    let secret = SecretKey::generate("here-1").unwrap();
    let key = folder.path().join("key");
    std::fs::write(&key, secret.to_text().as_bytes()).unwrap();
    let cache = folder.path().join("cache");
    let paths = three();
    fill(&cache, &format!("secret-key={}", key.display()), &paths).await;
    let store = open(&format!("file://{}", cache.display()), quick());
    let mut trusted = TrustedKeys::default();
    trusted.add(secret.public_key());
    for info in store.path_infos(&names(&paths)).await.unwrap() {
        assert!(trusted.vouch_for(&info.unwrap(), &StoreDir::default()));
    }
}

#[tokio::test]
async fn says_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), "", &three()).await;
    let plain = format!("file://{}", folder.path().display());
    let store = open(&plain, quick());
    assert_eq!(store.name(), plain);
    assert_eq!(store.priority().await.unwrap(), 50);
    assert_eq!(store.want_mass_query().await.unwrap(), MassQuery::Unwanted);
    assert_eq!(store.trust(), CacheTrust::NeedsSignatures);
    std::fs::write(
        folder.path().join("nix-cache-info"),
        "StoreDir: /nix/store\nPriority: 30\nWantMassQuery: 1\n",
    )
    .unwrap();
    let store = open(&format!("{plain}?trusted=true"), quick());
    assert_eq!(store.priority().await.unwrap(), 30);
    assert_eq!(store.want_mass_query().await.unwrap(), MassQuery::Wanted);
    assert_eq!(store.trust(), CacheTrust::Trusted);
    let store = open(&format!("{plain}?priority=7&want-mass-query=false"), quick());
    assert_eq!(store.priority().await.unwrap(), 7);
    assert_eq!(store.want_mass_query().await.unwrap(), MassQuery::Unwanted);
    let sizes = store.download_sizes(&names(&three())).await.unwrap();
    let nar = folder.path().join(&nar_of(folder.path(), &three()[1].0)[1..]);
    assert_eq!(sizes[1], Some(std::fs::metadata(nar).unwrap().len()));
}

#[tokio::test]
async fn a_folder_that_is_no_cache_says_so() {
    let folder = tempfile::tempdir().unwrap();
    // One that is empty, or isn't there, is a cache to be.
    for at in [folder.path().to_owned(), folder.path().join("nowhere")] {
        let store = open(&format!("file://{}", at.display()), quick());
        assert_eq!(store.path_infos(&names(&three())).await.unwrap(), [None, None, None]);
    }
    std::fs::write(folder.path().join("letter"), "hello").unwrap();
    let store = open(&format!("file://{}", folder.path().display()), quick());
    let error = store.path_infos(&names(&three())).await.unwrap_err().to_string();
    assert!(
        error.contains("does not appear to be a binary cache: there is no file:///"),
        "{error}"
    );
    std::fs::write(folder.path().join("nix-cache-info"), "StoreDir: /gnu/store\n").unwrap();
    let store = open(&format!("file://{}", folder.path().display()), quick());
    for error in [
        store.connect().await.unwrap_err(),
        store.priority().await.unwrap_err(),
        store.import(Given::boxed(three())).await.unwrap_err(),
        store.hold_valid(&crate::set(&three()), Substitute::No).await.unwrap_err(),
    ] {
        let error = error.to_string();
        assert!(error.contains("store directory '/gnu/store', ours is '/nix/store'"), "{error}");
    }
}

/// Nobody reads a pipe or a device that lies in a cache, or waits for it.
#[tokio::test]
async fn what_is_no_file_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let paths = three();
    fill(folder.path(), "", &paths).await;
    let narinfo = folder.path().join(&crate::narinfo_of(&paths[0].0)[1..]);
    std::fs::remove_file(&narinfo).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&narinfo).status().unwrap();
    assert!(made.success());
    let store = open(&format!("file://{}", folder.path().display()), quick());
    let found = store.path_infos(&names(&paths)).await.unwrap();
    assert!(found[0].is_none() && found[1].is_some());
}

#[tokio::test]
async fn many_paths_come_back_in_their_order() {
    let folder = tempfile::tempdir().unwrap();
    let mut paths: crate::Paths = Vec::new();
    for number in 0..300u32 {
        let last: Vec<&drover_core::PathInfo> =
            paths.iter().rev().take(2).map(|(info, _)| info).collect();
        let path = flat_file(&format!("n{number}"), &number.to_le_bytes(), &last);
        paths.push(path);
    }
    fill(folder.path(), "", &paths).await;
    let store = open(&format!("file://{}", folder.path().display()), quick());
    read_back(&store, &paths).await;
    // A narinfo is read as any other.
    let text = std::fs::read(folder.path().join(&crate::narinfo_of(&paths[7].0)[1..])).unwrap();
    let narinfo = NarInfo::parse(&text, &StoreDir::default()).unwrap();
    assert_eq!(narinfo.info, infos(&paths)[7]);
}
