//! From unpacked and checked to valid: a whole batch under its locks, in one transaction.

use std::collections::{BTreeMap, BTreeSet};

use drover_core::{OutputName, PathInfo, StorePath};
use drover_store::WhenValid;
use drover_store_db::{DbError, Registration};
use drover_store_locks::{PathLocks, TempDir};

use crate::error::LocalError;
use crate::failpoint::{Point, reach};
use crate::opened::patience;
use crate::options::{ContentSync, Optimise};
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

/// Makes paths valid; their temporary roots are held already.
///
/// Where one of them can't be registered, those before it are, and it and those after it are gone.
pub(crate) fn commit(
    view: &View,
    folder: &TempDir,
    ready: Vec<Ready>,
    when_valid: WhenValid,
) -> Result<(), LocalError> {
    view.collect_if_due();
    reach(Point::BeforeLock);
    let result = place_and_register(view, folder, &ready, when_valid);
    for Ready { entry, .. } in &ready {
        // What was skipped, replaced or not reached; most have been renamed away.
        tree::remove(folder, entry).ok();
    }
    result
}

fn place_and_register(
    view: &View,
    folder: &TempDir,
    ready: &[Ready],
    when_valid: WhenValid,
) -> Result<(), LocalError> {
    let paths: BTreeSet<StorePath> = ready.iter().map(|ready| ready.info.path.clone()).collect();
    let wait = patience(view.options().lock_patience);
    let locks = PathLocks::acquire(&view.opened.real_store, &paths, wait)?;
    reach(Point::AfterLock);
    let valid = view.valid(&paths)?;
    let mut placed: Vec<&Ready> = Vec::with_capacity(ready.len());
    for ready in ready {
        let path = &ready.info.path;
        match (valid.contains(path), when_valid) {
            (true, WhenValid::Keep) => continue,
            (true, WhenValid::Replace) => tree::exchange(folder, &ready.entry, view, path)?,
            (false, _) => tree::place(folder, &ready.entry, view, path)?,
        }
        placed.push(ready);
    }
    if view.options().optimise == Optimise::OnImport {
        let mut links = tree::links(view)?;
        for ready in &placed {
            tree::optimise(view, &mut links, &ready.info.path)?;
        }
    }
    reach(Point::AfterRename);
    if !placed.is_empty() && view.options().contents == ContentSync::Full {
        tree::sync(view, placed.iter().map(|ready| &ready.info.path))?;
    }
    reach(Point::BeforeTransaction);
    let result = register(view, &placed, &valid);
    reach(Point::AfterCommit);
    drop(locks);
    result
}

fn register(view: &View, placed: &[&Ready], valid: &BTreeSet<StorePath>) -> Result<(), LocalError> {
    let registrations: Vec<Registration> = placed
        .iter()
        .map(|ready| Registration { info: ready.info.clone(), outputs: ready.outputs.clone() })
        .collect();
    let Err(error) = view.opened.write(|database| database.register(&registrations)) else {
        return Ok(());
    };
    // One of them is at fault; the others needn't suffer for it.
    let one_is_at_fault = matches!(
        error,
        LocalError::Database(DbError::UnknownReference { .. } | DbError::Cycle { .. })
    );
    let mut left = registrations.as_slice();
    if one_is_at_fault {
        while let Some((first, rest)) = left.split_first() {
            let one = std::slice::from_ref(first);
            if view.opened.write(|database| database.register(one)).is_err() {
                break;
            }
            left = rest;
        }
    }
    for Registration { info, .. } in left {
        if !valid.contains(&info.path) {
            tree::remove_path(view, &info.path).ok();
        }
    }
    Err(error)
}
