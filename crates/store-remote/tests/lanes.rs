//! Lanes: their logs, the roots that outlive them, and servers that fetch what they are sent.

mod support;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use drover_core::{ActivityId, ActivityResult, BuildStatus, Field, NarSize, StorePath};
use drover_store::contract::{Given, flat_file};
use drover_store::{
    BuildFailure, BuildLog, BuildOutcome, BuildRequest, Builder as _, FailureCause, LogEvent,
    SilentLog, Store as _, StoreError, Substitute,
};
use drover_wire::{BuildResult, Encoder, LogMessage, Request, Response};
use support::{Fake, build_of, file, serve_file, soon};

fn build() -> BuildRequest {
    build_of(flat_file("x", b"", &[]).0.path)
}

#[derive(Default)]
struct Counted(AtomicUsize);

impl BuildLog for Counted {
    fn event(&self, event: LogEvent) {
        if matches!(event, LogEvent::Line(_)) {
            self.0.fetch_add(1, Ordering::AcqRel);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_log_lines_passes() {
    const LINES: usize = 100_000;
    let fake = Fake::new(|_, mut client| async move {
        let Some(dialect) = client.greet(38).await else { return };
        let Some(Request::BuildDerivation(..)) = client.request(&dialect).await else { return };
        let mut out = Encoder::new();
        for _ in 0..LINES {
            let line = "y".repeat(80);
            let said = ActivityResult::LogLine(&line);
            LogMessage::result(ActivityId(1), &said).encode(&mut out, 38);
        }
        client.send(&out.into_bytes()).await;
        let result = BuildResult::new(BuildStatus::Built, "");
        client.answer(&dialect, &Response::BuildResult(Box::new(result))).await;
        serve_file(&mut client, &dialect).await;
    });
    let log = Arc::new(Counted::default());
    builds_well(&fake, Arc::clone(&log) as Arc<dyn BuildLog>).await;
    assert_eq!(log.0.load(Ordering::Acquire), LINES);
}

/// Builds over a lane, and has the log told of it.
async fn builds_well(fake: &Fake, log: Arc<dyn BuildLog>) {
    let lane = soon(fake.store().open_lane()).await.expect("a lane");
    let mut request = build();
    request.known_outputs = [("out".to_owned(), file().0.path)].into();
    let built = soon(lane.build(request, log)).await;
    assert!(matches!(built, Ok(BuildOutcome::Built(_))), "{built:?}");
}

/// Takes down what a build says.
#[derive(Default)]
struct Taken(Mutex<Vec<LogEvent>>);

impl BuildLog for Taken {
    fn event(&self, event: LogEvent) {
        self.0.lock().expect("not poisoned").push(event);
    }
}

/// B13: a machine newer than we are says what we don't know yet, and the build is none the worse for it.
#[tokio::test(flavor = "multi_thread")]
async fn kinds_that_nobody_knows_are_passed_over() {
    let fake = Fake::new(|_, mut client| async move {
        let Some(dialect) = client.greet(38).await else { return };
        let Some(Request::BuildDerivation(..)) = client.request(&dialect).await else { return };
        let mut out = Encoder::new();
        let line = |text: &str| {
            let line = ActivityResult::LogLine(text);
            LogMessage::Result { id: ActivityId(1), kind: line.kind(), fields: line.fields() }
        };
        line("before").encode(&mut out, 38);
        for kind in [0, 99, 106, 113, 9999, u64::MAX] {
            let fields = vec![Field::Number(kind), Field::Text("\u{0}".to_owned())];
            let (id, parent) = (ActivityId(kind), ActivityId(u64::MAX));
            let (level, text) = (7, "what it is".to_owned());
            LogMessage::StartActivity { id, level, kind, text, fields: fields.clone(), parent }
                .encode(&mut out, 38);
            LogMessage::Result { id, kind, fields }.encode(&mut out, 38);
            LogMessage::Result { id, kind, fields: Vec::new() }.encode(&mut out, 38);
            LogMessage::StopActivity(id).encode(&mut out, 38);
            LogMessage::StopActivity(id).encode(&mut out, 38);
        }
        line("behind").encode(&mut out, 38);
        client.send(&out.into_bytes()).await;
        let result = BuildResult::new(BuildStatus::Built, "");
        client.answer(&dialect, &Response::BuildResult(Box::new(result))).await;
        serve_file(&mut client, &dialect).await;
    });
    let log = Arc::new(Taken::default());
    builds_well(&fake, Arc::clone(&log) as Arc<dyn BuildLog>).await;
    let mut told = std::mem::take(&mut *log.0.lock().expect("not poisoned"));
    told.retain(|event| !matches!(event, LogEvent::Heard(_)));
    let lines = ["before", "behind"].map(|line| LogEvent::Line(line.to_owned()));
    assert_eq!(told, lines);
}

/// What is held stays held when the channel that registered it ends with a lane.
#[tokio::test(flavor = "multi_thread")]
async fn roots_outlive_lanes() {
    let rooted: Arc<Mutex<Vec<(usize, StorePath)>>> = Arc::default();
    let (told, mut tells) = tokio::sync::mpsc::unbounded_channel();
    let noted = Arc::clone(&rooted);
    let fake = Fake::new(move |number, mut client| {
        let (noted, told) = (Arc::clone(&noted), told.clone());
        async move {
            let Some(dialect) = client.greet(38).await else { return };
            while let Some(request) = client.request(&dialect).await {
                match request {
                    Request::AddTempRoot(path) => {
                        noted.lock().expect("not poisoned").push((number, path));
                        client.answer(&dialect, &Response::Done).await;
                    }
                    Request::QueryValidPaths(paths, _) => {
                        client.answer(&dialect, &Response::Paths(paths)).await;
                        told.send((number, "asked")).ok();
                    }
                    _ => {}
                }
            }
            told.send((number, "gone")).ok();
        }
    });
    let store = fake.store();
    let path = file().0.path;
    let held = BTreeSet::from([path.clone()]);
    assert_eq!(soon(store.hold_valid(&held, Substitute::No)).await.expect("valid"), held);
    assert_eq!(soon(tells.recv()).await, Some((0, "asked")));
    assert_eq!(fake.connections.load(Ordering::Acquire), 1, "roots alone cost no channel");
    let lane = soon(store.open_lane()).await.expect("a lane");
    assert_eq!(soon(tells.recv()).await, Some((1, "asked")), "the roots move to another channel");
    let building = lane.build(build(), Arc::new(SilentLog));
    drop((lane, building));
    assert_eq!(soon(tells.recv()).await, Some((0, "gone")));
    let expected = [(0, path.clone()), (1, path)];
    assert_eq!(*rooted.lock().expect("not poisoned"), expected);
    // what is held from now on is held there, and asked there
    assert_eq!(soon(store.hold_valid(&held, Substitute::No)).await.expect("valid"), held);
    assert_eq!(soon(tells.recv()).await, Some((1, "asked")));
}

/// Nix 2.3 fetches what it is sent.
#[tokio::test(flavor = "multi_thread")]
async fn old_servers_pull() {
    let (told, mut tells) = tokio::sync::mpsc::unbounded_channel();
    let fake = Fake::new(move |_, mut client| {
        let told = told.clone();
        async move {
            let Some(dialect) = client.greet(21).await else { return };
            while let Some(request) = client.request(&dialect).await {
                match request {
                    Request::AddToStoreNar(info, _) => {
                        let mut nar = Vec::new();
                        while (nar.len() as u64) < info.nar_size.0 {
                            client.say(LogMessage::Read(1000)).await;
                            let piece =
                                client.read(|from| from.bytes(1000).map(<[u8]>::to_vec)).await;
                            nar.extend(piece.expect("a piece"));
                        }
                        client.say(LogMessage::Last).await;
                        told.send((info.path, nar)).ok();
                    }
                    Request::QueryPathInfo(_) => {
                        client.answer(&dialect, &Response::PathInfo(None)).await;
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    });
    let store = fake.store();
    let (a, b) = (file(), flat_file("b", b"other", &[]));
    let lane = soon(store.open_lane()).await.expect("a lane");
    soon(lane.import(Given::boxed([a.clone(), b.clone()]))).await.expect("an import");
    for (info, nar) in [a, b.clone()] {
        assert_eq!(soon(tells.recv()).await, Some((info.path, nar.to_vec())));
    }
    drop(lane);
    assert_eq!(soon(store.path_infos(&[b.0.path])).await.expect("an answer"), [None]);
}

/// How an answer to a build can be wrong.
#[derive(Clone, Copy, Debug)]
enum Wrong {
    Status,
    NoOutput,
    ClockBack,
    NegativeTime,
}

/// An answer that can't be right is the machine's fault. A clock that was put back is none: the
/// build is good, and only its time isn't known.
#[rstest::rstest]
#[case::status(Wrong::Status, "invalid build status 99")]
#[case::no_output(Wrong::NoOutput, "is not valid in 'test'")]
#[case::clock_back(Wrong::ClockBack, "")]
#[case::negative_time(Wrong::NegativeTime, "")]
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_wrong(#[case] wrong: Wrong, #[case] expected: &str) {
    let fake = Fake::new(move |_, mut client| async move {
        let Some(dialect) = client.greet(38).await else { return };
        while let Some(request) = client.request(&dialect).await {
            let mut result = BuildResult::new(BuildStatus::Built, "");
            match (request, wrong) {
                (Request::BuildDerivation(..), Wrong::Status) => {
                    let mut out = Encoder::new();
                    LogMessage::Last.encode(&mut out, 38);
                    out.number(99);
                    client.send(&out.into_bytes()).await;
                    return client.wait_for_end().await;
                }
                (Request::BuildDerivation(..), wrong) => {
                    if let Wrong::ClockBack = wrong {
                        (result.start_time, result.stop_time) = (2_000_000, 1_000_000);
                    }
                    if let Wrong::NegativeTime = wrong {
                        let minus_one = Some(u64::MAX);
                        (result.cpu_user, result.cpu_system) = (minus_one, minus_one);
                    }
                    client.answer(&dialect, &Response::BuildResult(Box::new(result))).await;
                }
                (Request::QueryPathInfo(_), Wrong::NoOutput) => {
                    client.answer(&dialect, &Response::PathInfo(None)).await;
                }
                (Request::QueryPathInfo(_), _) => {
                    let info = Some(Box::new(made(100).0));
                    client.answer(&dialect, &Response::PathInfo(info)).await;
                }
                (request, _) => panic!("{request:?} was not expected"),
            }
        }
    });
    let store = fake.store();
    let lane = soon(store.open_lane()).await.expect("a lane");
    let built = soon(lane.build(build(), Arc::new(SilentLog))).await;
    match built {
        Ok(BuildOutcome::Built(built)) => {
            assert_eq!(expected, "");
            assert_eq!(built.took.unwrap_or_default(), std::time::Duration::ZERO);
        }
        Ok(outcome) => panic!("{outcome:?}"),
        Err(error) => {
            assert!(error.is_infrastructure(), "it is not the build that failed: {error:?}");
            assert!(!expected.is_empty() && error.to_string().contains(expected), "{error}");
        }
    }
}

/// What a server does with builds whose outputs are asked for together with them.
#[derive(Clone, Copy)]
enum Makes {
    /// What was announced, so many bytes of it.
    File(usize),
    /// Nothing: the build fails, and the connection ends when the output is asked for.
    Nothing,
}

fn made(size: usize) -> (drover_core::PathInfo, Bytes) {
    let (mut info, nar) = flat_file("out", &vec![b'x'; size], &[]);
    info.path = build().known_outputs.into_values().next().expect("an output");
    (info, nar)
}

/// Returns a store whose server makes something on its first connection, and files after that.
fn maker(first: Makes) -> Fake {
    Fake::new(move |number, mut client| async move {
        let makes = if number == 0 { first } else { Makes::File(100) };
        let Some(dialect) = client.greet(38).await else { return };
        while let Some(request) = client.request(&dialect).await {
            let file = match makes {
                Makes::File(size) => Some(made(size)),
                Makes::Nothing => None,
            };
            match (request, file) {
                (Request::BuildDerivation(..), file) => {
                    let status = match file {
                        Some(_) => BuildStatus::Built,
                        None => BuildStatus::PermanentFailure,
                    };
                    let result = BuildResult::new(status, "no luck");
                    client.answer(&dialect, &Response::BuildResult(Box::new(result))).await;
                }
                (Request::QueryPathInfo(_), file) => {
                    let info = file.map(|(info, _)| Box::new(info));
                    client.answer(&dialect, &Response::PathInfo(info)).await;
                }
                (Request::NarFromPath(_), Some((_, nar))) => {
                    client.answer(&dialect, &Response::Nothing).await;
                    client.send(&nar).await;
                }
                (Request::NarFromPath(_), None) => {
                    client.say(LogMessage::Last).await;
                    return;
                }
                (request, _) => panic!("{request:?} was not expected"),
            }
        }
    })
}

fn hopeful() -> BuildRequest {
    BuildRequest { bring: Some(NarSize(1000)), ..build() }
}

#[tokio::test(flavor = "multi_thread")]
async fn small_outputs_come_along() {
    let fake = maker(Makes::File(100));
    let lane = soon(fake.store().open_lane()).await.expect("a lane");
    let builds = [0; 3].map(|_| lane.build(hopeful(), Arc::new(SilentLog)));
    for built in builds {
        let BuildOutcome::Built(built) = soon(built).await.expect("an outcome") else {
            panic!("it was not built")
        };
        let (info, nar) = made(100);
        assert_eq!(built.nars, [(info.path, nar)].into());
    }
}

/// A wrong guess costs the lane: what was built counts, what is behind it is nobody's fault.
#[rstest::rstest]
#[case::too_large(Makes::File(2000))]
#[case::failed(Makes::Nothing)]
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_guess_ends_the_lane(#[case] makes: Makes) {
    let fake = maker(makes);
    let store = fake.store();
    let lane = soon(store.open_lane()).await.expect("a lane");
    let first = lane.build(hopeful(), Arc::new(SilentLog));
    let second = lane.build(hopeful(), Arc::new(SilentLog));
    match (soon(first).await.expect("an outcome"), makes) {
        (BuildOutcome::Built(built), Makes::File(_)) => assert!(built.nars.is_empty()),
        (BuildOutcome::Failed(BuildFailure { cause: FailureCause::Build, .. }), Makes::Nothing) => {
        }
        (outcome, _) => panic!("{outcome:?}"),
    }
    let error = soon(second).await.expect_err("the lane has ended");
    assert!(matches!(error, StoreError::LaneEnded { .. }), "{error:?}");
    let third = soon(lane.build(hopeful(), Arc::new(SilentLog))).await.expect_err("it has ended");
    assert!(matches!(third, StoreError::LaneEnded { .. }), "{third:?}");
    let lane = soon(store.open_lane()).await.expect("another lane");
    let built = soon(lane.build(hopeful(), Arc::new(SilentLog))).await.expect("an outcome");
    assert!(matches!(built, BuildOutcome::Built(_)), "{built:?}");
}
