//! Every operation of the worker protocol, in every version that clients speak, by what each client
//! may do.
#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use drover_core::{
    BuildStatus, ContentAddress, DrvOutput, Field, Hash, HashAlgorithm, IngestionMethod,
    OutputName, PathInfo, Signature, StoreDir, StoreName, StorePath,
};
use drover_daemon::{ClientTrust, DaemonError, Limits, Policy};
use drover_derivation::{BasicDerivation, Derivation, Output};
use drover_store::contract::flat_file;
use drover_store::{
    AfterFailure, BuildMode, CollectAction, Liveness, Repair, SignatureCheck, Substitute,
    VerifyDepth,
};
use drover_wire::{
    ClientOptions, DerivedPath, Encoder, FEATURE_REALISATION_WITH_PATH, GarbageRequest, LogMessage,
    MadeDerivation, MadeOutputs, NewContent, OutputId, RealisedOutput, Request, Response,
    SubstitutableInfo, encode_keyed_path_info,
};
use proptest::prelude::*;
use rstest::rstest;
use support::keeper::path_named;
use support::{Peer, World, world, world_with};
use tokio::io::AsyncWriteExt as _;

const TRUSTED: ClientTrust = ClientTrust::Trusted;
const UNTRUSTED: ClientTrust = ClientTrust::NotTrusted;

fn signed(mut info: PathInfo, key: &str) -> PathInfo {
    info.signatures.insert(signature(key));
    info
}

fn signature(key: &str) -> Signature {
    format!("{key}:{}A==", "A".repeat(85)).parse().expect("a signature")
}

/// A derivation that the store has, and the path of its output.
fn derivation(world: &World, name: &str, variables: &[(&str, &str)]) -> (StorePath, StorePath) {
    let (path, derivation) = basic(name, variables);
    let output = derivation.outputs.values().next().unwrap().path().unwrap().clone();
    let text = Derivation::from(derivation).to_aterm(&StoreDir::default());
    let (mut info, nar) = flat_file(path.name(), &text, &[]);
    info.path = path.clone();
    world.keeper.put(&info, &nar);
    (path, output)
}

/// An input-addressed derivation, whose path and output are as good as any.
fn basic(name: &str, variables: &[(&str, &str)]) -> (StorePath, BasicDerivation) {
    let (info, _) = flat_file(&format!("{name}.drv"), b"", &[]);
    let (out, _) = flat_file(name, b"out", &[]);
    let environment =
        variables.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()));
    let derivation = BasicDerivation {
        name: name.parse::<StoreName>().unwrap(),
        outputs: BTreeMap::from([(OutputName::out(), Output::InputAddressed(out.path))]),
        input_sources: BTreeSet::new(),
        system: "x86_64-linux".to_owned(),
        builder: b"/bin/sh".to_vec().into(),
        args: Vec::new(),
        environment: environment.collect(),
    };
    (info.path, derivation)
}

/// The same with an output whose contents are given.
fn fixed(name: &str) -> (StorePath, BasicDerivation) {
    let (path, mut derivation) = basic(name, &[("text", "fixed")]);
    let address = ContentAddress {
        method: IngestionMethod::Flat,
        hash: Hash::of(HashAlgorithm::Sha256, b"fixed"),
    };
    let out = OutputName::out();
    let output = Output::fixed(&StoreDir::default(), &derivation.name, &out, address).unwrap();
    derivation.outputs = BTreeMap::from([(out, output)]);
    (path, derivation)
}

fn options(overrides: &[(&str, &str)]) -> Request {
    let overrides = overrides.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    Request::SetOptions(ClientOptions {
        keep_failed: true,
        keep_going: true,
        fallback: false,
        verbosity: 3,
        max_jobs: 4,
        max_silent_time: 7,
        verbose_build: false,
        cores: 2,
        use_substitutes: false,
        overrides: overrides.collect(),
    })
}

fn garbage(action: CollectAction, paths: &[&StorePath], liveness: Liveness) -> Request {
    let paths = paths.iter().map(|path| (*path).clone()).collect();
    Request::CollectGarbage(GarbageRequest { action, paths, liveness, max_freed: u64::MAX })
}

async fn add(
    peer: &mut Peer,
    info: &PathInfo,
    nar: &[u8],
    check: SignatureCheck,
) -> Result<Response, String> {
    call_with_nar(peer, Request::AddToStoreNar(info.clone(), check), nar).await
}

/// NARs come in frames from 1.23 on.
async fn call_with_nar(peer: &mut Peer, request: Request, nar: &[u8]) -> Result<Response, String> {
    match peer.dialect.version.minor {
        ..23 => peer.call_tunnelled(request, nar).await,
        23.. => peer.call_framed(request, nar, 37).await,
    }
}

/// Versions in which an operation has another form each time, as far as it's there.
fn minors_of(operation: &str) -> &'static [u8] {
    match operation {
        "add-signed" | "add-unsigned" | "add-unchecked" | "add-repairing" => &[21, 22, 24, 34, 38],
        "add-text" => &[21, 24, 34, 38],
        "add-content" | "add-content-repairing" => &[25, 34, 38],
        "add-many-unchecked" | "add-many-repairing" | "add-log" => &[32, 34, 38],
        _ => &[38],
    }
}

// ---- versions

#[tokio::test]
async fn every_version_is_greeted_and_answered() {
    for minor in 21..=38 {
        let world = world();
        let (info, nar) = flat_file("dep", b"contents", &[]);
        world.keeper.put(&info, &nar);
        let mut peer = world.connect(TRUSTED, minor).await;
        let nix_version = (minor >= 33).then(|| "2.34.8".to_owned());
        assert_eq!(peer.info.nix_version, nix_version, "1.{minor}");
        let trust =
            if minor >= 35 { drover_store::Trust::Trusted } else { drover_store::Trust::Unknown };
        assert_eq!(peer.info.trust, trust, "1.{minor}");
        let found = peer.call(Request::QueryPathInfo(info.path.clone())).await;
        assert_eq!(found, Ok(Response::PathInfo(Some(Box::new(info.clone())))), "1.{minor}");
        let bad = peer.call(Request::EnsurePath(flat_file("absent", b"", &[]).0.path)).await;
        assert!(bad.unwrap_err().ends_with("-absent' is not valid"), "1.{minor}");
        let valid = peer.call(Request::IsValidPath(info.path)).await;
        assert_eq!(valid, Ok(Response::Flag(true)), "1.{minor}");
    }
}

#[rstest]
#[case::older(20, "peer speaks worker protocol 1.20; 1.21 or newer")]
#[case::much_older(9, "peer speaks worker protocol 1.9; 1.21 or newer")]
#[tokio::test]
async fn versions_too_old_are_told(#[case] minor: u64, #[case] expected: &str) {
    let world = world();
    let (mut ours, theirs) = tokio::io::duplex(4096);
    let mut out = Encoder::new();
    out.number(0x6e69_7863);
    out.number(0x100 | minor);
    ours.write_all(&out.into_bytes()).await.unwrap();
    let (input, output) = tokio::io::split(theirs);
    let error = world.server.serve(support::client(TRUSTED), input, output).await.unwrap_err();
    assert!(error.to_string().contains(expected), "{error}");
    let mut said = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut ours, &mut said).await.unwrap();
    assert!(String::from_utf8_lossy(&said).contains(expected));
}

#[tokio::test]
async fn every_version_adds_nars_in_its_own_way() {
    for minor in 21..=38 {
        let world = world();
        let (info, nar) = flat_file("file", &vec![b'x'; 200_000], &[]);
        let mut peer = world.connect(TRUSTED, minor).await;
        let request = Request::AddToStoreNar(info.clone(), SignatureCheck::Skip);
        if minor >= 23 {
            assert_eq!(peer.call_framed(request, &nar, 1000).await, Ok(Response::Nothing));
        } else {
            peer.send(&request.encode(&peer.dialect.clone())).await;
            send_tunnelled(&mut peer, &nar).await;
            peer.outcome().await.unwrap();
        }
        assert!(world.keeper.has(&info.path), "1.{minor}");
        let valid = peer.call(Request::IsValidPath(info.path)).await;
        assert_eq!(valid, Ok(Response::Flag(true)), "1.{minor}");
    }
}

/// Sends a NAR piece by piece as the server asks for it.
async fn send_tunnelled(peer: &mut Peer, mut nar: &[u8]) {
    let minor = peer.dialect.version.minor;
    while !nar.is_empty() {
        let message = peer.read(|from| LogMessage::decode(from, minor)).await.unwrap();
        let LogMessage::Read(wanted) = message else { panic!("{message:?}") };
        let (piece, rest) = nar.split_at(nar.len().min(usize::try_from(wanted).unwrap()));
        let mut out = Encoder::new();
        out.bytes(piece);
        peer.send(&out.into_bytes()).await;
        nar = rest;
    }
}

#[rstest]
#[case::flat(IngestionMethod::Flat)]
#[case::nar(IngestionMethod::Nar)]
#[tokio::test]
async fn every_version_adds_contents_in_its_own_way(#[case] method: IngestionMethod) {
    let mut paths = BTreeSet::new();
    for minor in 21..=38 {
        let world = world();
        let mut peer = world.connect(UNTRUSTED, minor).await;
        let new = NewContent {
            name: "source".to_owned(),
            method,
            algorithm: HashAlgorithm::Sha256,
            references: BTreeSet::new(),
            repair: Repair::No,
        };
        let (_, nar) = flat_file("source", b"the contents", &[]);
        let flat = method == IngestionMethod::Flat;
        let path = if minor >= 25 {
            let data: &[u8] = if flat { b"the contents" } else { &nar };
            match peer.call_framed(Request::AddToStore(new), data, 5).await.unwrap() {
                Response::Added(info) => info.path,
                other => panic!("{other:?}"),
            }
        } else {
            let request = Request::AddToStore(new);
            let mut wire = request.encode(&peer.dialect.clone());
            wire.extend_from_slice(&nar);
            peer.send(&wire).await;
            match peer.answer(&request).await.unwrap() {
                Response::Path(path) => path,
                other => panic!("{other:?}"),
            }
        };
        assert!(world.keeper.has(&path), "1.{minor}");
        assert_eq!(&world.keeper.state().paths[&path].1, &nar, "1.{minor}");
        let valid = peer.call(Request::IsValidPath(path.clone())).await;
        assert_eq!(valid, Ok(Response::Flag(true)), "1.{minor}");
        paths.insert(path);
    }
    assert_eq!(paths.len(), 1, "the same path in every version");
}

#[tokio::test]
async fn a_bare_nar_that_is_no_file_is_refused_for_a_flat_path_and_the_next_request_is_answered() {
    let world = world();
    let mut peer = world.connect(TRUSTED, 24).await;
    let new = NewContent {
        name: "source".to_owned(),
        method: IngestionMethod::Flat,
        algorithm: HashAlgorithm::Sha256,
        references: BTreeSet::new(),
        repair: Repair::No,
    };
    let request = Request::AddToStore(new);
    let mut wire = request.encode(&peer.dialect.clone());
    for word in ["nix-archive-1", "(", "type", "symlink", "target", "/x", ")"] {
        let mut out = Encoder::new();
        out.text(word);
        wire.extend(out.into_bytes());
    }
    peer.send(&wire).await;
    assert!(peer.answer(&request).await.unwrap_err().contains("regular file expected"));
    assert_eq!(peer.call(Request::SyncWithGc).await, Ok(Response::Done));
}

// ---- trust

/// What each operation comes to for clients who aren't trusted and who are. `ok` or a part of the
/// refusal. Those who may not connect at all never get here; `sockets.rs` has them.
#[rstest]
#[case::is_valid("is-valid", "ok", "ok")]
#[case::query_all("query-all", "ok", "ok")]
#[case::add_temp_root("temp-root", "ok", "ok")]
#[case::add_signed("add-signed", "ok", "ok")]
#[case::add_unsigned("add-unsigned", "lacks a signature by a trusted key", "lacks a signature")]
#[case::add_unchecked("add-unchecked", "lacks a signature by a trusted key", "ok")]
#[case::add_repairing("add-repairing", "not privileged to repair", "ok")]
#[case::add_many_unchecked("add-many-unchecked", "lacks a signature by a trusted key", "ok")]
#[case::add_many_repairing("add-many-repairing", "not privileged to repair", "ok")]
#[case::add_content("add-content", "ok", "ok")]
#[case::add_content_repairing("add-content-repairing", "not privileged to repair", "ok")]
#[case::add_text("add-text", "ok", "ok")]
#[case::add_log("add-log", "you are not privileged to add logs", "ok")]
#[case::add_perm_root("perm-root", "you are not privileged to create perm roots", "ok")]
#[case::add_indirect_root("indirect-root", "ok", "ok")]
#[case::sign("sign", "ok", "ok")]
#[case::build("build", "ok", "ok")]
#[case::build_results("build-results", "ok", "ok")]
#[case::build_repair(
    "build-repair",
    "repairing is not allowed because you are not in 'trusted-users'",
    "ok"
)]
#[case::build_check("build-check", "ok", "ok")]
#[case::build_input_addressed(
    "build-input-addressed",
    "you are not privileged to build input-addressed derivations",
    "ok"
)]
#[case::build_fixed("build-fixed", "ok", "ok")]
#[case::collect("collect", "ok", "ok")]
#[case::collect_ignoring(
    "collect-ignoring",
    "you are not allowed to ignore liveness",
    "you are not allowed to ignore liveness"
)]
#[case::verify("verify", "ok", "ok")]
#[case::verify_repair("verify-repair", "you are not privileged to repair paths", "ok")]
#[case::optimise("optimise", "ok", "ok")]
#[case::find_roots("find-roots", "ok", "ok")]
#[case::realisation("register", "ok", "ok")]
#[case::substitutable_infos("substitutable-infos", "ok", "ok")]
#[tokio::test]
async fn what_clients_may_do(
    #[case] operation: &str,
    #[case] untrusted: &str,
    #[case] trusted: &str,
) {
    let whose = [(UNTRUSTED, untrusted), (TRUSTED, trusted)];
    for (minor, (trust, expected)) in
        minors_of(operation).iter().flat_map(|minor| whose.map(|whose| (*minor, whose)))
    {
        let what = format!("{operation} {trust:?} 1.{minor}");
        let world = world();
        let mut peer = world.connect(trust, minor).await;
        let result = perform(&world, &mut peer, operation).await;
        match expected {
            "ok" => assert_eq!(result, Ok(()), "{what}"),
            expected => {
                let error = result.unwrap_err();
                assert!(error.contains(expected), "{what}: {error}");
            }
        }
        // whatever came of it, the connection goes on
        assert_eq!(peer.call(Request::SyncWithGc).await, Ok(Response::Done), "{what}");
    }
}

async fn perform(world: &World, peer: &mut Peer, operation: &str) -> Result<(), String> {
    let (info, nar) = flat_file("here", b"x", &[]);
    world.keeper.put(&info, &nar);
    let (new, new_nar) = flat_file("new", b"y", &[]);
    let (drv, _) = derivation(world, "thing", &[("text", "t")]);
    let outputs = || vec![DerivedPath::All(drv.clone())];
    let content = |repair| {
        Request::AddToStore(NewContent {
            name: "c".to_owned(),
            method: IngestionMethod::Flat,
            algorithm: HashAlgorithm::Sha256,
            references: BTreeSet::new(),
            repair,
        })
    };
    let many = || {
        let mut out = Encoder::new();
        out.number(1);
        encode_keyed_path_info(&mut out, &StoreDir::default(), &new);
        [out.into_bytes(), new_nar.to_vec()].concat()
    };
    let skip = SignatureCheck::Skip;
    let done = match operation {
        "is-valid" => peer.call(Request::IsValidPath(info.path)).await,
        "query-all" => peer.call(Request::QueryAllValidPaths).await,
        "temp-root" => peer.call(Request::AddTempRoot(info.path)).await,
        "add-signed" => {
            add(peer, &signed(new, "trusted-1"), &new_nar, SignatureCheck::AsConfigured).await
        }
        "add-unsigned" => {
            add(peer, &signed(new, "other-1"), &new_nar, SignatureCheck::AsConfigured).await
        }
        "add-unchecked" => add(peer, &new, &new_nar, skip).await,
        "add-repairing" => {
            call_with_nar(peer, Request::RepairToStoreNar(new, skip), &new_nar).await
        }
        "add-many-unchecked" => {
            peer.call_framed(Request::AddMultipleToStore(skip), &many(), 9).await
        }
        "add-many-repairing" => {
            peer.call_framed(Request::RepairMultipleToStore(skip), &many(), 9).await
        }
        "add-content" => peer.call_framed(content(Repair::No), b"abc", 2).await,
        "add-content-repairing" => peer.call_framed(content(Repair::Yes), b"abc", 2).await,
        "add-text" => {
            let text = Request::AddTextToStore("t".into(), b"text".to_vec(), BTreeSet::new());
            peer.call(text).await
        }
        "add-log" => peer.call_framed(Request::AddBuildLog(drv), b"the log\n", 3).await,
        "perm-root" => peer.call(Request::AddPermRoot(info.path, "/tmp/r".into())).await,
        "indirect-root" => peer.call(Request::AddIndirectRoot("/tmp/r".into())).await,
        "sign" => peer.call(Request::AddSignatures(info.path, [signature("k-1")].into())).await,
        "build" => peer.call(Request::BuildPaths(outputs(), BuildMode::Normal)).await,
        "build-results" => {
            peer.call(Request::BuildPathsWithResults(outputs(), BuildMode::Normal)).await
        }
        "build-repair" => peer.call(Request::BuildPaths(outputs(), BuildMode::Repair)).await,
        "build-check" => peer.call(Request::BuildPaths(outputs(), BuildMode::Check)).await,
        "build-input-addressed" => {
            let (path, basic) = basic("ia", &[("text", "t")]);
            peer.call(Request::BuildDerivation(path, Box::new(basic), BuildMode::Normal)).await
        }
        "build-fixed" => {
            let (path, basic) = fixed("fod");
            peer.call(Request::BuildDerivation(path, Box::new(basic), BuildMode::Normal)).await
        }
        "collect" => peer.call(garbage(CollectAction::DeleteDead, &[], Liveness::Respect)).await,
        "collect-ignoring" => {
            peer.call(garbage(CollectAction::DeleteGiven, &[&drv], Liveness::Ignore)).await
        }
        "verify" => peer.call(Request::VerifyStore(VerifyDepth::Contents, Repair::No)).await,
        "verify-repair" => {
            peer.call(Request::VerifyStore(VerifyDepth::Contents, Repair::Yes)).await
        }
        "optimise" => peer.call(Request::OptimiseStore).await,
        "find-roots" => peer.call(Request::FindRoots).await,
        "register" => peer.call(Request::RegisterDrvOutput(realised(&info.path))).await,
        "substitutable-infos" => {
            peer.call(Request::QuerySubstitutablePathInfos([(info.path, None)].into())).await
        }
        other => panic!("{other}"),
    };
    done.map(drop)
}

fn realised(path: &StorePath) -> RealisedOutput {
    let hash = Hash::of(HashAlgorithm::Sha256, b"drv");
    let output = OutputId::Hash(DrvOutput { hash, output: OutputName::out() });
    RealisedOutput { output, path: path.clone(), signatures: BTreeSet::new() }
}

#[tokio::test]
async fn a_content_addressed_derivation_is_named_anew_for_clients_who_are_not_trusted() {
    for (trust, renamed) in [(UNTRUSTED, true), (TRUSTED, false)] {
        let world = world();
        let mut peer = world.connect(trust, 38).await;
        let (claimed, basic) = fixed("fod");
        let expected =
            Derivation::from(basic.clone()).derivation_path(&StoreDir::default()).unwrap();
        assert_ne!(claimed, expected);
        let request = Request::BuildDerivation(claimed.clone(), Box::new(basic), BuildMode::Normal);
        let Ok(Response::BuildResult(result)) = peer.call(request).await else { panic!() };
        assert_eq!(result.status, BuildStatus::Built);
        let built = world.realiser.built.lock().unwrap().clone();
        assert_eq!(built, [if renamed { expected.clone() } else { claimed }]);
        assert_eq!(world.keeper.has(&expected), renamed);
    }
}

#[tokio::test]
async fn nobody_but_trusted_clients_says_that_a_path_was_built_here() {
    let whose = [(UNTRUSTED, false), (TRUSTED, true)];
    for (minor, (trust, ultimate)) in
        [21, 22, 24, 34, 38].into_iter().flat_map(|minor| whose.map(|whose| (minor, whose)))
    {
        let world = world();
        let mut peer = world.connect(trust, minor).await;
        let (mut info, nar) = flat_file("new", b"y", &[]);
        info = signed(info, "trusted-1");
        info.ultimate = true;
        add(&mut peer, &info, &nar, SignatureCheck::AsConfigured).await.unwrap();
        let added = world.keeper.state().paths[&info.path].0.ultimate;
        assert_eq!(added, ultimate, "1.{minor}");
    }
}

#[tokio::test]
async fn what_others_do_is_hidden() {
    let world = world();
    let (info, nar) = flat_file("here", b"x", &[]);
    world.keeper.put(&info, &nar);
    {
        let mut state = world.keeper.state();
        state.links.insert("/proc/7/exe".into(), Some(info.path.clone()));
        state.links.insert("/home/ann/result".into(), Some(info.path.clone()));
    }
    let mut other = world.trusted().await;
    other.call(Request::AddTempRoot(info.path.clone())).await.unwrap();
    let links = |roots: Result<Response, String>| match roots {
        Ok(Response::Roots(roots)) => roots.into_iter().map(|(link, _)| link).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let mut untrusted = world.untrusted().await;
    let seen = links(untrusted.call(Request::FindRoots).await);
    assert_eq!(seen, ["/home/ann/result", "{censored}"]);
    let seen = links(other.call(Request::FindRoots).await);
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().any(|link| link.starts_with("{temp:")), "{seen:?}");
}

#[rstest]
#[case::timeout("timeout", "9", true)]
#[case::max_silent_time("max-silent-time", "9", true)]
#[case::poll("build-poll-interval", "9", true)]
#[case::connect("connect-timeout", "9", true)]
#[case::no_builders("builders", "", true)]
#[case::builders("builders", "ssh://evil", false)]
#[case::hook("post-build-hook", "/tmp/evil", false)]
#[case::sandbox("sandbox", "false", false)]
#[case::sandbox_paths("sandbox-paths", "/etc", false)]
#[case::system_features("system-features", "kvm", false)]
#[case::keys("trusted-public-keys", "x:y", false)]
#[case::require_sigs("require-sigs", "false", false)]
#[case::build_users("build-users-group", "", false)]
#[case::substituters("substituters", "https://cache.example.org", true)]
#[tokio::test]
async fn settings_of_clients_who_are_not_trusted(
    #[case] name: &str,
    #[case] value: &str,
    #[case] allowed: bool,
) {
    let policy = Policy {
        trusted_substituters: vec!["https://cache.example.org/".to_owned()],
        ..Policy::default()
    };
    let warning = format!(
        "warning:\u{1b}[0m ignoring the client-specified setting '{name}', because it is a \
         restricted setting and you are not a trusted user\n"
    );
    for trust in [UNTRUSTED, TRUSTED] {
        let world = world_with(Limits::default(), policy.clone());
        let (drv, _) = derivation(&world, "thing", &[("text", "t")]);
        let mut peer = world.connect(trust, 38).await;
        peer.call(options(&[(name, value)])).await.unwrap();
        let expected = allowed || trust == TRUSTED;
        assert_eq!(peer.lines().contains(&warning), !expected, "{trust:?}: {}", peer.lines());
        let build = Request::BuildPaths(vec![DerivedPath::All(drv)], BuildMode::Normal);
        peer.call(build).await.unwrap();
        let settings = world.realiser.settings.lock().unwrap().clone().unwrap();
        let seen = match name {
            "timeout" => settings.build.timeout.map(|time| time.as_secs().to_string()),
            "max-silent-time" => settings.build.max_silent_time.map(|t| t.as_secs().to_string()),
            name => settings.build.overrides.get(name).cloned(),
        };
        assert_eq!(seen.as_deref(), expected.then_some(value), "{trust:?}");
        assert_eq!(settings.after_failure, AfterFailure::KeepGoing);
        assert_eq!(settings.substitute, Substitute::No);
        assert_eq!((settings.build.cores, settings.build.keep_failed), (Some(2), true));
        assert_eq!(settings.build.overrides["max-jobs"], "4");
    }
}

/// Numbers that nobody means are not passed on as they are.
#[rstest]
#[case::meant(64, 64)]
#[case::not_meant(10_000_000, 65_536)]
#[case::most(u64::MAX, 65_536)]
#[tokio::test]
async fn cores_and_builds_at_once_have_a_bound(#[case] said: u64, #[case] expected: u32) {
    let world = world();
    let (drv, _) = derivation(&world, "thing", &[("text", "t")]);
    let mut peer = world.untrusted().await;
    let Request::SetOptions(usual) = options(&[]) else { panic!() };
    let options = ClientOptions { max_jobs: said, cores: said, ..usual };
    peer.call(Request::SetOptions(options)).await.unwrap();
    let build = Request::BuildPaths(vec![DerivedPath::All(drv)], BuildMode::Normal);
    peer.call(build).await.unwrap();
    let settings = world.realiser.settings.lock().unwrap().clone().unwrap();
    assert_eq!(settings.build.cores, Some(expected));
    assert_eq!(settings.build.overrides["max-jobs"], expected.to_string());
}

#[rstest]
#[case::outputs("keep-outputs", "true", "[KeepOutputs(true)]")]
#[case::old_name("gc-keep-outputs", "1", "[KeepOutputs(true)]")]
#[case::derivations("keep-derivations", "false", "[KeepDerivations(false)]")]
#[case::optimise("auto-optimise-store", "true", "[Optimise(OnImport)]")]
#[case::never("auto-optimise-store", "no", "[Optimise(OnDemand)]")]
#[case::keys("trusted-public-keys", "", "[TrustedKeys(TrustedKeys({}))]")]
#[case::no_switch("keep-outputs", "perhaps", "[]")]
#[tokio::test]
async fn what_trusted_clients_have_the_store_do(
    #[case] name: &str,
    #[case] value: &str,
    #[case] expected: &str,
) {
    for trust in [UNTRUSTED, TRUSTED] {
        for asks_before in [false, true] {
            let world = world();
            let mut peer = world.connect(trust, 38).await;
            if asks_before {
                peer.call(Request::FindRoots).await.unwrap();
            }
            peer.call(options(&[(name, value)])).await.unwrap();
            peer.call(Request::FindRoots).await.unwrap();
            let own = format!("{:?}", world.keeper.state().own);
            assert_eq!(own, if trust == TRUSTED { expected } else { "[]" });
            // each takes the place of the one before
            peer.call(options(&[])).await.unwrap();
            assert!(world.keeper.state().own.is_empty());
        }
    }
    let world = world();
    let mut peer = world.trusted().await;
    peer.call(options(&[("keep-outputs", "perhaps")])).await.unwrap();
    let expected = "Boolean setting 'keep-outputs' has invalid value 'perhaps'";
    assert!(peer.lines().contains(expected), "{}", peer.lines());
}

#[tokio::test]
async fn a_substituter_that_nobody_vouches_for_is_left_out_and_named() {
    let policy =
        Policy { substituters: vec!["https://good.example".to_owned()], ..Policy::default() };
    let world = world_with(Limits::default(), policy);
    let (drv, _) = derivation(&world, "thing", &[("text", "t")]);
    let mut peer = world.untrusted().await;
    let value = "https://good.example/ https://evil.example";
    peer.call(options(&[("substituters", value)])).await.unwrap();
    let expected = "ignoring untrusted substituter 'https://evil.example', you are not a trusted";
    assert!(peer.lines().contains(expected), "{}", peer.lines());
    let build = Request::BuildPaths(vec![DerivedPath::All(drv)], BuildMode::Normal);
    peer.call(build).await.unwrap();
    let settings = world.realiser.settings.lock().unwrap().clone().unwrap();
    assert_eq!(settings.build.overrides["substituters"], "https://good.example/");
}

// ---- builds

/// A derivation whose output is a derivation, and what that one's output is.
fn maker(world: &World, inner: &[(&str, &str)]) -> (StorePath, StorePath) {
    let (_, made) = basic("made", inner);
    let output = made.outputs.values().next().unwrap().path().unwrap().clone();
    let text = Derivation::from(made).to_aterm(&StoreDir::default());
    let (drv, _) = derivation(world, "made.drv", &[("text", &String::from_utf8(text).unwrap())]);
    (drv, output)
}

fn made(derivation: &StorePath, steps: &[&str]) -> DerivedPath {
    let steps = steps.iter().map(|step| (*step).to_owned()).collect();
    let made = MadeDerivation { derivation: derivation.clone(), steps };
    DerivedPath::Made(made, MadeOutputs::Some(BTreeSet::from(["out".to_owned()])))
}

#[tokio::test]
async fn what_derivations_make_is_built_step_by_step() {
    let world = world();
    let (drv, out) = maker(&world, &[("text", "t")]);
    let (plain, plain_out) = derivation(&world, "plain", &[("text", "p")]);
    let mut peer = world.trusted().await;
    let asked = vec![made(&drv, &["out"]), DerivedPath::All(plain)];
    let build = Request::BuildPathsWithResults(asked, BuildMode::Normal);
    let Ok(Response::BuildResults(results)) = peer.call(build).await else { panic!() };
    let outputs: Vec<_> = results.iter().map(|(_, result)| result.outputs["out"].clone()).collect();
    assert_eq!(outputs, [out.clone(), plain_out]);
    assert_eq!(results[0].0, format!("{}!out!out", StoreDir::default().display(&drv)));
    assert!(world.keeper.has(&out));
}

#[rstest]
#[case::failing(&[("fail", "1")], &["out"], "builder for '/nix/store/")]
#[case::no_such_output(&[("text", "t")], &["dev"], "output 'dev' of '/nix/store/")]
#[case::no_derivation(&[("text", "t")], &["out", "out"], "', which is not a derivation")]
#[tokio::test]
async fn what_is_not_made_is_named(
    #[case] inner: &[(&str, &str)],
    #[case] steps: &[&str],
    #[case] expected: &str,
) {
    let world = world();
    let (drv, _) = maker(&world, inner);
    let mut peer = world.trusted().await;
    let error = peer.call(Request::BuildPaths(vec![made(&drv, steps)], BuildMode::Normal)).await;
    let error = error.unwrap_err();
    assert!(error.contains(expected), "{error}");
    // nor is what can't be made itself
    let (drv, _) = derivation(&world, "broken.drv", &[("fail", "1")]);
    let build = Request::BuildPathsWithResults(vec![made(&drv, &["out"])], BuildMode::Normal);
    let Ok(Response::BuildResults(results)) = peer.call(build).await else { panic!() };
    let (_, result) = &results[0];
    assert_eq!(result.status, BuildStatus::DependencyFailed);
    assert!(result.error.contains("failed to obtain derivation of '/nix/store/"), "{result:?}");
    assert!(result.error.contains("builder for '/nix/store/"), "{result:?}");
}

#[tokio::test]
async fn builds_are_told_as_nix_tells_them() {
    let world = world();
    let (drv, out) = derivation(&world, "thing", &[("text", "t")]);
    let mut peer = world.trusted().await;
    let build =
        Request::BuildPathsWithResults(vec![DerivedPath::All(drv.clone())], BuildMode::Normal);
    let Ok(Response::BuildResults(results)) = peer.call(build).await else { panic!() };
    let (key, result) = &results[0];
    let whole = StoreDir::default().display(&drv);
    assert_eq!((key, result.status), (&format!("{whole}!*"), BuildStatus::Built));
    assert_eq!(result.outputs, BTreeMap::from([("out".to_owned(), out)]));
    let mut running = None;
    let mut told = Vec::new();
    // first of all that the request is there, as clients may give a silent server up
    let whole_of_it =
        |message: &LogMessage| matches!(message, LogMessage::StartActivity { kind: 102, .. });
    assert!(peer.log.first().is_some_and(whole_of_it), "{:?}", peer.log);
    for message in peer.log.iter().filter(|message| !whole_of_it(message)) {
        match message {
            LogMessage::StartActivity { id, kind, fields, text, level, .. } if *kind == 105 => {
                assert_eq!(text, &format!("building '{whole}' on 'ssh://b1'"));
                assert_eq!(*level, 3);
                let machine = Field::Text("ssh://b1".to_owned());
                let expected =
                    [Field::Text(whole.clone()), machine, Field::Number(1), Field::Number(1)];
                assert_eq!(fields, &expected);
                running = Some(*id);
            }
            LogMessage::StartActivity { kind, text, .. } => {
                assert_eq!(*kind, 111);
                assert_eq!(text, &format!("waiting for a machine to build '{whole}'"));
            }
            LogMessage::Result { id, kind, fields } => {
                assert_eq!(Some(*id), running);
                told.push((*kind, fields.clone()));
            }
            LogMessage::StopActivity(id) if Some(*id) == running => running = None,
            LogMessage::StopActivity(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(running, None, "all activities end");
    let text = |text: &str| vec![Field::Text(text.to_owned())];
    let expected = [(104, text("buildPhase")), (101, text("hello from b1"))];
    assert_eq!(told, expected);
}

#[tokio::test]
async fn what_is_fetched_is_told_as_nix_tells_it() {
    let world = world();
    let there = path_named("there");
    world.keeper.state().substitutable.insert(there.clone());
    let mut peer = world.connect(UNTRUSTED, 38).await;
    assert_eq!(peer.call(Request::EnsurePath(there.clone())).await, Ok(Response::Done));
    let whole = StoreDir::default().display(&there);
    let [
        LogMessage::StartActivity { id: one, kind: 108, fields, text, level: 0, .. },
        LogMessage::StartActivity {
            id: two,
            kind: 100,
            fields: copied,
            text: copies,
            level: 3,
            parent,
        },
        LogMessage::Result { id: come, kind: 105, .. },
        LogMessage::StopActivity(first),
        LogMessage::StopActivity(last),
    ] = peer.log.as_slice()
    else {
        panic!("{:?}", peer.log)
    };
    let shown = |texts: &[&str]| -> Vec<Field> {
        texts.iter().map(|text| Field::Text(text.to_string())).collect()
    };
    assert_eq!((fields, text.as_str()), (&shown(&[&whole, "https://cache"]), ""));
    assert_eq!(*copied, shown(&[&whole, "https://cache", "local"]));
    assert_eq!(*copies, format!("copying path '{whole}' from 'https://cache'"));
    assert_eq!((parent, come, first, last), (one, two, two, one));
}

#[rstest]
#[case::old(25, 100)]
#[case::new(26, 1)]
#[tokio::test]
async fn a_failed_build_has_its_message_and_of_old_its_exit_status(
    #[case] minor: u8,
    #[case] status: u64,
) {
    let world = world();
    let (drv, _) = derivation(&world, "bad", &[("fail", "1")]);
    let (other, _) = derivation(&world, "worse", &[("fail", "1")]);
    let mut peer = world.connect(TRUSTED, minor).await;
    let request = Request::BuildPaths(vec![DerivedPath::All(drv.clone())], BuildMode::Normal);
    peer.send(&request.encode(&peer.dialect.clone())).await;
    let error = peer.outcome().await.unwrap_err();
    assert_eq!(error.message, format!("builder for '/nix/store/{drv}' failed with exit code 1"));
    assert_eq!(error.status, status);
    let both = vec![DerivedPath::All(drv.clone()), DerivedPath::All(other.clone())];
    let failed = peer.call(Request::BuildPaths(both, BuildMode::Normal)).await.unwrap_err();
    let mut names = [format!("'/nix/store/{drv}'"), format!("'/nix/store/{other}'")];
    names.sort();
    assert_eq!(failed, format!("build of {} failed", names.join(", ")));
    assert!(peer.lines().contains(&format!("builder for '/nix/store/{other}' failed")));
}

#[tokio::test]
async fn a_build_ends_when_its_client_goes() {
    let limits = Limits { after_hangup: Duration::from_millis(50), ..Limits::default() };
    let world = world_with(limits, Policy::default());
    let (drv, _) = derivation(&world, "long", &[("hang", "1")]);
    let mut peer = world.trusted().await;
    let request = Request::BuildPaths(vec![DerivedPath::All(drv)], BuildMode::Normal);
    peer.send(&request.encode(&peer.dialect.clone())).await;
    while world.realiser.running.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    let Peer { stream, mut serving, .. } = peer;
    drop(stream);
    let ended = serving.join_next().await.unwrap().unwrap();
    let gone = matches!(ended, Err(DaemonError::Gone { .. } | DaemonError::Lost { .. }));
    assert!(gone, "{ended:?}");
    assert_eq!(world.realiser.running.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_client_that_closes_its_side_at_once_still_gets_its_answers() {
    let world = world();
    let (info, nar) = flat_file("here", b"x", &[]);
    world.keeper.put(&info, &nar);
    let mut peer = world.trusted().await;
    let request = Request::IsValidPath(info.path);
    let wire = request.encode(&peer.dialect.clone());
    peer.send(&[wire.clone(), wire.clone(), wire].concat()).await;
    peer.stream.shutdown().await.unwrap();
    for _ in 0..3 {
        assert_eq!(peer.answer(&request).await, Ok(Response::Flag(true)));
    }
    assert!(peer.is_closed().await);
}

#[tokio::test]
async fn a_reader_that_sleeps_keeps_nobody_from_building_and_hears_the_end() {
    let world = world();
    let (drv, _) = derivation(&world, "chatty", &[("lines", "100000"), ("text", "t")]);
    let mut peer = world.trusted().await;
    let request = Request::BuildPaths(vec![DerivedPath::All(drv)], BuildMode::Normal);
    peer.send(&request.encode(&peer.dialect.clone())).await;
    // nothing is read, and the build goes through
    while world.realiser.built.lock().unwrap().is_empty()
        || world.realiser.running.load(Ordering::SeqCst) > 0
    {
        tokio::task::yield_now().await;
    }
    assert_eq!(peer.answer(&request).await, Ok(Response::Done));
    assert!(peer.lines().contains("[log truncated: "), "{}", peer.lines());
    let last = peer.log.iter().rev().find_map(|message| match message {
        LogMessage::Result { fields, .. } => fields.first().cloned(),
        _ => None,
    });
    let Some(Field::Text(last)) = last else { panic!("no lines") };
    assert!(last.starts_with("line 99999 "), "{last}");
}

// ---- slow and hostile clients

#[tokio::test(start_paused = true)]
async fn a_slow_sender_is_given_up_and_holds_up_nobody() {
    let limits = Limits { window: Duration::from_secs(60), least: 1000, ..Limits::default() };
    let world = world_with(limits, Policy::default());
    let (info, nar) = flat_file("x", &vec![7; 100_000], &[]);
    let mut slow = world.trusted().await;
    let request = Request::AddToStoreNar(info.clone(), SignatureCheck::Skip);
    let mut wire = request.encode(&slow.dialect.clone());
    wire.extend(drover_wire::frame_header(nar.len()));
    slow.send(&wire).await;
    let mut fast = world.trusted().await;
    add(&mut fast, &info, &nar, SignatureCheck::Skip).await.unwrap();
    let mut sent = 0;
    let ended = loop {
        tokio::select! {
            ended = slow.serving.join_next() => break ended.unwrap().unwrap(),
            () = tokio::time::sleep(Duration::from_secs(1)) => {
                let byte = &nar[sent..=sent];
                sent += usize::from(slow.stream.write_all(byte).await.is_ok());
            }
        }
    };
    assert!(matches!(ended, Err(DaemonError::TooSlow { .. })), "{ended:?}");
    assert!((30..200).contains(&sent), "{sent} bytes");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_is_given_up() {
    let world = world();
    let (_ours, theirs) = tokio::io::duplex(64);
    let (input, output) = tokio::io::split(theirs);
    let ended = world.server.serve(support::client(TRUSTED), input, output).await;
    assert!(matches!(ended, Err(DaemonError::TooSlow { doing: "greeting" })), "{ended:?}");
}

#[tokio::test]
async fn what_follows_a_refused_path_is_passed_over() {
    let world = world();
    let mut peer = world.untrusted().await;
    let (info, nar) = flat_file("big", &vec![7; 3_000_000], &[]);
    for _ in 0..3 {
        let refused = add(&mut peer, &info, &nar, SignatureCheck::Skip).await.unwrap_err();
        assert!(refused.contains("lacks a signature"), "{refused}");
    }
    assert_eq!(peer.call(Request::IsValidPath(info.path)).await, Ok(Response::Flag(false)));
}

#[tokio::test]
async fn a_nar_that_is_not_what_was_announced_is_refused_in_nix_s_words() {
    let world = world();
    let mut peer = world.trusted().await;
    let (info, nar) = flat_file("x", b"contents", &[]);
    let mut other = nar.to_vec();
    other[100] ^= 1;
    let error = add(&mut peer, &info, &other, SignatureCheck::Skip).await.unwrap_err();
    assert!(
        error.starts_with(&format!(
            "hash mismatch importing path '/nix/store/{}';\n  specified: ",
            info.path
        )),
        "{error}"
    );
    let error = add(&mut peer, &info, &nar[..64], SignatureCheck::Skip).await.unwrap_err();
    assert!(error.starts_with("size mismatch importing path"), "{error}");
    assert!(!world.keeper.has(&info.path));
}

#[rstest]
#[case::unknown(200, "invalid operation 200")]
#[case::export(16, "invalid operation 16: ExportPath was removed from the protocol")]
#[case::import(27, "invalid operation 27: ImportPaths was removed")]
#[case::failed(24, "invalid operation 24: QueryFailedPaths was removed")]
#[case::reserved(49, "invalid operation 49: AddTempRoots is not part of any version")]
#[tokio::test]
async fn operations_that_are_not_offered_are_named_and_end_the_connection(
    #[case] operation: u64,
    #[case] expected: &str,
) {
    let world = world();
    let mut peer = world.trusted().await;
    peer.send(&operation.to_le_bytes()).await;
    let error = peer.outcome().await.unwrap_err();
    assert!(error.message.starts_with(expected), "{}", error.message);
    assert!(peer.is_closed().await);
}

#[tokio::test]
async fn a_path_that_is_none_is_told_and_ends_the_connection() {
    let world = world();
    let mut peer = world.trusted().await;
    let mut out = Encoder::new();
    out.number(1);
    out.text("/nix/store/../../etc/shadow");
    peer.send(&out.into_bytes()).await;
    let error = peer.outcome().await.unwrap_err();
    assert!(error.message.contains("'/nix/store/../../etc/shadow' is not a store path"));
    assert!(peer.is_closed().await);
}

// ---- temporary roots, garbage, realisations

#[tokio::test]
async fn temporary_roots_last_as_long_as_the_connection() {
    let world = world();
    let (info, nar) = flat_file("here", b"x", &[]);
    world.keeper.put(&info, &nar);
    let mut holder = world.untrusted().await;
    holder.call(Request::AddTempRoot(info.path.clone())).await.unwrap();
    let mut collector = world.trusted().await;
    let delete = || garbage(CollectAction::DeleteGiven, &[&info.path], Liveness::Respect);
    let error = collector.call(delete()).await.unwrap_err();
    assert!(error.contains("still alive"), "{error}");
    let Peer { stream, mut serving, .. } = holder;
    drop(stream);
    serving.join_next().await.unwrap().unwrap().unwrap();
    let Ok(Response::Garbage(result)) = collector.call(delete()).await else { panic!() };
    assert_eq!(result.paths, [format!("/nix/store/{}", info.path)]);
    assert_eq!(result.bytes_freed, nar.len() as u64);
}

#[tokio::test]
async fn realisations_in_all_three_encodings() {
    for (minor, features) in [(27, vec![]), (34, vec![]), (38, vec![FEATURE_REALISATION_WITH_PATH])]
    {
        let world = world();
        let (info, nar) = flat_file("here", b"x", &[]);
        world.keeper.put(&info, &nar);
        let (drv, _) = derivation(&world, "thing", &[]);
        let mut peer = Peer::connect_with(&world.server, TRUSTED, minor, &features).await;
        let mut realised = realised(&info.path);
        if !features.is_empty() {
            assert!(peer.dialect.realisations_with_path());
            realised.output = OutputId::Derivation(drv, OutputName::out());
        }
        let query = || Request::QueryRealisation(realised.output.clone());
        assert_eq!(peer.call(query()).await, Ok(Response::Realisation(None)), "1.{minor}");
        peer.call(Request::RegisterDrvOutput(realised.clone())).await.unwrap();
        let found = peer.call(query()).await;
        assert_eq!(found, Ok(Response::Realisation(Some(Box::new(realised.clone())))), "1.{minor}");
        assert_eq!(world.keeper.state().realisations.len(), 1);
    }
}

#[tokio::test]
async fn a_nar_comes_bare_behind_its_answer_and_requests_may_be_ahead() {
    let world = world();
    let (info, nar) = flat_file("big", &vec![9; 1_000_000], &[]);
    world.keeper.put(&info, &nar);
    let mut peer = world.trusted().await;
    let wire = [
        Request::NarFromPath(info.path.clone()).encode(&peer.dialect),
        Request::NarFromPath(flat_file("absent", b"", &[]).0.path).encode(&peer.dialect),
        Request::SyncWithGc.encode(&peer.dialect),
    ]
    .concat();
    peer.send(&wire).await;
    peer.outcome().await.unwrap();
    while peer.buffer.len() < nar.len() {
        tokio::io::AsyncReadExt::read_buf(&mut peer.stream, &mut peer.buffer).await.unwrap();
    }
    assert_eq!(Bytes::from(peer.buffer.split_to(nar.len())), nar);
    assert!(peer.outcome().await.unwrap_err().message.ends_with("-absent' is not valid"));
    assert_eq!(peer.answer(&Request::SyncWithGc).await, Ok(Response::Done));
}

#[tokio::test]
async fn the_old_questions_have_answers() {
    let world = world();
    let (dep, dep_nar) = flat_file("dep", b"x", &[]);
    let (mut info, nar) = flat_file("here", b"x", &[&dep]);
    let (drv, out) = derivation(&world, "thing", &[]);
    info.deriver = Some(drv.clone());
    world.keeper.put(&dep, &dep_nar);
    world.keeper.put(&info, &nar);
    world.keeper.state().substitutable.insert(out.clone());
    let mut peer = world.connect(UNTRUSTED, 21).await;
    let path = || info.path.clone();
    let paths = |path: &StorePath| Response::Paths([path.clone()].into());
    for (request, expected) in [
        (Request::QueryReferences(path()), paths(&dep.path)),
        (Request::QueryReferrers(dep.path.clone()), paths(&info.path)),
        (Request::QueryDeriver(path()), Response::OptionalPath(Some(drv.clone()))),
        (Request::QueryValidDerivers(path()), paths(&drv)),
        (Request::QueryPathHash(path()), Response::NarHash(info.nar_hash)),
        (Request::HasSubstitutes(out.clone()), Response::Flag(true)),
        (Request::HasSubstitutes(path()), Response::Flag(false)),
        (Request::QuerySubstitutablePaths([out.clone()].into()), paths(&out)),
        (Request::QueryDerivationOutputs(drv.clone()), paths(&out)),
        (Request::QueryDerivationOutputNames(drv), Response::Names(["out".to_owned()].into())),
        (
            Request::QueryPathFromHashPart(info.path.hash_part().to_owned()),
            Response::OptionalPath(Some(path())),
        ),
    ] {
        assert_eq!(peer.call(request.clone()).await, Ok(expected), "{request:?}");
    }
}

#[tokio::test]
async fn what_substituters_say_of_paths_is_told() {
    let world = world();
    let [there, nowhere] = ["there", "nowhere"].map(path_named);
    world.keeper.state().substitutable.insert(there.clone());
    let info = SubstitutableInfo {
        deriver: Some(path_named("thing.drv")),
        references: [path_named("dep")].into(),
        download_size: 7,
        nar_size: 77,
    };
    let told = Response::Substitutables([(there.clone(), info.clone())].into());
    for minor in [21, 38] {
        let mut peer = world.connect(UNTRUSTED, minor).await;
        let query = || {
            Request::QuerySubstitutablePathInfos(
                [(there.clone(), None), (nowhere.clone(), None)].into(),
            )
        };
        let one = Request::QuerySubstitutablePathInfo;
        let found = Response::Substitutable(Some(Box::new(info.clone())));
        assert_eq!(peer.call(one(there.clone())).await, Ok(found), "1.{minor}");
        let none = Response::Substitutable(None);
        assert_eq!(peer.call(one(nowhere.clone())).await, Ok(none.clone()), "1.{minor}");
        assert_eq!(peer.call(query()).await, Ok(told.clone()), "1.{minor}");
        // who wants none to be asked
        peer.call(options(&[])).await.unwrap();
        assert_eq!(peer.call(one(there.clone())).await, Ok(none), "1.{minor}");
        let nothing = Response::Substitutables(BTreeMap::new());
        assert_eq!(peer.call(query()).await, Ok(nothing), "1.{minor}");
    }
}

#[tokio::test]
async fn a_stop_ends_connections_that_wait_and_lets_others_finish() {
    let limits = Limits { farewell: Duration::from_secs(1), ..Limits::default() };
    let world = world_with(limits, Policy::default());
    let mut idle = world.trusted().await;
    world.server.stop();
    // it was only thinking
    assert_eq!(idle.call(Request::SyncWithGc).await, Ok(Response::Done));
    assert!(idle.is_closed().await);
    assert!(idle.serving.join_next().await.unwrap().unwrap().is_ok());
}

// ---- noise

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever a client says, the server neither panics nor hangs.
    #[test]
    fn noise_ends_in_an_error_or_an_answer(
        minor in 21u8..=38, operation in 0u64..52, noise: Vec<u8>, trusted: bool,
        counts in prop::collection::vec(0u64..4, 0..12),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let world = world();
            let trust = if trusted { TRUSTED } else { UNTRUSTED };
            let mut peer = world.connect(trust, minor).await;
            let mut wire = operation.to_le_bytes().to_vec();
            counts.iter().for_each(|count| wire.extend(count.to_le_bytes()));
            wire.extend(&noise);
            drop(peer.stream.write_all(&wire).await);
            drop(peer.stream.shutdown().await);
            let reading = tokio::io::AsyncReadExt::read_to_end(&mut peer.stream, &mut Vec::new()).await;
            drop(reading);
            let ended = peer.serving.join_next().await.unwrap();
            assert!(ended.is_ok(), "{ended:?}");
        });
    }
}
