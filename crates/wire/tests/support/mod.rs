//! Values of all kinds that travel.
#![allow(dead_code, reason = "each test uses some of them")]

use std::collections::{BTreeMap, BTreeSet};

use drover_core::{
    ActivityId, BuildMode, BuildStatus, CollectAction, ContentAddress, Field, Hash, HashAlgorithm,
    IngestionMethod, Liveness, NarHash, NarSize, OutputName, PathInfo, Repair, Signature,
    SignatureCheck, StoreDir, StoreName, StorePath, Substitute, VerifyDepth,
};
use drover_derivation::{BasicDerivation, ByteString, Output};
use drover_wire::{
    BuildResult, ClientOptions, DerivedPath, Dialect, FEATURE_REALISATION_WITH_PATH,
    GarbageRequest, GarbageResult, Lock, LogMessage, Missing, NewContent, OutputId, RealisedOutput,
    RemoteError, Request, Response, ServeBuildOptions, ServeDialect, ServeRequest,
    SubstitutableInfo, Version,
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
    prop_oneof![Just(SignatureCheck::AsConfigured), Just(SignatureCheck::Skip)]
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
    let of_path = (0usize..15, path()).prop_map(|(which, path)| match which {
        8 => Request::HasSubstitutes(path),
        9 => Request::QueryPathHash(path),
        10 => Request::QueryReferences(path),
        11 => Request::QueryDeriver(path),
        12 => Request::QuerySubstitutablePathInfo(path),
        13 => Request::QueryDerivationOutputs(path),
        14 => Request::QueryDerivationOutputNames(path),
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
        4 => request_of_late(),
    ]
}

fn repair() -> impl Strategy<Value = Repair> {
    prop_oneof![Just(Repair::No), Just(Repair::Yes)]
}

fn request_of_late() -> impl Strategy<Value = Request> {
    let contents = prop_oneof![Just(VerifyDepth::Existence), Just(VerifyDepth::Contents)];
    let addresses = prop::collection::btree_map(path(), option::of(content_address()), 0..4);
    prop_oneof![
        Just(Request::SyncWithGc),
        Just(Request::FindRoots),
        Just(Request::OptimiseStore),
        new_content().prop_map(Request::AddToStore),
        (text(), vec(any::<u8>(), 0..40), paths())
            .prop_map(|(name, text, refs)| Request::AddTextToStore(name, text, refs)),
        garbage().prop_map(Request::CollectGarbage),
        addresses.prop_map(Request::QuerySubstitutablePathInfos),
        (contents, repair()).prop_map(|(c, r)| Request::VerifyStore(c, r)),
        (info(), check()).prop_map(|(info, check)| Request::RepairToStoreNar(info, check)),
        check().prop_map(Request::RepairMultipleToStore),
        (path(), text()).prop_map(|(path, link)| Request::AddPermRoot(path, link)),
    ]
}

fn new_content() -> impl Strategy<Value = NewContent> {
    let method = prop_oneof![
        Just(IngestionMethod::Flat),
        Just(IngestionMethod::Nar),
        Just(IngestionMethod::Git),
        Just(IngestionMethod::Text)
    ];
    let algorithm = prop_oneof![Just(HashAlgorithm::Sha256), Just(HashAlgorithm::Md5)];
    (text(), method, algorithm, paths(), repair()).prop_map(
        |(name, method, algorithm, references, repair)| NewContent {
            name,
            method,
            algorithm,
            references,
            repair,
        },
    )
}

fn garbage() -> impl Strategy<Value = GarbageRequest> {
    let action = prop_oneof![
        Just(CollectAction::ListLive),
        Just(CollectAction::ListDead),
        Just(CollectAction::DeleteDead),
        Just(CollectAction::DeleteGiven),
    ];
    let liveness = prop_oneof![Just(Liveness::Respect), Just(Liveness::Ignore)];
    (action, paths(), liveness, any::<u64>()).prop_map(|(action, paths, liveness, max_freed)| {
        GarbageRequest { action, paths, liveness, max_freed }
    })
}

/// An output and what it became, as a version can carry it.
pub(crate) fn realised(dialect: &Dialect) -> impl Strategy<Value = RealisedOutput> + use<> {
    let (by_path, signed) = (dialect.realisations_with_path(), dialect.since(31));
    let name = || "[a-z]{1,6}".prop_map(|name| name.parse::<OutputName>().expect("a name"));
    let output = (derivation_path(), vec(any::<u8>(), 0..9), name()).prop_map(
        move |(path, bytes, output)| match by_path {
            true => OutputId::Derivation(path, output),
            false => OutputId::Hash(drover_core::DrvOutput {
                hash: Hash::of(HashAlgorithm::Sha256, &bytes),
                output,
            }),
        },
    );
    (output, path(), btree_set(signature(), 0..3)).prop_map(move |(output, path, signatures)| {
        let signatures = if signed { signatures } else { BTreeSet::new() };
        RealisedOutput { output, path, signatures }
    })
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
        Just(ServeRequest::ImportPaths),
        paths().prop_map(ServeRequest::QueryClosureWithOutputs),
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
                // told, and not read
                known_by: None,
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
        rare_exchange(),
    ]
}

fn rare_exchange() -> impl Strategy<Value = (Request, Response)> {
    let substitutable = || {
        (option::of(derivation_path()), paths(), any::<[u64; 2]>()).prop_map(|(d, r, n)| {
            SubstitutableInfo { deriver: d, references: r, download_size: n[0], nar_size: n[1] }
        })
    };
    let garbage = (vec("[a-z/.]{1,9}", 0..4), any::<u64>())
        .prop_map(|(paths, bytes_freed)| GarbageResult { paths, bytes_freed });
    prop_oneof![
        (path(), any::<[u8; 32]>())
            .prop_map(|(p, h)| (Request::QueryPathHash(p), Response::NarHash(NarHash(h)))),
        (path(), option::of(derivation_path()))
            .prop_map(|(p, d)| (Request::QueryDeriver(p), Response::OptionalPath(d))),
        path().prop_map(|p| (
            Request::AddTextToStore(String::new(), Vec::new(), BTreeSet::new()),
            Response::Path(p)
        )),
        btree_set(("[a-z/{}:]{1,9}", path()), 0..4)
            .prop_map(|roots| (Request::FindRoots, Response::Roots(roots))),
        garbage.prop_map(|g| (
            Request::CollectGarbage(GarbageRequest {
                action: CollectAction::ListDead,
                paths: BTreeSet::new(),
                liveness: Liveness::Respect,
                max_freed: 0
            }),
            Response::Garbage(Box::new(g))
        )),
        (path(), option::of(substitutable())).prop_map(|(p, i)| (
            Request::QuerySubstitutablePathInfo(p),
            Response::Substitutable(i.map(Box::new))
        )),
        btree_map(path(), substitutable(), 0..3).prop_map(|infos| (
            Request::QuerySubstitutablePathInfos(BTreeMap::new()),
            Response::Substitutables(infos)
        )),
        (path(), btree_set("[a-z]{1,6}", 0..4))
            .prop_map(|(p, n)| (Request::QueryDerivationOutputNames(p), Response::Names(n))),
        (path(), text()).prop_map(|(p, t)| (Request::AddPermRoot(p, t.clone()), Response::Text(t))),
        any::<bool>().prop_map(|f| (
            Request::VerifyStore(VerifyDepth::Contents, Repair::No),
            Response::Flag(f)
        )),
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
