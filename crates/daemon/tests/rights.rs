//! What each client may do and set: every operation and every setting of Nix 2.34.
#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use drover_core::{
    CollectAction, ContentAddress, DrvOutput, Hash, HashAlgorithm, IngestionMethod, Liveness,
    OutputName, PathInfo, Repair, Signature, SignatureCheck, StoreDir, StoreName, StorePath,
    Substitute, VerifyDepth,
};
use drover_daemon::{ClientTrust, Limits, Policy};
use drover_derivation::{BasicDerivation, Derivation, Output};
use drover_store::BuildMode;
use drover_store::contract::flat_file;
use drover_wire::{
    ClientOptions, DerivedPath, Encoder, GarbageRequest, NewContent, OutputId, RealisedOutput,
    Request, encode_keyed_path_info,
};
use rstest::rstest;
use support::{World, world, world_with};

/// All settings of Nix 2.34.8, by their names and those of old.
const SETTINGS: &str = include_str!("data/settings-2.34.txt");

/// Settings that a client may change who isn't trusted, with a value; all other settings are
/// ignored, and it is told so.
const ALLOWED: &[(&str, &str)] = &[
    ("timeout", "17"),
    ("max-silent-time", "17"),
    ("build-poll-interval", "17"),
    ("connect-timeout", "17"),
];

fn options(overrides: &[(&str, &str)]) -> Request {
    let overrides = overrides.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    Request::SetOptions(ClientOptions {
        keep_failed: false,
        keep_going: false,
        fallback: false,
        verbosity: 3,
        max_jobs: 1,
        max_silent_time: 0,
        verbose_build: false,
        cores: 0,
        use_substitutes: false,
        overrides: overrides.collect(),
    })
}

/// What a build is asked with after a client has said this.
async fn asked_with(trust: ClientTrust, name: &str, value: &str) -> (String, String) {
    let world = world();
    let mut peer = world.connect(trust, 38).await;
    peer.call(options(&[(name, value)])).await.unwrap();
    let (info, nar) = flat_file("x", b"", &[]);
    world.keeper.put(&info, &nar);
    let build = Request::BuildPaths(vec![DerivedPath::Opaque(info.path)], BuildMode::Normal);
    peer.call(build).await.unwrap();
    let settings = world.realiser.settings.lock().unwrap().clone().unwrap();
    (format!("{settings:?}"), peer.lines())
}

#[tokio::test]
async fn nothing_but_what_is_allowed_changes_anything() {
    let untrusted = ClientTrust::NotTrusted;
    let (usual, told) = asked_with(untrusted, "experimental-features", "").await;
    assert_eq!(told, "");
    let mut checked = 0;
    for name in SETTINGS.split_whitespace() {
        let allowed = ALLOWED.iter().find(|(allowed, _)| *allowed == name);
        let value = allowed.map_or("17", |(_, value)| *value);
        let (settings, told) = asked_with(untrusted, name, value).await;
        let warning = match name {
            "experimental-features" => String::new(),
            "plugin-files" => "Ignoring the client-specified plugin-files.".to_owned(),
            "substituters" | "binary-caches" => "ignoring untrusted substituter '17'".to_owned(),
            _ if allowed.is_some() => String::new(),
            name => format!(
                "ignoring the client-specified setting '{name}', because it is a restricted \
                 setting and you are not a trusted user"
            ),
        };
        match warning.is_empty() {
            true => assert_eq!(told, "", "{name}"),
            false => assert!(told.contains(&warning), "{name}: {told}"),
        }
        match allowed {
            Some(_) => assert_ne!(settings, usual, "{name}"),
            // no substituter is left of one that isn't trusted
            None if warning.starts_with("ignoring untrusted") => {
                let left = format!("\"{name}\": \"\"");
                let settings = settings.replace(&format!("{left}, "), "");
                assert_eq!(settings.replace(&format!(", {left}"), ""), usual, "{name}");
            }
            None => assert_eq!(settings, usual, "{name}"),
        }
        checked += 1;
    }
    assert!(checked > 140, "{checked} settings");
    // the empty list of machines is everybody's to ask for
    let (settings, told) = asked_with(untrusted, "builders", "").await;
    assert!(settings.contains("\"builders\": \"\"") && told.is_empty(), "{settings} {told}");
    let (settings, told) = asked_with(ClientTrust::Trusted, "builders", "ssh://b1").await;
    assert!(settings.contains("\"builders\": \"ssh://b1\"") && told.is_empty(), "{settings}");
}

fn signature(number: usize) -> Signature {
    format!("key-{number}:{}A==", "A".repeat(85)).parse().unwrap()
}

fn basic(name: &str) -> (StorePath, BasicDerivation) {
    let (info, _) = flat_file(&format!("{name}.drv"), b"", &[]);
    let (out, _) = flat_file(name, b"out", &[]);
    let derivation = BasicDerivation {
        name: name.parse::<StoreName>().unwrap(),
        outputs: BTreeMap::from([(OutputName::out(), Output::InputAddressed(out.path))]),
        input_sources: BTreeSet::new(),
        system: "x86_64-linux".to_owned(),
        builder: b"/bin/sh".to_vec().into(),
        args: Vec::new(),
        environment: Default::default(),
    };
    (info.path, derivation)
}

fn fixed(name: &str) -> (StorePath, BasicDerivation) {
    let (path, mut derivation) = basic(name);
    let address = ContentAddress {
        method: IngestionMethod::Flat,
        hash: Hash::of(HashAlgorithm::Sha256, b""),
    };
    let output =
        Output::fixed(&StoreDir::default(), &derivation.name, &OutputName::out(), address).unwrap();
    derivation.outputs = BTreeMap::from([(OutputName::out(), output)]);
    (path, derivation)
}

/// What is there for the operations to work on.
struct Given {
    path: StorePath,
    drv: StorePath,
    info: PathInfo,
    nar: Vec<u8>,
}

fn given(world: &World) -> Given {
    let (info, nar) = flat_file("dep", b"contents", &[]);
    world.keeper.put(&info, &nar);
    let (drv, derivation) = basic("thing");
    let text = Derivation::from(derivation).to_aterm(&StoreDir::default());
    let (mut drv_info, drv_nar) = flat_file("thing.drv", &text, &[]);
    drv_info.path = drv.clone();
    world.keeper.put(&drv_info, &drv_nar);
    let mut info = info;
    let trusted = format!("trusted-1:{}A==", "A".repeat(85));
    info.signatures.insert(trusted.parse().unwrap());
    Given { path: info.path.clone(), drv, info, nar: nar.to_vec() }
}

fn garbage(action: CollectAction, liveness: Liveness) -> Request {
    let paths = BTreeSet::new();
    Request::CollectGarbage(GarbageRequest { action, paths, liveness, max_freed: u64::MAX })
}

/// Who may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum May {
    Everybody,
    /// Others hear these words.
    Trusted(&'static str),
    /// Nobody by this way; these words.
    Nobody(&'static str),
}

/// Every operation, in each of its forms, with the data behind it.
#[allow(clippy::too_many_lines, reason = "a table")]
fn operations(given: &Given) -> Vec<(Request, Option<Vec<u8>>, May)> {
    use May::{Everybody, Nobody, Trusted};
    let (path, drv) = (|| given.path.clone(), || given.drv.clone());
    let paths = || BTreeSet::from([given.path.clone()]);
    let all = || vec![DerivedPath::All(given.drv.clone())];
    let output = || {
        OutputId::Hash(DrvOutput {
            hash: Hash::of(HashAlgorithm::Sha256, b"x"),
            output: OutputName::out(),
        })
    };
    let new = |repair| {
        Request::AddToStore(NewContent {
            name: "new".to_owned(),
            method: IngestionMethod::Flat,
            algorithm: HashAlgorithm::Sha256,
            references: BTreeSet::new(),
            repair,
        })
    };
    let many = {
        let mut out = Encoder::new();
        out.number(1);
        encode_keyed_path_info(&mut out, &StoreDir::default(), &given.info);
        let mut bytes = out.into_bytes();
        bytes.extend(&given.nar);
        bytes
    };
    let nar = || Some(given.nar.clone());
    let repair = "you are not privileged to repair paths";
    let rebuild = "repairing is not allowed because you are not in 'trusted-users'";
    let by_name = "you are not privileged to build input-addressed derivations";
    let (input_addressed, fixed) = (basic("other"), fixed("given"));
    vec![
        (Request::IsValidPath(path()), None, Everybody),
        (Request::HasSubstitutes(path()), None, Everybody),
        (Request::QueryPathHash(path()), None, Everybody),
        (Request::QueryReferences(path()), None, Everybody),
        (Request::QueryReferrers(path()), None, Everybody),
        (new(Repair::No), Some(b"new".to_vec()), Everybody),
        (new(Repair::Yes), Some(b"new".to_vec()), Trusted(repair)),
        (
            Request::AddTextToStore("text".to_owned(), b"x".to_vec(), BTreeSet::new()),
            None,
            Everybody,
        ),
        (Request::BuildPaths(all(), BuildMode::Normal), None, Everybody),
        (Request::BuildPaths(all(), BuildMode::Check), None, Everybody),
        (Request::BuildPaths(all(), BuildMode::Repair), None, Trusted(rebuild)),
        (Request::EnsurePath(path()), None, Everybody),
        (Request::AddTempRoot(path()), None, Everybody),
        (Request::AddIndirectRoot("/nowhere/link".to_owned()), None, Everybody),
        (Request::SyncWithGc, None, Everybody),
        (Request::FindRoots, None, Everybody),
        (Request::QueryDeriver(path()), None, Everybody),
        (options(&[]), None, Everybody),
        (garbage(CollectAction::ListLive, Liveness::Respect), None, Everybody),
        (garbage(CollectAction::ListDead, Liveness::Respect), None, Everybody),
        (garbage(CollectAction::DeleteGiven, Liveness::Respect), None, Everybody),
        (
            garbage(CollectAction::DeleteGiven, Liveness::Ignore),
            None,
            Nobody("you are not allowed to ignore liveness"),
        ),
        (Request::QuerySubstitutablePathInfo(path()), None, Everybody),
        (Request::QueryDerivationOutputs(drv()), None, Everybody),
        (Request::QueryAllValidPaths, None, Everybody),
        (Request::QueryPathInfo(path()), None, Everybody),
        (Request::QueryDerivationOutputNames(drv()), None, Everybody),
        (Request::QueryPathFromHashPart(given.path.hash_part().to_string()), None, Everybody),
        (Request::QuerySubstitutablePathInfos(BTreeMap::new()), None, Everybody),
        (Request::QueryValidPaths(paths(), Substitute::Yes), None, Everybody),
        (Request::QuerySubstitutablePaths(paths()), None, Everybody),
        (Request::QueryValidDerivers(path()), None, Everybody),
        (Request::OptimiseStore, None, Everybody),
        (Request::VerifyStore(VerifyDepth::Contents, Repair::No), None, Everybody),
        (Request::VerifyStore(VerifyDepth::Existence, Repair::Yes), None, Trusted(repair)),
        (
            Request::BuildDerivation(
                input_addressed.0,
                Box::new(input_addressed.1),
                BuildMode::Normal,
            ),
            None,
            Trusted(by_name),
        ),
        (Request::BuildDerivation(fixed.0, Box::new(fixed.1), BuildMode::Normal), None, Everybody),
        (Request::AddSignatures(path(), BTreeSet::from([signature(0)])), None, Everybody),
        (
            Request::AddSignatures(path(), (0..1000).map(signature).collect()),
            None,
            Trusted("would have more than 64 signatures"),
        ),
        (
            Request::AddToStoreNar(given.info.clone(), SignatureCheck::AsConfigured),
            nar(),
            Everybody,
        ),
        (
            Request::RepairToStoreNar(given.info.clone(), SignatureCheck::AsConfigured),
            nar(),
            Trusted(repair),
        ),
        (Request::QueryMissing(all()), None, Everybody),
        (Request::QueryDerivationOutputMap(drv()), None, Everybody),
        (
            Request::RegisterDrvOutput(RealisedOutput {
                output: output(),
                path: path(),
                signatures: BTreeSet::new(),
            }),
            None,
            Everybody,
        ),
        (Request::QueryRealisation(output()), None, Everybody),
        (Request::AddMultipleToStore(SignatureCheck::AsConfigured), Some(many.clone()), Everybody),
        (Request::RepairMultipleToStore(SignatureCheck::AsConfigured), Some(many), Trusted(repair)),
        (Request::AddBuildLog(drv()), Some(b"log".to_vec()), Trusted("privileged to add logs")),
        (Request::BuildPathsWithResults(all(), BuildMode::Normal), None, Everybody),
        (Request::BuildPathsWithResults(all(), BuildMode::Repair), None, Trusted(rebuild)),
        (
            Request::AddPermRoot(path(), "/nowhere/link".to_owned()),
            None,
            Trusted("you are not privileged to create perm roots"),
        ),
        (Request::Unknown(99), None, Nobody("invalid operation 99")),
    ]
}

#[rstest]
#[case::untrusted(ClientTrust::NotTrusted)]
#[case::trusted(ClientTrust::Trusted)]
#[tokio::test]
async fn each_operation_is_for_those_it_is_for(#[case] trust: ClientTrust) {
    let count = operations(&given(&world())).len();
    let mut seen = BTreeSet::new();
    for at in 0..count {
        let world = world();
        let given = given(&world);
        let (request, data, may) = operations(&given).swap_remove(at);
        seen.insert(request.operation());
        let what = format!("{trust:?}: operation {}: {may:?}", request.operation());
        let mut peer = world.connect(trust, 38).await;
        let answer = match data {
            Some(data) => peer.call_framed(request, &data, 64).await.map(drop),
            None => peer.call(request).await.map(drop),
        };
        match (may, trust) {
            (May::Trusted(words), ClientTrust::NotTrusted) | (May::Nobody(words), _) => {
                let refusal = answer.expect_err(&what);
                assert!(refusal.contains(words), "{what}: {refusal}");
            }
            _ => assert_eq!(answer, Ok(()), "{what}"),
        }
    }
    // 38 has a bare NAR behind its answer, and a test of its own
    let known: BTreeSet<u64> = (1..=47).collect();
    let gone = BTreeSet::from([2, 15, 16, 17, 24, 25, 27, 38]);
    let expected: BTreeSet<u64> = known.difference(&gone).copied().chain([99]).collect();
    assert_eq!(seen, expected, "not every operation has its line");
}

/// One who asks for hard work again and again gets it done in turns, and nobody else waits for it;
/// what was begun goes on counting when its client has gone.
#[tokio::test]
async fn hard_work_is_done_in_turns() {
    let limits = Limits { heavy: 3, heavy_per_user: 1, ..Limits::default() };
    let world = world_with(limits, Policy::default());
    world.keeper.hold_collections();
    let collect = || garbage(CollectAction::ListDead, Liveness::Respect);
    let mut first = world.untrusted().await;
    first.send(&collect().encode(&first.dialect)).await;
    world.keeper.until_collecting(1).await;
    // the same user once more, and then the first goes
    let mut second = world.untrusted().await;
    second.send(&collect().encode(&second.dialect)).await;
    drop(first);
    let waits = tokio::time::timeout(Duration::from_millis(200), second.outcome()).await;
    assert!(waits.is_err(), "two at once");
    assert_eq!(world.keeper.collecting(), 1);
    // a trusted client has turns of its own
    let mut trusted = world.trusted().await;
    trusted.send(&collect().encode(&trusted.dialect)).await;
    world.keeper.until_collecting(2).await;
    world.keeper.let_collections_end();
    second.answer(&collect()).await.unwrap();
    trusted.answer(&collect()).await.unwrap();
}
