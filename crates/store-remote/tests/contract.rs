//! Real servers do what every store does.

mod support;

use std::num::NonZeroU32;
use std::process::Stdio;
use std::time::Duration;

use drover_store::Store as _;
use drover_store::contract::check_store;
use drover_store_remote::Address;
use support::{folder, nix, serve, store_at, worker};

const LIMIT: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn worker_protocol() {
    let folder = folder();
    let store = store_at(worker(folder.path()), LIMIT);
    let description = store.connect().await.expect("a connection");
    assert!(description.protocol.starts_with("worker protocol 1."), "{description:?}");
    check_store(&store, "worker").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_protocol() {
    let folder = folder();
    let store = store_at(serve(folder.path()), LIMIT);
    let description = store.connect().await.expect("a connection");
    assert!(description.protocol.starts_with("serve protocol 2."), "{description:?}");
    check_store(&store, "serve").await;
}

/// With a single connection all of it takes turns.
#[tokio::test(flavor = "multi_thread")]
async fn one_connection() {
    let (first, second) = (folder(), folder());
    let bounded = |address| store_at(address, LIMIT).with_connections(NonZeroU32::MIN);
    check_store(&bounded(worker(first.path())), "worker").await;
    check_store(&bounded(serve(second.path())), "serve").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn socket() {
    let folder = folder();
    let socket = folder.path().join("socket");
    let command = nix(folder.path(), "nix-daemon");
    let mut daemon = tokio::process::Command::new(&command[0]);
    daemon.args(&command[1..]);
    daemon.env("NIX_DAEMON_SOCKET_PATH", &socket);
    daemon.args(["--store", &format!("local?root={}", folder.path().display())]);
    daemon.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let _daemon = daemon.spawn().expect("a daemon");
    let store = store_at(Address::Socket(socket), LIMIT);
    let listening = async {
        while store.connect().await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, listening).await.expect("the daemon listens");
    check_store(&store, "socket").await;
}
