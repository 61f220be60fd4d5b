//! Caches behind a server that does as it should.

use std::time::Duration;

use drover_core::StorePath;
use drover_store::Store as _;
use drover_store::contract::flat_file;
use drover_store_cache::CacheSettings;
use rstest::rstest;

use crate::server::Server;
use crate::{fill, infos, names, narinfo_of, open, quick, read_back, rest, three};

#[rstest]
#[tokio::test]
async fn gives_what_is_there(
    #[values("none", "xz", "zstd", "bzip2", "gzip", "br")] compression: &str,
) {
    let folder = tempfile::tempdir().unwrap();
    let paths = three();
    fill(folder.path(), &format!("compression={compression}"), &paths).await;
    let server = Server::start(folder.path().to_owned()).await;
    let store = open(&server.url(), quick());
    assert_eq!(store.name(), server.url());
    read_back(&store, &paths).await;
    // What a cache tells of itself, and of a path, is asked once.
    assert_eq!(server.count("/nix-cache-info"), 1);
    assert_eq!(server.count(&narinfo_of(&paths[0].0)), 1);
    let agent = format!("user-agent: drover/{}", env!("CARGO_PKG_VERSION"));
    assert!(server.requests().iter().all(|request| request.headers.contains(&agent)));
}

#[tokio::test]
async fn a_cache_may_be_below_a_path() {
    let folder = tempfile::tempdir().unwrap();
    let paths = three();
    fill(&folder.path().join("a/c"), "", &paths).await;
    std::fs::rename(folder.path().join("a"), folder.path().join("a%20b")).unwrap();
    let server = Server::start(folder.path().to_owned()).await;
    for path in ["/a%20b/c", "/a%20b/c/", "/a%20b/c?priority=3"] {
        let store = open(&format!("{}{path}", server.url()), quick());
        read_back(&store, &paths).await;
        assert_eq!(store.name(), format!("{}/a%20b/c", server.url()));
    }
}

/// Many questions at once, but no more than may be.
#[tokio::test]
async fn asks_many_at_once_within_the_limit() {
    let folder = tempfile::tempdir().unwrap();
    let paths: crate::Paths = (0..60u32)
        .map(|number| flat_file(&format!("n{number}"), &number.to_le_bytes(), &[]))
        .collect();
    fill(folder.path(), "", &paths).await;
    let server = Server::start(folder.path().to_owned()).await;
    server.delay(Duration::from_millis(20));
    let store = open(&server.url(), CacheSettings { http_connections: 8, ..quick() });
    read_back(&store, &paths).await;
    let most = server.most_open();
    assert!((4..=8).contains(&most), "{most} at once");
    let one = open(&server.url(), CacheSettings { http_connections: 1, ..quick() });
    read_back(&one, &paths).await;
}

/// Streams that stand still keep nobody else from asking and fetching.
#[tokio::test]
async fn streams_that_nobody_reads_are_in_nobodys_way() {
    let folder = tempfile::tempdir().unwrap();
    let large: crate::Paths = (0..6)
        .map(|number| flat_file(&format!("l{number}"), &crate::noise(number, 3_000_000), &[]))
        .collect();
    let paths = three();
    fill(folder.path(), "compression=none", &large).await;
    fill(folder.path(), "compression=none", &paths).await;
    let server = Server::start(folder.path().to_owned()).await;
    let store = open(&server.url(), CacheSettings { http_connections: 4, ..quick() });
    let mut standing = Vec::new();
    for _ in 0..5 {
        store.path_infos(&names(&large)).await.unwrap();
        let mut stream = store.export(infos(&large)).await.unwrap();
        stream.next_path().await.unwrap();
        assert!(stream.chunk().await.unwrap().is_some());
        standing.push(stream);
    }
    read_back(&store, &paths).await;
    for stream in &mut standing {
        rest(&mut **stream).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_not_there_is_absent_and_asked_once() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), "", &three()).await;
    let server = Server::start(folder.path().to_owned()).await;
    let store = open(&server.url(), quick());
    let (absent, _) = flat_file("absent", b"nobody has this", &[]);
    let twice: Vec<StorePath> = vec![absent.path.clone(), absent.path.clone()];
    assert_eq!(store.path_infos(&twice).await.unwrap(), [None, None]);
    assert_eq!(server.count(&narinfo_of(&absent)), 1);
    assert!(store.export(vec![absent]).await.is_err());
}

#[tokio::test]
async fn says_who_asks_where_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), "", &three()).await;
    let server = Server::start(folder.path().to_owned()).await;
    let netrc = folder.path().join("netrc");
    std::fs::write(&netrc, "machine 127.0.0.1 login me password secret").unwrap();
    let settings = CacheSettings { netrc_file: Some(netrc), ..quick() };
    open(&server.url(), settings.clone()).connect().await.unwrap();
    let reference = format!("http://you:word@{}", server.address());
    let store = open(&reference, settings);
    store.connect().await.unwrap();
    assert_eq!(store.name(), server.url());
    open(&server.url(), quick()).connect().await.unwrap();
    let said: Vec<Option<String>> = server
        .requests()
        .into_iter()
        .map(|request| {
            request.headers.into_iter().find(|header| header.starts_with("authorization"))
        })
        .collect();
    // `me:secret` and `you:word`, as the server of these tests lowers them.
    let basic = |word: &str| Some(format!("authorization: basic {word}"));
    assert_eq!(said, [basic("bwu6c2vjcmv0"), basic("ew91ondvcmq="), None]);
}
