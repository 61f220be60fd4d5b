//! What a process sees that lives longer than the files which its caches were opened with.

use drover_store::Store as _;
use drover_store_cache::CacheSettings;

use crate::server::{Mischief, Server};
use crate::{fill, names, open, quick, three};

/// A password that is changed counts from the next request on.
#[tokio::test]
async fn a_changed_netrc_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let paths = three();
    fill(folder.path(), "", &paths).await;
    let server = Server::start(folder.path().to_owned()).await;
    let netrc = folder.path().join("netrc");
    let settings = CacheSettings { netrc_file: Some(netrc.clone()), ..quick() };
    let store = open(&server.url(), settings);
    let names = names(&paths);
    let asked_as = || {
        let last = server.requests().pop().unwrap();
        last.headers
            .iter()
            .find_map(|header| header.strip_prefix("authorization: ").map(str::to_owned))
    };
    store.path_infos(&names[..1]).await.unwrap();
    assert_eq!(asked_as(), None);
    std::fs::write(&netrc, "machine 127.0.0.1 login one password a\n").unwrap();
    store.path_infos(&names[1..2]).await.unwrap();
    let first = asked_as().expect("a user");
    std::fs::write(&netrc, "machine 127.0.0.1 login another password b\n").unwrap();
    store.path_infos(&names[2..]).await.unwrap();
    assert_ne!(asked_as().expect("a user"), first);
}

/// Authorities that are no good keep nothing from working once they are.
#[tokio::test]
async fn a_changed_file_of_authorities_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let paths = three();
    fill(folder.path(), "", &paths).await;
    let (address, pem) = crate::tls::serve("localhost");
    let ca_file = folder.path().join("ca.crt");
    std::fs::write(&ca_file, "nothing").unwrap();
    let settings = CacheSettings { ca_file: Some(ca_file.clone()), ..quick() };
    let store = open(&format!("https://localhost:{}", address.port()), settings);
    let error = store.connect().await.unwrap_err().to_string();
    assert!(error.contains("has no certificate of an authority"), "{error}");
    std::fs::write(&ca_file, pem).unwrap();
    store.connect().await.unwrap();
}

/// What an answer says of the cache is asked again after a while.
#[tokio::test]
async fn a_cache_that_was_away_is_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), "", &three()).await;
    let server = Server::start(folder.path().to_owned()).await;
    server.misbehave("/nix-cache-info", Mischief::Status(404, "", Vec::new()), 1);
    let store = open(&server.url(), quick());
    store.priority().await.unwrap_err();
    assert_eq!(store.priority().await.unwrap(), 50);
    assert_eq!(store.priority().await.unwrap(), 50);
    assert_eq!(server.count("/nix-cache-info"), 2, "what is known isn't asked for again");
}
