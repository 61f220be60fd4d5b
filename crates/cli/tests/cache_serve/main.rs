//! `drover cache serve` at its sockets: what it answers to what no client should ask, to those who are
//! slow, with TLS, and with a store that has gone bad; and nginx, before it and in its place.

#![allow(clippy::unwrap_used, reason = "a test shows what went wrong by failing")]

#[path = "../support/bad_nars.rs"]
mod bad_nars;
mod nginx;

use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

use drover_core::{Hash, HashAlgorithm, HashNotation};
use drover_testkit::Certificates;
use rstest::rstest;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(120);
const TOKEN: &str = "0123456789abcdef0123";

/// A store with a few paths, made by stock Nix.
struct Store {
    folder: tempfile::TempDir,
}

impl Store {
    fn new() -> Store {
        let store = Store { folder: tempfile::tempdir().unwrap() };
        store.write("token", TOKEN);
        store
    }

    fn root(&self) -> &Path {
        self.folder.path()
    }

    fn uri(&self) -> String {
        format!("local?root={}", self.root().join("store").display())
    }

    fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.root().join(name);
        fs::write(&path, contents).unwrap();
        path
    }

    fn nix(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("HOME", self.root())
            .env("NIX_REMOTE", self.uri())
            .env("NIX_CONFIG", "experimental-features = nix-command\nsubstituters =\n");
        command
    }

    /// Adds a file or a folder; returns its base name.
    fn add(&self, name: &str) -> String {
        let path = self.root().join(name);
        let added = succeeded(self.nix("nix-store").arg("--add").arg(path));
        added.trim().rsplit('/').next().unwrap().to_owned()
    }

    /// Adds a folder with a large file, and a file that refers to it; returns their base names.
    fn add_pair(&self) -> [String; 2] {
        let folder = self.root().join("folder");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("large"), vec![3; 3_000_000]).unwrap();
        let dependency = self.add("folder");
        let script = format!(
            "builtins.toFile \"refers\" \"to ${{builtins.storePath \"/nix/store/{dependency}\"}}\""
        );
        let mut evaluate = self.nix("nix-instantiate");
        let refers = succeeded(evaluate.args(["--eval", "--read-write-mode", "-E", &script]));
        let refers = refers.trim().trim_matches('"').rsplit('/').next().unwrap().to_owned();
        [dependency, refers]
    }

    /// Where a path's files are.
    fn real(&self, base_name: &str) -> PathBuf {
        self.root().join("store/nix/store").join(base_name)
    }

    fn serve(&self, listen: &str, arguments: &[&str]) -> Server {
        let mut child = Command::new(env!("CARGO_BIN_EXE_drover"))
            .args(["cache", "serve", "--listen", listen, "--store", &self.uri()])
            .args(arguments)
            .env("HOME", self.root())
            .env("TMPDIR", self.root())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(self.root().join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        assert!(line.starts_with("serving store"), "{line}{}", self.log());
        let url = line.split(" at ").nth(1).unwrap().split([',', '\n']).next().unwrap();
        let place = url.split("//").nth(1).unwrap_or(url).to_owned();
        Server { child, place, line, _out: out }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.root().join("log")).unwrap_or_default()
    }
}

/// A server; it ends with the test.
struct Server {
    child: Child,
    place: String,
    line: String,
    _out: BufReader<ChildStdout>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// An answer, with its body as far as it came.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn header(&self, name: &str) -> Option<String> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    }
}

impl Server {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.place).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        stream
    }

    fn ask(&self, method: &str, path: &str, headers: &str) -> Answer {
        self.send(method, path, headers, b"")
    }

    fn send(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        let length = if body.is_empty() && method != "PUT" {
            String::new()
        } else {
            format!("content-length: {}\r\n", body.len())
        };
        let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{length}");
        let mut stream = self.connect();
        exchange(&mut stream, &format!("{head}{headers}\r\n"), body)
    }

    fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "")
    }

    fn narinfo(&self, base_name: &str) -> Answer {
        self.get(&format!("/{}.narinfo", hash_part(base_name)))
    }

    /// Where a path's NAR is.
    fn nar_url(&self, base_name: &str) -> String {
        format!("/{}", field(&self.narinfo(base_name).text(), "URL"))
    }
}

fn exchange(stream: &mut (impl Read + Write), head: &str, body: &[u8]) -> Answer {
    // who is refused early may not take all of it
    let sent = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    let mut all = Vec::new();
    let read = stream.read_to_end(&mut all);
    if all.is_empty() {
        let head = format!("no answer: {sent:?} {read:?}");
        return Answer { status: 0, head, body: Vec::new() };
    }
    let end = all.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head");
    let body = all.split_off(end + 4);
    let head = String::from_utf8_lossy(&all).trim_end().to_owned();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head, body }
}

fn hash_part(base_name: &str) -> &str {
    base_name.split('-').next().unwrap()
}

fn field(text: &str, name: &str) -> String {
    let lines = text.lines();
    let found = lines.filter_map(|line| line.split_once(": ")).find(|(key, _)| *key == name);
    found.unwrap_or_else(|| panic!("no {name} in {text}")).1.to_owned()
}

fn succeeded(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", words(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn words(output: &Output) -> String {
    [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat()
}

/// What no client should ask: an answer that says so, and nothing of this machine.
#[test]
fn bad_requests_are_refused() {
    let store = Store::new();
    store.write("hello", "hello");
    let path = store.add("hello");
    let server = store.serve("127.0.0.1:0", &["--compression", "none"]);
    let nar = server.nar_url(&path);
    let long = format!("/nar/{}", "x".repeat(1_000_000));
    let ranges = format!("range: bytes={}0-1\r\n", "0-1,".repeat(1000));
    let table: &[(&str, &str, &str, &[u16])] = &[
        ("GET", "/nar/../../etc/shadow", "", &[400]),
        ("GET", "/nar/%2e%2e/%2e%2e/etc/shadow", "", &[400]),
        ("GET", "/..%2f..%2fetc/shadow", "", &[400]),
        ("GET", "//etc/shadow", "", &[400]),
        ("GET", "/etc/shadow", "", &[404]),
        ("GET", "/nix/store", "", &[404]),
        ("GET", &long, "", &[400, 414, 431]),
        ("GET", &nar, "range: bytes=5-1\r\n", &[416]),
        ("GET", &nar, "range: bytes=-0\r\n", &[416]),
        ("GET", &nar, "range: bytes=9000000000-\r\n", &[416]),
        ("GET", &nar, "range: bytes=5-1,-0,9000000000-\r\n", &[416]),
        ("GET", &nar, &ranges, &[416]),
        ("PUT", "/nar/x.nar", "", &[405]),
        ("PUT", &nar, "", &[405]),
        ("POST", "/nix-cache-info", "", &[405]),
        ("DELETE", &nar, "", &[405]),
        ("GET", "/00000000000000000000000000000000.narinfo", "", &[404]),
        ("GET", "/00000000000000000000000000000000.ls", "", &[404]),
        ("GET", "/log/00000000000000000000000000000000-x.drv", "", &[404]),
        ("GET", "nix-cache-info", "", &[400]),
        ("GET", "/", "x: y\r\n y\0\r\n", &[400]),
    ];
    for (method, path, headers, expected) in table {
        let answer = server.ask(method, path, headers);
        let asked = format!("{method} {} {}", &path[..path.len().min(80)], headers.trim());
        assert!(expected.contains(&answer.status), "{asked}: {}", answer.head);
        let text = answer.text();
        for secret in ["/nix", "store/", "No such file", "os error", store.root().to_str().unwrap()]
        {
            assert!(!text.contains(secret), "{asked}: {text}");
        }
    }
    // and it still serves
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn parts_and_tags() {
    let store = Store::new();
    store.write("large", (0..400_000u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>());
    let path = store.add("large");
    let server = store.serve("127.0.0.1:0", &["--compression", "none"]);
    let nar = server.nar_url(&path);
    let dumped =
        store.nix("nix-store").args(["--dump", "large"]).current_dir(store.root()).output();
    let dumped = dumped.unwrap().stdout;
    let whole = server.get(&nar);
    assert_eq!((whole.status, &whole.body), (200, &dumped), "{}", whole.head);
    let (size, etag) = (dumped.len(), whole.header("etag").unwrap());
    assert_eq!(whole.header("content-length").unwrap(), size.to_string());
    for (range, from, to) in [
        ("bytes=0-0".to_owned(), 0, 1),
        ("bytes=1000000-".to_owned(), 1_000_000, size),
        ("bytes=-17".to_owned(), size - 17, size),
        (format!("bytes=300000-{}", 2 * size), 300_000, size),
    ] {
        let part = server.ask("GET", &nar, &format!("range: {range}\r\n"));
        assert_eq!(part.status, 206, "{range}: {}", part.head);
        assert!(part.body == dumped[from..to], "{range}");
        let told = format!("bytes {from}-{}/{size}", to - 1);
        assert_eq!(part.header("content-range").unwrap(), told);
    }
    let ranged = |tag: &str| format!("range: bytes=5-\r\nif-range: {tag}\r\n");
    assert_eq!(server.ask("GET", &nar, &ranged(&etag)).status, 206);
    assert_eq!(server.ask("GET", &nar, &ranged("\"other\"")).status, 200);
    let unchanged = server.ask("GET", &nar, &format!("if-none-match: {etag}\r\n"));
    assert_eq!((unchanged.status, unchanged.body.len()), (304, 0));
    let head = server.ask("HEAD", &nar, "");
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length").unwrap(), size.to_string());

    let narinfo = server.narinfo(&path);
    let tag = format!("if-none-match: \"x\", {}\r\n", narinfo.header("etag").unwrap());
    let url = format!("/{}.narinfo", hash_part(&path));
    assert_eq!(server.ask("GET", &url, &tag).status, 304);
    assert_eq!(server.ask("HEAD", &url, "").status, 200);
    let metrics = server.get("/metrics").text();
    assert!(metrics.contains("kind=\"nar\",method=\"get\",status=\"206\"} 5\n"), "{metrics}");
}

/// The end of a large NAR is cheap to ask for. Those who ask for much of that, take none of it, or go
/// away in the middle keep nobody from anything.
#[test]
fn the_ends_of_large_files_take_turns() {
    let store = Store::new();
    store.write("large", vec![7; 60_000_000]);
    store.write("small", "small");
    let (large, small) = (store.add("large"), store.add("small"));
    let server = store.serve("127.0.0.1:0", &["--compression", "none", "--memory", "0"]);
    let (nar, size) = (server.nar_url(&large), 60_000_112);
    let request = |range: &str| {
        let mut stream = server.connect();
        let head = format!("GET {nar} HTTP/1.1\r\nhost: x\r\nrange: bytes={range}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stream
    };
    let slow: Vec<TcpStream> = (0..6).map(|_| request("9000000-")).collect();
    for _ in 0..6 {
        drop(request("-1"));
    }
    std::thread::scope(|scope| {
        for at in 0..12 {
            let (server, nar) = (&server, &nar);
            scope.spawn(move || {
                // all of these end with the NAR's last closing parenthesis
                let range = if at % 2 == 0 { "-16".to_owned() } else { format!("{}-", size - 16) };
                let part = server.ask("GET", nar, &format!("range: bytes={range}\r\n"));
                assert_eq!(part.status, 206, "{}", part.head);
                assert_eq!(part.body, b"\x01\0\0\0\0\0\0\0)\0\0\0\0\0\0\0");
            });
        }
        for _ in 0..10 {
            assert_eq!(server.narinfo(&small).status, 200);
            assert_eq!(server.ask("GET", &nar, "range: bytes=0-15\r\n").status, 206);
        }
    });
    drop(slow);
}

/// A file that isn't what is registered never arrives whole, in whatever form.
#[rstest]
#[case::plain("none")]
#[case::compressed("zstd")]
fn what_is_corrupted_is_cut_short(#[case] compression: &str) {
    let store = Store::new();
    store.write("large", vec![7; 3_000_000]);
    let path = store.add("large");
    let server = store.serve("127.0.0.1:0", &["--compression", compression]);
    let nar = server.nar_url(&path);
    let good = server.get(&nar);
    let length = good.header("content-length").map(|length| length.parse::<usize>().unwrap());
    let ends = |answer: &Answer| match length {
        Some(length) => answer.body.len() == length,
        None => answer.body.ends_with(b"0\r\n\r\n"),
    };
    assert!(ends(&good));
    let real = store.real(&path);
    let mut contents = fs::read(&real).unwrap();
    contents[2_999_999] = 8;
    let mut permissions = fs::metadata(&real).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
    fs::set_permissions(&real, permissions).unwrap();
    fs::write(&real, contents).unwrap();
    assert!(!ends(&server.get(&nar)), "a wrong body ended cleanly");
    // cut off, and longer
    fs::write(&real, vec![7; 2_000_000]).unwrap();
    assert!(!ends(&server.get(&nar)), "half a body ended cleanly");
    fs::write(&real, vec![7; 4_000_000]).unwrap();
    assert!(!ends(&server.get(&nar)), "a longer body ended cleanly");
    assert!(store.log().contains("cut short"), "{}", store.log());
    let metrics = server.get("/metrics").text();
    assert!(metrics.contains("drover_cache_cut_short_total 3"), "{metrics}");
}

/// Also within the second for which it is remembered that it was there.
#[test]
fn what_was_collected_is_absent() {
    let store = Store::new();
    store.write("small", "small");
    let path = store.add("small");
    let server = store.serve("127.0.0.1:0", &["--compression", "none"]);
    let nar = server.nar_url(&path);
    succeeded(store.nix("nix-store").args(["--delete", &format!("/nix/store/{path}")]));
    assert_eq!(server.get(&nar).status, 404);
}

/// What was read and hashed once isn't hashed again, until somebody touches it.
#[test]
fn what_was_checked_is_checked_by_looking_at_it() {
    let store = Store::new();
    fs::create_dir(store.root().join("folder")).unwrap();
    store.write("folder/large", vec![7; 3_000_000]);
    store.write("folder/small", "small");
    let path = store.add("folder");
    let server = store.serve("127.0.0.1:0", &["--compression", "none", "--memory", "0"]);
    let nar = server.nar_url(&path);
    let hashed = || {
        let text = server.get("/metrics").text();
        let line = text.lines().find_map(|it| it.strip_prefix("drover_cache_hashed_bytes_total "));
        line.unwrap().parse::<usize>().unwrap()
    };
    let good = server.get(&nar).body;
    assert_eq!(hashed(), good.len());
    // what was changed a moment ago may change again without a sign of it, so that it counts later
    let mut before = hashed();
    let deadline = std::time::Instant::now() + LIMIT;
    loop {
        assert!(server.get(&nar).body == good);
        let now = hashed();
        if now == before {
            break;
        }
        assert_eq!(now - before, good.len());
        assert!(std::time::Instant::now() < deadline, "it is hashed for ever");
        before = now;
    }
    let real = store.real(&path).join("large");
    let times = fs::metadata(&real).unwrap().modified().unwrap();
    let mut permissions = fs::metadata(&real).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
    fs::set_permissions(&real, permissions).unwrap();
    let mut contents = vec![7; 3_000_000];
    contents[1_000_000] = 8;
    fs::write(&real, contents).unwrap();
    fs::File::options().write(true).open(&real).unwrap().set_modified(times).unwrap();
    let bad = server.get(&nar).body;
    assert!(bad.len() < good.len(), "a wrong body ended cleanly");
    assert!(hashed() > before, "its files look otherwise");
}

/// Has this process have as many connections as it may.
fn may_open_many_files() {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }).unwrap();
}

/// T44: many who ask for much and take nothing cost nobody else anything, and little memory.
#[rstest]
#[case::plain("none", 300)]
#[case::compressed("zstd", 200)]
#[case::very_many("none", 2000)]
#[case::very_many_compressed("zstd", 2000)]
fn slow_readers_cost_only_themselves(#[case] compression: &str, #[case] readers: u64) {
    may_open_many_files();
    let store = Store::new();
    // what can't be compressed, so that it doesn't fit into the sockets
    let mut state = 1u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    })
    .take(30_000_000)
    .collect();
    store.write("noise", noise);
    store.write("small", "small");
    let (large, small) = (store.add("noise"), store.add("small"));
    let server = store.serve("127.0.0.1:0", &["--compression", compression, "--memory", "0"]);
    let nar = server.nar_url(&large);
    let request = format!("GET {nar} HTTP/1.1\r\nhost: x\r\n\r\n");
    let slow: Vec<TcpStream> = (0..readers)
        .map(|_| {
            let mut stream = server.connect();
            stream.write_all(request.as_bytes()).unwrap();
            let mut first = [0; 16];
            stream.read_exact(&mut first).unwrap();
            assert!(first.starts_with(b"HTTP/1.1 200"));
            stream
        })
        .collect();
    for _ in 0..20 {
        assert_eq!(server.narinfo(&small).status, 200);
        assert_eq!(server.get(&server.nar_url(&small)).status, 200);
    }
    let status = fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let resident: u64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
    // each has some pieces of a quarter of a mebibyte on their way; frames ahead have 128 mebibytes for
    // all together, and their blocks once more while they are made
    let most = 100_000 + 2 * 131_072 + readers * 1_100;
    assert!(resident < most, "{resident} KiB for {readers} slow readers, {most} at the most");
    drop(slow);
}

#[test]
fn uploads_take_a_token_and_are_checked() {
    let store = Store::new();
    let source = Store::new();
    source.write("hello", "hello\n");
    source.write("changed", "changed\n");
    let (path, changed) = (source.add("hello"), source.add("changed"));
    let cache = source.root().join("cache");
    let to = format!("file://{}?compression=none", cache.display());
    succeeded(
        source
            .nix("nix")
            .args(["copy", "--to", &to])
            .args([&path, &changed].map(|name| format!("/nix/store/{name}"))),
    );
    let token = store.root().join("token");
    let token = token.to_str().unwrap();
    let server = store.serve("127.0.0.1:0", &["--write-token-file", token, "--accept-unsigned"]);
    let bearer = format!("authorization: Bearer {TOKEN}\r\n");
    let narinfo = fs::read(cache.join(format!("{}.narinfo", hash_part(&path)))).unwrap();
    let url = format!("/{}", field(&String::from_utf8_lossy(&narinfo), "URL"));
    let nar = fs::read(cache.join(&url[1..])).unwrap();
    let info_url = format!("/{}.narinfo", hash_part(&path));

    for wrong in ["", "authorization: Bearer wrong\r\n", "authorization: Basic eDp5\r\n"] {
        for to in [&url, &info_url, "/log/00000000000000000000000000000000-x.drv"] {
            let answer = server.send("PUT", to, wrong, &nar);
            assert_eq!(answer.status, 401, "{to}: {}", answer.head);
        }
    }
    // a narinfo without its file, and one that isn't its path's
    let early = server.send("PUT", &info_url, &bearer, &narinfo);
    assert_eq!(early.status, 409, "{}", early.text());
    assert_eq!(server.ask("HEAD", &url, "").status, 404);
    assert_eq!(server.send("PUT", &url, &bearer, &nar).status, 201);
    assert_eq!(server.ask("HEAD", &url, "").status, 200);
    assert_eq!(server.get(&url).status, 404, "what nobody has checked isn't given out");
    let other = server.send("PUT", &url, &bearer, b"something else");
    assert_eq!(other.status, 409, "{}", other.text());
    let wrong_path = format!("/{}.narinfo", hash_part(&changed));
    assert_eq!(server.send("PUT", &wrong_path, &bearer, &narinfo).status, 400);
    for (line, status) in [
        ("NarSize: 5\n", 400),
        ("NarSize: 99999999\n", 400),
        ("Compression: xz\n", 400),
        ("URL: ../../etc/shadow\n", 400),
        ("Garbage\n", 400),
        ("NarHash: sha256:0000000000000000000000000000000000000000000000000000\n", 400),
    ] {
        let name = line.split(": ").next().unwrap();
        let text = String::from_utf8_lossy(&narinfo).into_owned();
        let bad: String = text
            .split_inclusive('\n')
            .map(|one| if one.starts_with(&format!("{name}: ")) { line } else { one })
            .collect();
        let bad = if name == "Garbage\n" { format!("{text}{line}") } else { bad };
        let answer = server.send("PUT", &info_url, &bearer, bad.as_bytes());
        assert!(
            answer.status == status || (name == "NarHash" && answer.status == 403),
            "{line}{}\n{}",
            answer.head,
            answer.text()
        );
        assert_eq!(server.get(&info_url).status, 404, "{line}");
    }
    let taken = server.send("PUT", &info_url, &bearer, &narinfo);
    assert_eq!(taken.status, 201, "{}\n{}", taken.text(), store.log());
    assert_eq!(server.get(&info_url).status, 200);
    assert_eq!(fs::read_to_string(store.real(&path)).unwrap(), "hello\n");
    // written once
    assert_eq!(server.send("PUT", &info_url, &bearer, &narinfo).status, 200);
    let text = String::from_utf8_lossy(&narinfo).into_owned();
    let hash = field(&text, "NarHash");
    let other = text.replace(&hash, "sha256:0000000000000000000000000000000000000000000000000000");
    assert_eq!(server.send("PUT", &info_url, &bearer, other.as_bytes()).status, 409);
    let (log, line) = (store.log(), &server.line);
    assert!(!log.contains(TOKEN) && !line.contains(TOKEN), "{log}{line}");
}

#[test]
fn unsigned_uploads_are_refused_unless_they_are_accepted() {
    let store = Store::new();
    let token = store.root().join("token");
    let server = store.serve("127.0.0.1:0", &["--write-token-file", token.to_str().unwrap()]);
    let narinfo = "StorePath: /nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-x\n\
        URL: nar/x.nar\nCompression: none\n\
        NarHash: sha256:13ckwbqsrbr0rdi3nxykvyj5c0wjmv8hyivmiyzwmpcz32y1gyd1\nNarSize: 120\n\
        References: \nSig: k-1:";
    let narinfo = format!("{narinfo}{}==\n", "A".repeat(86));
    let nar = drover_testkit_nar(b"x");
    let bearer = format!("authorization: Bearer {TOKEN}\r\n");
    assert_eq!(server.send("PUT", "/nar/x.nar", &bearer, &nar).status, 201);
    let url = "/00bgd045z0d4icpbc2yyz4gx48ak44la.narinfo";
    let answer = server.send("PUT", url, &bearer, narinfo.as_bytes());
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert_eq!(server.get(url).status, 404);
    // the keeper of the store reads who has signed it, without what only terminals understand
    let log = store.log();
    assert!(log.contains("(saw: k-1)") && !log.contains('\x1b'), "{log}");
}

/// What is bad is refused with its reason, and nothing of it is left: no path, no file, nothing to be fetched. The
/// same URL can be given what is good.
#[test]
fn bad_nars_are_refused_and_leave_nothing() {
    let store = Store::new();
    let token = store.root().join("token");
    let arguments = ["--write-token-file", token.to_str().unwrap(), "--accept-unsigned"];
    let server = store.serve("127.0.0.1:0", &arguments);
    let bearer = format!("authorization: Bearer {TOKEN}\r\n");
    let path = "/00bgd045z0d4icpbc2yyz4gx48ak44la.narinfo";
    let narinfo = |url: &str, nar: &[u8], more: &str| {
        let hash = Hash::of(HashAlgorithm::Sha256, nar).display(HashNotation::Base32);
        format!(
            "StorePath: /nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-x\nURL: {url}\nCompression: none\n\
             NarHash: {hash}\nNarSize: {}\nReferences: \n{more}",
            nar.len()
        )
    };
    let offer = |name: &str, nar: &[u8], narinfo: &str| {
        let put = server.send("PUT", &format!("/nar/{name}.nar"), &bearer, nar);
        assert_eq!(put.status, 201, "{name}: {}", put.text());
        server.send("PUT", path, &bearer, narinfo.as_bytes())
    };
    // who has sent it is told that it's no good, and the keeper of the store why
    let is_refused = |name: &str, answer: &Answer, words: &str| {
        let told = format!("{} {}{}", answer.status, answer.text(), store.log());
        assert!([400, 403].contains(&answer.status), "{name}: {told}");
        assert!(told.contains(words), "{name}: no '{words}' in {told}");
    };
    let nothing_is_left = |name: &str| {
        assert_eq!(server.get(path).status, 404, "{name}");
        let store = store.root().join("store/nix/store");
        let left: Vec<_> =
            fs::read_dir(store).into_iter().flatten().map(|it| it.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| name == ".links"), "{name}: {left:?}");
    };
    for (at, (name, nar, words)) in bad_nars::all().into_iter().enumerate() {
        let url = format!("bad{at}");
        let refused = offer(&url, &nar, &narinfo(&format!("nar/{url}.nar"), &nar, ""));
        is_refused(name, &refused, words);
        nothing_is_left(name);
    }
    let good = bad_nars::file(b"words");
    let told = |name: &str| narinfo(&format!("nar/{name}.nar"), &good, "");
    let behind = [&good[..], b"more"].concat();
    let cases: [(&str, &[u8], String, &str); 4] = [
        ("cut", &good[..good.len() - 8], told("cut"), "announced"),
        ("longer", &behind, told("longer"), "announced"),
        ("altered", &bad_nars::file(b"sword"), told("altered"), "hash"),
        (
            "addressed",
            &good,
            narinfo(
                "nar/addressed.nar",
                &good,
                &format!(
                    "CA: fixed:r:{}\n",
                    Hash::of(HashAlgorithm::Sha256, &good).display(HashNotation::Base32)
                ),
            ),
            "follow from its contents",
        ),
    ];
    for (name, nar, narinfo, words) in cases {
        let refused = offer(name, nar, &narinfo);
        is_refused(name, &refused, words);
        nothing_is_left(name);
    }
    assert_eq!(offer("good", &good, &told("good")).status, 201);
    assert_eq!(server.get(path).status, 200);
    let mut check = store.nix("nix-store");
    let checked = check.args(["--verify", "--check-contents"]).output().unwrap();
    assert!(
        checked.status.success() && !words(&checked).contains("modified"),
        "{}",
        words(&checked)
    );
}

/// The NAR of a flat file.
fn drover_testkit_nar(contents: &[u8]) -> Vec<u8> {
    let mut nar = Vec::new();
    for word in [&b"nix-archive-1"[..], b"(", b"type", b"regular", b"contents", contents, b")"] {
        nar.extend_from_slice(&(word.len() as u64).to_le_bytes());
        nar.extend_from_slice(word);
        nar.resize(nar.len().next_multiple_of(8), 0);
    }
    nar
}

#[test]
fn speaks_tls_and_leaves_in_good_order() {
    let store = Store::new();
    store.write("hello", "hello");
    let path = store.add("hello");
    let certificates = Certificates::for_localhost().unwrap();
    let cert = store.write("cert.pem", &certificates.certificate);
    let key = store.write("key.pem", &certificates.key);
    let authority = store.write("authority.pem", &certificates.authority);
    let tls = ["--tls-cert", cert.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    let mut server = store.serve("127.0.0.1:0", &tls);
    let port = server.place.rsplit(':').next().unwrap();
    let to = format!("local?root={}", store.root().join("other").display());
    let copy = |authority: &Path| {
        Command::new(env!("CARGO_BIN_EXE_drover"))
            .args(["copy", "--no-check-sigs", "--from", &format!("https://localhost:{port}")])
            .args(["--to", &to, &format!("/nix/store/{path}")])
            .args(["--option", "ssl-cert-file", authority.to_str().unwrap()])
            .env("HOME", store.root())
            .output()
            .unwrap()
    };
    let refused = copy(&cert);
    assert!(!refused.status.success(), "{}", words(&refused));
    let copied = copy(&authority);
    assert!(copied.status.success(), "{}\n{}", words(&copied), store.log());
    assert_eq!(
        fs::read_to_string(store.root().join("other/nix/store").join(&path)).unwrap(),
        "hello"
    );
    // stock Nix, too
    let mut stock = store.nix("nix");
    stock.env("NIX_SSL_CERT_FILE", &authority).args(["path-info", "--store"]);
    stock.arg(format!("https://localhost:{port}")).arg(format!("/nix/store/{path}"));
    assert!(succeeded(&mut stock).contains(&path));

    let pid = server.child.id().to_string();
    succeeded(Command::new("kill").args(["-TERM", &pid]));
    assert_eq!(server.child.wait().unwrap().code(), Some(0), "{}", store.log());
}

#[rstest]
#[case::place(&["--listen", "5000"], "ADDRESS:PORT or unix:PATH")]
#[case::key(&["--sign-key-file", "/nowhere/key"], "--sign-key-file: '/nowhere/key' can't be used")]
#[case::token(&["--write-token-file", "/dev/null"], "16 characters")]
#[case::tls(&["--tls-cert", "/dev/null", "--tls-key", "/dev/null"], "certificate in PEM form")]
#[case::half(&["--tls-cert", "/dev/null"], "--tls-key")]
#[case::unsigned(&["--accept-unsigned"], "--write-token-file")]
#[case::level(&["--compression-level", "20"], "1..=19")]
fn what_cannot_be_is_refused(#[case] arguments: &[&str], #[case] says: &str) {
    let store = Store::new();
    let output = Command::new(env!("CARGO_BIN_EXE_drover"))
        .args(["cache", "serve", "--store", &store.uri()])
        .args(if arguments.contains(&"--listen") { &[][..] } else { &["--listen", "127.0.0.1:0"] })
        .args(arguments)
        .env("HOME", store.root())
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(words(&output).contains(says), "{}", words(&output));
}

#[test]
fn a_store_that_is_not_there_is_neither_made_nor_served() {
    let store = Store::new();
    let output = Command::new(env!("CARGO_BIN_EXE_drover"))
        .args(["cache", "serve", "--store", &store.uri(), "--listen", "127.0.0.1:0"])
        .env("HOME", store.root())
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(words(&output).contains("can't be served: there is none"), "{}", words(&output));
    assert!(!store.root().join("store").exists());
    // uploads fill it
    takes_uploads(&store);
    assert!(store.root().join("store").exists());
}

/// Who may not take the locks of a store may still serve it.
#[test]
fn a_store_that_can_not_be_written_is_served() {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        // nobody else can be become
        return;
    }
    let store = Store::new();
    let folder = store.root().join("folder");
    fs::create_dir(&folder).unwrap();
    let base_name = store.add("folder");
    fs::set_permissions(store.root(), fs::Permissions::from_mode(0o755)).unwrap();
    let home = tempfile::tempdir().unwrap();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o777)).unwrap();
    // the program may be where nobody else comes
    let program = home.path().join("drover");
    let original = env!("CARGO_BIN_EXE_drover");
    // what is being copied can't be run while another test starts a program of its own
    fs::hard_link(original, &program).or_else(|_| fs::copy(original, &program).map(drop)).unwrap();
    let mut child = Command::new(program)
        .args(["cache", "serve", "--store", &store.uri(), "--listen", "127.0.0.1:0"])
        .env("HOME", home.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .uid(65534)
        .gid(65534)
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    if line.is_empty() {
        panic!("{}", words(&child.wait_with_output().unwrap()));
    }
    let place = line.split(" at http://").nth(1).unwrap().trim().to_owned();
    let server = Server { child, place, line, _out: out };
    assert_eq!(server.narinfo(&base_name).status, 200);
    let url = server.nar_url(&base_name);
    assert_eq!(server.get(&url).status, 200);
}

/// Serves a store that is written to, and returns the file with the password for that, too.
fn takes_uploads(store: &Store) -> (Server, PathBuf) {
    let netrc = store.write("netrc", format!("machine localhost login x password {TOKEN}\n"));
    let token = store.root().join("token");
    let arguments = ["--write-token-file", token.to_str().unwrap(), "--accept-unsigned"];
    let server = store.serve("127.0.0.1:0", &arguments);
    (server, netrc)
}

/// A chain of paths goes to the server and comes back, by drover and by stock Nix.
#[rstest]
#[case::zstd("compression=zstd")]
#[case::xz("compression=xz&compression-level=0&write-nar-listing=true")]
fn copies_to_a_server(#[case] parameters: &str) {
    let store = Store::new();
    let (server, netrc) = takes_uploads(&store);
    let source = Store::new();
    let [dependency, base_name] = source.add_pair();
    let refers = format!("/nix/store/{base_name}");
    let port = server.place.rsplit(':').next().unwrap().to_owned();
    let to = format!("http://localhost:{port}?{parameters}");
    let copy = |netrc: &Path| {
        Command::new(env!("CARGO_BIN_EXE_drover"))
            .args(["copy", "--no-check-sigs", "--to", &to, &refers])
            .args(["--option", "netrc-file", netrc.to_str().unwrap()])
            .env("HOME", source.root())
            .env("NIX_REMOTE", source.uri())
            .output()
            .unwrap()
    };
    let refused = copy(Path::new("/dev/null"));
    assert!(!refused.status.success() && words(&refused).contains("netrc"), "{}", words(&refused));
    let copied = copy(&netrc);
    assert!(copied.status.success(), "{}\n{}", words(&copied), store.log());
    for name in [&dependency, &base_name] {
        assert_eq!(server.narinfo(name).status, 200, "{name}");
        assert!(store.real(name).exists());
    }
    let listing = server.get(&format!("/{}.ls", hash_part(&dependency))).text();
    assert!(listing.contains("\"large\":{") && listing.contains("\"size\":3000000"), "{listing}");
    // what is there isn't sent again
    let before = server.get("/metrics").text();
    assert!(copy(&netrc).status.success());
    let puts = |text: &str| text.lines().filter(|line| line.contains("\"put\"")).count();
    assert_eq!(puts(&before), puts(&server.get("/metrics").text()));

    let back = Store::new();
    succeeded(
        back.nix("nix")
            .args(["copy", "--no-check-sigs", "--from"])
            .arg(format!("http://localhost:{port}"))
            .arg(&refers),
    );
    assert!(back.real(&dependency).join("large").exists());
}

/// All paths with the same contents have one file, which waits for all of their narinfos.
#[test]
fn equal_contents_go_to_a_server() {
    const PATHS: usize = 80;
    let store = Store::new();
    let (server, netrc) = takes_uploads(&store);
    let source = Store::new();
    let paths: Vec<String> = (0..PATHS)
        .map(|number| {
            let name = format!("equal-{number}");
            source.write(&name, "equal");
            format!("/nix/store/{}", source.add(&name))
        })
        .collect();
    let port = server.place.rsplit(':').next().unwrap();
    let copied = Command::new(env!("CARGO_BIN_EXE_drover"))
        .args(["copy", "--no-check-sigs", "--to", &format!("http://localhost:{port}")])
        .args(&paths)
        .args(["--option", "netrc-file", netrc.to_str().unwrap()])
        .env("HOME", source.root())
        .env("NIX_REMOTE", source.uri())
        .output()
        .unwrap();
    assert!(copied.status.success(), "{}\n{}", words(&copied), store.log());
    for path in paths {
        assert_eq!(fs::read_to_string(store.real(&path["/nix/store/".len()..])).unwrap(), "equal");
    }
}
