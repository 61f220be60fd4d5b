//! From unpacked and checked to valid: a whole batch under its locks, in one transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use drover_core::{OutputName, PathInfo, Realisation, StorePath};
use drover_store::{Optimise, StoreError, WhenValid};
use drover_store_db::{DbError, Registration};
use drover_store_files::LinkCheck;
use drover_store_locks::{PathLocks, TempDir, Tried};

use crate::LocalStore;
use crate::error::LocalError;
use crate::failpoint::{Point, reach};
use crate::options::ContentSync;
use crate::patience::Patience;
use crate::tree;
use crate::view::View;

/// A path that is unpacked and checked.
pub(crate) struct Ready {
    pub(crate) info: PathInfo,
    /// Of a derivation, the outputs whose paths are known.
    pub(crate) outputs: BTreeMap<OutputName, StorePath>,
    /// What it is called in the folder where it was unpacked.
    pub(crate) entry: String,
}

/// Paths that become valid together; their temporary roots are held already. If it is dropped
/// before, they are gone.
pub(crate) struct Batch {
    pub(crate) view: View,
    pub(crate) folder: Arc<TempDir>,
    pub(crate) ready: Vec<Ready>,
    pub(crate) when_valid: WhenValid,
}

/// What came of a try to make paths valid.
enum Outcome {
    Done,
    /// Somebody builds or adds this one.
    Busy(StorePath),
}

/// Makes paths valid. As long as somebody else has one of them locked this waits, without a thread.
///
/// Where one of them can't be registered, those before it are, and it and those after it are gone.
pub(crate) async fn commit(store: &LocalStore, mut batch: Batch) -> Result<(), StoreError> {
    batch.view.collect_if_due();
    let view = batch.view.clone();
    let mut patience = Patience::new(view.options().lock_patience);
    loop {
        let (rest, outcome) = store
            .job(move |_| {
                let outcome = batch.attempt();
                if !matches!(outcome, Ok(Outcome::Busy(_))) {
                    batch.clear();
                }
                Ok((batch, outcome))
            })
            .await?;
        let outcome = outcome.map_err(|error| store.told(error))?;
        let Outcome::Busy(path) = outcome else { return Ok(()) };
        let real = view.layout().real_path(&path);
        let what = format!("waiting for lock on '{}'", real.display());
        patience.pause(&what).await.map_err(|error| store.told(error))?;
        // Whoever had it may have made it valid.
        batch = store.blocking(move |_| rest.without_valid()).await?;
    }
}

impl Batch {
    /// Forgets what has become valid, and need not be added any more.
    fn without_valid(mut self) -> Result<Batch, LocalError> {
        if self.when_valid == WhenValid::Keep {
            let valid = self.view.valid(self.ready.iter().map(|ready| &ready.info.path))?;
            let is_valid = |ready: &mut Ready| valid.contains(&ready.info.path);
            for Ready { entry, .. } in self.ready.extract_if(.., is_valid) {
                tree::remove(&*self.folder, &entry).ok();
            }
        }
        Ok(self)
    }

    /// Removes what was skipped, replaced or not reached; most have been renamed away.
    pub(crate) fn clear(&mut self) {
        for Ready { entry, .. } in self.ready.drain(..) {
            tree::remove(&*self.folder, &entry).ok();
        }
    }

    fn attempt(&self) -> Result<Outcome, LocalError> {
        if self.ready.is_empty() {
            return Ok(Outcome::Done);
        }
        reach(Point::BeforeLock);
        let paths: BTreeSet<StorePath> =
            self.ready.iter().map(|ready| ready.info.path.clone()).collect();
        let held = &self.view.options().locked_by_caller;
        let free = paths.difference(held).cloned().collect();
        let locks = match PathLocks::try_acquire(&self.view.opened.real_store, &free)? {
            Tried::Held(locks) => locks,
            Tried::Busy(path) => return Ok(Outcome::Busy(path)),
        };
        reach(Point::AfterLock);
        let done = self.commit_locked(&paths, &[]);
        drop(locks);
        done.map(|()| Outcome::Done)
    }

    /// Makes paths valid that are locked, with what else is known of them, all in one transaction.
    pub(crate) fn commit_locked(
        &self,
        paths: &BTreeSet<StorePath>,
        realisations: &[Realisation],
    ) -> Result<(), LocalError> {
        let valid = self.view.valid(paths)?;
        let keeps = |ready: &&Ready| {
            self.when_valid == WhenValid::Replace || !valid.contains(&ready.info.path)
        };
        let added: Vec<&Ready> = self.ready.iter().filter(keeps).collect();
        let result = match self.place(&added, &valid) {
            Ok(()) => {
                reach(Point::BeforeTransaction);
                register(&self.view, &added, realisations)
            }
            Err(error) => Err((error, added.as_slice())),
        };
        let result = result.map_err(|(error, left)| {
            // What isn't valid and is in its place all the same, while it is locked.
            for Ready { info, .. } in left.iter().filter(|ready| !valid.contains(&ready.info.path))
            {
                tree::remove_path(&self.view, &info.path).ok();
            }
            error
        });
        reach(Point::AfterCommit);
        result
    }

    /// Puts paths in their place, and what they hold on the disk.
    fn place(&self, added: &[&Ready], valid: &BTreeSet<StorePath>) -> Result<(), LocalError> {
        let Batch { view, folder, .. } = self;
        let syncs = view.options().contents == ContentSync::Full;
        if view.options().optimise == Optimise::OnImport {
            // Others trust the size of what is in the pool of hard links: after a power cut, too.
            if syncs && !added.is_empty() {
                tree::sync_new(folder, added.iter().map(|ready| ready.entry.as_str()).collect())?;
            }
            let mut links = tree::links(view)?;
            let check = match self.when_valid {
                WhenValid::Keep => LinkCheck::Size,
                // The damaged file that is replaced may be the one that is linked.
                WhenValid::Replace => LinkCheck::Contents,
            };
            for Ready { info, entry, .. } in added {
                tree::optimise_new(view, &mut links, folder, entry, &info.path, check)?;
            }
        }
        let replaces = |ready: &&&Ready| valid.contains(&ready.info.path);
        let replacing: Vec<&str> =
            added.iter().filter(replaces).map(|ready| ready.entry.as_str()).collect();
        if syncs && !replacing.is_empty() {
            // Their rows are there already: from the moment that they are in their place they count.
            tree::sync_new(folder, replacing)?;
        }
        for Ready { info, entry, .. } in added {
            match valid.contains(&info.path) {
                true => tree::exchange(folder, entry, view, &info.path)?,
                false => tree::place(folder, entry, view, &info.path)?,
            }
        }
        reach(Point::AfterRename);
        if syncs && !added.is_empty() {
            tree::sync(view, added.iter().map(|ready| &ready.info.path))?;
        }
        Ok(())
    }
}

/// Whoever stopped the import wants none of those that are not committed.
impl Drop for Batch {
    fn drop(&mut self) {
        let entries: Vec<String> = self.ready.drain(..).map(|ready| ready.entry).collect();
        if !entries.is_empty() {
            tree::abandon(self.folder.clone(), entries, ());
        }
    }
}

/// Registers paths; where it can't, returns those that were not.
fn register<'a>(
    view: &View,
    added: &'a [&'a Ready],
    realisations: &[Realisation],
) -> Result<(), (LocalError, &'a [&'a Ready])> {
    let registration =
        |ready: &&Ready| Registration { info: ready.info.clone(), outputs: ready.outputs.clone() };
    let all: Vec<Registration> = added.iter().map(registration).collect();
    let written = view.opened.write(|database| database.register_built(&all, realisations));
    let Err(error) = written else { return Ok(()) };
    // One of them is at fault; the others needn't suffer for it. What a build has made comes whole
    // or not at all.
    let one_is_at_fault = matches!(
        error,
        LocalError::Database(DbError::UnknownReference { .. } | DbError::Cycle { .. })
    ) && added.iter().all(|ready| !ready.info.ultimate);
    let good = |one: &&Registration| {
        view.opened.write(|database| database.register(std::slice::from_ref(*one))).is_ok()
    };
    let before = if one_is_at_fault { all.iter().take_while(good).count() } else { 0 };
    Err((error, added.get(before..).unwrap_or_default()))
}
