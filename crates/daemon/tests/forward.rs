//! A daemon whose store is another daemon's: what a client asks of it, and what it hears.
#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use bytes::BytesMut;
use drover_core::StoreDir;
use drover_daemon::{ClientTrust, DaemonError, Forwarder, Limits, Stdio};
use drover_store::contract::flat_file;
use drover_store::{BuildMode, Repair, SignatureCheck};
use drover_wire::{
    ClientOptions, Dialect, Encoder, FEATURE_REALISATION_WITH_PATH, LogMessage, NewContent,
    Request, Response, ServerInfo, Version,
};
use rstest::rstest;
use support::{Peer, World, world};
use tokio::net::UnixStream;
use tokio::task::JoinSet;

fn wires(stream: UnixStream) -> Stdio {
    let (input, output) = stream.into_split();
    Stdio { input: Box::new(input), output: Box::new(output) }
}

fn forwarder(verbosity: u64) -> Forwarder {
    let (limits, store_dir) = (Limits::default(), StoreDir::default());
    Forwarder { limits, nix_version: "2.34.8".to_owned(), store_dir, verbosity }
}

/// Connects a client of a version by way of one that forwards.
async fn connect(world: &World, minor: u8, features: &[&str], verbosity: u64) -> Peer {
    let (stream, theirs) = UnixStream::pair().unwrap();
    let (near, far) = UnixStream::pair().unwrap();
    let mut serving: JoinSet<Result<(), DaemonError>> = JoinSet::new();
    let server = world.server.clone();
    serving.spawn(async move {
        let (input, output) = far.into_split();
        server.serve(support::client(ClientTrust::Trusted), input, output).await
    });
    serving.spawn(async move { forwarder(verbosity).run(wires(theirs), wires(near)).await });
    let dialect = Dialect {
        store_dir: StoreDir::default(),
        version: Version { major: 1, minor },
        features: Default::default(),
    };
    let info = ServerInfo { nix_version: None, trust: drover_store::Trust::Unknown };
    let buffer = BytesMut::new();
    let mut peer = Peer { stream, buffer, dialect, info, log: Vec::new(), serving };
    peer.greet(features).await;
    peer
}

/// Adding in each form that versions have for it, reading, and failing; then it goes on.
#[rstest]
#[case::asked_for_piece_by_piece(21)]
#[case::framed(23)]
#[case::contents_framed(25)]
#[case::newest(38)]
#[tokio::test]
async fn requests_and_their_data_go_over(#[case] minor: u8) {
    let world = world();
    let mut peer = connect(&world, minor, &[FEATURE_REALISATION_WITH_PATH], 3).await;
    let (info, nar) = flat_file("dep", &vec![b'x'; 300_000], &[]);
    let absent = peer.call(Request::EnsurePath(info.path.clone())).await;
    assert!(absent.unwrap_err().ends_with("-dep' is not valid"));
    let request = Request::AddToStoreNar(info.clone(), SignatureCheck::Skip);
    match minor {
        21 => peer.call_tunnelled(request, &nar).await.unwrap(),
        _ => peer.call_framed(request, &nar, 65_536).await.unwrap(),
    };
    assert!(world.keeper.has(&info.path));
    let found = peer.call(Request::QueryPathInfo(info.path.clone())).await.unwrap();
    assert_eq!(found, Response::PathInfo(Some(Box::new(info.clone()))));
    let content = NewContent {
        name: "content".to_owned(),
        method: drover_core::IngestionMethod::Nar,
        algorithm: drover_core::HashAlgorithm::Sha256,
        references: Default::default(),
        repair: Repair::No,
    };
    if minor < 25 {
        let mut bytes = Request::AddToStore(content).encode(&peer.dialect);
        bytes.extend(&nar);
        peer.send(&bytes).await;
        peer.outcome().await.unwrap();
        let store_dir = StoreDir::default();
        let path = peer.read(|from| from.path(&store_dir)).await.unwrap();
        assert!(world.keeper.has(&path));
    } else {
        peer.call_framed(Request::AddToStore(content), &nar, 1000).await.unwrap();
    }
    peer.call(Request::NarFromPath(info.path.clone())).await.unwrap();
    let len = nar.len();
    let read = peer.read_exactly(len).await.unwrap();
    assert_eq!(read, nar);
    assert_eq!(peer.call(Request::IsValidPath(info.path)).await, Ok(Response::Flag(true)));
}

/// What the store's own daemon tells arrives; a client's settings stay with the one that forwards.
#[tokio::test]
async fn what_is_told_meanwhile_goes_over() {
    let world = world();
    let mut peer = connect(&world, 37, &[], 7).await;
    let (info, _) = flat_file("dep", b"x", &[]);
    peer.call(Request::IsValidPath(info.path.clone())).await.unwrap();
    assert_eq!(peer.lines(), "performing daemon worker op: 1\n");
    let options = ClientOptions {
        keep_failed: false,
        keep_going: false,
        fallback: false,
        verbosity: 3,
        max_jobs: 1,
        max_silent_time: 0,
        verbose_build: true,
        cores: 0,
        use_substitutes: false,
        overrides: Default::default(),
    };
    peer.call(Request::SetOptions(options)).await.unwrap();
    peer.log.clear();
    let failed = peer.call(Request::BuildPaths(Vec::new(), BuildMode::Repair)).await;
    assert_eq!(failed, Ok(Response::Done));
    assert_eq!(peer.lines(), "");
}

/// A line's end is what Nix makes it; activities go over as they are.
#[tokio::test]
async fn lines_end_as_in_nix() {
    let (stream, theirs) = UnixStream::pair().unwrap();
    let (near, mut far) = UnixStream::pair().unwrap();
    let (mut forwarding, mut server) = (JoinSet::new(), JoinSet::new());
    forwarding.spawn(forwarder(3).run(wires(theirs), wires(near)));
    server.spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let version = Version { major: 1, minor: 37 };
        let mut magic = [0; 8];
        far.read_exact(&mut magic).await.unwrap();
        far.write_all(&drover_wire::server_hello(version)).await.unwrap();
        far.read_exact(&mut [0; 24]).await.unwrap();
        let mut out = Encoder::new();
        out.text("2.0");
        out.number(1);
        for line in ["one", "two \n \t\n", ""] {
            LogMessage::Next(line.to_owned()).encode(&mut out, 37);
        }
        LogMessage::StopActivity(drover_core::ActivityId(7)).encode(&mut out, 37);
        LogMessage::Last.encode(&mut out, 37);
        far.write_all(&out.into_bytes()).await.unwrap();
        far.read_to_end(&mut Vec::new()).await.unwrap();
    });
    let dialect = Dialect {
        store_dir: StoreDir::default(),
        version: Version { major: 1, minor: 37 },
        features: Default::default(),
    };
    let info = ServerInfo { nix_version: None, trust: drover_store::Trust::Unknown };
    let (buffer, serving) = (BytesMut::new(), JoinSet::new());
    let mut peer = Peer { stream, buffer, dialect, info, log: Vec::new(), serving };
    peer.greet(&[]).await;
    assert_eq!(peer.info.nix_version.as_deref(), Some("2.34.8"));
    assert_eq!(peer.lines(), "one\ntwo\n\n");
    assert_eq!(peer.log[3], LogMessage::StopActivity(drover_core::ActivityId(7)));
    drop(peer);
    forwarding.join_next().await.unwrap().unwrap().unwrap();
    server.join_next().await.unwrap().unwrap();
}
