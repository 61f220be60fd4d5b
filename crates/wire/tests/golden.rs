//! Conversations between stock Nix and stock Nix, recorded by `golden/make.sh`: every byte of both
//! sides is decoded, and encoded again it is the same.

#![allow(clippy::indexing_slicing, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use drover_core::{BuildStatus, StoreDir};
use drover_nar::{Limits, Parser, Progress};
use drover_wire::{
    BuildResult, DecodeError, Decoder, Dialect, Encoder, LogMessage, Request, Response,
    ServeDialect, ServeRequest, WORKER_LATEST, client_hello, decode_keyed_path_info,
    decode_serve_build_result, decode_serve_path_infos, encode_keyed_path_info,
    encode_serve_build_result, encode_serve_path_infos, exchanges_features, read_client_end,
    read_client_magic, read_client_version, read_features, read_frame_header,
    read_serve_client_hello, read_serve_server_hello, read_server_hello, read_server_info,
    serve_client_hello, write_client_end, write_features, write_server_info,
};
use rstest::rstest;

/// One direction of a conversation.
struct Side {
    bytes: Vec<u8>,
    at: usize,
}

impl Side {
    fn of(folder: &Path, name: &str) -> Side {
        let file = folder.join(name);
        Side {
            bytes: std::fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display())),
            at: 0,
        }
    }

    fn is_at_end(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// Reads one message and returns it with its bytes.
    fn read<T>(
        &mut self,
        decode: impl FnOnce(&mut Decoder<'_>) -> Result<T, DecodeError>,
    ) -> (T, Vec<u8>) {
        let mut decoder = Decoder::new(&self.bytes[self.at..]);
        let value =
            decode(&mut decoder).unwrap_or_else(|error| panic!("at byte {}: {error}", self.at));
        let start = self.at;
        self.at += decoder.consumed();
        (value, self.bytes[start..self.at].to_vec())
    }

    fn nar(&mut self) -> usize {
        let mut parser = Parser::new(Limits::of_size(1 << 20));
        match parser.feed(&self.bytes[self.at..], &mut ()).expect("a NAR") {
            Progress::Done { consumed } => {
                self.at += consumed;
                consumed
            }
            Progress::More => panic!("NAR at byte {} is cut", self.at),
        }
    }

    /// Reads framed data to its end.
    fn frames(&mut self) -> Vec<u8> {
        let mut data = Vec::new();
        loop {
            let (len, _) = self.read(read_frame_header);
            let len = usize::try_from(len).expect("a small frame");
            if len == 0 {
                return data;
            }
            data.extend_from_slice(&self.bytes[self.at..self.at + len]);
            self.at += len;
        }
    }
}

fn encoded(encode: impl FnOnce(&mut Encoder)) -> Vec<u8> {
    let mut out = Encoder::new();
    encode(&mut out);
    out.into_bytes()
}

/// What was learned from a conversation.
#[derive(Default)]
struct Said {
    operations: BTreeSet<u64>,
    results: Vec<BuildResult>,
    errors: Vec<String>,
}

fn worker_greeting(client: &mut Side, server: &mut Side, store_dir: &StoreDir) -> Dialect {
    client.read(read_client_magic);
    let (version, _) = client.read(|from| read_client_version(from, WORKER_LATEST));
    assert_eq!(client.bytes[..client.at], client_hello(version));
    let (version, _) = server.read(|from| read_server_hello(from, version));
    let mut features = BTreeSet::new();
    if exchanges_features(version) {
        let (theirs, bytes) = client.read(|from| read_features(from, &[]));
        assert_eq!(bytes, encoded(|out| write_features(out, &[])));
        features = theirs;
        server.read(|from| read_features(from, &[]));
    }
    let dialect = Dialect { store_dir: store_dir.clone(), version, features };
    assert_eq!(client.read(read_client_end).1, encoded(write_client_end));
    let (info, bytes) = server.read(|from| read_server_info(from, version));
    assert_eq!(bytes, encoded(|out| write_server_info(out, &dialect, &info)));
    assert_eq!(messages(server, &dialect), None);
    dialect
}

/// Reads a server's messages; returns its error if that is the last.
fn messages(server: &mut Side, dialect: &Dialect) -> Option<String> {
    let minor = dialect.version.minor;
    loop {
        let (message, bytes) = server.read(|from| LogMessage::decode(from, minor));
        assert_eq!(bytes, encoded(|out| message.encode(out, minor)), "{message:?}");
        match message {
            LogMessage::Last => return None,
            LogMessage::Error(error) => return Some(error.message),
            _ => {}
        }
    }
}

fn worker_data(client: &mut Side, dialect: &Dialect, request: &Request) {
    match request {
        Request::AddToStoreNar(info, _) => {
            assert_eq!(client.frames().len() as u64, info.nar_size.0);
        }
        Request::AddMultipleToStore(_) => {
            let mut data = Side { bytes: client.frames(), at: 0 };
            let (count, _) = data.read(|from| from.number());
            for _ in 0..count {
                let store_dir = &dialect.store_dir;
                let (info, bytes) = data.read(|from| decode_keyed_path_info(from, store_dir));
                assert_eq!(bytes, encoded(|out| encode_keyed_path_info(out, store_dir, &info)));
                assert_eq!(data.nar() as u64, info.nar_size.0);
            }
            assert!(data.is_at_end());
        }
        _ => {}
    }
}

fn walk_worker(folder: &Path) -> Said {
    let (mut client, mut server) = (Side::of(folder, "client"), Side::of(folder, "server"));
    let dialect = worker_greeting(&mut client, &mut server, &StoreDir::default());
    let mut said = Said::default();
    while !client.is_at_end() {
        let (request, bytes) = client.read(|from| Request::decode(from, &dialect));
        assert!(!matches!(request, Request::Unknown(_)), "{request:?}");
        assert_same(&bytes, &request.encode(&dialect), None, &request);
        said.operations.insert(request.operation());
        worker_data(&mut client, &dialect, &request);
        if let Some(error) = messages(&mut server, &dialect) {
            said.errors.push(error);
            continue;
        }
        let (response, bytes) = server.read(|from| Response::decode(from, &dialect, &request));
        let again = encoded(|out| response.encode(out, &dialect));
        match &response {
            Response::BuildResult(result) if !result.outputs.is_empty() => {
                // the ids of JSON realisations have another hash, as in Nix since 2.35
                let read = BuildResult::decode(&mut Decoder::new(&again), &dialect);
                assert_eq!(read.as_ref(), Ok(&**result));
            }
            _ => assert_eq!(bytes, again, "{response:?}"),
        }
        match response {
            Response::BuildResult(result) => said.results.push(*result),
            Response::BuildResults(results) => {
                said.results.extend(results.into_iter().map(|(_, r)| r))
            }
            _ => {}
        }
        if matches!(request, Request::NarFromPath(_)) {
            server.nar();
        }
    }
    assert!(server.is_at_end(), "{} bytes are left", server.bytes.len() - server.at);
    said
}

/// Where the serve protocol's "enforce determinism" stands, counted from the end of a request. It
/// belonged to building in several rounds; old clients say 1 there and we 0.
fn obsolete(request: &ServeRequest, dialect: &ServeDialect) -> Option<usize> {
    match request {
        ServeRequest::BuildDerivation(..) if dialect.version.minor >= 7 => Some(16),
        ServeRequest::BuildDerivation(..) => Some(8),
        _ => None,
    }
}

fn assert_same(theirs: &[u8], ours: &[u8], obsolete: Option<usize>, what: &dyn std::fmt::Debug) {
    let mut theirs = theirs.to_vec();
    if let Some(at) = obsolete.and_then(|from_end| theirs.len().checked_sub(from_end)) {
        theirs[at] = 0;
    }
    let same = theirs == ours;
    assert!(same, "{what:?}: {} and {}", theirs.escape_ascii(), ours.escape_ascii());
}

fn walk_serve(folder: &Path) -> Said {
    let (mut client, mut server) = (Side::of(folder, "client"), Side::of(folder, "server"));
    let (version, mut hello) = client.read(read_serve_client_hello);
    hello[8..].copy_from_slice(&serve_client_hello()[8..]);
    assert_eq!(hello, serve_client_hello(), "apart from the version");
    let (servers, _) = server.read(read_serve_server_hello);
    let dialect = ServeDialect { store_dir: StoreDir::default(), version: version.min(servers) };
    let mut said = Said::default();
    while !client.is_at_end() {
        let (request, bytes) = client.read(|from| ServeRequest::decode(from, &dialect));
        assert_same(&bytes, &request.encode(&dialect), obsolete(&request, &dialect), &request);
        said.operations.insert(u64::from(bytes[0]));
        match &request {
            ServeRequest::QueryValidPaths(..) | ServeRequest::QueryClosure(_) => {
                server.read(|from| from.paths(&dialect.store_dir));
            }
            ServeRequest::QueryPathInfos(asked) => {
                let (infos, bytes) =
                    server.read(|from| decode_serve_path_infos(from, &dialect, asked));
                let infos: Vec<_> = infos.into_values().collect();
                assert_eq!(
                    bytes.len(),
                    encoded(|out| encode_serve_path_infos(out, &dialect, &infos)).len()
                );
            }
            ServeRequest::DumpStorePath(_) => drop(server.nar()),
            ServeRequest::AddToStoreNar(info) => {
                assert_eq!(client.nar() as u64, info.nar_size.0);
                assert_eq!(server.read(|from| from.number()).0, 1);
            }
            ServeRequest::BuildDerivation(..) => {
                let (result, bytes) = server.read(|from| decode_serve_build_result(from, &dialect));
                let again = encoded(|out| encode_serve_build_result(out, &dialect, &result));
                if result.outputs.is_empty() {
                    assert_eq!(bytes, again);
                }
                said.results.push(result);
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(server.is_at_end(), "{} bytes are left", server.bytes.len() - server.at);
    said
}

fn folders(version: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(version);
    let entries =
        std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut folders: Vec<PathBuf> =
        entries.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

fn name_of(folder: &Path) -> &str {
    folder.file_name().and_then(|name| name.to_str()).expect("a plain name")
}

#[rstest]
#[case::nix_2_8("2.8")]
#[case::nix_2_26("2.26")]
#[case::nix_2_34("2.34")]
fn every_byte_is_understood(#[case] version: &str) {
    let (mut worker, mut serve) = (BTreeSet::new(), BTreeSet::new());
    for folder in folders(version) {
        println!("{}", folder.display());
        match name_of(&folder).split('-').next() {
            Some("worker") => worker.extend(walk_worker(&folder).operations),
            _ => serve.extend(walk_serve(&folder).operations),
        }
    }
    // path infos, valid paths, referrers, missing, builds of both kinds, NARs both ways
    for operation in [6, 26, 31, 36, 38, 40, 44] {
        assert!(worker.contains(&operation), "operation {operation} is not among the recorded");
    }
    for command in [1, 2, 3, 8, 9] {
        assert!(serve.contains(&command), "command {command} is not among the recorded");
    }
}

#[rstest]
#[case::built("hook-good", BuildStatus::Built, "")]
#[case::failed("hook-fails", BuildStatus::PermanentFailure, "failed with exit code")]
#[case::timed_out("hook-timeout", BuildStatus::TimedOut, "timed out after")]
#[case::silent("hook-silent", BuildStatus::TimedOut, "timed out after")]
fn how_builds_end(
    #[case] name: &str,
    #[case] status: BuildStatus,
    #[case] words: &str,
    #[values("2.8", "2.26", "2.34")] version: &str,
    #[values("worker", "serve")] protocol: &str,
) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(version)
        .join(format!("{protocol}-{name}"));
    let said = if protocol == "worker" { walk_worker(&folder) } else { walk_serve(&folder) };
    let result = said.results.first().expect("a result");
    assert_eq!(result.status, status, "{result:?}");
    assert!(result.error.contains(words), "{result:?}");
}
