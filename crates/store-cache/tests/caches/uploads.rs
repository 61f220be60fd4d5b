//! Caches behind a server that takes files, or doesn't do as it should with them.

use drover_core::{DrvOutput, HashNotation, PathInfo, Realisation, SecretKey, TrustedKeys};
use drover_store::contract::{Given, flat_file};
use drover_store::{Store as _, StoreError};
use rstest::rstest;

use crate::server::{Mischief, Server};
use crate::{impatient, infos, names, narinfo_of, noise, open, quick, read_back, three};

const FOREVER: usize = usize::MAX;

/// A server with nothing on it.
struct Lab {
    _folder: tempfile::TempDir,
    server: Server,
    paths: crate::Paths,
}

impl Lab {
    async fn new() -> Lab {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(folder.path().to_owned()).await;
        Lab { _folder: folder, server, paths: three() }
    }

    fn url(&self) -> String {
        format!("{}?compression=none", self.server.url())
    }

    /// The files that are put for a path.
    fn files(&self, path: usize) -> [String; 2] {
        let info = &self.paths[path].0;
        [nar_of(info), narinfo_of(info)]
    }

    async fn push(&self, settings: drover_store_cache::CacheSettings) -> Result<(), StoreError> {
        let store = open(&self.url(), settings);
        store.import(Given::boxed(self.paths.clone())).await
    }

    /// What the server has, as somebody sees it who has heard nothing of it before.
    async fn there(&self) -> Vec<bool> {
        let found = open(&self.url(), quick()).path_infos(&names(&self.paths)).await.unwrap();
        found.iter().map(Option::is_some).collect()
    }
}

/// Where a NAR is put that isn't compressed.
fn nar_of(info: &PathInfo) -> String {
    format!("/nar/{}.nar", info.nar_hash.to_hash().digits(HashNotation::Base32))
}

fn status(status: u16) -> Mischief {
    Mischief::Status(status, "an answer", Vec::new())
}

/// Whoever reads a narinfo finds its NAR and all that it refers to, at any time.
#[rstest]
#[tokio::test]
async fn what_is_put_comes_before_what_names_it(
    #[values("none", "zstd", "xz&compression-level=0")] compression: &str,
) {
    let lab = Lab::new().await;
    let url = format!("{}?compression={compression}", lab.server.url());
    let url = format!("{url}&write-nar-listing=true");
    open(&url, quick()).import(Given::boxed(lab.paths.clone())).await.unwrap();
    read_back(&open(&url, quick()), &lab.paths).await;
    let puts = lab.server.puts();
    let at = |file: &str| {
        let at = puts.iter().position(|put| put == file);
        at.unwrap_or_else(|| panic!("no {file} in {puts:?}"))
    };
    assert_eq!(at("/nix-cache-info"), 0);
    let last_nar = puts.iter().rposition(|put| put.starts_with("/nar/")).unwrap();
    let narinfos: Vec<usize> = infos(&lab.paths).iter().map(|info| at(&narinfo_of(info))).collect();
    assert!(narinfos.iter().all(|narinfo| last_nar < *narinfo), "{puts:?}");
    assert!(narinfos[0] < narinfos[2] && narinfos[1] < narinfos[2], "{puts:?}");
    for info in infos(&lab.paths) {
        assert!(at(&format!("/{}.ls", info.path.hash_part())) < at(&narinfo_of(&info)));
    }
    assert_eq!(puts.len(), 1 + 3 * lab.paths.len());
    // what is there isn't put again
    open(&url, quick()).import(Given::boxed(lab.paths.clone())).await.unwrap();
    assert_eq!(lab.server.puts().len(), puts.len());
}

#[rstest]
#[case(status(500))]
#[case(status(502))]
#[case(status(503))]
#[case(status(504))]
#[case(status(408))]
#[case(status(429))]
#[case(Mischief::Cut(5))]
#[case(Mischief::Garbage)]
#[tokio::test]
async fn what_may_pass_is_put_again(#[case] mischief: Mischief) {
    let lab = Lab::new().await;
    let [nar, narinfo] = lab.files(1);
    let files = ["/nix-cache-info".to_owned(), nar, narinfo];
    for file in &files {
        lab.server.misbehave_put(file, mischief.clone(), 2);
    }
    lab.push(quick()).await.unwrap();
    for file in &files {
        assert_eq!(lab.server.count_puts(file), 3, "{file}");
    }
    read_back(&open(&lab.url(), quick()), &lab.paths).await;
}

/// No more often than is set; and nothing is told of that isn't there, or that refers to it.
#[rstest]
#[case::busy(status(503))]
#[case::cut(Mischief::Cut(100_000))]
#[case::garbage(Mischief::Garbage)]
#[tokio::test]
async fn what_does_not_pass_is_given_up(#[case] mischief: Mischief, #[values(0, 1)] file: usize) {
    let lab = Lab::new().await;
    let bad = &lab.files(1)[file];
    let is_busy = matches!(mischief, Mischief::Status(..));
    lab.server.misbehave_put(bad, mischief, FOREVER);
    let error = lab.push(quick()).await.unwrap_err();
    assert!(error.is_infrastructure() && error.to_string().contains(bad), "{error}");
    if is_busy {
        // what a server says of its trouble is repeated
        assert!(error.to_string().contains("the server answers 503: an answer"), "{error}");
    }
    assert_eq!(lab.server.count_puts(bad), 3);
    // what came before it and has nothing to do with it may stay
    assert_eq!(lab.there().await[1..], [false, false]);
    // and it goes on where it was, when all is well again
    lab.server.misbehave_put(bad, status(200), 0);
    lab.push(quick()).await.unwrap();
    read_back(&open(&lab.url(), quick()), &lab.paths).await;
}

#[rstest]
#[case(400, "the server answers 400: an answer")]
#[case(403, "the server answers 403: an answer")]
#[case(404, "the server answers 404: an answer")]
#[case(405, "the server answers 405: an answer")]
#[case(409, "the server answers 409: an answer")]
#[case(413, "the server answers 413: an answer")]
#[case(507, "the server answers 507: an answer")]
#[case(501, "the server answers 501")]
#[case(401, "netrc-file")]
#[case(407, "netrc-file")]
#[tokio::test]
async fn what_is_refused_is_not_put_again(
    #[case] code: u16,
    #[case] says: &str,
    #[values(0, 1)] file: usize,
) {
    let lab = Lab::new().await;
    let bad = &lab.files(1)[file];
    lab.server.misbehave_put(bad, status(code), FOREVER);
    let error = lab.push(quick()).await.unwrap_err().to_string();
    assert!(error.contains(says) && error.contains(bad), "{error}");
    assert_eq!(lab.server.count_puts(bad), 1);
    assert_eq!(lab.there().await[1..], [false, false]);
}

/// A server that takes no more, or says nothing to what it has taken.
#[rstest]
#[case::takes_half(Mischief::Stall(100_000))]
#[case::takes_nothing(Mischief::Stall(0))]
#[case::says_nothing(Mischief::Silence)]
#[tokio::test]
async fn a_server_that_stalls_is_given_up(#[case] mischief: Mischief) {
    let lab = Lab::new().await;
    let [nar, _] = lab.files(1);
    lab.server.misbehave_put(&nar, mischief.clone(), 1);
    lab.push(impatient()).await.unwrap();
    assert_eq!(lab.server.count_puts(&nar), 2);
    let lab = Lab::new().await;
    lab.server.misbehave_put(&nar, mischief, FOREVER);
    let error = lab.push(impatient()).await.unwrap_err();
    assert!(matches!(error, StoreError::Silent { .. }), "{error:?}");
    let says = format!("'{}' has said nothing", lab.server.url());
    assert!(error.to_string().contains(&says), "{error}");
    assert_eq!(lab.server.count_puts(&nar), 3);
}

/// A NAR that doesn't fit into anybody's buffers.
#[rstest]
#[case::stalls(Mischief::Stall(1_000_000))]
#[case::ends(Mischief::Cut(1_000_000))]
#[tokio::test]
async fn a_large_nar_is_begun_anew(#[case] mischief: Mischief) {
    let mut lab = Lab::new().await;
    lab.paths = vec![flat_file("larger", &noise(9, 20_000_000), &[])];
    let [nar, _] = lab.files(0);
    lab.server.misbehave_put(&nar, mischief, 1);
    let settings = drover_store_cache::CacheSettings {
        stalled_download_timeout: std::time::Duration::from_secs(10),
        ..quick()
    };
    lab.push(settings).await.unwrap();
    assert_eq!(lab.server.count_puts(&nar), 2);
    read_back(&open(&lab.url(), quick()), &lab.paths).await;
}

/// A cache that can't be asked isn't written to, and neither is one of another store.
#[tokio::test]
async fn what_is_no_cache_is_not_written_to() {
    let lab = Lab::new().await;
    for (mischief, says) in [
        (status(500), "the server answers 500"),
        (Mischief::Body(b"StoreDir: /gnu/store\n".to_vec()), "/gnu/store"),
        (Mischief::Body(b"<html>".to_vec()), "does not appear to be a binary cache"),
    ] {
        lab.server.misbehave("/nix-cache-info", mischief, FOREVER);
        let error = lab.push(quick()).await.unwrap_err().to_string();
        assert!(error.contains(says) && error.contains("/nix-cache-info"), "{error}");
    }
    assert_eq!(lab.server.puts(), Vec::<String>::new());
}

/// What a path refers to must be there or come before it.
#[tokio::test]
async fn what_refers_to_nothing_is_not_written() {
    let lab = Lab::new().await;
    let store = open(&lab.url(), quick());
    let error = store.import(Given::boxed(lab.paths[2..].to_vec())).await.unwrap_err();
    assert!(matches!(error, StoreError::NotValid { .. }), "{error:?}");
    assert_eq!(lab.server.puts(), ["/nix-cache-info"]);
    // what others have written counts
    open(&lab.url(), quick()).import(Given::boxed(lab.paths[..2].to_vec())).await.unwrap();
    store.import(Given::boxed(lab.paths[2..].to_vec())).await.unwrap();
    read_back(&open(&lab.url(), quick()), &lab.paths).await;
}

/// What an output became is written behind its path, signed by the cache's key.
#[rstest]
#[case::folder(true)]
#[case::server(false)]
#[tokio::test]
async fn what_outputs_became_is_kept(#[case] in_folder: bool) {
    let lab = Lab::new().await;
    let key = SecretKey::generate("cache-1").unwrap();
    let file = lab._folder.path().join("key");
    std::fs::write(&file, key.to_text().as_bytes()).unwrap();
    let url = match in_folder {
        true => format!("file://{}", lab._folder.path().display()),
        false => lab.server.url(),
    };
    let url = format!("{url}?secret-key={}", file.display());
    let store = open(&url, quick());
    store.import(Given::boxed(lab.paths.clone())).await.unwrap();
    let id: DrvOutput = format!("sha256:{}!out", "1".repeat(64)).parse().unwrap();
    let out_path = lab.paths[0].0.path.clone();
    let realisation = Realisation { id: id.clone(), out_path, signatures: Default::default() };
    store.keep_realised(std::slice::from_ref(&realisation)).await.unwrap();
    let told = open(&url, quick()).realised(&[id]).await.unwrap().remove(0).unwrap();
    assert_eq!(told.realisation.out_path, realisation.out_path);
    let mut trusted = TrustedKeys::default();
    trusted.add(key.public_key());
    assert!(trusted.vouch_for_told(&told), "{told:?}");
}
