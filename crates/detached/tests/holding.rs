//! Orders from their acceptance to their being forgotten, over a real store.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::{HashAlgorithm, IngestionMethod, StorePath};
use drover_derivation::BasicDerivation;
use drover_detached::{
    Asker, Condition, DetachedView, Followed, HoldError, Holder, Limits, Order, Outcome, Reach,
    Said,
};
use drover_store::{
    AfterFailure, BuildMode, BuildSettings, ByteStream, CollectAction, Collection, Content,
    FailureCause, Keeper, Liveness, MissingPaths, RealiseEvent, RealiseObserver, RealiseSettings,
    RealiseStatus, Realised, Realiser, StoreError, Substitute, Wanted, WhenValid,
};
use drover_store_local::{Layout, LocalOptions, LocalStore, Place, Surroundings, Uid};
use futures::FutureExt as _;
use tokio::sync::watch;

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(60);

/// Says that it builds, and is done when it's told to be.
struct Site {
    /// How what is asked for ends, once it's known.
    end: watch::Sender<Option<RealiseStatus>>,
    /// What everything is built to.
    output: BTreeMap<String, StorePath>,
    /// How many wait.
    waiting: watch::Sender<usize>,
}

struct Waits<'a>(&'a watch::Sender<usize>);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

#[async_trait]
impl Realiser for Site {
    async fn realise(
        &self,
        _: Arc<dyn Keeper>,
        wanted: Vec<Wanted>,
        _: RealiseSettings,
        observer: Arc<dyn RealiseObserver>,
    ) -> Result<Vec<Realised>, StoreError> {
        self.waiting.send_modify(|count| *count += 1);
        let _waits = Waits(&self.waiting);
        observer.event(RealiseEvent::Note("it begins".to_owned()));
        let mut end = self.end.subscribe();
        let status = end.wait_for(Option::is_some).await.unwrap().unwrap();
        if status == RealiseStatus::Failed(FailureCause::Build) {
            let needed = "3880j94arxkya3irs3d8nr2x076sp1m8-needed.drv";
            let derivation = StorePath::from_base_name(needed).unwrap();
            observer.event(RealiseEvent::Failed { derivation, cause: FailureCause::TimedOut });
        }
        let (message, outputs) = (String::new(), self.output.clone());
        let realised = Realised { status, message, outputs, period: None };
        Ok(vec![realised; wanted.len()])
    }

    async fn build_derivation(
        &self,
        _: Arc<dyn Keeper>,
        _: (StorePath, BasicDerivation),
        _: RealiseSettings,
        _: Arc<dyn RealiseObserver>,
    ) -> Result<Realised, StoreError> {
        unreachable!("orders name what the store has")
    }

    async fn missing(
        &self,
        _: Arc<dyn Keeper>,
        _: Vec<Wanted>,
        _: Substitute,
    ) -> Result<MissingPaths, StoreError> {
        unreachable!("orders are for building")
    }
}

struct Lab {
    _folder: tempfile::TempDir,
    store: Arc<LocalStore>,
    site: Arc<Site>,
    holder: Holder,
}

/// The contents of the one path.
struct Text(Option<Bytes>);

#[async_trait]
impl ByteStream for Text {
    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        Ok(self.0.take())
    }
}

impl Lab {
    async fn new(limits: Limits) -> Lab {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().canonicalize().unwrap();
        let around = Surroundings {
            variable: &|name| {
                let text = |name: &str| Some(at.join(name).to_str().unwrap().to_owned());
                match name {
                    "NIX_STORE_DIR" => text("store"),
                    "NIX_STATE_DIR" => text("state"),
                    "NIX_LOG_DIR" => text("log"),
                    _ => None,
                }
            },
            exists: &Path::exists,
            writable: &Path::exists,
            uid: Uid::Root,
        };
        let Ok(Place::Local(layout)) = Layout::decide(&"local".parse().unwrap(), &around) else {
            panic!("no store")
        };
        let layout: Layout = layout;
        let store = Arc::new(LocalStore::new(layout, LocalOptions::default()));
        let content = Content {
            name: "built".parse().unwrap(),
            method: IngestionMethod::Text,
            algorithm: HashAlgorithm::Sha256,
            references: BTreeSet::new(),
        };
        let text = Box::new(Text(Some(Bytes::from_static(b"built"))));
        // by a view of its own, whose roots go with it
        let view = (Arc::clone(&store) as Arc<dyn Keeper>).session().await.unwrap();
        let built = view.add_content(content, text, WhenValid::Keep).await.unwrap().path;
        let site = Arc::new(Site {
            end: watch::Sender::new(None),
            output: BTreeMap::from([("out".to_owned(), built)]),
            waiting: watch::Sender::new(0),
        });
        let holder = Holder::new(Arc::clone(&site) as Arc<dyn Realiser>, limits);
        Lab { _folder: folder, store, site, holder }
    }

    async fn try_hand_over(&self, owner: &str) -> Result<DetachedView, HoldError> {
        let keeper = self.session().await;
        self.accept(owner, keeper)
    }

    async fn session(&self) -> Arc<dyn Keeper> {
        (Arc::clone(&self.store) as Arc<dyn Keeper>).session().await.unwrap()
    }

    fn accept(&self, owner: &str, keeper: Arc<dyn Keeper>) -> Result<DetachedView, HoldError> {
        self.holder.accept(order(owner, keeper))
    }

    async fn hand_over(&self, owner: &str) -> String {
        self.try_hand_over(owner).await.unwrap().id.to_string()
    }

    async fn follow(&self, user: &str, id: &str, from: u64) -> Result<Followed, HoldError> {
        self.holder.follow(&asker(user), id, from, LIMIT).await
    }

    /// Waits until an order is over.
    async fn end_of(&self, user: &str, id: &str) -> Followed {
        let mut from = 0;
        loop {
            let followed = self.follow(user, id, from).await.unwrap();
            if followed.ending.is_some() {
                return followed;
            }
            from = followed.next;
        }
    }

    async fn wait_for_waiting(&self, wanted: usize) {
        let mut waiting = self.site.waiting.subscribe();
        let waits = waiting.wait_for(|count| *count == wanted);
        drop(tokio::time::timeout(LIMIT, waits).await.unwrap().unwrap());
    }

    fn let_end(&self, status: RealiseStatus) {
        self.site.end.send_replace(Some(status));
    }

    /// Whether what was built is there after a collection.
    async fn survives(&self) -> bool {
        let collection = Collection {
            action: CollectAction::DeleteDead,
            liveness: Liveness::Respect,
            paths: BTreeSet::new(),
            max_freed: None,
        };
        let gone = self.store.collect(collection).await.unwrap().names;
        !gone.iter().any(|name| name.ends_with("-built"))
    }
}

fn order(owner: &str, keeper: Arc<dyn Keeper>) -> Order {
    let path = "3880j94arxkya3irs3d8nr2x076sp1m8-a.drv";
    Order {
        owner: owner.to_owned(),
        wanted: vec![Wanted::AllOutputs(StorePath::from_base_name(path).unwrap())],
        settings: RealiseSettings {
            mode: BuildMode::Normal,
            after_failure: AfterFailure::Stop,
            substitute: Substitute::No,
            build: BuildSettings::default(),
            client: Some(owner.to_owned()),
        },
        keeper,
    }
}

fn asker(user: &str) -> Asker {
    let reach = if user == "root" { Reach::All } else { Reach::Own };
    Asker { user: user.to_owned(), reach }
}

#[tokio::test]
async fn an_order_goes_on_and_is_remembered_with_what_it_made() {
    let limits = Limits { ended_per_user: 1, ..Limits::default() };
    let lab = Lab::new(limits).await;
    let id = lab.hand_over("ann").await;
    lab.wait_for_waiting(1).await;
    let followed = lab.follow("ann", &id, 0).await.unwrap();
    assert_eq!(followed.said, [Said::Note("it begins".to_owned())]);
    assert_eq!((followed.next, followed.view.condition), (1, Condition::Running));
    // nothing new is waited for no longer than that
    let short = Duration::from_millis(1);
    let nothing = lab.holder.follow(&asker("ann"), &id, 1, short).await.unwrap();
    assert!(nothing.said.is_empty() && nothing.ending.is_none());
    // it is nobody else's, but for those to whom all is open
    for error in [
        lab.follow("bob", &id, 0).await.unwrap_err(),
        lab.holder.cancel(&asker("bob"), &id).unwrap_err(),
    ] {
        assert!(matches!(&error, HoldError::NotYours { owner, .. } if owner == "ann"), "{error}");
    }
    lab.follow("root", &id, 0).await.unwrap();

    lab.let_end(RealiseStatus::Built);
    for _ in 0..2 {
        let over = lab.end_of("ann", &id).await;
        assert_eq!(over.view.condition, Condition::Succeeded);
        assert!(matches!(&over.ending.unwrap().outcome, Outcome::Realised(all) if all.len() == 1));
    }
    let over = lab.holder.cancel(&asker("ann"), &id).unwrap_err();
    assert!(matches!(over, HoldError::Over { .. }), "{over}");
    assert!(lab.survives().await, "it is remembered");

    // another one takes its place, and then nothing is
    let next = lab.hand_over("ann").await;
    lab.end_of("ann", &next).await;
    while lab.follow("ann", &id, 0).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(lab.survives().await, "the other one has it, too");
    lab.holder.shutdown().await;
    assert!(!lab.survives().await);
}

#[tokio::test]
async fn an_order_that_is_ended_is_waited_for_no_longer() {
    let lab = Lab::new(Limits::default()).await;
    let (one, two) = (lab.hand_over("ann").await, lab.hand_over("ann").await);
    lab.wait_for_waiting(2).await;
    lab.holder.cancel(&asker("root"), &one).unwrap();
    let over = lab.end_of("ann", &one).await;
    let ending = over.ending.unwrap();
    assert!(matches!(&ending.outcome, Outcome::Cancelled { by: Some(by) } if by == "root"));
    lab.wait_for_waiting(1).await;
    // a holder that ends takes all along, and takes nothing new
    lab.holder.shutdown().await;
    lab.wait_for_waiting(0).await;
    let refused = lab.try_hand_over("ann").await.unwrap_err();
    assert!(matches!(refused, HoldError::Stopping), "{refused}");
    let unknown = lab.follow("ann", &two, 0).await.unwrap_err();
    assert!(matches!(unknown, HoldError::Unknown { .. }), "{unknown}");
}

#[tokio::test]
async fn what_fails_is_told_so() {
    let lab = Lab::new(Limits::default()).await;
    lab.let_end(RealiseStatus::Failed(FailureCause::Build));
    let id = lab.hand_over("ann").await;
    let over = lab.end_of("ann", &id).await;
    assert_eq!(over.view.condition, Condition::Failed);
    // what something that is needed came to is known, too
    assert_eq!(over.ending.unwrap().causes, BTreeSet::from([FailureCause::TimedOut]));
    lab.holder.idle().await;
}

#[tokio::test]
async fn there_is_room_for_so_many() {
    let limits = Limits { running_per_user: 2, running: 3, ..Limits::default() };
    let lab = Lab::new(limits).await;
    let first = lab.hand_over("ann").await;
    lab.hand_over("ann").await;
    let refused = lab.try_hand_over("ann").await.unwrap_err();
    assert!(matches!(refused, HoldError::TooManyOfUser { most: 2, .. }), "{refused}");
    lab.hand_over("bob").await;
    let refused = lab.try_hand_over("cat").await.unwrap_err();
    assert!(matches!(refused, HoldError::TooMany { most: 3 }), "{refused}");
    lab.holder.cancel(&asker("ann"), &first).unwrap();
    lab.end_of("ann", &first).await;
    lab.hand_over("ann").await;
    let owners: Vec<String> = lab.holder.list().into_iter().map(|view| view.owner).collect();
    assert_eq!(owners, ["ann", "ann", "bob", "ann"], "the oldest first");
}

/// However short the time between two is.
#[tokio::test]
async fn the_oldest_is_listed_first() {
    let limits = Limits { running_per_user: 200, ..Limits::default() };
    let lab = Lab::new(limits).await;
    let mut keepers = Vec::new();
    for _ in 0..200 {
        keepers.push(lab.session().await);
    }
    let taken = keepers.into_iter().map(|keeper| lab.accept("ann", keeper).unwrap().id);
    let taken: Vec<_> = taken.collect();
    for _ in 0..20 {
        let listed: Vec<_> = lab.holder.list().into_iter().map(|view| view.id).collect();
        assert_eq!(listed, taken);
    }
}

/// What was taken before nothing new is taken is waited for, however close that was.
#[tokio::test]
async fn an_order_that_is_just_being_taken_is_waited_for() {
    let lab = Lab::new(Limits::default()).await;
    let handle = tokio::runtime::Handle::current();
    for round in 0..500 {
        let holder = Holder::new(Arc::clone(&lab.site) as Arc<dyn Realiser>, Limits::default());
        let (keeper, start) = (lab.session().await, Barrier::new(2));
        let (taken, waits) = std::thread::scope(|scope| {
            let taking = scope.spawn(|| {
                let _entered = handle.enter();
                start.wait();
                holder.accept(order("ann", keeper)).is_ok()
            });
            start.wait();
            holder.refuse_new();
            // without tokio's budget, which would have it wait once it was asked often in a row
            let idle = tokio::task::unconstrained(holder.idle());
            let waits = idle.now_or_never().is_none();
            (taking.join().unwrap(), waits)
        });
        assert_eq!(taken, waits, "in round {round}");
        holder.shutdown().await;
    }
}

#[tokio::test]
async fn one_is_remembered_for_so_long() {
    let limits = Limits { remembered: Duration::from_millis(50), ..Limits::default() };
    let lab = Lab::new(limits).await;
    lab.let_end(RealiseStatus::Built);
    let id = lab.hand_over("ann").await;
    let forgotten = async {
        while lab.follow("ann", &id, 0).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, forgotten).await.unwrap();
    assert!(lab.holder.list().is_empty());
}
