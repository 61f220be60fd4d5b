//! Whatever a server says instead of the protocol, the error shows it and says what to do.

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use drover_store::{Store as _, StoreError, Substitute};
use drover_store_remote::{Address, Program};
use drover_wire::{Request, Response};
use rstest::rstest;
use support::{Fake, behind, folder, nix, store_at, words};

const SERVER: &[u8] = b"oixd\0\0\0\0";

async fn error_of(command: &[&str]) -> StoreError {
    behind(command).connect().await.expect_err("no connection")
}

#[rstest]
#[case::banner(
    "echo 'Welcome to build01!'; cat",
    "did not speak the protocol; it printed: \"Welcome to build01!\\n"
)]
#[case::nologin(
    "echo 'This account is currently not available.'; exit 1",
    "it printed: \"This account is currently not available.\\n\""
)]
#[case::then_the_protocol(
    "echo 'System is booting up.'; printf 'oixd\\0\\0\\0\\0more'; cat",
    "it printed: \"System is booting up.\\n\". Whatever"
)]
#[case::short("printf hi; exit 1", "it printed: \"hi\"")]
#[case::remedy("echo hello there; exit 0", "must go to standard error or be taken away")]
#[tokio::test]
async fn foreign_words_are_shown(#[case] script: &str, #[case] expected: &str) {
    let error = error_of(&["sh", "-c", script]).await;
    assert!(matches!(error, StoreError::ForeignWords { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.starts_with("cannot speak with 'test': 'sh -c "), "{text}");
    assert!(text.contains(expected), "{text}");
}

#[rstest]
#[case::not_found("exec /nonexistent/nix-daemon", "could not be run there")]
#[case::remedy("exec /nonexistent/nix-daemon", "?remote-program=/path/to/it")]
#[case::silent_end("exit 0", "ended at once")]
#[case::something_else_is_missing(
    "echo \"error: creating directory '/x': No such file or directory\" >&2; exit 1",
    "ended at once; it said: error: creating directory '/x'"
)]
#[case::last_words(
    "echo 'sudo: a password is required' >&2; exit 1",
    "ended at once; it said: sudo: a password is required"
)]
#[tokio::test]
async fn an_end_without_a_word_is_explained(#[case] script: &str, #[case] expected: &str) {
    let error = error_of(&["sh", "-c", script]).await;
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains(expected), "{error}");
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named() {
    let error = error_of(&["/nonexistent/nix-daemon"]).await;
    let text = error.to_string();
    assert!(text.contains("'/nonexistent/nix-daemon --stdio' could not be run there"), "{text}");
}

#[rstest]
#[case::another_major(0x200, "peer speaks worker protocol 2.0; 1.21 or newer")]
#[case::too_old(0x109, "peer speaks worker protocol 1.9; 1.21 or newer")]
#[case::nonsense(0x1_0000, "invalid protocol version 65536")]
#[tokio::test]
async fn versions_that_are_not_spoken_are_named(#[case] version: u64, #[case] expected: &str) {
    let fake = Fake::new(move |_, mut client| async move {
        client.send(SERVER).await;
        client.send(&version.to_le_bytes()).await;
        client.wait_for_end().await;
    });
    let error = fake.store().connect().await.expect_err("no connection");
    assert!(matches!(error, StoreError::Protocol { .. }), "{error:?}");
    assert!(error.to_string().contains(expected), "{error}");
}

/// Servers of other versions than expected are greeted again, also when they are exchanged later.
#[tokio::test]
async fn older_and_newer_servers_are_greeted() {
    let fake = Fake::new(|number, mut client| async move {
        let minor = if number < 2 { 34 } else { 255 };
        let Some(dialect) = client.greet(minor).await else { return };
        while let Some(request) = client.request(&dialect).await {
            let drover_wire::Request::QueryPathInfo(_) = request else { panic!("{request:?}") };
            client.answer(&dialect, &drover_wire::Response::PathInfo(None)).await;
            if number < 2 {
                return;
            }
        }
    });
    let store = fake.store();
    let description = store.connect().await.expect("a connection");
    assert_eq!(description.protocol, "worker protocol 1.34");
    let (info, _) = drover_store::contract::flat_file("x", b"", &[]);
    for _ in 0..3 {
        store.path_infos(std::slice::from_ref(&info.path)).await.ok();
    }
    assert_eq!(store.path_infos(&[info.path]).await.expect("an answer"), [None]);
}

#[tokio::test]
async fn silence_ends_in_time() {
    let program = Program::Worker {
        command: words(&["sh", "-c", "echo 'Password: ' >&2; exec sleep 1000"]),
        store: None,
    };
    let store = store_at(Address::Local(program), Duration::from_secs(1));
    let connected = support::soon(store.connect()).await;
    let text = connected.expect_err("no connection").to_string();
    assert!(text.contains("has said nothing for 1 s; it said: Password:"), "{text}");
}

#[tokio::test]
async fn a_missing_socket_is_explained() {
    let store = store_at(Address::Socket("/nonexistent/socket".into()), Duration::from_secs(5));
    let text = store.connect().await.expect_err("no connection").to_string();
    assert!(text.contains("/nonexistent/socket: No such file or directory"), "{text}");
    assert!(text.contains("is the Nix daemon running"), "{text}");
}

/// Whether a process is there and isn't only waiting to be noticed.
fn runs(pid: &str) -> bool {
    std::fs::read_to_string(Path::new("/proc").join(pid).join("stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or("").trim_start().starts_with('Z'))
}

/// Returns the processes that were started, and a store whose server notes its process there.
fn noted(folder: &Path) -> (std::path::PathBuf, drover_store_remote::RemoteStore) {
    let pids = folder.join("pids");
    let script = format!("echo $$ >> {}; exec \"$@\"", pids.display());
    let mut command = words(&["sh", "-c", &script, "sh"]);
    command.extend(nix(folder, "nix-daemon"));
    let store = Some(format!("local?root={}", folder.display()));
    let address = Address::Local(Program::Worker { command, store });
    (pids, store_at(address, Duration::from_secs(120)))
}

async fn all_are_gone(pids: &Path) {
    let pids = std::fs::read_to_string(pids).expect("the servers were started");
    let gone = async {
        while pids.lines().any(runs) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), gone).await.expect("no process is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_everything_leaves_no_process() {
    let folder = folder();
    let (pids, store) = noted(folder.path());
    store.connect().await.expect("a connection");
    drover_store::Builder::expect(&store, 4);
    drover_store::Builder::open_lane(&store).await.expect("a lane");
    drop(store);
    all_are_gone(&pids).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_a_busy_lane_kills_its_server() {
    let folder = folder();
    let (pids, store) = noted(folder.path());
    let lane = drover_store::Builder::open_lane(&store).await.expect("a lane");
    let pid =
        std::fs::read_to_string(&pids).expect("a server").lines().last().expect("one").to_owned();
    let stopped = std::process::Command::new("kill").args(["-STOP", &pid]).status();
    assert!(stopped.expect("kill").success());
    let (info, nar) = drover_store::contract::flat_file("x", b"", &[]);
    let import = lane.import(drover_store::contract::Given::boxed([(info, nar)]));
    assert!(runs(&pid));
    drop(lane);
    assert!(import.await.is_err());
    let only = folder.path().join("only");
    std::fs::write(&only, &pid).expect("a file");
    all_are_gone(&only).await;
}

/// The first questions travel with the greeting; their answers are not taken for something that
/// nobody asked for, however soon they come.
#[tokio::test(flavor = "multi_thread")]
async fn first_questions_go_with_the_greeting() {
    for _ in 0..50 {
        let fake = Fake::new(|_, mut client| async move {
            let Some(dialect) = client.greet_with_answers().await else { return };
            support::serve_file(&mut client, &dialect).await;
        });
        let store = fake.store();
        let file = support::file().0.path;
        let asked = BTreeSet::from([file.clone()]);
        let valid = support::soon(store.hold_valid(&asked, Substitute::No)).await;
        assert_eq!(valid.expect("an answer"), asked);
        let infos = support::soon(store.path_infos(&[file])).await.expect("an answer");
        assert!(infos.iter().all(Option::is_some));
        assert_eq!(fake.connections.load(Ordering::Acquire), 1);
    }
}

/// A server of another version can't have understood them, and is asked again in its own.
#[tokio::test]
async fn first_questions_are_asked_again_in_the_version_that_is_spoken() {
    let fake = Fake::new(|_, mut client| async move {
        let Some(dialect) = client.greet(33).await else { return };
        while let Some(request) = client.request(&dialect).await {
            match request {
                Request::AddTempRoot(_) => client.answer(&dialect, &Response::Done).await,
                Request::QueryValidPaths(paths, _) => {
                    client.answer(&dialect, &Response::Paths(paths)).await;
                }
                request => panic!("{request:?} was not expected"),
            }
        }
    });
    let asked = BTreeSet::from([support::file().0.path]);
    let store = fake.store();
    let valid = support::soon(store.hold_valid(&asked, Substitute::No)).await;
    assert_eq!(valid.expect("an answer"), asked);
    assert_eq!(fake.connections.load(Ordering::Acquire), 2);
    let known = store.connect().await.expect("known");
    assert_eq!(known.protocol, "worker protocol 1.33");
}

/// A daemon that closes the connection at once, as Nix's does while its database is busy, is greeted again.
#[tokio::test]
async fn a_daemon_that_ends_at_once_is_greeted_again() {
    let home = tempfile::tempdir().unwrap();
    let socket = home.path().join("socket");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let turned_away = async {
        for _ in 0..4 {
            drop(listener.accept().await.unwrap());
        }
    };
    let store = store_at(Address::Socket(socket), Duration::from_secs(10));
    let both = async { tokio::join!(turned_away, store.connect()) };
    let ((), connected) = support::soon(both).await;
    let error = connected.unwrap_err();
    assert!(error.to_string().contains("ended at once"), "{error}");
}
