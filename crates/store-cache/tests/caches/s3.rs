//! Caches in buckets.

use std::path::Path;
use std::time::Duration;

use drover_core::{SecretKey, StoreDir, TrustedKeys};
use drover_store::contract::{Given, check_store, flat_file};
use drover_store::{Store as _, Substitute};
use drover_store_cache::{AwsCredentials, AwsFiles, CacheSettings, CacheStore, Hidden};
use rstest::rstest;

use crate::bucket::{KEY, S3Server, SECRET};
use crate::{alter, fetch, fill, names, nar_of, noise, open, quick, read_back, three};

/// Settings with a key.
fn keyed(id: &str, secret: &str) -> CacheSettings {
    let environment = Some(AwsCredentials {
        access_key_id: id.to_owned(),
        secret_access_key: Hidden(secret.to_owned()),
        session_token: None,
    });
    CacheSettings { aws: AwsFiles { environment, ..AwsFiles::default() }, ..quick() }
}

fn good() -> CacheSettings {
    keyed(KEY, SECRET)
}

async fn says(store: &CacheStore) -> String {
    store.connect().await.unwrap_err().to_string()
}

#[tokio::test]
async fn does_what_stores_do() {
    let root = tempfile::tempdir().unwrap();
    let server = S3Server::start(root.path()).await;
    server.bucket("nix-cache");
    check_store(&open(&server.url("nix-cache"), good()), "a").await;
    let paths = three();
    let url = format!("{}&compression=xz", server.url_of_url("nix-cache"));
    open(&url, good()).import(Given::boxed(paths.clone())).await.unwrap();
    read_back(&open(&server.url("nix-cache"), good()), &paths).await;
    let store = open(&format!("{}&trusted=true&priority=3", server.url("nix-cache")), good());
    assert_eq!((store.name(), store.priority().await.unwrap()), ("s3://nix-cache", 3));
}

/// What is in the bucket is what a cache in a folder has, and the other way round.
#[tokio::test]
async fn a_bucket_is_a_folder_to_others() {
    let root = tempfile::tempdir().unwrap();
    let server = S3Server::start(root.path()).await;
    let (written, read) = (server.bucket("written"), server.bucket("read"));
    let paths = three();
    let key = root.path().join("key");
    let secret = SecretKey::generate("here-1").unwrap();
    std::fs::write(&key, secret.to_text().as_bytes()).unwrap();
    let url = format!("{}&secret-key={}", server.url("written"), key.display());
    open(&url, good()).import(Given::boxed(paths.clone())).await.unwrap();
    let folder = open(&format!("file://{}", written.display()), quick());
    let mut trusted = TrustedKeys::default();
    trusted.add(secret.public_key());
    for (found, (info, nar)) in
        folder.path_infos(&names(&paths)).await.unwrap().into_iter().zip(&paths)
    {
        let found = found.unwrap();
        assert!(trusted.vouch_for(&found, &StoreDir::default()));
        assert_eq!(fetch(&folder, info).await.unwrap(), *nar);
    }
    fill(&read, "", &paths).await;
    read_back(&open(&server.url("read"), good()), &paths).await;
}

/// Listings are in it as in a folder, and who writes again leaves them as they are.
#[tokio::test]
async fn listings_are_written() {
    let root = tempfile::tempdir().unwrap();
    let server = S3Server::start(root.path()).await;
    let (bucket, folder) = (server.bucket("listed"), root.path().join("folder"));
    let paths = three();
    fill(&folder, "write-nar-listing=true", &paths).await;
    let url = format!("{}&write-nar-listing=true&compression=xz", server.url("listed/below/it"));
    for _ in 0..2 {
        open(&url, good()).import(Given::boxed(paths.clone())).await.unwrap();
    }
    read_back(&open(&url, good()), &paths).await;
    for name in names(&paths) {
        let name = format!("{}.ls", name.hash_part());
        let listing = std::fs::read_to_string(bucket.join("below/it").join(&name)).unwrap();
        assert_eq!(listing, std::fs::read_to_string(folder.join(&name)).unwrap());
        assert!(listing.contains("\"narOffset\":96"), "{listing}");
    }
    let other = server.bucket("unlisted");
    open(&server.url("unlisted"), good()).import(Given::boxed(paths.clone())).await.unwrap();
    let endings = std::fs::read_dir(other).unwrap().map(|file| file.unwrap().file_name());
    assert!(!endings.into_iter().any(|name| name.to_string_lossy().ends_with(".ls")));
}

/// Large files go in parts, several at once.
#[tokio::test]
async fn large_files_go_in_parts() {
    let root = tempfile::tempdir().unwrap();
    let server = S3Server::start(root.path()).await;
    server.bucket("large");
    let paths = vec![
        flat_file("large", &noise(3, 20_000_000), &[]),
        flat_file("larger", &noise(4, 11_000_000), &[]),
    ];
    let url = format!("{}&compression=none&multipart-upload=true", server.url("large"));
    open(&url, good()).import(Given::boxed(paths.clone())).await.unwrap();
    read_back(&open(&url, good()), &paths).await;
}

/// Profiles are found where Amazon's own tools have them.
#[tokio::test]
async fn a_profile_has_the_key() {
    let root = tempfile::tempdir().unwrap();
    let server = S3Server::start(root.path()).await;
    let bucket = server.bucket("profiled");
    fill(&bucket, "", &three()).await;
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join(".aws")).unwrap();
    let text = format!(
        "[default]\naws_access_key_id = x\naws_secret_access_key = y\n[ci]\n\
         aws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n"
    );
    std::fs::write(home.path().join(".aws/credentials"), text).unwrap();
    let home = home.path().to_str().unwrap().to_owned();
    let aws = AwsFiles::from_lookup(|name| (name == "HOME").then(|| home.clone()));
    let settings = CacheSettings { aws, ..quick() };
    let url = format!("{}&profile=ci", server.url("profiled"));
    read_back(&open(&url, settings.clone()), &three()).await;
    let error = says(&open(&server.url("profiled"), settings.clone())).await;
    assert!(error.contains("s3://profiled/nix-cache-info"), "{error}");
    let nobody = format!("{}&profile=nobody", server.url("profiled"));
    let error = says(&open(&nobody, settings)).await;
    assert!(error.contains("no key for the profile 'nobody'") && error.contains(&home), "{error}");
}

#[tokio::test]
async fn who_may_not_is_told() {
    let root = tempfile::tempdir().unwrap();
    let server = S3Server::start(root.path()).await;
    server.bucket("locked");
    for settings in [keyed("nobody", SECRET), keyed(KEY, "wrong"), quick()] {
        let store = open(&server.url("locked"), settings);
        let error = says(&store).await;
        assert!(error.contains("s3://locked") && !error.contains("wrong"), "{error}");
        let error = store.import(Given::boxed(three())).await.unwrap_err().to_string();
        assert!(error.contains("s3://locked"), "{error}");
    }
    assert_eq!(std::fs::read_dir(root.path().join("locked")).unwrap().count(), 0);
    let error = says(&open(&server.url("nowhere"), good())).await;
    assert!(error.contains("s3://nowhere"), "{error}");
}

#[tokio::test]
async fn a_bucket_that_is_no_cache_says_so() {
    let root = tempfile::tempdir().unwrap();
    let server = S3Server::start(root.path()).await;
    let bucket = server.bucket("letters");
    // one that is empty is a cache to be
    open(&server.url("letters"), good()).connect().await.unwrap();
    std::fs::write(bucket.join("letter"), "hello").unwrap();
    let error = says(&open(&server.url("letters"), good())).await;
    assert!(error.contains("there is no s3://letters/nix-cache-info"), "{error}");
}

/// A NAR that is gone or cut is an error of that path, and what lies is found out.
#[tokio::test]
async fn what_is_damaged_is_found_out() {
    let root = tempfile::tempdir().unwrap();
    let server = S3Server::start(root.path()).await;
    let bucket = server.bucket("damaged");
    let paths = three();
    fill(&bucket, "compression=zstd", &paths).await;
    std::fs::remove_file(bucket.join(&nar_of(&bucket, &paths[0].0)[1..])).unwrap();
    let cut = bucket.join(&nar_of(&bucket, &paths[1].0)[1..]);
    let whole = std::fs::read(&cut).unwrap();
    std::fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    alter(&bucket, &paths[2].0, |text| text.replace("URL: nar/", "URL: ../../nar/"));
    let store = open(&server.url("damaged"), good());
    let error = fetch(&store, &paths[0].0).await.unwrap_err();
    assert!(matches!(error, drover_store::StoreError::NotValid { .. }), "{error:?}");
    assert!(fetch(&store, &paths[1].0).await.is_err());
    let valid = store.hold_valid(&crate::set(&paths), Substitute::No).await.unwrap();
    assert!(!valid.contains(&paths[2].0.path) && valid.len() == 2);
}

/// A server that says nothing is given up in time.
#[rstest]
#[case::silent(true)]
#[case::nobody(false)]
#[tokio::test]
async fn a_server_that_is_not_there_is_given_up(#[case] listens: bool) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    // otherwise it stays bound: nobody else gets it
    let (_bound, _listener) = match listens {
        true => (None, Some(socket.listen(16).unwrap())),
        false => (Some(socket), None),
    };
    let settings = CacheSettings {
        stalled_download_timeout: Duration::from_millis(300),
        download_attempts: 1,
        ..good()
    };
    let url = format!("s3://bucket?endpoint={address}&scheme=http");
    let store = open(&url, settings);
    let error = tokio::time::timeout(Duration::from_secs(60), says(&store)).await.unwrap();
    assert!(error.contains("s3://bucket"), "{error}");
}

#[rstest]
#[case("scheme=ftp", "scheme must be http or https, not 'ftp'")]
#[case("multipart-upload=maybe", "multipart-upload must be true or false")]
#[case("buffer-size=much", "buffer-size must be a whole number")]
#[tokio::test]
async fn bad_parameters_are_refused(#[case] parameters: &str, #[case] words: &str) {
    let reference = format!("s3://bucket?{parameters}").parse().unwrap();
    let error = CacheStore::open(&reference, StoreDir::default(), quick()).err().unwrap();
    assert!(error.to_string().contains(words), "{error}");
    assert!(!Path::new("bucket").exists());
}
