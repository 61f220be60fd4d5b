//! The serve protocol in every version, by a scripted client.
#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::{Buf as _, BytesMut};
use drover_core::{BuildStatus, OutputName, PathInfo, StoreDir, StorePath};
use drover_daemon::{DaemonError, ServeServer, WriteAccess};
use drover_derivation::{BasicDerivation, Derivation, Output};
use drover_store::Substitute;
use drover_store::contract::flat_file;
use drover_wire::{
    DecodeError, Decoder, Encoder, Lock, ServeBuildOptions, ServeDialect, ServeRequest, Version,
    decode_serve_build_result, decode_serve_path_infos, read_serve_server_hello,
};
use proptest::prelude::*;
use rstest::rstest;
use support::sockets::Silent;
use support::{World, world};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::task::JoinSet;

struct Client {
    stream: UnixStream,
    buffer: BytesMut,
    dialect: ServeDialect,
    serving: JoinSet<Result<(), DaemonError>>,
}

impl Client {
    async fn connect(world: &World, write: WriteAccess, minor: u8) -> Client {
        let (mut stream, theirs) = UnixStream::pair().unwrap();
        let server = ServeServer::new(&world.server, write, Arc::new(Silent));
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let (input, output) = theirs.into_split();
            server.serve(input, output).await
        });
        let version = Version { major: 2, minor };
        let mut out = Encoder::new();
        out.number(0x390c_9deb);
        out.number(0x200 | u64::from(minor));
        stream.write_all(&out.into_bytes()).await.unwrap();
        let dialect = ServeDialect { store_dir: StoreDir::default(), version };
        let mut client = Client { stream, buffer: BytesMut::new(), dialect, serving };
        client.read(read_serve_server_hello).await;
        client
    }

    async fn ask<T>(
        &mut self,
        request: &ServeRequest,
        decode: impl FnMut(&mut Decoder<'_>) -> Result<T, DecodeError>,
    ) -> T {
        let wire = request.encode(&self.dialect);
        self.stream.write_all(&wire).await.unwrap();
        self.read(decode).await
    }

    async fn read<T>(
        &mut self,
        mut decode: impl FnMut(&mut Decoder<'_>) -> Result<T, DecodeError>,
    ) -> T {
        loop {
            let mut decoder = Decoder::new(&self.buffer);
            match decode(&mut decoder) {
                Ok(value) => {
                    let consumed = decoder.consumed();
                    self.buffer.advance(consumed);
                    return value;
                }
                Err(DecodeError::Incomplete { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            assert!(self.stream.read_buf(&mut self.buffer).await.unwrap() > 0, "it hung up");
        }
    }

    /// What the server says to standard error once it has hung up.
    async fn ending(mut self) -> Result<(), String> {
        self.stream.shutdown().await.unwrap();
        let ended = self.serving.join_next().await.unwrap().unwrap();
        ended.map_err(|error| error.to_string())
    }
}

/// A path that another refers to, both valid.
fn two_paths(world: &World) -> (PathInfo, PathInfo) {
    let (dep, dep_nar) = flat_file("dep", b"dep", &[]);
    let (top, top_nar) = flat_file("top", b"top", &[&dep]);
    world.keeper.put(&dep, &dep_nar);
    world.keeper.put(&top, &top_nar);
    (dep, top)
}

fn set(paths: &[&StorePath]) -> BTreeSet<StorePath> {
    paths.iter().map(|path| (*path).clone()).collect()
}

fn derivation(world: &World, variable: &str) -> (StorePath, BasicDerivation, StorePath) {
    let out = flat_file("thing", b"out", &[]).0.path;
    let derivation = BasicDerivation {
        name: "thing".parse().unwrap(),
        outputs: [(OutputName::out(), Output::InputAddressed(out.clone()))].into(),
        input_sources: BTreeSet::new(),
        system: "x86_64-linux".to_owned(),
        builder: b"/bin/sh".to_vec().into(),
        args: Vec::new(),
        environment: [(variable.as_bytes().to_vec(), b"text".to_vec())].into_iter().collect(),
    };
    let text = Derivation::from(derivation.clone()).to_aterm(&StoreDir::default());
    let (info, nar) = flat_file("thing.drv", &text, &[]);
    world.keeper.put(&info, &nar);
    (info.path, derivation, out)
}

#[tokio::test]
async fn every_version_queries_and_adds() {
    for minor in 5..=8 {
        let world = world();
        let (dep, top) = two_paths(&world);
        let absent = flat_file("absent", b"", &[]).0.path;
        let mut client = Client::connect(&world, WriteAccess::Allowed, minor).await;
        let store_dir = StoreDir::default();
        let asked = set(&[&dep.path, &absent]);
        let query = ServeRequest::QueryValidPaths(Lock::Yes, Substitute::No, asked.clone());
        let valid = client.ask(&query, |from| from.paths(&store_dir)).await;
        assert_eq!(valid, set(&[&dep.path]));
        assert!(!world.keeper.state().temporary.is_empty(), "it is held");
        let dialect = client.dialect.clone();
        let infos = client
            .ask(&ServeRequest::QueryPathInfos(asked.clone()), |from| {
                decode_serve_path_infos(from, &dialect, &asked)
            })
            .await;
        assert_eq!(infos.into_values().collect::<Vec<_>>(), std::slice::from_ref(&dep));
        let closure = ServeRequest::QueryClosure(set(&[&top.path]));
        let closure = client.ask(&closure, |from| from.paths(&store_dir)).await;
        assert_eq!(closure, set(&[&dep.path, &top.path]));
        let (new, nar) = flat_file("new", &vec![b'x'; 300_000], &[&dep]);
        let mut wire = ServeRequest::AddToStoreNar(new.clone()).encode(&client.dialect);
        wire.extend_from_slice(&nar);
        client.stream.write_all(&wire).await.unwrap();
        assert_eq!(client.read(|from| from.number()).await, 1);
        let dump = ServeRequest::DumpStorePath(new.path.clone());
        client.stream.write_all(&dump.encode(&client.dialect)).await.unwrap();
        while client.buffer.len() < nar.len() {
            client.stream.read_buf(&mut client.buffer).await.unwrap();
        }
        assert_eq!(client.buffer.split_to(nar.len()), nar);
        assert_eq!(client.ending().await, Ok(()), "2.{minor}");
    }
}

#[tokio::test]
async fn every_version_builds() {
    for minor in 5..=8 {
        let world = world();
        let options = ServeBuildOptions {
            max_silent_time: 7,
            timeout: 9,
            max_log_size: 11,
            keep_failed: minor >= 7,
        };
        let (path, basic, out) = derivation(&world, "text");
        let mut client = Client::connect(&world, WriteAccess::Allowed, minor).await;
        let dialect = client.dialect.clone();
        let build = ServeRequest::BuildDerivation(path.clone(), Box::new(basic), options);
        let result = client.ask(&build, |from| decode_serve_build_result(from, &dialect)).await;
        assert_eq!(result.status, BuildStatus::Built);
        let outputs = if minor >= 6 { vec![("out".to_owned(), out)] } else { vec![] };
        assert_eq!(result.outputs, outputs.into_iter().collect(), "2.{minor}");
        let settings = world.realiser.settings.lock().unwrap().clone().unwrap();
        assert_eq!(settings.build.timeout.unwrap().as_secs(), 9);
        assert_eq!(settings.build.max_silent_time.unwrap().as_secs(), 7);
        assert_eq!(settings.build.overrides["max-build-log-size"], "11");
        assert_eq!(settings.build.keep_failed, minor >= 7);
        assert_eq!(settings.substitute, drover_store::Substitute::No);
        let paths = vec![StoreDir::default().display(&path)];
        let build = ServeRequest::BuildPaths(paths, options);
        assert_eq!(client.ask(&build, |from| from.number()).await, 0);
        let with_outputs = ServeRequest::QueryClosureWithOutputs(set(&[&path]));
        let store_dir = StoreDir::default();
        let closure = client.ask(&with_outputs, |from| from.paths(&store_dir)).await;
        assert_eq!(closure.len(), 2);
        assert_eq!(client.ending().await, Ok(()), "2.{minor}");
    }
}

#[tokio::test]
async fn a_failed_build_is_a_status_and_a_message() {
    let world = world();
    let (path, _, _) = derivation(&world, "fail");
    let mut client = Client::connect(&world, WriteAccess::Allowed, 7).await;
    let whole = StoreDir::default().display(&path);
    let build = ServeRequest::BuildPaths(vec![whole.clone()], ServeBuildOptions::default());
    let told = client.ask(&build, |from| Ok((from.number()?, from.message()?))).await;
    assert_eq!(told, (100, format!("builder for '{whole}' failed with exit code 1")));
    assert_eq!(client.ending().await, Ok(()));
}

#[rstest]
#[case::add("importing paths is not allowed")]
#[case::import("importing paths is not allowed")]
#[case::build("building paths is not allowed")]
#[case::build_derivation("building paths is not allowed")]
#[tokio::test]
async fn without_leave_to_write_nothing_is_written(#[case] refusal: &str) {
    let world = world();
    let (path, basic, _) = derivation(&world, "text");
    let (new, _) = flat_file("new", b"x", &[]);
    let options = ServeBuildOptions::default();
    let requests = match refusal {
        "building paths is not allowed" => vec![
            ServeRequest::BuildPaths(vec![], options),
            ServeRequest::BuildDerivation(path, Box::new(basic), options),
        ],
        _ => vec![ServeRequest::AddToStoreNar(new), ServeRequest::ImportPaths],
    };
    for request in requests {
        let mut client = Client::connect(&world, WriteAccess::Denied, 7).await;
        client.stream.write_all(&request.encode(&client.dialect)).await.unwrap();
        assert_eq!(client.ending().await, Err(refusal.to_owned()));
    }
    let (dep, _) = two_paths(&world);
    let mut client = Client::connect(&world, WriteAccess::Denied, 7).await;
    let query = ServeRequest::QueryValidPaths(Lock::Yes, Substitute::Yes, set(&[&dep.path]));
    let store_dir = StoreDir::default();
    assert_eq!(client.ask(&query, |from| from.paths(&store_dir)).await.len(), 1);
    assert!(world.keeper.state().temporary.is_empty(), "nothing is held");
}

#[tokio::test]
async fn what_was_exported_is_imported() {
    let world = world();
    let (dep, dep_nar) = flat_file("dep", &vec![b'd'; 700_000], &[]);
    let (top, top_nar) = flat_file("top", b"top", &[&dep]);
    let mut client = Client::connect(&world, WriteAccess::Allowed, 5).await;
    let store_dir = StoreDir::default();
    let mut wire = ServeRequest::ImportPaths.encode(&client.dialect);
    for (info, nar) in [(&dep, &dep_nar), (&top, &top_nar)] {
        let mut out = Encoder::new();
        out.number(1);
        wire.extend(out.into_bytes());
        wire.extend_from_slice(nar);
        let mut out = Encoder::new();
        out.number(0x4558_494e);
        out.path(&store_dir, &info.path);
        out.paths(&store_dir, &info.references);
        out.text("");
        out.number(0);
        wire.extend(out.into_bytes());
    }
    wire.extend(0u64.to_le_bytes());
    client.stream.write_all(&wire).await.unwrap();
    assert_eq!(client.read(|from| from.number()).await, 1);
    for (info, nar) in [(dep, dep_nar), (top, top_nar)] {
        assert_eq!(world.keeper.state().paths[&info.path], (info, nar));
    }
    assert_eq!(client.ending().await, Ok(()));
}

#[rstest]
#[case::export(5, "exporting paths was removed")]
#[case::nonsense(77, "unknown serve command 77")]
#[tokio::test]
async fn commands_that_are_not_offered_are_named(#[case] command: u64, #[case] expected: &str) {
    let world = world();
    let mut client = Client::connect(&world, WriteAccess::Allowed, 7).await;
    client.stream.write_all(&command.to_le_bytes()).await.unwrap();
    let error = client.ending().await.unwrap_err();
    assert!(error.contains(expected), "{error}");
}

#[tokio::test]
async fn a_path_that_is_not_there_ends_the_connection_in_nix_s_words() {
    let world = world();
    let absent = flat_file("absent", b"", &[]).0.path;
    for request in
        [ServeRequest::DumpStorePath(absent.clone()), ServeRequest::QueryClosure(set(&[&absent]))]
    {
        let mut client = Client::connect(&world, WriteAccess::Allowed, 7).await;
        client.stream.write_all(&request.encode(&client.dialect)).await.unwrap();
        let error = client.ending().await.unwrap_err();
        assert_eq!(error, format!("path '/nix/store/{absent}' is not valid"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever a client says, the server neither panics nor hangs.
    #[test]
    fn noise_ends_in_an_error_or_an_answer(
        minor in 5u8..=8, command in 0u64..12, counts in prop::collection::vec(0u64..4, 0..9),
        noise: Vec<u8>,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let world = world();
            let mut client = Client::connect(&world, WriteAccess::Allowed, minor).await;
            let mut wire = command.to_le_bytes().to_vec();
            counts.iter().for_each(|count| wire.extend(count.to_le_bytes()));
            wire.extend(&noise);
            drop(client.stream.write_all(&wire).await);
            drop(client.stream.shutdown().await);
            drop(client.stream.read_to_end(&mut Vec::new()).await);
            let ended = client.serving.join_next().await.unwrap();
            assert!(ended.is_ok(), "{ended:?}");
        });
    }
}
