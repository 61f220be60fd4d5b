//! Stock Nix at the other end: what it writes is read here, and what is written here it reads.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

#[allow(dead_code, missing_docs, unreachable_pub, reason = "other tests use the rest of it")]
#[path = "caches/bucket.rs"]
mod bucket;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use drover_core::{PathInfo, SecretKey, StoreDir, StorePath, TrustedKeys};
use drover_store::contract::{Given, flat_file};
use drover_store::{Store as _, closure_order};
use drover_store_cache::{AwsCredentials, AwsFiles, CacheSettings, CacheStore, Hidden, ProxyUse};
use drover_testkit::{Fleet, Host, Suite};

use bucket::S3Server;

fn open(reference: &str) -> CacheStore {
    let settings = CacheSettings {
        download_attempts: 1,
        proxies: ProxyUse::Never,
        aws: AwsFiles {
            environment: Some(AwsCredentials {
                access_key_id: bucket::KEY.to_owned(),
                secret_access_key: Hidden(bucket::SECRET.to_owned()),
                session_token: None,
            }),
            ..AwsFiles::default()
        },
        ..CacheSettings::default()
    };
    CacheStore::open(&reference.parse().unwrap(), StoreDir::default(), settings).unwrap()
}

/// Copies a folder out of a host.
fn take(host: &Host, from: &str, to: &Path) {
    let output = host.command(&["tar", "-C", from, "-c", "."]).output().unwrap();
    assert!(output.status.success());
    let mut tar =
        Command::new("tar").arg("-C").arg(to).arg("-x").stdin(Stdio::piped()).spawn().unwrap();
    tar.stdin.take().unwrap().write_all(&output.stdout).unwrap();
    assert!(tar.wait().unwrap().success());
}

/// Copies a folder into a host.
fn give(host: &Host, from: &Path, to: &str) {
    host.run_ok(&["mkdir", "-p", to]).unwrap();
    let packed = Command::new("tar").arg("-C").arg(from).args(["-c", "."]).output().unwrap();
    assert!(packed.status.success());
    let mut tar = host.command(&["tar", "-C", to, "-x"]).stdin(Stdio::piped()).spawn().unwrap();
    tar.stdin.take().unwrap().write_all(&packed.stdout).unwrap();
    assert!(tar.wait().unwrap().success());
}

/// Python's web server on a folder.
struct WebServer {
    child: Child,
    url: String,
}

impl WebServer {
    fn start(folder: &Path) -> WebServer {
        let script = "import functools, http.server, sys
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[1])
handler.protocol_version = 'HTTP/1.1'
server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
print(server.server_address[1], flush=True)
server.serve_forever()";
        let mut child = Command::new("python3")
            .args(["-c", script])
            .arg(folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut port = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut port).unwrap();
        WebServer { child, url: format!("http://127.0.0.1:{}", port.trim()) }
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

const WRITE: &str = "
mkdir -p /w/tree/sub; printf 'hello\\n' > /w/tree/hello; ln -s ../hello /w/tree/sub/link
printf '#!/bin/sh\\n' > /w/tree/run; chmod +x /w/tree/run; : > /w/tree/empty
seq 1 200000 > /w/tree/numbers; head -c 300000 /dev/urandom > /w/tree/noise
nix-store --generate-binary-cache-key cache-1 /w/secret /w/public
nix-store --add /w/tree > /w/paths
cat > /w/built.nix <<'E'
derivation { name = \"built\"; system = builtins.currentSystem; builder = \"/bin/sh\";
  args = [ \"-c\" \"echo $out $tree > $out\" ];
  tree = builtins.storePath (builtins.readFile /w/path); }
E
tr -d '\\n' < /w/paths > /w/path
nix-build --no-out-link --option sandbox false /w/built.nix >> /w/paths
nix store sign -k /w/secret $(cat /w/paths)
mkdir -p /w/out/nars
for p in $(cat /w/paths); do nix-store --dump $p > /w/out/nars/${p#/nix/store/}; done
nix copy --to file:///w/out/default $(cat /w/paths)
for c in none xz zstd bzip2 gzip br; do
    nix copy --to \"file:///w/out/$c?compression=$c\" $(cat /w/paths)
done
cp /w/public /w/out/public
";

/// Reads all of a cache, and compares with what stock Nix dumps.
async fn read_all(store: &CacheStore, paths: &[StorePath], nars: &Path, trusted: &TrustedKeys) {
    let found = store.path_infos(paths).await.unwrap();
    let infos: Vec<PathInfo> = found.into_iter().map(Option::unwrap).collect();
    for info in &infos {
        assert!(trusted.vouch_for(info, store.store_dir()), "{} lacks a signature", info.path);
    }
    let infos = closure_order(infos);
    let mut stream = store.export(infos.clone()).await.unwrap();
    while let Some(info) = stream.next_path().await.unwrap() {
        let mut nar = Vec::new();
        while let Some(piece) = stream.chunk().await.unwrap() {
            nar.extend_from_slice(&piece);
        }
        let dumped = std::fs::read(nars.join(info.path.base_name())).unwrap();
        assert!(nar == dumped, "{} in '{}' differs", info.path, store.name());
    }
    assert_eq!(infos.len(), 2);
}

#[test]
fn what_stock_nix_writes_is_read() {
    let fleet = Fleet::new("stock-caches-read").unwrap();
    let [host] = fleet.hosts([("c", Suite::Forky)]).unwrap();
    host.sh(WRITE).unwrap();
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("bucket");
    std::fs::create_dir(&folder).unwrap();
    take(&host, "/w/out", &folder);
    let nars = folder.join("nars");
    let paths: Vec<StorePath> = std::fs::read_dir(&nars)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .map(|name| StorePath::from_base_name(&name).unwrap())
        .collect();
    let public = std::fs::read_to_string(folder.join("public")).unwrap();
    let trusted = TrustedKeys::parse([public.trim()]).unwrap();
    let web = WebServer::start(&folder);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(S3Server::start(root.path()));
    for cache in ["default", "none", "xz", "zstd", "bzip2", "gzip", "br"] {
        let file = format!("file://{}/{cache}", folder.display());
        let http = format!("{}/{cache}", web.url);
        for reference in [file, http, server.url(&format!("bucket/{cache}"))] {
            runtime.block_on(read_all(&open(&reference), &paths, &nars, &trusted));
        }
    }
}

/// Three paths that are not content-addressed, so that nobody takes them without a signature.
fn three() -> Vec<(PathInfo, Bytes)> {
    let lines: String = (0..100_000).map(|number| format!("{number}\n")).collect();
    let first = flat_file("first", b"a few words", &[]);
    let second = flat_file("second", lines.as_bytes(), &[&first.0]);
    let third = flat_file("third", b"refers to both", &[&first.0, &second.0]);
    vec![first, second, third]
}

#[test]
fn what_is_written_here_stock_nix_reads() {
    let folder = tempfile::tempdir().unwrap();
    let secret = SecretKey::generate("ours-1").unwrap();
    let key = folder.path().join("key");
    std::fs::write(&key, secret.to_text().as_bytes()).unwrap();
    let caches = folder.path().join("caches");
    let compressions = ["", "zstd", "xz", "gzip", "bzip2", "none"];
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for compression in compressions {
        let mut reference =
            format!("file://{}/c{compression}?secret-key={}", caches.display(), key.display());
        if !compression.is_empty() {
            reference.push_str(&format!("&compression={compression}"));
        }
        runtime.block_on(open(&reference).import(Given::boxed(three()))).unwrap();
    }
    // a bucket is a folder to others
    let server = runtime.block_on(S3Server::start(folder.path()));
    let to = format!("{}&secret-key={}", server.url("caches/cs3"), key.display());
    runtime.block_on(open(&to).import(Given::boxed(three()))).unwrap();
    let fleet = Fleet::new("stock-caches-written").unwrap();
    let hosts = fleet.hosts([("c", Suite::Forky), ("b1", Suite::Trixie)]).unwrap();
    let paths: Vec<String> =
        three().iter().map(|(info, _)| StoreDir::default().display(&info.path)).collect();
    for host in &hosts {
        give(host, &caches, "/w/caches");
        for compression in compressions.into_iter().chain(["s3"]) {
            reads(host, &format!("file:///w/caches/c{compression}"), &paths, &secret);
        }
    }
}

fn reads(host: &Host, cache: &str, paths: &[String], secret: &SecretKey) {
    let limit = Duration::from_secs(60);
    let third = paths[2].as_str();
    let copy = ["nix", "copy", "--from", cache, third, "--option", "trusted-public-keys"];
    let refused = host.run_within(limit, &[&copy[..], &[""]].concat()).unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("lacks a signature"), "{cache}: {said}");
    let key = secret.public_key().to_string();
    host.run_ok(&[&copy[..], &[key.as_str()]].concat()).unwrap();
    for (path, (_, nar)) in paths.iter().zip(three()) {
        let dumped = host.command(&["nix-store", "--dump", path]).output().unwrap().stdout;
        assert!(dumped == nar, "{path} from {cache} differs");
    }
    let references = host.run_ok(&["nix-store", "--query", "--references", third]).unwrap();
    assert_eq!(references.lines().count(), 2);
    let delete: Vec<&str> = ["nix-store", "--delete"]
        .into_iter()
        .chain(paths.iter().rev().map(String::as_str))
        .collect();
    host.run_ok(&delete).unwrap();
}
