//! Servers that are silent while they build: those that hang are found out, others left alone.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use drover_core::{Activity, ActivityId, BuildStatus, StorePath};
use drover_store::{
    BuildOutcome, BuildPlan, BuildRequest, BuildSettings, Builder as _, SilentLog, StoreError,
};
use drover_wire::{BuildResult, LogMessage, Request, Response};
use support::{Fake, file, serve_file, soon};

/// A connect timeout of which a few are quickly over.
const LIMIT: Duration = Duration::from_millis(500);

fn build() -> BuildRequest {
    BuildRequest {
        derivation: StorePath::new([1; 20], &"x.drv".parse().expect("a name")),
        outputs: ["out".to_owned()].into(),
        known_outputs: [("out".to_owned(), file().0.path)].into(),
        plan: BuildPlan::FromStore,
        wishes: Default::default(),
        bring: None,
    }
}

/// The word with which a server of Nix says that it begins.
fn begins() -> LogMessage {
    LogMessage::start(ActivityId(1), &Activity::Realise, ActivityId::NONE)
}

/// Returns a server whose builds say this and nothing else, while its other connections live.
fn still(word: Option<LogMessage>) -> Fake {
    Fake::new(move |_, mut client| {
        let word = word.clone();
        async move {
            let Some(dialect) = client.greet(38).await else { return };
            while let Some(request) = client.request(&dialect).await {
                match request {
                    Request::BuildPathsWithResults(..) => {
                        if let Some(word) = word {
                            client.say(word).await;
                        }
                        return client.wait_for_end().await;
                    }
                    Request::QueryValidPaths(paths, _) => {
                        client.answer(&dialect, &Response::Paths(paths)).await;
                    }
                    Request::SetOptions(_) => client.answer(&dialect, &Response::Nothing).await,
                    other => panic!("{other:?}"),
                }
            }
        }
    })
}

/// The process that should build stands still before it has begun.
#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_does_not_begin_is_given_up() {
    let fake = still(None);
    let store = fake.patient_store(LIMIT);
    let lane = soon(store.open_lane()).await.expect("a lane");
    let error = soon(lane.build(build(), Arc::new(SilentLog))).await.expect_err("it never begins");
    assert!(matches!(error, StoreError::Silent { .. }), "{error:?}");
    assert!(error.to_string().ends_with("while beginning a build"), "{error}");
}

/// It stands still while it builds, and can't keep the user's limit.
#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_goes_beyond_its_limits_is_given_up() {
    let fake = still(Some(begins()));
    let settings = BuildSettings { max_silent_time: Some(LIMIT), ..BuildSettings::default() };
    let store = fake.patient_store_with(LIMIT, settings);
    let lane = soon(store.open_lane()).await.expect("a lane");
    let error = soon(lane.build(build(), Arc::new(SilentLog))).await.expect_err("it never ends");
    assert!(error.to_string().ends_with("while building beyond its limits"), "{error}");
}

/// Returns a server that builds for as long as it takes to give so many signs of life, and which
/// gives at most so many.
fn builder(ends_after: usize, gives: usize) -> (Fake, Arc<AtomicUsize>) {
    let given = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&given);
    let fake = Fake::new(move |_, mut client| {
        let given = Arc::clone(&given);
        async move {
            let Some(dialect) = client.greet(38).await else { return };
            while let Some(request) = client.request(&dialect).await {
                match request {
                    Request::BuildPathsWithResults(..) => {
                        client.say(begins()).await;
                        while given.load(Ordering::Acquire) < ends_after {
                            tokio::time::sleep(LIMIT / 5).await;
                        }
                        let result = BuildResult::new(BuildStatus::Built, "");
                        let response = Response::BuildResults(vec![("x".to_owned(), result)]);
                        client.answer(&dialect, &response).await;
                        return serve_file(&mut client, &dialect).await;
                    }
                    Request::QueryValidPaths(paths, _) => {
                        if given.load(Ordering::Acquire) == gives {
                            return client.wait_for_end().await;
                        }
                        given.fetch_add(1, Ordering::AcqRel);
                        client.answer(&dialect, &Response::Paths(paths)).await;
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    });
    (fake, counted)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_during_a_build_is_found_out() {
    let (fake, given) = builder(usize::MAX, 2);
    let store = fake.patient_store(LIMIT);
    let lane = soon(store.open_lane()).await.expect("a lane");
    let builds = [build(), build()].map(|build| lane.build(build, Arc::new(SilentLog)));
    for built in builds {
        let error = soon(built).await.expect_err("it never ends");
        assert!(matches!(error, StoreError::Silent { .. }), "{error:?}");
        assert!(error.to_string().contains("asked for a sign of life"), "{error}");
    }
    assert_eq!(given.load(Ordering::Acquire), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_may_be_silent_while_its_server_lives() {
    let (fake, _) = builder(4, usize::MAX);
    let store = fake.patient_store(LIMIT);
    let lane = soon(store.open_lane()).await.expect("a lane");
    let built = soon(lane.build(build(), Arc::new(SilentLog))).await.expect("an outcome");
    assert!(matches!(built, BuildOutcome::Built(_)), "{built:?}");
}

/// A server that closes other connections at once is alive.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_one_connection_is_left_alone() {
    let fake = Fake::new(|number, mut client| async move {
        if number > 0 {
            return;
        }
        let Some(dialect) = client.greet(38).await else { return };
        client.request(&dialect).await;
        client.say(begins()).await;
        tokio::time::sleep(LIMIT * 40).await;
        let result = BuildResult::new(BuildStatus::Built, "");
        let response = Response::BuildResults(vec![("x".to_owned(), result)]);
        client.answer(&dialect, &response).await;
        serve_file(&mut client, &dialect).await;
    });
    let store = fake.patient_store(LIMIT);
    let lane = soon(store.open_lane()).await.expect("a lane");
    let built = soon(lane.build(build(), Arc::new(SilentLog))).await.expect("an outcome");
    assert!(matches!(built, BuildOutcome::Built(_)), "{built:?}");
    assert!(fake.connections.load(Ordering::Acquire) > 2, "it was asked");
}

/// A server that takes no other connection any more is given up, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_greets_nobody_any_more_is_found_out() {
    let fake = Fake::new(|number, mut client| async move {
        if number == 0 {
            client.greet(38).await;
        }
        client.wait_for_end().await;
    });
    let store = fake.patient_store(LIMIT);
    let lane = soon(store.open_lane()).await.expect("a lane");
    let error = soon(lane.build(build(), Arc::new(SilentLog))).await.expect_err("it never ends");
    assert!(error.is_infrastructure(), "{error:?}");
}
