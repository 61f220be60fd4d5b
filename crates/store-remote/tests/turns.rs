//! Stores with a bound on the connections that are open at once.

mod support;

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use drover_core::BuildStatus;
use drover_store::{
    BuildOutcome, BuildRequest, Builder as _, SilentLog, Store as _, StoreError, Substitute,
};
use drover_store_remote::RemoteStore;
use drover_wire::{BuildResult, Dialect, Request, Response};
use rstest::rstest;
use support::{Client, Fake, build_of, file, soon};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

/// Counts connections.
#[derive(Default)]
struct Open {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Open {
    fn more(&self) {
        let now = self.now.fetch_add(1, Ordering::AcqRel) + 1;
        self.most.fetch_max(now, Ordering::AcqRel);
    }
}

/// Where the first builds wait for each other.
struct Meeting {
    barrier: Barrier,
    left: AtomicUsize,
}

impl Meeting {
    fn of(builds: usize) -> Meeting {
        Meeting { barrier: Barrier::new(builds), left: AtomicUsize::new(builds) }
    }

    async fn attend(&self) {
        let less = |left: usize| left.checked_sub(1);
        if self.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, less).is_ok() {
            self.barrier.wait().await;
        }
    }
}

/// A server that has one file and builds it; the first so many builds go on when all of them run.
fn server(open: &Arc<Open>, together: usize) -> Fake {
    let (open, meeting) = (Arc::clone(open), Arc::new(Meeting::of(together)));
    Fake::new(move |_, mut client| {
        let (open, meeting) = (Arc::clone(&open), Arc::clone(&meeting));
        async move {
            open.more();
            if let Some(dialect) = client.greet(38).await {
                serve(&mut client, &dialect, &meeting).await;
            }
            open.now.fetch_sub(1, Ordering::AcqRel);
        }
    })
}

async fn serve(client: &mut Client, dialect: &Dialect, meeting: &Meeting) {
    let (info, nar) = file();
    while let Some(request) = client.request(dialect).await {
        let response = match request {
            Request::NarFromPath(_) => {
                client.answer(dialect, &Response::Nothing).await;
                client.send(&nar).await;
                continue;
            }
            Request::BuildDerivation(..) => {
                meeting.attend().await;
                Response::BuildResult(Box::new(BuildResult::new(BuildStatus::Built, "")))
            }
            Request::AddMultipleToStore(_) => {
                client.frames().await.expect("whole data");
                Response::Nothing
            }
            Request::QueryPathInfo(_) => Response::PathInfo(Some(Box::new(info.clone()))),
            Request::AddTempRoot(_) => Response::Done,
            Request::QueryValidPaths(paths, _) => Response::Paths(paths),
            other => panic!("{other:?}"),
        };
        client.answer(dialect, &response).await;
    }
}

fn bounded(fake: &Fake, bound: u32) -> RemoteStore {
    fake.store().with_connections(NonZeroU32::new(bound).expect("some"))
}

fn build() -> BuildRequest {
    build_of(file().0.path)
}

/// Imports, builds, questions and transfers at once, each more than there are connections.
#[rstest]
#[case(1, 1)]
#[case(2, 1)]
#[case(4, 3)]
#[tokio::test(flavor = "multi_thread")]
async fn no_more_are_open_than_may_be(#[case] bound: u32, #[case] builds: usize) {
    let open = Arc::new(Open::default());
    let fake = server(&open, builds);
    let store = Arc::new(bounded(&fake, bound));
    store.expect(8);
    let held = BTreeSet::from([file().0.path]);
    assert_eq!(soon(store.hold_valid(&held, Substitute::No)).await.expect("valid"), held);
    let mut work = JoinSet::new();
    for _ in 0..6 {
        let (store, held) = (Arc::clone(&store), held.clone());
        work.spawn(async move {
            let lane = store.open_lane().await.expect("a lane");
            let sent = store.export(vec![file().0]).await.expect("a stream");
            let (imported, built) = (lane.import(sent), lane.build(build(), Arc::new(SilentLog)));
            let (again, imported, built) =
                tokio::join!(lane.build(build(), Arc::new(SilentLog)), imported, built);
            imported.expect("an import");
            for built in [built, again] {
                assert!(matches!(built, Ok(BuildOutcome::Built(_))), "{built:?}");
            }
            drop(lane);
            store.import(store.export(vec![file().0]).await.expect("a stream")).await.expect("in");
            assert_eq!(store.small_nar(file().0).await.expect("a NAR"), file().1);
            assert_eq!(store.hold_valid(&held, Substitute::No).await.expect("valid"), held);
        });
    }
    soon(work.join_all()).await;
    assert_eq!(open.most.load(Ordering::Acquire), usize::try_from(bound).expect("a number"));
}

/// What goes from one to the other and back waits for neither.
#[tokio::test(flavor = "multi_thread")]
async fn two_with_one_connection_each_exchange_paths() {
    let open = Arc::new(Open::default());
    let (left, right) = (server(&open, 1), server(&open, 1));
    let stores = [bounded(&left, 1), bounded(&right, 1)].map(Arc::new);
    let mut ways = JoinSet::new();
    for way in 0..20 {
        let (from, to) = (Arc::clone(&stores[way % 2]), Arc::clone(&stores[(way + 1) % 2]));
        ways.spawn(async move {
            let paths = from.export(vec![file().0, file().0, file().0]).await?;
            match way % 3 {
                0 => to.import(paths).await,
                _ => to.open_lane().await?.import(paths).await,
            }
        });
    }
    for done in soon(ways.join_all()).await {
        done.expect("it arrives");
    }
    assert_eq!(open.most.load(Ordering::Acquire), 2);
}

/// A lane that is given up gives its connection back, and ends the build.
#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_is_dropped_ends_its_build() {
    let open = Arc::new(Open::default());
    let never = server(&open, 2);
    let store = bounded(&never, 1);
    let lane = soon(store.open_lane()).await.expect("a lane");
    let (running, queued) =
        (lane.build(build(), Arc::new(SilentLog)), lane.build(build(), Arc::new(SilentLog)));
    drop(lane);
    for ended in [soon(running).await, soon(queued).await] {
        assert!(matches!(ended, Err(StoreError::Lost { .. })), "{ended:?}");
    }
    let held = BTreeSet::from([file().0.path]);
    assert_eq!(soon(store.hold_valid(&held, Substitute::No)).await.expect("valid"), held);
}
