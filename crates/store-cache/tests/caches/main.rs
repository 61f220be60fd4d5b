//! Caches in folders and behind a server that misbehaves.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]
#![allow(missing_docs, unreachable_pub, reason = "nobody else uses it")]

mod bucket;
mod disk;
mod folder;
mod http2;
mod mischief;
mod nars;
mod redirects;
mod renewal;
mod s3;
mod server;
mod serving;
mod tls;
mod uploads;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use drover_core::{PathInfo, StoreDir, StorePath};
use drover_store::contract::{Given, flat_file};
use drover_store::{PathStream, Store, StoreError};
use drover_store_cache::{CacheSettings, CacheStore, Pauses, ProxyUse};

/// Settings under which nobody waits for long.
fn quick() -> CacheSettings {
    CacheSettings {
        download_attempts: 3,
        pauses: Pauses {
            first: Duration::from_millis(1),
            first_when_busy: Duration::from_millis(1),
            longest: Duration::from_secs(30),
        },
        stalled_download_timeout: Duration::from_secs(120),
        proxies: ProxyUse::Never,
        ..CacheSettings::default()
    }
}

/// Settings for servers that stall.
fn impatient() -> CacheSettings {
    CacheSettings { stalled_download_timeout: Duration::from_secs(1), ..quick() }
}

fn open(reference: &str, settings: CacheSettings) -> CacheStore {
    CacheStore::open(&reference.parse().unwrap(), StoreDir::default(), settings).unwrap()
}

/// Contents that no compression makes small.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(step).flatten().take(len).collect()
}

type Paths = Vec<(PathInfo, Bytes)>;

/// Writes `paths` into a new cache in `folder`.
async fn fill(folder: &Path, parameters: &str, paths: &Paths) {
    let store = open(&format!("file://{}?{parameters}", folder.display()), quick());
    store.import(Given::boxed(paths.clone())).await.unwrap();
}

/// Three paths: small, large, and one that refers to both.
fn three() -> Paths {
    let small = flat_file("small", b"a few words", &[]);
    let large = flat_file("large", &noise(1, 400_000), &[]);
    let both = flat_file("both", &noise(2, 40_000), &[&small.0, &large.0]);
    vec![small, large, both]
}

fn infos(paths: &Paths) -> Vec<PathInfo> {
    paths.iter().map(|(info, _)| info.clone()).collect()
}

fn names(paths: &Paths) -> Vec<StorePath> {
    paths.iter().map(|(info, _)| info.path.clone()).collect()
}

/// Reads one path of a stream to its end.
async fn rest(stream: &mut dyn PathStream) -> Result<Vec<u8>, StoreError> {
    let mut nar = Vec::new();
    while let Some(piece) = stream.chunk().await? {
        nar.extend_from_slice(&piece);
    }
    Ok(nar)
}

/// Fetches one path with its hash checked.
async fn fetch(store: &CacheStore, info: &PathInfo) -> Result<Vec<u8>, StoreError> {
    let mut stream = store.export(vec![info.clone()]).await?;
    stream.next_path().await?;
    rest(&mut *stream).await
}

/// Fetches all paths, and compares.
async fn read_back(store: &CacheStore, paths: &Paths) {
    let found = store.path_infos(&names(paths)).await.unwrap();
    for ((info, _), found) in paths.iter().zip(found) {
        assert_eq!(found.as_ref(), Some(info));
    }
    for checked in [true, false] {
        let mut stream = match checked {
            true => store.export(infos(paths)).await.unwrap(),
            false => store.export_to_checker(infos(paths)).await.unwrap(),
        };
        assert_eq!(stream.count(), paths.len());
        for (info, nar) in paths {
            assert_eq!(stream.next_path().await.unwrap().as_ref(), Some(info));
            assert!(rest(&mut *stream).await.unwrap() == *nar, "{} differs", info.path);
        }
        assert!(stream.next_path().await.unwrap().is_none());
    }
}

/// Where a path's narinfo is at a server.
fn narinfo_of(info: &PathInfo) -> String {
    format!("/{}.narinfo", info.path.hash_part())
}

/// Where a path's NAR is at a server, as the narinfo in `folder` says.
fn nar_of(folder: &Path, info: &PathInfo) -> String {
    let text = std::fs::read_to_string(folder.join(&narinfo_of(info)[1..])).unwrap();
    format!("/{}", text.lines().find_map(|line| line.strip_prefix("URL: ")).unwrap())
}

/// Changes a path's narinfo in `folder`.
fn alter(folder: &Path, info: &PathInfo, change: impl Fn(String) -> String) {
    let file = folder.join(&narinfo_of(info)[1..]);
    let text = std::fs::read_to_string(&file).unwrap();
    let changed = change(text.clone());
    assert_ne!(text, changed, "nothing was altered");
    std::fs::write(file, changed).unwrap();
}

fn set(paths: &Paths) -> BTreeSet<StorePath> {
    names(paths).into_iter().collect()
}
