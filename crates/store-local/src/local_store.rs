//! The local store as everyone who uses a store sees it.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use drover_core::{DrvOutput, PathInfo, StoreDir, StorePath, ToldRealisation};
use drover_store::{
    BuildLog, Description, FetchObserver, Missing, OwnSetting, PathStream, SignatureCheck,
    SilentLog, Store, StoreError, Substitute, Trust, WhenValid,
};
use drover_store_db::{Database, DbError};

use crate::error::LocalError;
use crate::import::{Checks, import};
use crate::substitution::{Sources, Supply};
use crate::view::{Session, Shared, View};
use crate::{Layout, LocalOptions, export, links, outputs, own_thread, substitution};

/// Paths up to which the database is asked on the thread that wants to know: it answers within some
/// ten microseconds, and to hand the question to another thread takes several times as long.
const FEW: usize = 4;

/// A store on this machine.
///
/// Cheap to make: nothing is opened before the first question. One value is one session, whose
/// temporary roots end when it is dropped; [`Keeper::session`](drover_store::Keeper::session) begins
/// another one on the same database connections.
pub struct LocalStore {
    shared: Arc<Shared>,
    session: Arc<Session>,
    /// Where paths come from that need not be built, and damaged ones once more.
    supply: Arc<Supply>,
}

impl LocalStore {
    /// Returns the store at a place.
    pub fn new(layout: Layout, options: LocalOptions) -> LocalStore {
        let shared = Arc::new(Shared::new(layout, options));
        LocalStore { session: Arc::new(Session::new(&shared)), shared, supply: Arc::default() }
    }

    /// Has paths fetched from these substituters in the place of building them; and damaged ones once
    /// more, from the first that has them as they were, where a check is to repair what it finds.
    #[must_use]
    pub fn substituting_from(self, sources: Sources) -> LocalStore {
        let here = self.shared.layout.store_dir.clone();
        LocalStore { supply: Arc::new(Supply::new(sources, here)), ..self }
    }

    /// Returns where paths come from in this session.
    pub(crate) fn supply(&self) -> Arc<Supply> {
        self.session.supply().unwrap_or_else(|| Arc::clone(&self.supply))
    }

    /// Has somebody told of what is fetched for this session.
    pub(crate) fn follow(&self, follower: Arc<dyn FetchObserver>) {
        self.session.follow(follower);
    }

    /// Returns who is told of what is fetched for this session.
    pub(crate) fn follower(&self) -> Option<Arc<dyn FetchObserver>> {
        self.session.follower()
    }

    /// Returns where the store is.
    pub fn layout(&self) -> &Layout {
        &self.shared.layout
    }

    /// Notes that this session wants to know what outputs became.
    pub(crate) fn note_asked(&self, outputs: &BTreeSet<DrvOutput>) {
        self.session.note_asked(&self.shared, outputs);
    }

    /// Returns what this session has asked about by settings of its own.
    pub(crate) fn session_asked(&self) -> BTreeSet<DrvOutput> {
        self.session.asked()
    }

    /// Has these settings count for this session, and otherwise those of the store.
    pub(crate) fn set_session(&self, own: &[OwnSetting]) {
        self.session.set_options(self.shared.options.with(own));
        self.session.set_supply(self.supply.as_asked_for(own));
    }

    /// Returns a session of its own on the same store: its temporary roots end when it is dropped.
    #[must_use]
    pub fn new_session(&self) -> LocalStore {
        LocalStore { session: Arc::new(Session::new(&self.shared)), ..self.same_session() }
    }

    /// Returns the same session once more.
    pub(crate) fn same_session(&self) -> LocalStore {
        LocalStore {
            shared: self.shared.clone(),
            session: self.session.clone(),
            supply: self.supply.clone(),
        }
    }

    /// Runs blocking work on the store as it is now: in place, where this thread is there for that.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&View) -> Result<T, LocalError> + Send + 'static,
    ) -> Result<T, StoreError> {
        if own_thread::may_block() {
            let view = View::new(&self.shared, &self.session);
            return view.and_then(|view| work(&view)).map_err(|error| self.told(error));
        }
        let (shared, session) = (self.shared.clone(), self.session.clone());
        let done = tokio::task::spawn_blocking(move || work(&View::new(&shared, &session)?)).await;
        let done = done.unwrap_or_else(|error| Err(LocalError::Thread(error.to_string())));
        done.map_err(|error| self.told(error))
    }

    /// Asks the database of so many paths: at once, where they are few and nobody has to be waited for.
    async fn ask<T: Send + 'static>(
        &self,
        count: usize,
        question: impl Fn(&Database) -> Result<T, DbError> + Send + 'static,
    ) -> Result<T, StoreError> {
        if count <= FEW
            && let Some(opened) = self.shared.already_open()
            && let Some(answer) = opened.read_at_once(&question)
        {
            return answer.map_err(|error| self.told(error));
        }
        self.blocking(move |view| {
            let answer = view.opened.read(&question)?;
            view.opened.make_hasty()?;
            Ok(answer)
        })
        .await
    }

    /// Returns what blocking work sees, for tests that run it on their own thread.
    #[cfg(test)]
    pub(crate) fn view(&self) -> View {
        View::new(&self.shared, &self.session).expect("a store")
    }

    /// Returns an error as everyone who uses a store is told of it.
    pub(crate) fn told(&self, error: LocalError) -> StoreError {
        error.into_store_error(&self.shared.layout.name)
    }

    /// Runs blocking work that takes a while; only so many at the same time. It doesn't wait for
    /// others: see [`Patience`](crate::patience::Patience) for that.
    pub(crate) async fn job<T: Send + 'static>(
        &self,
        work: impl FnOnce(&View) -> Result<T, LocalError> + Send + 'static,
    ) -> Result<T, StoreError> {
        // It is never closed.
        let permit = self.shared.jobs.clone().acquire_owned().await.ok();
        let done = self.blocking(work).await;
        drop(permit);
        done
    }
}

#[async_trait]
impl Store for LocalStore {
    fn name(&self) -> &str {
        &self.shared.layout.name
    }

    fn store_dir(&self) -> &StoreDir {
        &self.shared.layout.store_dir
    }

    async fn connect(&self) -> Result<Description, StoreError> {
        self.blocking(|_| Ok(())).await?;
        Ok(Description { protocol: "local".to_owned(), nix_version: None, trust: Trust::Trusted })
    }

    async fn hold_valid(
        &self,
        paths: &BTreeSet<StorePath>,
        substitute: Substitute,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        if substitute == Substitute::Yes {
            substitution::fetch(self, paths, &SilentLog).await?;
        }
        let paths = paths.clone();
        self.blocking(move |view| {
            view.hold(&paths)?;
            view.valid(&paths)
        })
        .await
    }

    async fn substitute(
        &self,
        paths: &BTreeSet<StorePath>,
        log: Arc<dyn BuildLog>,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        substitution::fetch(self, paths, log.as_ref()).await?;
        self.hold_valid(paths, Substitute::No).await
    }

    async fn valid(&self, paths: &BTreeSet<StorePath>) -> Result<BTreeSet<StorePath>, StoreError> {
        let asked = paths.clone();
        self.ask(paths.len(), move |database| database.valid(&asked)).await
    }

    async fn path_infos(&self, paths: &[StorePath]) -> Result<Vec<Option<PathInfo>>, StoreError> {
        let asked = paths.to_vec();
        self.ask(paths.len(), move |database| database.path_infos(&asked)).await
    }

    async fn realised(
        &self,
        outputs: &[DrvOutput],
    ) -> Result<Vec<Option<ToldRealisation>>, StoreError> {
        let outputs = outputs.to_vec();
        self.blocking(move |view| {
            let known = |id| view.opened.read(|database| database.realisation(id));
            outputs.iter().map(|id| Ok(known(id)?.map(ToldRealisation::from))).collect()
        })
        .await
    }

    async fn export(&self, infos: Vec<PathInfo>) -> Result<Box<dyn PathStream>, StoreError> {
        export::export(self, infos).await
    }

    async fn import(&self, paths: Box<dyn PathStream>) -> Result<(), StoreError> {
        let checks = Checks { signatures: SignatureCheck::Skip };
        import(self, paths, checks, WhenValid::Keep).await
    }

    async fn missing(&self, derivations: &BTreeSet<StorePath>) -> Result<Missing, StoreError> {
        outputs::missing(self, derivations).await
    }

    async fn add_indirect_root(&self, link: &str) -> Result<(), StoreError> {
        let link = link.to_owned();
        self.blocking(move |view| links::add_indirect(view, &link)).await
    }
}
