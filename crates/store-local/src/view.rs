//! What a piece of blocking work sees of a store, and the store as it stands behind all views.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use drover_core::{DrvOutput, PathInfo, StorePath};
use drover_derivation::{Derivation, HashModuloCache, MAX_ATERM_SIZE, derivation_name};
use drover_store::{CollectAction, Collection, FetchObserver, Liveness};
use drover_store_locks::TempRoots;
use tokio::sync::Semaphore;

use crate::error::LocalError;
use crate::gc::{self, AutoCollect, AutoLimits, GcError, Keep, Site, Wanted};
use crate::opened::{Opened, lock, patience};
use crate::substitution::Supply;
use crate::{Access, Layout, LocalOptions};

/// Derivations whose hashes are remembered, some 60 bytes each.
const HASHES: usize = 200_000;

/// Outputs of one session that are remembered as asked about.
const MOST_ASKED: usize = 100_000;

/// How often, and after which pause, the lock of collectors is asked for again.
const LOCK_TRIES: usize = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// What all views of one store share.
pub(crate) struct Shared {
    pub(crate) layout: Layout,
    /// As the store is configured.
    pub(crate) options: Arc<LocalOptions>,
    opened: Mutex<Option<Arc<Opened>>>,
    /// How many imports and exports work at the same time; nobody holds one while a client dawdles.
    pub(crate) jobs: Arc<Semaphore>,
    /// Hashes of derivations, by paths that follow from their contents, so that what is known of
    /// one can't become wrong.
    hashes: Mutex<HashModuloCache>,
    auto: AutoCollect,
}

impl Shared {
    pub(crate) fn new(layout: Layout, options: LocalOptions) -> Shared {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let limits = AutoLimits {
            min_free: options.min_free,
            max_free: options.max_free,
            interval: options.free_interval,
        };
        Shared {
            auto: AutoCollect::new(limits),
            layout,
            options: Arc::new(options),
            opened: Mutex::new(None),
            jobs: Arc::new(Semaphore::new(cores * 4)),
            hashes: Mutex::new(HashModuloCache::new()),
        }
    }

    /// Returns the store as it is now; opens it, and opens it anew where it was removed and made
    /// again. Blocks.
    pub(crate) fn opened(&self) -> Result<Arc<Opened>, LocalError> {
        let mut opened = lock(&self.opened);
        if let Some(opened) = opened.as_ref().filter(|opened| opened.is_current()) {
            return Ok(opened.clone());
        }
        *opened = None;
        let new = Arc::new(Opened::open(&self.layout, &self.options)?);
        *opened = Some(new.clone());
        Ok(new)
    }
}

impl Shared {
    /// Returns the store if it is open and was still the one that was opened just now.
    pub(crate) fn already_open(&self) -> Option<Arc<Opened>> {
        let opened = self.opened.try_lock().ok()?;
        opened.as_ref().filter(|opened| opened.was_current_just_now()).cloned()
    }
}

/// What belongs to one session.
pub(crate) struct Session {
    /// Those of a store that was removed are forgotten with it.
    roots: Mutex<Option<(Arc<Opened>, Arc<TempRoots>)>>,
    /// The store's, but for what this session has otherwise.
    options: Mutex<Arc<LocalOptions>>,
    /// Where paths come from, if not from where the store's come.
    supply: Mutex<Option<Arc<Supply>>>,
    /// Who is told of what is fetched for it.
    follower: Mutex<Option<Arc<dyn FetchObserver>>>,
    /// Outputs that were asked about by settings other than the store's.
    asked: Mutex<BTreeSet<DrvOutput>>,
}

impl Session {
    pub(crate) fn new(shared: &Shared) -> Session {
        let (roots, supply) = (Mutex::new(None), Mutex::new(None));
        let options = Mutex::new(shared.options.clone());
        Session { roots, options, supply, follower: Mutex::new(None), asked: Mutex::default() }
    }

    /// Notes that this session wants to know what outputs became, where its settings aren't the store's.
    pub(crate) fn note_asked(&self, shared: &Shared, outputs: &BTreeSet<DrvOutput>) {
        if Arc::ptr_eq(&lock(&self.options), &shared.options) {
            return;
        }
        let mut asked = lock(&self.asked);
        if MOST_ASKED < asked.len() + outputs.len() {
            // what is asked about again is noted again
            asked.clear();
        }
        asked.extend(outputs.iter().cloned());
    }

    pub(crate) fn asked(&self) -> BTreeSet<DrvOutput> {
        lock(&self.asked).clone()
    }

    pub(crate) fn set_options(&self, options: LocalOptions) {
        *lock(&self.options) = Arc::new(options);
    }

    pub(crate) fn set_supply(&self, supply: Option<Arc<Supply>>) {
        *lock(&self.supply) = supply;
    }

    pub(crate) fn follow(&self, follower: Arc<dyn FetchObserver>) {
        *lock(&self.follower) = Some(follower);
    }

    pub(crate) fn follower(&self) -> Option<Arc<dyn FetchObserver>> {
        lock(&self.follower).clone()
    }

    pub(crate) fn supply(&self) -> Option<Arc<Supply>> {
        lock(&self.supply).clone()
    }

    fn roots(&self, opened: &Arc<Opened>, layout: &Layout) -> Arc<TempRoots> {
        let mut held = lock(&self.roots);
        match held.as_ref() {
            Some((of, roots)) if Arc::ptr_eq(of, opened) => roots.clone(),
            _ => {
                let roots = Arc::new(TempRoots::new(&layout.state, &layout.store_dir));
                *held = Some((opened.clone(), roots.clone()));
                roots
            }
        }
    }
}

/// What a piece of blocking work sees of a store.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) shared: Arc<Shared>,
    pub(crate) opened: Arc<Opened>,
    pub(crate) roots: Arc<TempRoots>,
    options: Arc<LocalOptions>,
}

impl View {
    pub(crate) fn new(shared: &Arc<Shared>, session: &Session) -> Result<View, LocalError> {
        let opened = shared.opened()?;
        let roots = session.roots(&opened, &shared.layout);
        let options = lock(&session.options).clone();
        Ok(View { shared: shared.clone(), opened, roots, options })
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.shared.layout
    }

    pub(crate) fn options(&self) -> &LocalOptions {
        &self.options
    }

    /// Returns the whole path, for messages.
    pub(crate) fn display(&self, path: &StorePath) -> String {
        self.layout().store_dir.display(path)
    }

    pub(crate) fn refuse_read_only(&self, what: &'static str) -> Result<(), LocalError> {
        match self.layout().access {
            Access::ReadWrite => Ok(()),
            Access::ReadOnly => Err(LocalError::ReadOnly { what }),
        }
    }

    /// Protects paths as long as the session lives. In a store that is only read nothing is deleted.
    pub(crate) fn hold<'a>(
        &self,
        paths: impl IntoIterator<Item = &'a StorePath>,
    ) -> Result<(), LocalError> {
        match self.layout().access {
            Access::ReadWrite => {
                Ok(self.roots.add(paths, patience(self.options().lock_patience))?)
            }
            Access::ReadOnly => Ok(()),
        }
    }

    /// Protects what a link keeps that was just made, also from a collector that runs since before.
    pub(crate) fn hand_over(&self, path: &StorePath) -> Result<(), LocalError> {
        let wait = patience(self.options().lock_patience);
        Ok(self.roots.hand_over(std::slice::from_ref(path), wait)?)
    }

    pub(crate) fn valid<'a>(
        &self,
        paths: impl IntoIterator<Item = &'a StorePath> + Clone,
    ) -> Result<BTreeSet<StorePath>, LocalError> {
        self.opened.read(|database| database.valid(paths))
    }

    pub(crate) fn path_infos(
        &self,
        paths: &[StorePath],
    ) -> Result<Vec<Option<PathInfo>>, LocalError> {
        self.opened.read(|database| database.path_infos(paths))
    }

    /// Returns what is known of a valid path.
    pub(crate) fn path_info(&self, path: &StorePath) -> Result<PathInfo, LocalError> {
        let infos = self.path_infos(std::slice::from_ref(path))?;
        let absent = || LocalError::NotValid { path: self.display(path) };
        infos.into_iter().flatten().next().ok_or_else(absent)
    }

    /// Hands the store to the garbage collector.
    pub(crate) fn with_site<T>(
        &self,
        wanted: &Wanted,
        work: impl FnOnce(&Site<'_>) -> Result<T, GcError>,
    ) -> Result<T, LocalError> {
        let options = self.options();
        let site = Site {
            layout: self.layout(),
            database: self.opened.reading(),
            keep: Keep { outputs: options.keep_outputs, derivations: options.keep_derivations },
            reserved: options.reserved,
            wanted,
        };
        Ok(work(&site)?)
    }

    /// Begins a collection where little space is free; nobody waits for it.
    pub(crate) fn collect_if_due(&self) {
        if self.options().min_free == 0 {
            return;
        }
        let view = self.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = view.collect_now() {
                tracing::warn!("cannot collect garbage: {error}");
            }
        });
    }

    fn collect_now(&self) -> Result<(), LocalError> {
        let free = || gc::free_space(&self.layout().real);
        let Some(due) = self.shared.auto.due(Instant::now(), free)? else { return Ok(()) };
        // Where another one runs, that is what is needed; who adds a root has the lock for a moment only.
        let mut tries = 0..LOCK_TRIES;
        let lock = loop {
            match (gc::try_lock(self.layout())?, tries.next()) {
                (Some(lock), _) => break lock,
                (None, Some(_)) => std::thread::sleep(LOCK_PAUSE),
                (None, None) => return Ok(()),
            }
        };
        let collection = Collection {
            action: CollectAction::DeleteDead,
            liveness: Liveness::Respect,
            paths: BTreeSet::new(),
            max_freed: Some(due.bytes),
        };
        tracing::info!("running auto-GC to free {} bytes", due.bytes);
        self.with_site(&Wanted::default(), |site| gc::collect(site, &collection, lock))?;
        due.done(Instant::now(), free()?);
        Ok(())
    }

    /// Reads a derivation from its file, be it valid or not; `None` where there is no file.
    pub(crate) fn derivation(&self, path: &StorePath) -> Result<Option<Derivation>, LocalError> {
        let file = self.layout().real_path(path);
        let fail = |doing, source| LocalError::Io { doing, path: file.clone(), source };
        let mut options = fs::OpenOptions::new();
        let no_follow = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let flags = i32::try_from(no_follow.bits()).unwrap_or(0);
        let opened = match options.read(true).custom_flags(flags).open(&file) {
            Ok(opened) => opened,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fail("open", error)),
        };
        let limit = MAX_ATERM_SIZE as u64;
        let regular = opened.metadata().map_err(|error| fail("look at", error))?.is_file();
        let mut text = Vec::new();
        if regular {
            let mut limited = opened.take(limit + 1);
            limited.read_to_end(&mut text).map_err(|error| fail("read", error))?;
        }
        if !regular || limit < text.len() as u64 {
            return Err(LocalError::NotAFile { path: file, limit });
        }
        self.parse_derivation(path, &text).map(Some)
    }

    pub(crate) fn parse_derivation(
        &self,
        path: &StorePath,
        text: &[u8],
    ) -> Result<Derivation, LocalError> {
        let bad = |source| LocalError::Derivation { path: self.display(path), source };
        let name = derivation_name(path).unwrap_or_else(|| path.store_name());
        Derivation::parse_aterm(&self.layout().store_dir, &name, text).map_err(bad)
    }

    /// Runs `work` with the hashes of all derivations that `derivation` depends on.
    ///
    /// `pending` holds derivations whose files are not in their place yet.
    pub(crate) fn with_input_hashes<T>(
        &self,
        path: &StorePath,
        derivation: &Derivation,
        pending: impl Fn(&StorePath) -> Option<Derivation>,
        work: impl FnOnce(&HashModuloCache) -> Result<T, drover_derivation::DerivationError>,
    ) -> Result<T, LocalError> {
        let store_dir = &self.layout().store_dir;
        let bad = |source| LocalError::Derivation { path: self.display(path), source };
        let mut hashes = lock(&self.shared.hashes);
        if hashes.len() > HASHES {
            *hashes = HashModuloCache::new();
        }
        let mut failed = None;
        let lookup = |input: &StorePath| {
            let found = match pending(input) {
                Some(found) => Ok(Some(found)),
                None => self.derivation(input),
            };
            // What isn't where its contents say is not believed, and so not remembered.
            let found = found.unwrap_or_else(|error| {
                failed = Some(error);
                None
            });
            found.filter(|found| found.derivation_path(store_dir).as_ref() == Ok(input))
        };
        let own = derivation.derivation_path(store_dir).map_err(bad)?;
        let inserted = hashes.insert_closure(store_dir, &own, derivation, lookup);
        if let Some(error) = failed {
            return Err(error);
        }
        inserted.map_err(bad)?;
        work(&hashes).map_err(bad)
    }
}
