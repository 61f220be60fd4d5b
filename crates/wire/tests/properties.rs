//! Whatever is written in a dialect is read again in it; no bytes make a reader panic, read on
//! behind what there is, or take a message that is cut for a whole one.

#![allow(clippy::indexing_slicing, reason = "a test may panic")]

mod support;

use drover_core::{IngestionMethod, PathInfo, Repair, StoreDir, Substitute};
use drover_wire::{
    BuildResult, DecodeError, Decoder, DerivedPath, Dialect, Encoder, LogMessage, NewContent,
    Request, Response, ServeDialect, ServeRequest, Version, WORKER_LATEST, decode_keyed_path_info,
    decode_serve_build_result, decode_serve_path_infos, encode_keyed_path_info,
    encode_serve_build_result, encode_serve_path_infos, read_client_end, read_client_magic,
    read_client_version, read_features, read_frame_header, read_serve_client_hello,
    read_serve_server_hello, read_server_hello, read_server_info,
};
use proptest::prelude::*;
use support::*;

/// Reads a whole message, and each of its beginnings.
fn read<T: PartialEq + std::fmt::Debug>(
    wire: &[u8],
    decode: impl Fn(&mut Decoder<'_>) -> Result<T, DecodeError>,
) -> T {
    let mut longer = wire.to_vec();
    longer.extend([0xff; 16]);
    let mut decoder = Decoder::new(&longer);
    let value = decode(&mut decoder).expect("what was written is read");
    assert_eq!(decoder.consumed(), wire.len(), "reads its own bytes and no more");
    for len in 0..wire.len() {
        match decode(&mut Decoder::new(&wire[..len])) {
            Err(DecodeError::Incomplete { missing }) => {
                assert!(missing > 0 && missing <= wire.len() - len, "asks for {missing} at {len}");
            }
            other => panic!("cut at {len} of {}: {other:?}", wire.len()),
        }
    }
    value
}

fn encoded(encode: impl FnOnce(&mut Encoder)) -> Vec<u8> {
    let mut out = Encoder::new();
    encode(&mut out);
    out.into_bytes()
}

/// What of contents to be added is left in a version.
fn addable(mut content: NewContent, dialect: &Dialect) -> NewContent {
    if !dialect.since(25) {
        content.references.clear();
        content.repair = Repair::No;
        if content.method != IngestionMethod::Nar {
            content.method = IngestionMethod::Flat;
        }
    }
    content
}

/// What of a result is left in a version.
fn in_version(mut result: BuildResult, dialect: &Dialect) -> BuildResult {
    if !dialect.since(29) {
        (result.times_built, result.non_deterministic) = (0, false);
        (result.start_time, result.stop_time) = (0, 0);
    }
    if !dialect.since(37) {
        (result.cpu_user, result.cpu_system) = (None, None);
    }
    if !dialect.since(28) {
        result.outputs.clear();
    }
    result
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn requests(dialect in dialect(), request in request()) {
        let wire = request.encode(&dialect);
        let expected = match request {
            Request::QueryValidPaths(paths, _) if !dialect.since(27) => {
                Request::QueryValidPaths(paths, Substitute::No)
            }
            Request::AddToStore(content) => Request::AddToStore(addable(content, &dialect)),
            Request::QuerySubstitutablePathInfos(paths) if !dialect.since(22) => {
                Request::QuerySubstitutablePathInfos(
                    paths.into_keys().map(|path| (path, None)).collect(),
                )
            }
            request => request,
        };
        prop_assert_eq!(read(&wire, |from| Request::decode(from, &dialect)), expected);
    }

    #[test]
    fn realisations((dialect, realised) in dialect().prop_flat_map(|dialect| {
        let realised = realised(&dialect);
        (Just(dialect), realised)
    }), found: bool) {
        let register = Request::RegisterDrvOutput(realised.clone());
        let wire = register.encode(&dialect);
        prop_assert_eq!(read(&wire, |from| Request::decode(from, &dialect)), register);
        let query = Request::QueryRealisation(realised.output.clone());
        let wire = query.encode(&dialect);
        prop_assert_eq!(&read(&wire, |from| Request::decode(from, &dialect)), &query);
        let answer = Response::Realisation(found.then(|| Box::new(realised)));
        let wire = encoded(|out| answer.encode(out, &dialect));
        prop_assert_eq!(read(&wire, |from| Response::decode(from, &dialect, &query)), answer);
    }

    #[test]
    fn responses(dialect in dialect(), exchange in exchange()) {
        let (request, response) = exchange;
        let wire = encoded(|out| response.encode(out, &dialect));
        prop_assert_eq!(read(&wire, |from| Response::decode(from, &dialect, &request)), response);
    }

    #[test]
    fn build_results(dialect in dialect(), (path, drv) in derivation(), result in build_result()) {
        let response = Response::BuildResult(Box::new(result.clone()));
        let request =
            Request::BuildDerivation(path, Box::new(drv), drover_core::BuildMode::Normal);
        let wire = encoded(|out| response.encode(out, &dialect));
        let expected = in_version(result, &dialect);
        let read = read(&wire, |from| Response::decode(from, &dialect, &request));
        prop_assert_eq!(read, Response::BuildResult(Box::new(expected)));
    }

    #[test]
    fn keyed_build_results(dialect in dialect(), path in derivation_path(), results in prop::collection::vec(build_result(), 0..3)) {
        let request = Request::BuildPathsWithResults(
            vec![DerivedPath::All(path)], drover_core::BuildMode::Normal,
        );
        let keyed = |results: Vec<BuildResult>| {
            Response::BuildResults(results.into_iter().map(|r| ("key".to_owned(), r)).collect())
        };
        let wire = encoded(|out| keyed(results.clone()).encode(out, &dialect));
        let expected = results.into_iter().map(|result| in_version(result, &dialect)).collect();
        let read = read(&wire, |from| Response::decode(from, &dialect, &request));
        prop_assert_eq!(read, keyed(expected));
    }

    #[test]
    fn serve_requests(dialect in serve_dialect(), mut request in serve_request()) {
        let wire = request.encode(&dialect);
        if let ServeRequest::BuildPaths(_, options) | ServeRequest::BuildDerivation(_, _, options) = &mut request {
            options.keep_failed &= dialect.version.minor >= 7;
        }
        prop_assert_eq!(read(&wire, |from| ServeRequest::decode(from, &dialect)), request);
    }

    #[test]
    fn serve_results(dialect in serve_dialect(), mut result in build_result()) {
        let wire = encoded(|out| encode_serve_build_result(out, &dialect, &result));
        (result.cpu_user, result.cpu_system) = (None, None);
        if dialect.version.minor < 6 {
            result.outputs.clear();
        }
        prop_assert_eq!(read(&wire, |from| decode_serve_build_result(from, &dialect)), result);
    }

    #[test]
    fn serve_infos(dialect in serve_dialect(), mut infos in prop::collection::vec(info(), 0..4)) {
        let wire = encoded(|out| encode_serve_path_infos(out, &dialect, &infos));
        infos.iter_mut().for_each(|info| (info.registration_time, info.ultimate) = (0, false));
        infos.sort_by(|a, b| a.path.cmp(&b.path));
        let asked = infos.iter().map(|info| info.path.clone()).collect();
        let read = read(&wire, |from| decode_serve_path_infos(from, &dialect, &asked));
        prop_assert_eq!(read.into_values().collect::<Vec<PathInfo>>(), infos);
    }

    #[test]
    fn messages(minor in 21u8..=38, message in log_message()) {
        let wire = encoded(|out| message.encode(out, minor));
        let expected = match message {
            LogMessage::Error(mut error) if minor < 26 => {
                (error.level, error.traces) = (0, Vec::new());
                LogMessage::Error(error)
            }
            message => message,
        };
        prop_assert_eq!(read(&wire, |from| LogMessage::decode(from, minor)), expected);
    }

    #[test]
    fn keyed_infos(info in info()) {
        let store_dir = StoreDir::default();
        let wire = encoded(|out| encode_keyed_path_info(out, &store_dir, &info));
        prop_assert_eq!(read(&wire, |from| decode_keyed_path_info(from, &store_dir)), info);
    }

    #[test]
    fn random_bytes_never_panic(wire: Vec<u8>, dialect in dialect(), serve in serve_dialect(), operation in 0u64..50) {
        decode_as_everything(&wire, &dialect, &serve);
        let mut with_operation = operation.to_le_bytes().to_vec();
        with_operation.extend(&wire);
        decode_as_everything(&with_operation, &dialect, &serve);
    }

    #[test]
    fn altered_bytes_never_panic(dialect in dialect(), serve in serve_dialect(), request in request(), serve_request in serve_request(), result in build_result(), message in log_message(), at: prop::sample::Index, with: u8) {
        let mut wires = vec![
            request.encode(&dialect),
            serve_request.encode(&serve),
            encoded(|out| result.encode(out, &dialect)),
            encoded(|out| encode_serve_build_result(out, &serve, &result)),
            encoded(|out| message.encode(out, dialect.version.minor)),
        ];
        for wire in &mut wires {
            let at = at.index(wire.len());
            wire[at] ^= with;
            decode_as_everything(wire, &dialect, &serve);
        }
    }
}

/// Hands the bytes to every decoder there is. What they say doesn't matter; that they come back
/// does, and that they don't claim to have read more than there is.
fn decode_as_everything(wire: &[u8], dialect: &Dialect, serve: &ServeDialect) {
    let minor = dialect.version.minor;
    let version = Version { major: 1, minor };
    let path: drover_core::StorePath =
        drover_core::StorePath::from_base_name(&format!("{}-x.drv", "0".repeat(32)))
            .expect("a path");
    let requests = [
        Request::QueryPathInfo(path.clone()),
        Request::QueryAllValidPaths,
        Request::IsValidPath(path.clone()),
        Request::QueryMissing(Vec::new()),
        Request::QueryDerivationOutputMap(path.clone()),
        Request::BuildPathsWithResults(Vec::new(), drover_core::BuildMode::Normal),
        Request::QueryPathFromHashPart(String::new()),
    ];
    for request in &requests {
        check(wire, |from| Response::decode(from, dialect, request).map(drop));
    }
    check(wire, |from| Request::decode(from, dialect).map(drop));
    check(wire, |from| ServeRequest::decode(from, serve).map(drop));
    check(wire, |from| LogMessage::decode(from, minor).map(drop));
    check(wire, |from| BuildResult::decode(from, dialect).map(drop));
    check(wire, |from| decode_serve_build_result(from, serve).map(drop));
    check(wire, |from| decode_serve_path_infos(from, serve, &[path.clone()].into()).map(drop));
    check(wire, |from| decode_keyed_path_info(from, &dialect.store_dir).map(drop));
    check(wire, |from| read_server_hello(from, WORKER_LATEST).map(drop));
    check(wire, read_client_magic);
    check(wire, |from| read_client_version(from, WORKER_LATEST).map(drop));
    check(wire, |from| read_features(from, &["x"]).map(drop));
    check(wire, read_client_end);
    check(wire, |from| read_server_info(from, version).map(drop));
    check(wire, |from| read_serve_server_hello(from).map(drop));
    check(wire, |from| read_serve_client_hello(from).map(drop));
    check(wire, |from| read_frame_header(from).map(drop));
}

fn check(wire: &[u8], decode: impl FnOnce(&mut Decoder<'_>) -> Result<(), DecodeError>) {
    let mut decoder = Decoder::new(wire);
    let result = decode(&mut decoder);
    assert!(decoder.consumed() <= wire.len(), "{result:?}");
}
