//! The socket: who may connect, what stands there before and after, and how it stops.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use drover_daemon::{ClientTrust, Limits, Listener, Policy, Stdio, Stop, TrustRule, relay};
use drover_wire::{Decoder, WORKER_LATEST, client_hello, read_server_hello};
use support::{World, world_with};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

fn spawn(
    world: &World,
    listener: Listener,
    rule: TrustRule,
) -> (JoinSet<()>, oneshot::Sender<Stop>) {
    let (stop, stopped) = oneshot::channel();
    let mut running = JoinSet::new();
    let stopped = async { stopped.await.unwrap_or(Stop::Now) };
    running.spawn(listener.run(world.server.clone(), rule, stopped));
    (running, stop)
}

/// What the daemon says first to somebody who says hello.
async fn first_words(mut stream: UnixStream) -> Vec<u8> {
    drop(stream.write_all(&client_hello(WORKER_LATEST)).await);
    drop(stream.shutdown().await);
    let mut said = Vec::new();
    drop(stream.read_to_end(&mut said).await);
    said
}

fn is_hello(said: &[u8]) -> bool {
    read_server_hello(&mut Decoder::new(said), WORKER_LATEST).is_ok()
}

#[tokio::test]
async fn a_socket_is_open_to_all_and_replaces_a_stale_one_but_no_living_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/daemon-socket/socket");
    let first = Listener::bind(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
    let error = Listener::bind(&path).err().unwrap().to_string();
    assert!(error.ends_with("another daemon listens there"), "{error}");
    // gone without a farewell
    drop(first);
    assert!(path.exists());
    let world = world_with(Limits::default(), Policy::default());
    let forced = TrustRule::Forced(ClientTrust::NotTrusted);
    let (mut running, stop) = spawn(&world, Listener::bind(&path).unwrap(), forced);
    assert!(is_hello(&first_words(UnixStream::connect(&path).await.unwrap()).await));
    let names = std::fs::read_dir(path.parent().unwrap()).unwrap().count();
    assert_eq!(names, 1, "no draft is left");
    stop.send(Stop::Now).unwrap();
    running.join_next().await.unwrap().unwrap();
    assert!(!path.exists(), "it goes with its daemon");
    std::fs::write(&path, "precious").unwrap();
    assert!(Listener::bind(&path).is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn a_socket_is_found_when_it_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let draft = Listener::draft(&path).unwrap();
    assert!(UnixStream::connect(&path).await.is_err());
    let listener = draft.show().unwrap();
    // who comes before it's served waits
    let early = UnixStream::connect(&path).await.unwrap();
    let world = world_with(Limits::default(), Policy::default());
    let forced = TrustRule::Forced(ClientTrust::NotTrusted);
    let (_running, _stop) = spawn(&world, listener, forced);
    assert!(is_hello(&first_words(early).await));
    // one that isn't shown is in nobody's way
    assert!(Listener::draft(&path).is_err(), "another daemon listens there");
    let other = folder.path().join("other");
    drop(Listener::draft(&other).unwrap());
    let names = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(names, 1, "no draft is left");
}

#[tokio::test]
async fn a_policy_that_changes_counts_for_the_next_client() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let world = world_with(Limits::default(), Policy::default());
    let listener = Listener::bind(&path).unwrap();
    let (_running, _stop) = spawn(&world, listener, TrustRule::ByPolicy);
    let connect = || async { first_words(UnixStream::connect(&path).await.unwrap()).await };
    assert!(is_hello(&connect().await));
    let nobody = Policy { trusted_users: vec![], allowed_users: vec![], ..Policy::default() };
    world.policy.send_replace(std::sync::Arc::new(nobody));
    let said = String::from_utf8(connect().await).unwrap();
    assert!(said.starts_with("error: user '"), "{said}");
    assert!(said.ends_with("' is not allowed to connect to the Nix daemon\n"), "{said}");
    let all = Policy { trusted_users: vec!["*".to_owned()], ..Policy::default() };
    world.policy.send_replace(std::sync::Arc::new(all));
    assert!(is_hello(&connect().await));
}

/// Groups that only the process has, and that the user database knows nothing of, count as well.
/// This test gives up root's rights in a process of its own, and so needs them.
#[tokio::test]
async fn the_groups_of_the_process_count() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = folder.path().join("socket");
    let policy = Policy {
        trusted_users: vec!["@54321".to_owned()],
        allowed_users: vec!["@54322".to_owned()],
        build_users_group: Some("54323".to_owned()),
        ..Policy::default()
    };
    let world = world_with(Limits::default(), policy);
    let listener = Listener::bind(&path).unwrap();
    let (_running, _stop) = spawn(&world, listener, TrustRule::ByPolicy);
    // says hello as a client does, and prints what comes first
    let script = r#"use IO::Socket::UNIX;
        my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die $!;
        syswrite $s, pack("Q<Q<", 0x6e697863, 0x0126);
        sysread $s, my $said, 200; print $said;"#;
    let said_to = async |groups: &str| {
        let mut command = tokio::process::Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--groups", groups]);
        command.args(["perl", "-e", script]).arg(&path);
        command.output().await.unwrap().stdout
    };
    for (groups, admitted) in
        [("54321", true), ("54322,9", true), ("9", false), ("54321,54323", false)]
    {
        let said = said_to(groups).await;
        assert_eq!(said.starts_with(b"error: user"), !admitted, "{groups}: {said:?}");
        assert!(!said.is_empty(), "{groups}");
    }
}

#[tokio::test]
async fn connections_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let limits = Limits { connections: 2, ..Limits::default() };
    let world = world_with(limits, Policy::default());
    let forced = TrustRule::Forced(ClientTrust::Trusted);
    let (_running, _stop) = spawn(&world, Listener::bind(&path).unwrap(), forced);
    let first = UnixStream::connect(&path).await.unwrap();
    let second = UnixStream::connect(&path).await.unwrap();
    let third = first_words(UnixStream::connect(&path).await.unwrap()).await;
    assert_eq!(third, b"error: the daemon has 2 connections already\n");
    assert!(is_hello(&first_words(first).await));
    drop(second);
    // the places of both are free as soon as the daemon has seen them go
    loop {
        if is_hello(&first_words(UnixStream::connect(&path).await.unwrap()).await) {
            break;
        }
    }
}

#[tokio::test]
async fn a_stop_waits_for_what_is_being_done_only_as_long_as_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let world = world_with(Limits::default(), Policy::default());
    let forced = TrustRule::Forced(ClientTrust::Trusted);
    let (mut running, stop) = spawn(&world, Listener::bind(&path).unwrap(), forced);
    // in the middle of its greeting, which nothing ends but a limit
    let mut stuck = UnixStream::connect(&path).await.unwrap();
    stuck.write_all(&client_hello(WORKER_LATEST)).await.unwrap();
    stuck.read_u64().await.unwrap();
    stop.send(Stop::Drain(Duration::from_millis(50))).unwrap();
    running.join_next().await.unwrap().unwrap();
    let mut rest = Vec::new();
    stuck.read_to_end(&mut rest).await.unwrap();
    assert!(UnixStream::connect(&path).await.is_err());
}

#[tokio::test]
async fn a_relay_passes_the_end_of_either_side_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let world = world_with(Limits::default(), Policy::default());
    let forced = TrustRule::Forced(ClientTrust::Trusted);
    let (mut running, stop) = spawn(&world, Listener::bind(&path).unwrap(), forced);
    for ends in ["client", "daemon"] {
        let (mut ours, theirs) = tokio::io::duplex(4096);
        let (input, output) = tokio::io::split(theirs);
        let socket = UnixStream::connect(&path).await.unwrap();
        let mut relaying = JoinSet::new();
        let client = Stdio { input: Box::new(input), output: Box::new(output) };
        let (input, output) = socket.into_split();
        let daemon = Stdio { input: Box::new(input), output: Box::new(output) };
        relaying.spawn(relay(client, daemon));
        ours.write_all(&client_hello(WORKER_LATEST)).await.unwrap();
        let mut hello = [0; 16];
        ours.read_exact(&mut hello).await.unwrap();
        assert!(is_hello(&hello));
        match ends {
            "client" => ours.shutdown().await.unwrap(),
            _ => running.shutdown().await,
        }
        let mut rest = Vec::new();
        ours.read_to_end(&mut rest).await.unwrap();
        relaying.join_next().await.unwrap().unwrap().unwrap();
    }
    drop(stop);
}
