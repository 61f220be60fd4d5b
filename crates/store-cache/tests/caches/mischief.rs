//! Servers that do not do as they should when they are asked.

use drover_store::{Store as _, StoreError};
use rstest::rstest;

use crate::server::{Mischief, Server};
use crate::{alter, fill, impatient, names, narinfo_of, open, quick, read_back, three};

const FOREVER: usize = usize::MAX;

fn status(status: u16) -> Mischief {
    Mischief::Status(status, "an answer", Vec::new())
}

struct Lab {
    folder: tempfile::TempDir,
    server: Server,
    paths: crate::Paths,
}

async fn lab() -> Lab {
    let folder = tempfile::tempdir().unwrap();
    let paths = three();
    fill(folder.path(), "", &paths).await;
    let server = Server::start(folder.path().to_owned()).await;
    Lab { folder, server, paths }
}

#[rstest]
#[case(status(500))]
#[case(status(502))]
#[case(status(503))]
#[case(status(504))]
#[case(status(429))]
#[case(Mischief::Cut(5))]
#[case(Mischief::Garbage)]
#[tokio::test]
async fn what_may_pass_is_tried_again(#[case] mischief: Mischief) {
    let lab = lab().await;
    let narinfo = narinfo_of(&lab.paths[0].0);
    lab.server.misbehave("/nix-cache-info", mischief.clone(), 1);
    lab.server.misbehave(&narinfo, mischief.clone(), 2);
    read_back(&open(&lab.server.url(), quick()), &lab.paths).await;
    assert_eq!(lab.server.count("/nix-cache-info"), 2);
    assert_eq!(lab.server.count(&narinfo), 3);
    // And no more often than is set.
    lab.server.misbehave(&narinfo, mischief, FOREVER);
    let store = open(&lab.server.url(), quick());
    let error = store.path_infos(&names(&lab.paths)).await.unwrap_err();
    assert!(error.is_infrastructure() && error.to_string().contains(&narinfo), "{error}");
    assert_eq!(lab.server.count(&narinfo), 6);
}

#[rstest]
#[case(400)]
#[case(405)]
#[case(418)]
#[case(501)]
#[tokio::test]
async fn what_will_not_pass_is_not_tried_again(#[case] code: u16) {
    let lab = lab().await;
    let narinfo = narinfo_of(&lab.paths[0].0);
    lab.server.misbehave(&narinfo, status(code), FOREVER);
    let store = open(&lab.server.url(), quick());
    let error = store.path_infos(&names(&lab.paths)).await.unwrap_err().to_string();
    assert!(error.contains(&format!("the server answers {code}")), "{error}");
    assert_eq!(lab.server.count(&narinfo), 1);
}

#[rstest]
#[case(403)]
#[case(404)]
#[case(410)]
#[tokio::test]
async fn what_is_missing_or_forbidden_is_absent(#[case] code: u16) {
    let lab = lab().await;
    let narinfo = narinfo_of(&lab.paths[0].0);
    lab.server.misbehave(&narinfo, status(code), FOREVER);
    let store = open(&lab.server.url(), quick());
    let found = store.path_infos(&names(&lab.paths)).await.unwrap();
    assert!(found[0].is_none() && found[1].is_some() && found[2].is_some());
    assert_eq!(lab.server.count(&narinfo), 1);
    lab.server.misbehave("/nix-cache-info", status(code), FOREVER);
    let error = open(&lab.server.url(), quick()).connect().await.unwrap_err().to_string();
    assert!(error.contains("does not appear to be a binary cache: there is no http://"), "{error}");
}

#[tokio::test]
async fn who_is_not_let_in_hears_of_the_remedy() {
    let lab = lab().await;
    lab.server.misbehave("/nix-cache-info", status(401), FOREVER);
    let error = open(&lab.server.url(), quick()).connect().await.unwrap_err().to_string();
    assert!(error.contains("/nix-cache-info") && error.contains("netrc-file"), "{error}");
    assert_eq!(lab.server.count("/nix-cache-info"), 1);
}

#[rstest]
#[case::of_another_store("StoreDir: /gnu/store\n", "for the store directory '/gnu/store'")]
#[case::a_page("<!doctype html>\n<p>hello</p>\n", "does not appear to be a binary cache")]
#[case::no_text("\u{1}\u{2}", "does not appear to be a binary cache")]
#[tokio::test]
async fn what_is_no_cache_says_so(#[case] text: &str, #[case] says: &str) {
    let lab = lab().await;
    lab.server.misbehave("/nix-cache-info", Mischief::Body(text.into()), FOREVER);
    let error = open(&lab.server.url(), quick()).connect().await.unwrap_err().to_string();
    assert!(error.contains(says) && error.contains("/nix-cache-info"), "{error}");
}

/// A bad narinfo is nobody's; the others are not its fault.
#[rstest]
#[case::garbage(Mischief::Body(b"<html>".to_vec()))]
#[case::empty(Mischief::Body(Vec::new()))]
#[case::endless(Mischief::Endless)]
#[case::large(Mischief::Body(vec![b'x'; 10_000_000]))]
#[tokio::test]
async fn a_bad_narinfo_is_none(#[case] mischief: Mischief) {
    let lab = lab().await;
    let narinfo = narinfo_of(&lab.paths[0].0);
    lab.server.misbehave(&narinfo, mischief, FOREVER);
    let store = open(&lab.server.url(), quick());
    let found = store.path_infos(&names(&lab.paths)).await.unwrap();
    assert!(found[0].is_none() && found[1].is_some() && found[2].is_some());
    assert_eq!(lab.server.count(&narinfo), 1);
}

#[tokio::test]
async fn the_narinfo_of_another_path_is_none() {
    let lab = lab().await;
    let hash = lab.paths[0].0.path.hash_part().to_owned();
    alter(lab.folder.path(), &lab.paths[0].0, |text| {
        text.replace(&format!("{hash}-small"), &format!("{hash}-smell"))
    });
    alter(lab.folder.path(), &lab.paths[1].0, |text| text.replace("URL: nar/", "URL: ../nar/"));
    let store = open(&lab.server.url(), quick());
    let found = store.path_infos(&names(&lab.paths)).await.unwrap();
    assert!(found[0].is_none() && found[1].is_none() && found[2].is_some());
}

#[rstest]
#[case("/nix-cache-info", Mischief::Silence)]
#[case("/nix-cache-info", Mischief::Stall(3))]
#[tokio::test]
async fn a_server_that_stalls_is_given_up(#[case] path: &str, #[case] mischief: Mischief) {
    let lab = lab().await;
    lab.server.misbehave(path, mischief.clone(), 1);
    open(&lab.server.url(), impatient()).connect().await.unwrap();
    lab.server.misbehave(path, mischief, FOREVER);
    let error = open(&lab.server.url(), impatient()).connect().await.unwrap_err();
    assert!(matches!(error, StoreError::Silent { .. }), "{error:?}");
    assert_eq!(lab.server.count(path), 2 + 3);
}

#[tokio::test]
async fn nobody_at_the_address_is_an_error_that_names_it() {
    // nobody listens, and nobody else gets it
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let store = open(&format!("http://{address}/cache"), quick());
    let error = store.connect().await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
    let url = format!("http://{address}/cache/nix-cache-info");
    assert!(error.to_string().contains(&url), "{error}");
}

/// How long a server asks to be left alone is heard, and nonsense is none.
#[rstest]
#[case("0")]
#[case("-1")]
#[case("Wed, 21 Oct 2015 07:28:00 GMT")]
#[case("1e9")]
#[tokio::test]
async fn a_server_may_ask_for_a_pause(#[case] pause: &str) {
    let lab = lab().await;
    let headers = vec![("Retry-After", pause.to_owned())];
    lab.server.misbehave("/nix-cache-info", Mischief::Status(503, "", headers), 1);
    open(&lab.server.url(), quick()).connect().await.unwrap();
    assert_eq!(lab.server.count("/nix-cache-info"), 2);
}

/// Nobody asks for it, but some servers compress.
#[tokio::test]
async fn what_the_server_compressed_is_decompressed() {
    let lab = lab().await;
    let narinfo = narinfo_of(&lab.paths[0].0);
    let plain = std::fs::read(lab.folder.path().join(&narinfo[1..])).unwrap();
    // stored blocks only: gzip's header, one block, checksum and length
    let mut gzip = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255, 1];
    let length = u16::try_from(plain.len()).unwrap();
    gzip.extend_from_slice(&length.to_le_bytes());
    gzip.extend_from_slice(&(!length).to_le_bytes());
    gzip.extend_from_slice(&plain);
    gzip.extend_from_slice(&crc32(&plain).to_le_bytes());
    gzip.extend_from_slice(&u32::from(length).to_le_bytes());
    lab.server.misbehave(&narinfo, Mischief::Encoded("gzip", gzip), 1);
    lab.server.misbehave(&narinfo_of(&lab.paths[1].0), Mischief::Encoded("rot13", plain), 1);
    let store = open(&lab.server.url(), quick());
    let found = store.path_infos(&names(&lab.paths)[..1]).await.unwrap();
    assert_eq!(found[0].as_ref(), Some(&lab.paths[0].0));
    let error = store.path_infos(&names(&lab.paths)).await.unwrap_err().to_string();
    assert!(error.contains("content-encoding 'rot13' is not known"), "{error}");
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}
