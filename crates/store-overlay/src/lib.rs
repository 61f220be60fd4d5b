//! A store over another one: that is only read, and what is added is kept beside it.
//!
//! Who builds for a client that registers the outputs itself must not register them, too: the client
//! holds locks on them meanwhile. So they wait here until they were fetched: in memory where they are
//! small, in files without a name otherwise. They are gone with the last view that has seen them.
//!
//! Invariants: nothing is ever written to the store below but roots that protect what is read there.
//! What is added is whole and as announced, and refers to nothing that isn't valid.

mod export;
mod keeper;
mod kept;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use drover_core::{DrvOutput, PathInfo, Realisation, StorePath};
use drover_store::{Keeper, PathStream, StoreError, Substitute};

use crate::kept::{Kept, Shelf};

/// Realisations that one view notes at most: those of one build, of which each has some outputs.
const MAX_REALISATIONS: usize = 4096;

/// A view of a store, with what was added to this view and is wanted of other views.
pub struct OverlayStore {
    below: Arc<dyn Keeper>,
    /// What all views have added.
    shelf: Arc<Shelf>,
    /// What this view has added or asked for: it stays as long as the view.
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    paths: BTreeMap<StorePath, Arc<Kept>>,
    realisations: BTreeMap<DrvOutput, Realisation>,
}

impl OverlayStore {
    /// Returns a view over a store.
    pub fn new(below: Arc<dyn Keeper>) -> OverlayStore {
        OverlayStore { below, shelf: Arc::default(), held: Mutex::default() }
    }

    /// Returns a view over the same store as it is configured now: what was added to this one's views is
    /// there, too.
    #[must_use]
    pub fn over(&self, below: Arc<dyn Keeper>) -> OverlayStore {
        OverlayStore { below, shelf: Arc::clone(&self.shelf), held: Mutex::default() }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a path that was added to any view, which keeps it for this one.
    fn kept(&self, path: &StorePath) -> Option<Arc<Kept>> {
        let mut held = self.held();
        if let Some(kept) = held.paths.get(path) {
            return Some(Arc::clone(kept));
        }
        let kept = self.shelf.find(path)?;
        held.paths.insert(path.clone(), Arc::clone(&kept));
        Some(kept)
    }

    fn refusal(&self, what: &'static str) -> StoreError {
        StoreError::Unsupported { store: self.below.name().to_owned(), what }
    }

    /// Keeps paths as long as this view.
    async fn add(&self, mut paths: Box<dyn PathStream>) -> Result<(), StoreError> {
        while let Some(info) = paths.next_path().await? {
            if self.kept(&info.path).is_some() {
                while paths.chunk().await?.is_some() {}
                continue;
            }
            self.check_references(&info).await?;
            let kept = Arc::new(self.shelf.keep(self.below.name(), info, paths.as_mut()).await?);
            self.shelf.note(&kept);
            self.held().paths.insert(kept.info().path.clone(), kept);
        }
        Ok(())
    }

    async fn check_references(&self, info: &PathInfo) -> Result<(), StoreError> {
        let others = info.references.iter().filter(|path| **path != info.path);
        let below: BTreeSet<StorePath> =
            others.filter(|path| self.kept(path).is_none()).cloned().collect();
        let valid = self.below.hold_valid(&below, Substitute::No).await?;
        match below.difference(&valid).next() {
            None => Ok(()),
            Some(path) => Err(StoreError::NotValid {
                store: self.below.name().to_owned(),
                path: path.clone(),
            }),
        }
    }
}
