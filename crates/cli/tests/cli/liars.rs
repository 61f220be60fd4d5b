//! Substituters that do everything wrong, one after another, before one that is good.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rstest::rstest;

use crate::world::{Told, World};

/// Nobody waits for longer, whatever they do.
const LIMIT: Duration = Duration::from_secs(300);

/// For how many seconds a substituter may say nothing.
#[derive(Clone, Copy)]
enum Patience {
    /// Some of them say nothing for ever.
    Short,
    /// It's only slow where this machine is.
    Long,
}

/// Runs drover under the name `nix-store`.
pub(crate) fn nix_store(world: &World, arguments: &[&str]) -> Told {
    let name = world.path("nix-store");
    if !name.exists() {
        symlink(env!("CARGO_BIN_EXE_drover"), &name).unwrap();
    }
    let command = world.command(arguments);
    let mut named = std::process::Command::new(name);
    named.args(command.get_args()).current_dir(world.dir.path()).env_clear();
    for (name, value) in std::env::vars().filter(|(name, _)| !name.starts_with("NIX_")) {
        named.env(name, value);
    }
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            named.env(name, value);
        }
    }
    Told::of(named.stdin(std::process::Stdio::null()).output().unwrap())
}

/// Serves what is in a folder under the name of each mischief, with that mischief.
fn serve(folder: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let folder = folder.clone();
            // a client that goes is none of the server's business
            std::thread::spawn(move || drop(answer(stream, &folder)));
        }
    });
    format!("http://{address}")
}

fn answer(stream: TcpStream, folder: &Path) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let path = first.split(' ').nth(1).unwrap_or_default().trim_start_matches('/');
    let (mischief, name) = path.split_once('/').unwrap_or((path, ""));
    let Ok(body) = std::fs::read(folder.join(name)) else {
        return send(&stream, "404 Not Found", 0, b"");
    };
    let (is_narinfo, is_nar) = (name.ends_with(".narinfo"), name.starts_with("nar/"));
    let text = || String::from_utf8(body.clone()).unwrap();
    let half = body.len() / 2;
    match mischief {
        "cut" if is_nar => send(&stream, "200 OK", body.len(), &body[..half]),
        "stall" if is_nar => {
            send(&stream, "200 OK", body.len(), &body[..half])?;
            std::thread::sleep(LIMIT);
            Ok(())
        }
        "bomb" if is_nar => {
            (&stream).write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
            (&stream).write_all(&body)?;
            loop {
                (&stream).write_all(&[0; 65536])?;
            }
        }
        "other-bytes" if is_nar => {
            let mut other = body.clone();
            other[half] ^= 1;
            send(&stream, "200 OK", body.len(), &other)
        }
        "gone" if is_nar => send(&stream, "404 Not Found", 0, b""),
        "error" if is_narinfo || is_nar => send(&stream, "500 Oh", 2, b"no"),
        "page" if is_narinfo => send(&stream, "200 OK", 6, b"<html>"),
        "wrong-path" if is_narinfo => {
            let other = text().replace("-contents\n", "-other\n");
            send(&stream, "200 OK", other.len(), other.as_bytes())
        }
        "traversal" if is_narinfo => {
            let other = text().replace("URL: nar/", "URL: ../../../etc/");
            send(&stream, "200 OK", other.len(), other.as_bytes())
        }
        "away" if is_nar => {
            let to =
                "HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n";
            (&stream).write_all(to.as_bytes())
        }
        "silent" => {
            std::thread::sleep(LIMIT);
            Ok(())
        }
        _ => send(&stream, "200 OK", body.len(), &body),
    }
}

fn send(mut stream: &TcpStream, status: &str, length: usize, body: &[u8]) -> std::io::Result<()> {
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)
}

/// A path in a cache in a folder.
pub(crate) fn cached(world: &World) -> (String, PathBuf) {
    // it can't be made smaller than it is
    let mut state = 1_u64;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_le_bytes()[4]
    });
    fs_err::write(world.path("contents"), noise.take(300_000).collect::<Vec<u8>>()).unwrap();
    let added = nix_store(world, &["--add", "contents"]);
    let path = added.succeeds().trim().to_owned();
    let cache = world.path("cache-of-files");
    let to = format!("file://{}?compression=none", cache.display());
    world.run(&["copy", "--to", &to, &path]).succeeds();
    (path, cache)
}

/// Fetches a path from substituters into another store.
fn fetch(path: &str, substituters: &str, patience: Patience) -> (Told, Duration) {
    let world = World::new();
    let (connecting, stalled) = match patience {
        Patience::Short => ("2", "1"),
        Patience::Long => ("60", "60"),
    };
    let options = [
        ("substituters", substituters),
        ("require-sigs", "false"),
        ("connect-timeout", connecting),
        ("stalled-download-timeout", stalled),
        ("download-attempts", "2"),
    ];
    let options = options.iter().flat_map(|(name, value)| ["--option", name, value]);
    let began = Instant::now();
    let told = nix_store(&world, &["-r", path].into_iter().chain(options).collect::<Vec<_>>());
    if told.status == Some(0) {
        nix_store(&world, &["--verify-path", path]).succeeds();
    }
    (told, began.elapsed())
}

const ALL: [&str; 11] = [
    "cut",
    "stall",
    "bomb",
    "other-bytes",
    "gone",
    "error",
    "page",
    "wrong-path",
    "traversal",
    "away",
    "silent",
];

#[test]
fn whatever_substituters_do_the_next_one_is_asked() {
    let world = World::new();
    let (path, cache) = cached(&world);
    let server = serve(cache.clone());
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut all: Vec<String> = ALL.iter().map(|mischief| format!("{server}/{mischief}")).collect();
    all.push(format!("http://{nobody}"));
    // one that speaks no TLS
    all.push(server.replace("http:", "https:"));
    let liars = all.join(" ");
    all.push(format!("file://{}", cache.display()));
    let (told, took) = fetch(&path, &all.join(" "), Patience::Short);
    told.succeeds();
    assert!(took < LIMIT, "{took:?}");
    // and without a good one it ends as soon, with the words of those who were asked
    let (told, took) = fetch(&path, &liars, Patience::Short);
    assert_ne!(told.status, Some(0), "{told:#?}");
    assert!(took < LIMIT, "{took:?}");
    assert!(told.err.contains(&format!("{server}/cut")), "{told:#?}");
}

/// Each by itself is refused, in words that name it.
#[rstest]
#[case("bomb", "there are more than the")]
#[case("stall", "stalled-download-timeout")]
#[case("other-bytes", "hash")]
#[case("page", "narinfo line 1")]
#[case("wrong-path", "the cache is taken not to have")]
#[case("traversal", "the cache is taken not to have")]
#[case("away", "the server answers 302")]
#[case("error", "the server answers 500")]
fn each_is_refused_by_name(#[case] mischief: &str, #[case] words: &str) {
    let world = World::new();
    let (path, cache) = cached(&world);
    let server = serve(cache);
    let patience = match mischief {
        "stall" | "silent" => Patience::Short,
        _ => Patience::Long,
    };
    let (told, took) = fetch(&path, &format!("{server}/{mischief}"), patience);
    assert_ne!(told.status, Some(0), "{told:#?}");
    assert!(told.err.contains(words) && told.err.contains(&server), "no '{words}' in {told:#?}");
    assert!(took < LIMIT, "{took:?}");
}
