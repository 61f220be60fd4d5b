//! The builder of this machine.

use std::sync::Arc;

use drover_sandbox::{Launcher, SpawnError, Support};
use drover_store::{
    BuildFailure, BuildLog, BuildOutcome, BuildPlan, BuildRequest, Builder, FailureCause,
};
use drover_store_local::LocalStore;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::attempt;
use crate::failure::{Trouble, machine};
use crate::folders::BuildFolders;
use crate::job::{Job, Purpose};
use crate::machine::LocalMachine;
use crate::places::Places;
use crate::references::References;
use crate::settings::LocalSettings;
use crate::suitable;
use crate::wished::wished;

/// Builds derivations on this machine, into its store.
///
/// Clones are the same builder.
#[derive(Clone)]
pub struct LocalBuilder {
    inner: Arc<Inner>,
}

/// What builds of one queue have in common.
#[derive(Clone, Copy)]
pub(crate) struct Queue<'a> {
    pub(crate) store: &'a Arc<LocalStore>,
    pub(crate) places: &'a Places,
    pub(crate) references: &'a References,
    pub(crate) cancel: &'a CancellationToken,
}

/// What all queues share.
pub(crate) struct Inner {
    store: Arc<LocalStore>,
    settings: LocalSettings,
    /// Builds what isn't done here yet.
    other: Option<Arc<dyn Builder>>,
    started: OnceCell<(Launcher, Support)>,
    pub(crate) tracker: TaskTracker,
}

impl LocalBuilder {
    /// Returns a builder for a store. Nothing is started before the first build.
    pub fn new(store: Arc<LocalStore>, settings: LocalSettings) -> LocalBuilder {
        LocalBuilder {
            inner: Arc::new(Inner {
                store,
                settings,
                other: None,
                started: OnceCell::new(),
                tracker: TaskTracker::new(),
            }),
        }
    }

    /// Returns a builder that gives what it can't build, as it isn't done yet, to another one for the
    /// same store.
    #[must_use]
    pub fn with_other(
        store: Arc<LocalStore>,
        settings: LocalSettings,
        other: Arc<dyn Builder>,
    ) -> LocalBuilder {
        let mut inner = LocalBuilder::new(store, settings).inner;
        if let Some(inner) = Arc::get_mut(&mut inner) {
            inner.other = Some(other);
        }
        LocalBuilder { inner }
    }

    /// Waits until nothing of it runs any more: all queues have been dropped, what ran in them is
    /// killed, and its folders are gone. To be called before a program ends.
    pub async fn ended(&self) {
        self.inner.tracker.close();
        self.inner.tracker.wait().await;
        self.inner.tracker.reopen();
    }

    /// Whether nothing of it runs, and nobody else has it who could begin anything.
    pub fn is_abandoned(&self) -> bool {
        // in this order, as what runs may have been begun by the last who had it
        Arc::strong_count(&self.inner) == 1 && self.inner.tracker.is_empty()
    }

    /// Returns this machine, as the fleet wants its machines.
    pub fn machine(&self) -> LocalMachine {
        LocalMachine::new(Arc::clone(&self.inner.store), Arc::clone(&self.inner))
    }
}

impl Inner {
    /// Returns who builds something that isn't done here.
    pub(crate) fn other_for(&self, request: &BuildRequest) -> Option<Arc<dyn Builder>> {
        let other = self.other.as_ref()?;
        let BuildPlan::Derivation(derivation) = &request.plan else { return None };
        let options = derivation.options().ok()?;
        let suits = suitable::check(derivation, &options, &self.settings).is_ok();
        (!suits).then(|| Arc::clone(other))
    }

    /// Begins to start what the first build takes; that waits for it, and tells if it fails.
    pub(crate) fn start_early(self: &Arc<Self>) {
        let inner = Arc::clone(self);
        self.tracker.spawn(async move { inner.started().await.map(drop).ok() });
    }

    async fn started(&self) -> Result<(Launcher, Support), Trouble> {
        let start = || async {
            let launcher = Launcher::start(&self.settings.launcher)
                .map_err(|error| machine("start the launcher of builds", &error))?;
            let support = launcher.support().await.map_err(|error: SpawnError| {
                BuildFailure::new(FailureCause::Machine, error.to_string())
            })?;
            let parent = attempt::parent(&self.settings, &self.store);
            if let Err(error) = BuildFolders::sweep(&parent) {
                tracing::warn!(
                    "what killed builds have left in '{}' stays: {error}",
                    parent.path.display()
                );
            }
            Ok::<_, Trouble>((launcher, support))
        };
        self.started.get_or_try_init(start).await.cloned()
    }

    pub(crate) async fn build(
        &self,
        Queue { store, places, references, cancel }: Queue<'_>,
        purpose: Purpose,
        request: BuildRequest,
        log: Arc<dyn BuildLog>,
    ) -> Result<BuildOutcome, Trouble> {
        let (launcher, support) = self.started().await?;
        let settings = wished(&self.settings, &request.wishes.sandbox)?;
        let job = Job {
            store: Arc::clone(store),
            settings: &settings,
            launcher,
            support,
            tracker: &self.tracker,
            purpose,
            request,
            log,
            places,
            references,
            cancel,
        };
        job.run().await
    }
}
