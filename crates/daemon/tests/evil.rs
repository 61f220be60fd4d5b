//! Data that is no good, by every way into a store and in every form that versions have for it: it's refused
//! in words, nothing of it is valid, and the daemon goes on. The store is a real one.
#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use drover_core::{Hash, HashAlgorithm, IngestionMethod, NarHash, NarSize, PathInfo, StoreDir};
use drover_daemon::{ClientTrust, Limits, Policy, ServeServer, Server, WriteAccess};
use drover_nar::{Limits as NarLimits, NarError, Parser, Progress};
use drover_store::contract::flat_file;
use drover_store::{Repair, SignatureCheck};
use drover_store_local::{Layout, LocalOptions, LocalStore, Place, Surroundings, Uid};
use drover_wire::{
    Encoder, FEATURE_REALISATION_WITH_PATH, FRAME_END, LogMessage, NewContent, OutputId,
    RealisedOutput, Request, Response, ServeDialect, ServeRequest, Version, encode_keyed_path_info,
    frame_header,
};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use rstest::rstest;
use support::sockets::Silent;
use support::{Peer, Scripted, world};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::watch;

const TRUSTED: ClientTrust = ClientTrust::Trusted;

/// A server of a real store.
struct Home {
    folder: tempfile::TempDir,
    store: Arc<LocalStore>,
    server: Server,
}

impl Home {
    fn new() -> Home {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let text = |name: &str| root.join(name).to_str().unwrap().to_owned();
        let variables = BTreeMap::from([
            ("NIX_STORE_DIR", text("store")),
            ("NIX_STATE_DIR", text("state")),
            ("NIX_LOG_DIR", text("log")),
            ("NIX_CONF_DIR", text("conf")),
        ]);
        let around = Surroundings {
            variable: &|name| variables.get(name).cloned(),
            exists: &Path::exists,
            writable: &Path::exists,
            uid: Uid::Root,
        };
        let Ok(Place::Local(layout)) = Layout::decide(&"local".parse().unwrap(), &around) else {
            panic!("no place");
        };
        let layout: Layout = layout;
        let store = Arc::new(LocalStore::new(layout, LocalOptions::default()));
        let (_, policy) = watch::channel(Arc::new(Policy::default()));
        let (keeper, realiser) = (Arc::clone(&store), Arc::new(Scripted::default()));
        let server = Server::new(keeper, realiser, policy, Limits::default(), "2.34.8".to_owned());
        Home { folder, store, server }
    }

    fn dir(&self) -> &StoreDir {
        drover_store::Store::store_dir(&*self.store)
    }

    async fn peer(&self, minor: u8) -> Peer {
        let mut peer = Peer::connect(&self.server, TRUSTED, minor).await;
        peer.dialect.store_dir = self.dir().clone();
        peer
    }

    /// Whether nothing has come of it, and the daemon is well.
    async fn assert_untouched(&self, what: &str) {
        let mut peer = self.peer(38).await;
        let valid = peer.call(Request::QueryAllValidPaths).await;
        assert_eq!(valid, Ok(Response::Paths(BTreeSet::new())), "{what}");
        // what was begun goes as soon as who began it is gone
        for _ in 0..12_000 {
            if self.left().is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(self.left(), Vec::<String>::new(), "{what}");
    }

    fn left(&self) -> Vec<String> {
        let left = std::fs::read_dir(self.folder.path().join("store")).unwrap();
        let left = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        left.filter(|name| name != ".links" && !name.ends_with(".lock")).collect()
    }
}

fn strings(texts: &[&str]) -> Vec<u8> {
    let mut out = Encoder::new();
    texts.iter().for_each(|text| out.text(text));
    out.into_bytes()
}

const FILE: [&str; 6] = ["(", "type", "regular", "contents", "x", ")"];

fn directory(names: &[&str]) -> Vec<u8> {
    let mut texts = vec!["nix-archive-1", "(", "type", "directory"];
    for name in names {
        texts.extend(["entry", "(", "name", name, "node"]);
        texts.extend(FILE);
        texts.push(")");
    }
    texts.push(")");
    strings(&texts)
}

/// What comes in the place of a NAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Evil {
    LeavesTheTree,
    HasASlash,
    Twice,
    Unsorted,
    Padded,
    NoNar,
}

impl Evil {
    fn nar(self) -> Vec<u8> {
        match self {
            Evil::LeavesTheTree => directory(&[".."]),
            Evil::HasASlash => directory(&["a/b"]),
            Evil::Twice => directory(&["a", "a"]),
            Evil::Unsorted => directory(&["b", "a"]),
            Evil::Padded => {
                let mut nar = directory(&["a"]);
                *nar.last_mut().unwrap() = 1;
                nar
            }
            Evil::NoNar => b"<html><head><title>Welcome</title></head></html>".to_vec(),
        }
    }
}

/// What the parser says of bytes, but for what differs by how many have come.
fn words_for(nar: &[u8]) -> String {
    let mut parser = Parser::new(NarLimits::default());
    match parser.feed(nar, &mut ()) {
        Err(error @ NarError::BadMagic { .. }) => {
            error.to_string().split(" (got").next().unwrap().to_owned()
        }
        Err(error) => error.to_string(),
        Ok(Progress::Done { .. } | Progress::More) => panic!("it is good"),
    }
}

/// A path whose contents these are, as far as hash and size go.
fn announced(home: &Home, nar: &[u8]) -> PathInfo {
    let (info, _) = flat_file("evil", b"", &[]);
    let digest = Hash::of(HashAlgorithm::Sha256, nar);
    let path = home.dir().parse(&format!("{}/{}", home.dir(), info.path)).unwrap();
    let nar_hash = NarHash(digest.digest().try_into().unwrap());
    PathInfo { path, nar_hash, nar_size: NarSize(nar.len() as u64), ..info }
}

/// A way into a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Path,
    Repairing,
    Many,
    Contents,
}

fn framed(data: &[u8]) -> Vec<u8> {
    let pieces =
        data.chunks(50).flat_map(|piece| [frame_header(piece.len()).to_vec(), piece.to_vec()]);
    pieces.chain([FRAME_END.to_vec()]).flatten().collect()
}

/// Returns a request with all that is sent at once, and what is sent as it's asked for.
fn wire(peer: &Peer, way: Way, info: &PathInfo, nar: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let minor = peer.dialect.version.minor;
    let skip = SignatureCheck::Skip;
    let (request, data) = match way {
        Way::Path => (Request::AddToStoreNar(info.clone(), skip), nar.to_vec()),
        Way::Repairing => (Request::RepairToStoreNar(info.clone(), skip), nar.to_vec()),
        Way::Many if minor < 32 => return None,
        Way::Many => {
            let mut out = Encoder::new();
            out.number(1);
            encode_keyed_path_info(&mut out, &peer.dialect.store_dir, info);
            (Request::AddMultipleToStore(skip), [out.into_bytes(), nar.to_vec()].concat())
        }
        Way::Contents => {
            let new = NewContent {
                name: "evil".to_owned(),
                method: IngestionMethod::Nar,
                algorithm: HashAlgorithm::Sha256,
                references: BTreeSet::new(),
                repair: Repair::No,
            };
            (Request::AddToStore(new), nar.to_vec())
        }
    };
    let head = request.encode(&peer.dialect);
    Some(match way {
        Way::Contents if minor < 25 => ([head, data].concat(), Vec::new()),
        Way::Path | Way::Repairing if minor < 23 => (head, data),
        _ => ([head, framed(&data)].concat(), Vec::new()),
    })
}

/// Sends something to a server that may have had enough of it, and returns what it says in the end.
async fn told(peer: &mut Peer, now: &[u8], mut asked: &[u8]) -> Result<(), String> {
    let minor = peer.dialect.version.minor;
    drop(peer.stream.write_all(now).await);
    loop {
        match peer.read(|from| LogMessage::decode(from, minor)).await {
            Err(_) => return Err("it hung up".to_owned()),
            Ok(LogMessage::Last) => return Ok(()),
            Ok(LogMessage::Error(error)) => return Err(error.message),
            Ok(LogMessage::Read(wanted)) => {
                let (piece, rest) = asked.split_at(asked.len().min(wanted.try_into().unwrap()));
                asked = rest;
                let mut out = Encoder::new();
                out.bytes(piece);
                drop(peer.stream.write_all(&out.into_bytes()).await);
            }
            Ok(_) => {}
        }
    }
}

#[rstest]
#[tokio::test]
async fn evil_nars_are_refused_by_every_way(
    #[values(Way::Path, Way::Repairing, Way::Many, Way::Contents)] way: Way,
    #[values(
        Evil::LeavesTheTree,
        Evil::HasASlash,
        Evil::Twice,
        Evil::Unsorted,
        Evil::Padded,
        Evil::NoNar
    )]
    evil: Evil,
) {
    let home = Home::new();
    let nar = evil.nar();
    let info = announced(&home, &nar);
    for minor in [21, 22, 24, 34, 38] {
        let what = format!("{way:?} {evil:?} 1.{minor}");
        let mut peer = home.peer(minor).await;
        let Some((now, asked)) = wire(&peer, way, &info, &nar) else { continue };
        let error = told(&mut peer, &now, &asked).await.expect_err(&what);
        assert!(error.contains(&words_for(&nar)), "{what}: {error}");
        // a bare NAR that is none has no end, and so has the request
        if way != Way::Contents || minor >= 25 {
            let valid = peer.call(Request::IsValidPath(info.path.clone())).await;
            assert_eq!(valid, Ok(Response::Flag(false)), "{what}");
        }
        home.assert_untouched(&what).await;
    }
}

#[rstest]
#[tokio::test]
async fn evil_nars_are_refused_by_the_serve_protocol(
    #[values(Evil::LeavesTheTree, Evil::Twice, Evil::NoNar)] evil: Evil,
    #[values(5, 8)] minor: u8,
    #[values(true, false)] is_import: bool,
) {
    let home = Home::new();
    let nar = evil.nar();
    let info = announced(&home, &nar);
    let (mut stream, theirs) = UnixStream::pair().unwrap();
    let server = ServeServer::new(&home.server, WriteAccess::Allowed, Arc::new(Silent));
    let serving = async move {
        let (input, output) = theirs.into_split();
        server.serve(input, output).await
    };
    let version = Version { major: 2, minor };
    let dialect = ServeDialect { store_dir: home.dir().clone(), version };
    let mut out = Encoder::new();
    out.number(0x390c_9deb);
    out.number(0x200 | u64::from(minor));
    let mut wire = out.into_bytes();
    if is_import {
        wire.extend(ServeRequest::ImportPaths.encode(&dialect));
        let mut out = Encoder::new();
        out.number(1);
        wire.extend(out.into_bytes());
        wire.extend(&nar);
    } else {
        wire.extend(ServeRequest::AddToStoreNar(info).encode(&dialect));
        wire.extend(&nar);
    }
    let client = async {
        drop(stream.write_all(&wire).await);
        drop(stream.shutdown().await);
        drop(stream.read_to_end(&mut Vec::new()).await);
    };
    let (ended, ()) = tokio::join!(serving, client);
    let error = ended.unwrap_err().to_string();
    assert!(error.contains(&words_for(&nar)), "{error}");
    home.assert_untouched("serve").await;
}

/// How frames go wrong.
#[rstest]
#[case::nothing_in_them(|_: &[u8]| FRAME_END.to_vec())]
#[case::an_end_first(|nar: &[u8]| [FRAME_END.to_vec(), framed(nar)].concat())]
#[case::no_end(|nar: &[u8]| [&frame_header(nar.len()), nar].concat())]
#[case::an_end_within_one(|nar: &[u8]| [&frame_header(nar.len()), &nar[..20]].concat())]
#[case::no_frame(|_: &[u8]| vec![1, 0, 0])]
#[case::too_long(|_: &[u8]| u64::MAX.to_le_bytes().to_vec())]
#[case::more_than_announced(|nar: &[u8]| framed(&[nar, b"more of it".as_slice()].concat()))]
#[tokio::test]
async fn frames_that_are_no_good(
    #[case] frames: fn(&[u8]) -> Vec<u8>,
    #[values(Way::Path, Way::Contents)] way: Way,
    #[values(25, 38)] minor: u8,
) {
    let home = Home::new();
    let nar = directory(&["a"]);
    let info = announced(&home, &nar);
    let mut peer = home.peer(minor).await;
    let (whole, _) = wire(&peer, way, &info, &nar).unwrap();
    let head = &whole[..whole.len() - framed(&nar).len()];
    drop(peer.stream.write_all(&[head, &frames(&nar)].concat()).await);
    drop(peer.stream.shutdown().await);
    assert!(told(&mut peer, &[], &[]).await.is_err(), "it was taken");
    drop(peer.serving.join_next().await.unwrap().unwrap());
    home.assert_untouched("frames").await;
}

/// What is said where an algorithm has to be.
#[rstest]
#[case::of_old(24, "crc32", "hash algorithm")]
#[case::algorithm(38, "fixed:r:crc32", "content address method")]
#[case::method(38, "fixed:z:sha256", "content address method")]
#[case::no_method(38, "sha256", "content address method")]
#[tokio::test]
async fn hashes_that_nobody_knows(#[case] minor: u8, #[case] said: &str, #[case] words: &str) {
    let home = Home::new();
    let mut peer = home.peer(minor).await;
    let mut out = Encoder::new();
    out.number(7);
    out.text("source");
    if minor < 25 {
        out.number(1);
        out.number(1);
    }
    out.text(said);
    out.number(0);
    out.number(0);
    let error = told(&mut peer, &out.into_bytes(), &[]).await.unwrap_err();
    assert!(error.contains(words), "{error}");
    home.assert_untouched("hash").await;
}

#[rstest]
#[case::packing(Request::Pack, "drover-packed")]
#[tokio::test]
async fn what_was_not_agreed_on_is_refused(#[case] request: Request, #[case] feature: &str) {
    let home = Home::new();
    let mut peer = home.peer(38).await;
    assert!(!peer.dialect.features.contains(feature));
    let wire = request.encode(&peer.dialect);
    let error = told(&mut peer, &wire, &[]).await.unwrap_err();
    assert!(error.contains("invalid operation"), "{error}");
    home.assert_untouched("feature").await;
}

/// A realisation in the form of a feature that was not agreed on is no realisation.
#[tokio::test]
async fn a_form_that_was_not_agreed_on_is_refused() {
    let home = Home::new();
    let mut peer = home.peer(38).await;
    let (drv, _) = flat_file("thing.drv", b"", &[]);
    let mut dialect = peer.dialect.clone();
    dialect.features.insert(FEATURE_REALISATION_WITH_PATH.to_owned());
    let request = Request::RegisterDrvOutput(RealisedOutput {
        output: OutputId::Derivation(drv.path.clone(), "out".parse().unwrap()),
        path: drv.path,
        signatures: BTreeSet::new(),
    });
    drop(peer.stream.write_all(&request.encode(&dialect)).await);
    drop(peer.stream.shutdown().await);
    assert!(told(&mut peer, &[], &[]).await.is_err());
    home.assert_untouched("form").await;
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 256,
        // says the seed of what fails, and begins with it the next time
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]

    /// Whatever happens to a NAR on its way into a store: it's valid as it was announced, or not at all.
    #[test]
    fn what_is_damaged_on_its_way_is_not_valid(
        offset in 0..400_usize, how in 0..3_u8, bit in 0..8_u8, many: bool,
    ) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let world = world();
            let (info, nar) = flat_file("file", &[b'x'; 200], &[]);
            let mut peer = world.connect(TRUSTED, 38).await;
            let way = if many { Way::Many } else { Way::Path };
            let (whole, _) = wire(&peer, way, &info, &nar).unwrap();
            let head = if many { 40 } else { whole.len() - framed(&nar).len() };
            let mut sent = whole.clone();
            let at = head + offset % (sent.len() - head);
            match how {
                0 => sent[at] ^= 1 << bit,
                1 => sent.truncate(at),
                _ => sent.extend(std::iter::repeat_n(bit, offset + 1)),
            }
            drop(peer.stream.write_all(&sent).await);
            drop(peer.stream.shutdown().await);
            let told = told(&mut peer, &[], &[]).await;
            drop(peer.serving.join_next().await.unwrap().unwrap());
            let state = world.keeper.state();
            match state.paths.values().next() {
                Some((_, contents)) => assert_eq!((state.paths.len(), contents), (1, &nar)),
                None => assert!(told.is_err(), "it was said to be taken"),
            }
        });
    }
}
