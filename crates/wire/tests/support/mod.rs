//! Values of all kinds that travel.
#![allow(dead_code, reason = "each test uses some of them")]

use std::collections::{BTreeMap, BTreeSet};

use drover_core::{
    ContentAddress, Hash, HashAlgorithm, IngestionMethod, NarHash, NarSize, OutputName, PathInfo,
    Signature, StoreDir, StoreName, StorePath,
};
use drover_derivation::{BasicDerivation, ByteString, Output};
use drover_wire::{
    ActivityId, BuildMode, BuildResult, BuildStatus, ClientOptions, DerivedPath, Dialect,
    FEATURE_REALISATION_WITH_PATH, Field, Lock, LogMessage, Missing, RemoteError, Request,
    Response, ServeBuildOptions, ServeDialect, ServeRequest, SignatureCheck, Substitute, Version,
};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;

pub(crate) fn dialect() -> impl Strategy<Value = Dialect> {
    (21u8..=38, any::<bool>()).prop_map(|(minor, paths)| Dialect {
        store_dir: StoreDir::default(),
        version: Version { major: 1, minor },
        features: match paths && minor == 38 {
            true => BTreeSet::from([FEATURE_REALISATION_WITH_PATH.to_owned()]),
            false => BTreeSet::new(),
        },
    })
}

pub(crate) fn serve_dialect() -> impl Strategy<Value = ServeDialect> {
    (5u8..=8).prop_map(|minor| ServeDialect {
        store_dir: StoreDir::default(),
        version: Version { major: 2, minor },
    })
}

fn store_name() -> impl Strategy<Value = StoreName> {
    "[a-zA-Z0-9+_?=][a-zA-Z0-9+._?=-]{0,20}".prop_map(|name| name.parse().expect("a name"))
}

/// Never a derivation.
pub(crate) fn path() -> impl Strategy<Value = StorePath> {
    (any::<[u8; 20]>(), "[a-zA-Z0-9+_?=-]{1,20}")
        .prop_map(|(hash, name)| StorePath::new(hash, &name.parse().expect("a name")))
}

pub(crate) fn derivation_path() -> impl Strategy<Value = StorePath> {
    (any::<[u8; 20]>(), store_name()).prop_map(|(hash, name)| drv(hash, &name))
}

fn drv(hash: [u8; 20], name: &StoreName) -> StorePath {
    StorePath::new(hash, &format!("{name}.drv").parse().expect("a name"))
}

pub(crate) fn paths() -> impl Strategy<Value = BTreeSet<StorePath>> {
    btree_set(path(), 0..5)
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z0-9 -]{0,20}", "\\PC{0,20}"]
}

fn signature() -> impl Strategy<Value = Signature> {
    ("[a-z.]{1,9}-1", "[A-Za-z0-9+/]{85}")
        .prop_map(|(key, base64)| format!("{key}:{base64}A==").parse().expect("a signature"))
}

fn content_address() -> impl Strategy<Value = ContentAddress> {
    let method = prop_oneof![
        Just(IngestionMethod::Flat),
        Just(IngestionMethod::Nar),
        Just(IngestionMethod::Text)
    ];
    (method, vec(any::<u8>(), 0..9)).prop_map(|(method, bytes)| ContentAddress {
        method,
        hash: Hash::of(HashAlgorithm::Sha256, &bytes),
    })
}

pub(crate) fn info() -> impl Strategy<Value = PathInfo> {
    let rest =
        (any::<u64>(), any::<bool>(), btree_set(signature(), 0..3), option::of(content_address()));
    (path(), option::of(derivation_path()), any::<[u8; 32]>(), any::<u64>(), paths(), rest)
        .prop_map(|(path, deriver, hash, size, references, rest)| PathInfo {
            path,
            deriver,
            nar_hash: NarHash(hash),
            nar_size: NarSize(size),
            references,
            registration_time: rest.0,
            ultimate: rest.1,
            signatures: rest.2,
            content_address: rest.3,
        })
}

fn outputs(name: StoreName) -> impl Strategy<Value = BTreeMap<OutputName, Output>> {
    let method = || prop_oneof![Just(IngestionMethod::Flat), Just(IngestionMethod::Nar)];
    let output_name = || {
        prop_oneof![Just(OutputName::out()), "[a-z]{1,8}".prop_map(|n| n.parse().expect("a name"))]
    };
    let algorithm = HashAlgorithm::Sha256;
    let fixed = (method(), vec(any::<u8>(), 0..9)).prop_map(move |(method, bytes)| {
        let address = ContentAddress { method, hash: Hash::of(algorithm, &bytes) };
        let out = OutputName::out();
        let output = Output::fixed(&StoreDir::default(), &name, &out, address).expect("an output");
        BTreeMap::from([(out, output)])
    });
    prop_oneof![
        btree_map(output_name(), path().prop_map(Output::InputAddressed), 1..4),
        fixed,
        btree_map(
            output_name(),
            method().prop_map(move |method| Output::Floating { method, algorithm }),
            1..4
        ),
        btree_map(
            output_name(),
            method().prop_map(move |method| Output::Impure { method, algorithm }),
            1..4
        ),
        btree_map(output_name(), Just(Output::Deferred), 1..4),
    ]
}

/// A derivation and its path.
pub(crate) fn derivation() -> impl Strategy<Value = (StorePath, BasicDerivation)> {
    let bytes = || vec(any::<u8>(), 0..20);
    let named = store_name().prop_flat_map(|name| (Just(name.clone()), outputs(name)));
    let rest = (paths(), text(), bytes(), vec(bytes(), 0..4), btree_map(bytes(), bytes(), 0..6));
    (any::<[u8; 20]>(), named, rest).prop_map(|(hash, (name, outputs), rest)| {
        let path = drv(hash, &name);
        let basic = BasicDerivation {
            name,
            outputs,
            input_sources: rest.0,
            system: rest.1,
            builder: rest.2.into(),
            args: rest.3.into_iter().map(ByteString::from).collect(),
            environment: rest.4.into_iter().collect(),
        };
        (path, basic)
    })
}

fn mode() -> impl Strategy<Value = BuildMode> {
    prop_oneof![Just(BuildMode::Normal), Just(BuildMode::Repair), Just(BuildMode::Check)]
}

fn substitute() -> impl Strategy<Value = Substitute> {
    prop_oneof![Just(Substitute::Yes), Just(Substitute::No)]
}

fn check() -> impl Strategy<Value = SignatureCheck> {
    prop_oneof![Just(SignatureCheck::Check), Just(SignatureCheck::Skip)]
}

fn derived() -> impl Strategy<Value = Vec<DerivedPath>> {
    let one = prop_oneof![
        path().prop_map(DerivedPath::Opaque),
        derivation_path().prop_map(DerivedPath::All),
        (derivation_path(), btree_set("[a-z]{1,6}", 1..4))
            .prop_map(|(path, outputs)| DerivedPath::Outputs(path, outputs)),
    ];
    vec(one, 0..4)
}

fn options() -> impl Strategy<Value = ClientOptions> {
    let flags = any::<[bool; 5]>();
    (flags, 0u64..=7, any::<[u64; 3]>(), btree_map("[a-z-]{1,12}", text(), 0..4)).prop_map(
        |(flags, verbosity, numbers, overrides)| ClientOptions {
            keep_failed: flags[0],
            keep_going: flags[1],
            fallback: flags[2],
            verbosity,
            max_jobs: numbers[0],
            max_silent_time: numbers[1],
            verbose_build: flags[3],
            cores: numbers[2],
            use_substitutes: flags[4],
            overrides,
        },
    )
}

/// Every request there is.
pub(crate) fn request() -> impl Strategy<Value = Request> {
    let of_path = (0usize..8, path()).prop_map(|(which, path)| match which {
        0 => Request::IsValidPath(path),
        1 => Request::QueryReferrers(path),
        2 => Request::EnsurePath(path),
        3 => Request::AddTempRoot(path),
        4 => Request::QueryPathInfo(path),
        5 => Request::QueryValidDerivers(path),
        6 => Request::NarFromPath(path),
        _ => Request::QueryDerivationOutputMap(path),
    });
    prop_oneof![
        8 => of_path,
        1 => Just(Request::QueryAllValidPaths),
        1 => text().prop_map(Request::AddIndirectRoot),
        1 => text().prop_map(Request::QueryPathFromHashPart),
        1 => (derived(), mode()).prop_map(|(paths, mode)| Request::BuildPaths(paths, mode)),
        1 => (derived(), mode()).prop_map(|(paths, mode)| Request::BuildPathsWithResults(paths, mode)),
        1 => derived().prop_map(Request::QueryMissing),
        1 => options().prop_map(Request::SetOptions),
        1 => (paths(), substitute()).prop_map(|(paths, s)| Request::QueryValidPaths(paths, s)),
        1 => paths().prop_map(Request::QuerySubstitutablePaths),
        4 => (derivation(), mode()).prop_map(|((path, drv), mode)| Request::BuildDerivation(path, Box::new(drv), mode)),
        1 => (path(), btree_set(signature(), 0..3)).prop_map(|(path, s)| Request::AddSignatures(path, s)),
        2 => (info(), check()).prop_map(|(info, check)| Request::AddToStoreNar(info, check)),
        1 => check().prop_map(Request::AddMultipleToStore),
        1 => derivation_path().prop_map(Request::AddBuildLog),
        1 => (200u64..).prop_map(Request::Unknown),
    ]
}

/// Every request of the serve protocol.
pub(crate) fn serve_request() -> impl Strategy<Value = ServeRequest> {
    let lock = || prop_oneof![Just(Lock::Yes), Just(Lock::No)];
    let options = || {
        (any::<[u64; 3]>(), any::<bool>()).prop_map(|(numbers, keep_failed)| ServeBuildOptions {
            max_silent_time: numbers[0],
            timeout: numbers[1],
            max_log_size: numbers[2],
            keep_failed,
        })
    };
    prop_oneof![
        (lock(), substitute(), paths())
            .prop_map(|(l, s, p)| ServeRequest::QueryValidPaths(l, s, p)),
        paths().prop_map(ServeRequest::QueryPathInfos),
        path().prop_map(ServeRequest::DumpStorePath),
        (vec(text(), 0..4), options()).prop_map(|(p, o)| ServeRequest::BuildPaths(p, o)),
        paths().prop_map(ServeRequest::QueryClosure),
        (derivation(), options()).prop_map(|((p, d), o)| ServeRequest::BuildDerivation(
            p,
            Box::new(d),
            o
        )),
        info().prop_map(ServeRequest::AddToStoreNar),
        (200u64..).prop_map(ServeRequest::Unknown),
    ]
}

/// Results with all that the newest version has.
pub(crate) fn build_result() -> impl Strategy<Value = BuildResult> {
    let status = prop_oneof![
        Just(BuildStatus::Built),
        Just(BuildStatus::AlreadyValid),
        Just(BuildStatus::PermanentFailure),
        Just(BuildStatus::TimedOut),
        Just(BuildStatus::NotDeterministic),
        Just(BuildStatus::NoSubstituters),
    ];
    let times = (any::<[u64; 3]>(), any::<bool>());
    let cpu = (option::of(any::<u64>()), option::of(any::<u64>()));
    (status, text(), times, cpu, btree_map("[a-z]{1,6}", path(), 0..4)).prop_map(
        |(status, error, (times, non_deterministic), (cpu_user, cpu_system), outputs)| {
            BuildResult {
                status,
                error,
                times_built: times[0],
                non_deterministic,
                start_time: times[1],
                stop_time: times[2],
                cpu_user,
                cpu_system,
                outputs,
            }
        },
    )
}

/// A request, and an answer that fits it.
pub(crate) fn exchange() -> impl Strategy<Value = (Request, Response)> {
    let missing = (paths(), paths(), paths(), any::<[u64; 2]>()).prop_map(|(b, s, u, n)| Missing {
        build: b,
        substitute: s,
        unknown: u,
        download_size: n[0],
        nar_size: n[1],
    });
    let map = btree_map("[a-z]{1,6}", option::of(path()), 0..4);
    prop_oneof![
        path().prop_map(|path| (Request::NarFromPath(path), Response::Nothing)),
        path().prop_map(|path| (Request::AddTempRoot(path), Response::Done)),
        (path(), any::<bool>()).prop_map(|(p, f)| (Request::IsValidPath(p), Response::Flag(f))),
        option::of(path()).prop_map(|p| (
            Request::QueryPathFromHashPart("x".to_owned()),
            Response::OptionalPath(p)
        )),
        paths().prop_map(|paths| (Request::QueryAllValidPaths, Response::Paths(paths))),
        path().prop_map(|path| (Request::QueryPathInfo(path), Response::PathInfo(None))),
        info().prop_map(|info| (
            Request::QueryPathInfo(info.path.clone()),
            Response::PathInfo(Some(Box::new(info)))
        )),
        missing.prop_map(|missing| (
            Request::QueryMissing(Vec::new()),
            Response::Missing(Box::new(missing))
        )),
        (derivation_path(), map)
            .prop_map(|(p, m)| (Request::QueryDerivationOutputMap(p), Response::OutputMap(m))),
    ]
}

fn fields() -> impl Strategy<Value = Vec<Field>> {
    vec(prop_oneof![any::<u64>().prop_map(Field::Number), text().prop_map(Field::Text)], 0..4)
}

/// Every message there is, with all that the newest version has.
pub(crate) fn log_message() -> impl Strategy<Value = LogMessage> {
    let error = (any::<u64>(), text(), vec(text(), 0..3)).prop_map(|(level, message, traces)| {
        LogMessage::Error(RemoteError { level, message, status: 1, traces })
    });
    prop_oneof![
        text().prop_map(LogMessage::Next),
        any::<u64>().prop_map(LogMessage::Read),
        vec(any::<u8>(), 0..40).prop_map(LogMessage::Write),
        error,
        Just(LogMessage::Last),
        (any::<[u64; 4]>(), text(), fields()).prop_map(|(n, text, fields)| {
            LogMessage::StartActivity {
                id: ActivityId(n[0]),
                level: n[1],
                kind: n[2],
                text,
                fields,
                parent: ActivityId(n[3]),
            }
        }),
        any::<u64>().prop_map(|id| LogMessage::StopActivity(ActivityId(id))),
        (any::<[u64; 2]>(), fields()).prop_map(|(n, fields)| LogMessage::Result {
            id: ActivityId(n[0]),
            kind: n[1],
            fields,
        }),
    ]
}
