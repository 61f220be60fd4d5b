//! What is held stays held, whichever channels end.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use drover_core::{BuildStatus, StorePath};
use drover_store::{
    BuildOutcome, BuildPlan, BuildRequest, BuildWishes, Builder as _, Lane, SilentLog, Store as _,
    Substitute,
};
use drover_store_remote::RemoteStore;
use drover_wire::{BuildResult, Dialect, Request, Response};
use rstest::rstest;
use support::{Client, Fake, Site, build_of, file, soon};
use tokio::sync::{Notify, Semaphore};

/// A server's books of its connections.
struct Books {
    live: Mutex<BTreeMap<usize, BTreeSet<StorePath>>>,
    /// What nothing has held for a while after a connection ended.
    let_go: Mutex<BTreeSet<StorePath>>,
    changed: Notify,
    /// One for each build that has begun, and one for each that may end.
    begun: Semaphore,
    ended: Semaphore,
}

impl Books {
    fn new() -> Arc<Books> {
        Arc::new(Books {
            live: Mutex::default(),
            let_go: Mutex::default(),
            changed: Notify::new(),
            begun: Semaphore::new(0),
            ended: Semaphore::new(0),
        })
    }

    fn live(&self) -> MutexGuard<'_, BTreeMap<usize, BTreeSet<StorePath>>> {
        self.live.lock().expect("not poisoned")
    }

    fn root(&self, connection: usize, path: StorePath) {
        self.live().entry(connection).or_default().insert(path);
        self.changed.notify_one();
    }

    fn gone(&self, connection: usize) {
        let mut live = self.live();
        let held = live.remove(&connection).unwrap_or_default();
        let others: BTreeSet<_> = live.values().flatten().cloned().collect();
        let lost = held.difference(&others).cloned();
        self.let_go.lock().expect("not poisoned").extend(lost);
        self.changed.notify_one();
    }

    /// Waits until one more build has begun.
    async fn until_begun(&self) {
        soon(self.begun.acquire()).await.expect("open").forget();
    }

    /// Waits until just these connections are there, and one of them holds all of these.
    async fn until_held(&self, are_these: impl Fn(&[usize]) -> bool, paths: &BTreeSet<StorePath>) {
        soon(async {
            loop {
                {
                    let live = self.live();
                    let numbers: Vec<_> = live.keys().copied().collect();
                    if are_these(&numbers) && live.values().any(|held| paths.is_subset(held)) {
                        break;
                    }
                }
                self.changed.notified().await;
            }
        })
        .await;
    }
}

/// A server whose builds end when they may, and that says nothing of infos of what isn't `file`.
fn server(books: &Arc<Books>) -> Fake {
    let books = Arc::clone(books);
    Fake::new(move |number, mut client| {
        let books = Arc::clone(&books);
        async move {
            if let Some(dialect) = client.greet(38).await {
                books.live().entry(number).or_default();
                serve(number, &mut client, &dialect, &books).await;
            }
            books.gone(number);
        }
    })
}

async fn serve(number: usize, client: &mut Client, dialect: &Dialect, books: &Books) {
    let info = file().0;
    while let Some(request) = client.request(dialect).await {
        let response = match request {
            Request::AddTempRoot(path) => {
                books.root(number, path);
                Response::Done
            }
            Request::BuildDerivation(..) => {
                books.begun.add_permits(1);
                tokio::select! {
                    permit = books.ended.acquire() => permit.expect("open").forget(),
                    // its end, as nobody sends as much
                    _ = client.bytes(usize::MAX) => return,
                }
                Response::BuildResult(Box::new(BuildResult::new(BuildStatus::Built, "")))
            }
            Request::QueryPathInfo(path) if path != info.path => {
                client.bytes(usize::MAX).await;
                return;
            }
            Request::QueryPathInfo(_) => Response::PathInfo(Some(Box::new(info.clone()))),
            Request::QueryValidPaths(paths, _) => Response::Paths(paths),
            other => panic!("{other:?}"),
        };
        client.answer(dialect, &response).await;
    }
}

fn build() -> BuildRequest {
    build_of(file().0.path)
}

fn paths(numbers: &[u8]) -> BTreeSet<StorePath> {
    let name = "input".parse().expect("a name");
    numbers.iter().map(|number| StorePath::new([*number; 20], &name)).collect()
}

async fn hold(store: &RemoteStore, numbers: &[u8]) {
    let held = paths(numbers);
    assert_eq!(soon(store.hold_valid(&held, Substitute::No)).await.expect("valid"), held);
}

async fn lane(store: &RemoteStore) -> Box<dyn Lane> {
    soon(store.open_lane()).await.expect("a lane")
}

fn bounded(fake: &Fake, bound: u32) -> RemoteStore {
    fake.store().with_connections(NonZeroU32::new(bound).expect("some"))
}

/// The only connection ends with a job that is cancelled; nobody asks for anything afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn the_one_after_the_only_one_holds_what_it_held() {
    let books = Books::new();
    let fake = server(&books);
    let store = bounded(&fake, 1);
    hold(&store, &[1, 2]).await;
    let cancelled = lane(&store).await;
    let building = cancelled.build(build(), Arc::new(SilentLog));
    books.until_begun().await;
    books.until_held(|all| all == [0], &paths(&[1, 2])).await;
    drop((cancelled, building));
    books.until_held(|all| all == [1], &paths(&[1, 2])).await;
}

/// The one that is left holds what another has registered since.
#[tokio::test(flavor = "multi_thread")]
async fn the_one_that_is_left_of_two_holds_what_the_other_held() {
    let books = Books::new();
    let fake = server(&books);
    let store = bounded(&fake, 2);
    hold(&store, &[1]).await;
    let first = lane(&store).await;
    let building = first.build(build(), Arc::new(SilentLog));
    books.until_begun().await;
    hold(&store, &[2]).await;
    books.ended.add_permits(1);
    let built = soon(building).await;
    assert!(matches!(built, Ok(BuildOutcome::Built(_))), "{built:?}");
    drop(first);
    // on the connection that the next build takes, as it's given back last
    hold(&store, &[3]).await;
    let cancelled = lane(&store).await;
    let building = cancelled.build(build(), Arc::new(SilentLog));
    books.until_begun().await;
    books.until_held(|all| all == [0, 1], &paths(&[1, 2, 3])).await;
    drop((cancelled, building));
    books.until_held(|all| all.len() == 1, &paths(&[1, 2, 3])).await;
}

/// A question that is given up ends its channel, when another holds the roots.
#[tokio::test(flavor = "multi_thread")]
async fn another_holds_them_before_a_question_that_is_given_up_ends_its_channel() {
    let books = Books::new();
    let fake = server(&books);
    let store = fake.store();
    hold(&store, &[1, 2]).await;
    let unknown: Vec<_> = paths(&[9]).into_iter().collect();
    {
        let asked = store.path_infos(&unknown);
        tokio::select! {
            answer = asked => panic!("{answer:?}"),
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
    }
    books.until_held(|all| all == [1], &paths(&[1, 2])).await;
    assert_eq!(*books.let_go.lock().expect("not poisoned"), BTreeSet::new());
}

/// Returns the processes of a real server that keep a path from its collector.
fn holders(site: &Site, path: &StorePath) -> BTreeSet<u32> {
    let whole = site.store_dir.display(path);
    let files = std::fs::read_dir(site.folder.path().join("state/temproots"));
    let files = files.into_iter().flatten().filter_map(Result::ok).map(|file| file.path());
    let holds = |file: &PathBuf| {
        let text = std::fs::read(file).unwrap_or_default();
        text.split(|byte| *byte == 0).any(|root| root == whole.as_bytes())
    };
    let number = |file: PathBuf| file.file_name()?.to_str()?.parse().ok();
    let lives = |pid: &u32| Path::new(&format!("/proc/{pid}")).exists();
    files.filter(holds).filter_map(number).filter(lives).collect()
}

async fn until<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    soon(async {
        loop {
            match ask() {
                Some(answer) => break answer,
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    })
    .await
}

/// A real server: another of its processes holds what is held when the first has ended with a build.
#[rstest]
#[case::one_connection(NonZeroU32::new(1))]
#[case::as_many_as_it_takes(None)]
#[tokio::test(flavor = "multi_thread")]
async fn a_real_server_goes_on_to_hold_what_is_held(#[case] bound: Option<NonZeroU32>) {
    let site = Site::new();
    let store = match bound {
        Some(bound) => site.store().with_connections(bound),
        None => site.store(),
    };
    let begun = site.folder.path().join("begun");
    let derivation = site
        .derivation("long", &format!("echo > {}; while :; do /bin/sleep 1; done", begun.display()));
    let path = site.add(&store, &derivation).await;
    let held = BTreeSet::from([path.clone()]);
    assert_eq!(soon(store.hold_valid(&held, Substitute::No)).await.expect("valid"), held);
    let outputs = derivation.basic.outputs.iter();
    let outputs =
        outputs.filter_map(|(name, output)| Some((name.to_string(), output.path()?.clone())));
    let known_outputs: BTreeMap<String, StorePath> = outputs.collect();
    let request = BuildRequest {
        derivation: path.clone(),
        outputs: known_outputs.keys().cloned().collect(),
        known_outputs,
        plan: BuildPlan::Derivation(Box::new(derivation.basic.clone())),
        wishes: BuildWishes::default(),
        bring: None,
    };
    let cancelled = lane(&store).await;
    let building = cancelled.build(request, Arc::new(SilentLog));
    until(|| begun.exists().then_some(())).await;
    // with as many as it takes, they have moved to one that nobody ends
    let count = bound.map_or(2, |_| 1);
    let hold = || Some(holders(&site, &path));
    let before = until(|| hold().filter(|all| all.len() == count)).await;
    drop((cancelled, building));
    until(|| hold().filter(|all| all.len() == 1 && *all != before)).await;
}
