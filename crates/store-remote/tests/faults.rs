//! Servers that fail in the middle: the error says what was wrong, the connection isn't used again,
//! the next one works, and nothing hangs.

#![allow(clippy::indexing_slicing, reason = "a test may panic")]

mod support;

use std::sync::atomic::Ordering;

use drover_core::{PathInfo, StorePath};
use drover_nar::{Executable, single_file_nar};
use drover_store::contract::{Given, flat_file};
use drover_store::{Store as _, StoreError};
use drover_wire::{Dialect, Encoder, LogMessage, RemoteError, Request, Response};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use rstest::rstest;
use support::{Client, Fake, file, serve_file, soon};

#[derive(Clone, Copy, Debug)]
enum Fault {
    Cut,
    Altered,
    Longer,
    Nested,
    Garbage,
    HugeString,
    DataWhereNoneIs,
    CutInMessage,
    Error,
    Unasked,
}

fn nested(depth: usize) -> Vec<u8> {
    let mut nar = Vec::new();
    let mut token = Encoder::new();
    token.text("nix-archive-1");
    for _ in 0..depth {
        for word in ["(", "type", "directory", "entry", "(", "name", "d", "node"] {
            token.text(word);
        }
    }
    nar.extend(token.into_bytes());
    nar
}

async fn send_badly(client: &mut Client, dialect: &Dialect, nar: &[u8], fault: Fault) {
    let mut last = Encoder::new();
    LogMessage::Last.encode(&mut last, 38);
    let last = last.into_bytes();
    match fault {
        Fault::Cut => client.send(&[&last, &nar[..nar.len() / 2]].concat()).await,
        Fault::Altered => {
            let mut nar = nar.to_vec();
            nar[500] ^= 1;
            client.send(&[last, nar].concat()).await;
            client.wait_for_end().await;
        }
        Fault::Longer => {
            let longer = single_file_nar(&b"some contents ".repeat(2000), Executable::No);
            client.send(&[last, longer].concat()).await;
            client.wait_for_end().await;
        }
        Fault::Nested => {
            client.send(&[last, nested(65)].concat()).await;
            client.wait_for_end().await;
        }
        Fault::Garbage => {
            client.send(b"Segmentation fault\n\0\0\0\0\0").await;
            client.wait_for_end().await;
        }
        Fault::HugeString => {
            client.send(&0x6f6c_6d67u64.to_le_bytes()).await;
            client.send(&(u64::MAX - 7).to_le_bytes()).await;
            client.wait_for_end().await;
        }
        Fault::DataWhereNoneIs => {
            client.say(LogMessage::Read(100)).await;
            client.wait_for_end().await;
        }
        Fault::CutInMessage => {
            client.send(&0x6f6c_6d67u64.to_le_bytes()).await;
            client.send(&[100, 0, 0]).await;
        }
        Fault::Error => {
            client.say(LogMessage::Next("a word".to_owned())).await;
            let (message, traces) = ("path is on fire".to_owned(), Vec::new());
            let error = RemoteError { level: 0, message, status: 1, traces };
            client.say(LogMessage::Error(error)).await;
            serve_file(client, dialect).await;
        }
        Fault::Unasked => {
            client.send(&[&last, nar, b"by the way"].concat()).await;
            client.wait_for_end().await;
        }
    }
}

/// Serves one file, badly the first time if there's a fault.
async fn serve(client: &mut Client, dialect: &Dialect, fault: Option<Fault>) {
    if let Some(fault) = fault {
        while let Some(request) = client.request(dialect).await {
            if let Request::NarFromPath(_) = request {
                return send_badly(client, dialect, &file().1, fault).await;
            }
        }
    }
    serve_file(client, dialect).await;
}

async fn fetch(store: &dyn drover_store::Store, info: PathInfo) -> Result<Vec<u8>, StoreError> {
    let mut stream = store.export(vec![info]).await?;
    let mut nar = Vec::new();
    while stream.next_path().await?.is_some() {
        while let Some(chunk) = stream.chunk().await? {
            nar.extend_from_slice(&chunk);
        }
    }
    Ok(nar)
}

#[rstest]
#[case(Fault::Cut, "lost the connection to 'test': it closed the connection", 2)]
#[case(Fault::Altered, "-file' from 'test' has hash sha256:", 2)]
#[case(Fault::Longer, "'test' sent a bad NAR of '", 2)]
#[case(Fault::Nested, "'test' sent a bad NAR of '", 2)]
#[case(Fault::Garbage, "cannot speak with 'test': invalid message type ", 2)]
#[case(Fault::HugeString, "string length 18446744073709551608 exceeds limit", 2)]
#[case(Fault::DataWhereNoneIs, "it transfers data where there is none", 2)]
#[case(Fault::CutInMessage, "it closed the connection", 2)]
#[case(Fault::Error, "path is on fire", 1)]
#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_fails(
    #[case] fault: Fault,
    #[case] expected: &str,
    #[case] connections: usize,
    #[values("export", "small_nar")] by: &str,
) {
    let fake = Fake::new(move |number, mut client| async move {
        let Some(dialect) = client.greet(38).await else { return };
        serve(&mut client, &dialect, (number == 0).then_some(fault)).await;
    });
    let store = fake.store();
    let (info, nar) = file();
    let transfer = async {
        match by {
            "export" => fetch(&store, info.clone()).await,
            _ => store.small_nar(info.clone()).await.map(|nar| nar.to_vec()),
        }
    };
    let error = soon(transfer).await.expect_err("a failure");
    assert!(error.to_string().contains(expected), "{error}");
    assert_eq!(soon(fetch(&store, info.clone())).await.expect("the next works"), nar);
    // small NARs have a channel of their own
    let connections = if by == "small_nar" { 2 } else { connections };
    assert_eq!(fake.connections.load(Ordering::Acquire), connections);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_speaks_unasked_is_not_asked_again() {
    let fake = Fake::new(move |number, mut client| async move {
        let Some(dialect) = client.greet(38).await else { return };
        serve(&mut client, &dialect, (number == 0).then_some(Fault::Unasked)).await;
    });
    let store = fake.store();
    let (info, nar) = file();
    assert_eq!(soon(fetch(&store, info.clone())).await.expect("the NAR itself is good"), nar);
    // how soon the words are seen is chance; at the latest the answer after them shows them
    while soon(fetch(&store, info.clone())).await.is_err() {}
    assert!(fake.connections.load(Ordering::Acquire) >= 2);
}

/// A hundred questions are sent before the first answer comes.
#[tokio::test(flavor = "multi_thread")]
async fn questions_are_sent_ahead() {
    let fake = Fake::new(|_, mut client| async move {
        let Some(dialect) = client.greet(38).await else { return };
        let mut asked = Vec::new();
        for _ in 0..100 {
            let Some(Request::QueryPathInfo(path)) = client.request(&dialect).await else { return };
            asked.push(path);
        }
        for path in asked {
            let info = PathInfo { path, ..file().0 };
            client.answer(&dialect, &Response::PathInfo(Some(Box::new(info)))).await;
        }
        client.wait_for_end().await;
    });
    let paths: Vec<StorePath> =
        (0..100).map(|n| flat_file(&format!("n{n}"), b"", &[]).0.path).collect();
    let infos = soon(fake.store().path_infos(&paths)).await.expect("answers");
    let answered: Vec<StorePath> = infos.into_iter().flatten().map(|info| info.path).collect();
    assert_eq!(answered, paths);
    assert_eq!(fake.connections.load(Ordering::Acquire), 1);
}

/// A source that fails is blamed, and not the server.
#[rstest]
#[case::framed(38)]
#[case::one_by_one(34)]
#[case::pulled(21)]
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_fails_is_blamed(#[case] minor: u8) {
    let fake = Fake::new(move |_, mut client| async move {
        let Some(dialect) = client.greet(minor).await else { return };
        let Some(_) = client.request(&dialect).await else { return };
        if minor >= 36 && client.frames().await.is_some() {
            let error = RemoteError {
                level: 0,
                message: "unexpected end-of-file".to_owned(),
                status: 1,
                traces: Vec::new(),
            };
            client.say(LogMessage::Error(error)).await;
        }
        if minor < 23 {
            client.say(LogMessage::Read(1 << 20)).await;
            client.say(LogMessage::Read(1 << 20)).await;
        }
        client.wait_for_end().await;
    });
    let (mut info, nar) = file();
    info.nar_size.0 += 8;
    let error = soon(fake.store().import(Given::boxed([(info, nar)]))).await.expect_err("cut");
    assert!(matches!(error, StoreError::SizeMismatch { .. }), "{error:?}");
}

/// What happens to bytes on their way.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Flip(u8),
    Cut,
    Append(u8),
}

impl Damage {
    fn of(self, bytes: &[u8], offset: usize) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        match self {
            Damage::Flip(bit) => bytes[offset] ^= 1 << bit,
            Damage::Cut => bytes.truncate(offset),
            Damage::Append(byte) => bytes.extend(std::iter::repeat_n(byte, offset + 1)),
        }
        bytes
    }
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        (0..8_u8).prop_map(Damage::Flip),
        Just(Damage::Cut),
        any::<u8>().prop_map(Damage::Append),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 256,
        // says the seed of what fails, and begins with it the next time
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]

    /// Whatever happens to a NAR on its way here: it's whole or an error, the connection isn't used
    /// again, and on the next one it comes.
    #[test]
    fn what_is_damaged_on_its_way_is_not_taken(
        damage in damage(), offset in 0..file().1.len(), is_small: bool,
    ) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let bytes = damage.of(&file().1, offset);
            let fake = Fake::new(move |number, mut client| {
                let bytes = bytes.clone();
                async move {
                    let Some(dialect) = client.greet(38).await else { return };
                    while number == 0 && let Some(request) = client.request(&dialect).await {
                        let Request::NarFromPath(_) = request else { continue };
                        client.answer(&dialect, &Response::Nothing).await;
                        client.send(&bytes).await;
                        if !matches!(damage, Damage::Cut) {
                            client.wait_for_end().await;
                        }
                        return;
                    }
                    serve_file(&mut client, &dialect).await;
                }
            });
            let store = fake.store();
            let (info, nar) = file();
            let came = match is_small {
                true => soon(store.small_nar(info.clone())).await.map(|nar| nar.to_vec()),
                false => soon(fetch(&store, info.clone())).await,
            };
            match damage {
                // how soon the words behind it are seen is chance
                Damage::Append(_) => assert!(came.is_err() || came.is_ok_and(|came| came == nar)),
                Damage::Flip(_) | Damage::Cut => assert!(came.is_err()),
            }
            while let Err(error) = soon(fetch(&store, info.clone())).await {
                assert!(matches!(damage, Damage::Append(_)), "{error}");
            }
            assert!(fake.connections.load(Ordering::Acquire) >= 2);
        });
    }
}
