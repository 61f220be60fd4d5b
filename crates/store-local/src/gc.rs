//! The garbage collector: finds what nothing needs, and deletes it.
//!
//! Follows `LocalStore::collectGarbage` in Nix's `src/libstore/gc.cc`, with which it shares locks,
//! socket and roots, so that either may run beside the other's adders. The order keeps two promises,
//! whatever is added meanwhile and wherever the power goes:
//!
//! 1. The lock is had and the socket is served before the first root is read, so that each root is
//!    either read or told.
//!    Temporary roots are read before links, as sessions end when links have taken over.
//! 2. A path is claimed (nobody is told that it is safe from here on), made invalid durably, renamed
//!    away, given back, and only then unlinked.
//! 3. Who refers to a path goes before it, so that what a late root needs is still there.

mod auto;
mod entries;
mod error;
mod explain;
mod given;
mod process;
mod roots;
mod scan;
mod sweep;
#[cfg(test)]
mod tests;
mod trash;
mod world;

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use drover_core::StorePath;
use drover_store::{CollectAction, Collected, Collection, Liveness, Roots};
use drover_store_db::{Database, OpenOptions, hold_reserve, release_reserve};
use drover_store_files::Links;
use drover_store_locks::{GcLock, LockError, RealStore, RootsServer, find_temporary_roots};

use crate::Layout;
use crate::failpoint::{Point, reach};
use entries::Entries;
use sweep::Sweep;
use world::World;

pub(crate) use auto::{AutoCollect, AutoLimits, free_space};
pub(crate) use error::GcError;
pub(crate) use world::Keep;

/// A store whose garbage is to be collected.
pub(crate) struct Site<'a> {
    pub(crate) layout: &'a Layout,
    /// How its database is opened: the collector has a connection of its own.
    pub(crate) database: &'a OpenOptions,
    /// What is alive besides what a live path refers to.
    pub(crate) keep: Keep,
    /// Bytes that are kept back, for the next collection on a full disk.
    pub(crate) reserved: u64,
    /// Whether anybody still wants it.
    pub(crate) wanted: &'a Wanted,
}

/// Whether somebody still wants the garbage collected. When all [`Wanting`]s of it are dropped, the
/// collection ends at the next point at which all that was begun is finished.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted(Arc<AtomicBool>);

/// Somebody who wants the garbage collected.
#[derive(Debug)]
pub(crate) struct Wanting(Arc<AtomicBool>);

impl Wanted {
    /// Wanted as long as the one who has the other value keeps it.
    pub(crate) fn by_somebody() -> (Wanting, Wanted) {
        let gone = Arc::new(AtomicBool::new(false));
        (Wanting(gone.clone()), Wanted(gone))
    }

    fn check(&self) -> Result<(), GcError> {
        match self.0.load(Ordering::Relaxed) {
            true => Err(GcError::Unwanted),
            false => Ok(()),
        }
    }
}

impl Drop for Wanting {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Returns why paths are kept: links, running processes and sessions. Links in `gcroots/auto` that
/// lead nowhere are deleted, as Nix does.
///
/// # Errors
///
/// Something that can't be read, other than for the lack of permission.
pub(crate) fn find_roots(site: &Site<'_>) -> Result<Roots, GcError> {
    let layout = site.layout;
    let mut found = permanent_roots(layout)?;
    let database = Database::open(site.database)?;
    let valid = database.valid(&found.iter().map(|(_, path)| path.clone()).collect::<Vec<_>>())?;
    found.retain(|(_, path)| valid.contains(path));
    let mut roots: Roots = found.into_iter().collect();
    roots.extend(find_temporary_roots(&layout.state, &layout.store_dir)?);
    Ok(roots)
}

/// Roots but the temporary ones, valid or not.
fn permanent_roots(layout: &Layout) -> Result<Vec<(String, StorePath)>, GcError> {
    let mut found = roots::linked(layout)?;
    found.extend(process::in_use(&layout.store_dir)?);
    Ok(found)
}

/// Takes the lock of the only collector, if nobody has it; on a full disk with what is kept back for
/// that.
pub(crate) fn try_lock(layout: &Layout) -> Result<Option<GcLock>, GcError> {
    match GcLock::try_acquire(&layout.state) {
        Err(LockError::Io { source, .. }) if source.kind() == io::ErrorKind::StorageFull => {
            release_reserve(&layout.db())?;
            Ok(GcLock::try_acquire(&layout.state)?)
        }
        tried => Ok(tried?),
    }
}

/// Lists what is alive or dead, or deletes what is dead.
///
/// Blocks; a collection of a large store takes minutes. The lock is given back when it ends.
///
/// # Errors
///
/// [`GcError::Unwanted`] where nobody waits for it any more; what was deleted by then is gone.
/// [`GcError::Alive`] where a path was to be deleted that something needs; nothing has been deleted
/// then, but for what became dead and alive again meanwhile. Anything that can't be read ends the
/// collection, as it may be a root.
pub(crate) fn collect(
    site: &Site<'_>,
    collection: &Collection,
    lock: GcLock,
) -> Result<Collected, GcError> {
    let layout = site.layout;
    let deletes =
        matches!(collection.action, CollectAction::DeleteDead | CollectAction::DeleteGiven);
    if deletes {
        release_reserve(&layout.db())?;
    }
    let server = RootsServer::start(&lock, &layout.state, &layout.store_dir)?;
    tracing::info!("finding garbage collector roots...");
    let collected = with_server(site, collection, &server);
    drop(server);
    drop(lock);
    if deletes && let Err(error) = hold_reserve(&layout.db(), site.reserved) {
        tracing::debug!("{error}");
    }
    collected
}

/// Lists what is dead, or what is alive, in a store that isn't changed: without the lock of the only
/// collector, as nobody has to tell of roots what deletes nothing.
///
/// # Errors
///
/// Anything that can't be read, as it may be a root.
pub(crate) fn list(site: &Site<'_>, action: CollectAction) -> Result<Collected, GcError> {
    let layout = site.layout;
    let temporary = find_temporary_roots(&layout.state, &layout.store_dir)?;
    let permanent = permanent_roots(layout)?;
    let entries = Entries::read(&RealStore::open(&layout.real)?)?;
    let mut world = World::new(&Database::open(site.database)?, site.keep)?;
    world.keep(permanent.iter().map(|(_, path)| path));
    world.protect(temporary.iter().map(|(_, path)| path));
    Ok(listed(match action {
        CollectAction::ListDead => entries.dead(&world),
        _ => entries.living(&world),
    }))
}

fn with_server(
    site: &Site<'_>,
    collection: &Collection,
    server: &RootsServer,
) -> Result<Collected, GcError> {
    let layout = site.layout;
    let respect = collection.liveness == Liveness::Respect;
    // In this order: who makes a link and ends in between has been seen at one of both. Those who
    // begin only now tell the server.
    let temporary = find_temporary_roots(&layout.state, &layout.store_dir)?;
    reach(Point::CollectorHalfway);
    let mut permanent = if respect { permanent_roots(layout)? } else { Vec::new() };
    // First what is there, then what is valid: what is registered in between counts as valid.
    site.wanted.check()?;
    let store = RealStore::open(&layout.real)?;
    let entries = Entries::read(&store)?;
    site.wanted.check()?;
    let database = Database::open(site.database)?;
    let given = collection.action == CollectAction::DeleteGiven;
    // Nix lets neither setting count here, as then a derivation would go with its outputs.
    let keep = if given && !respect { Keep::default() } else { site.keep };
    let mut world = World::new(&database, keep)?;
    if given {
        world.keep_all_but(&collection.paths);
        // what isn't valid has no roots, other than those who are making it
        permanent.retain(|(_, path)| world.is_valid(path));
    }
    world.keep(permanent.iter().map(|(_, path)| path));
    world.protect(temporary.iter().map(|(_, path)| path));
    let roots = || permanent.iter().chain(&temporary);
    let mut sweep = match collection.action {
        CollectAction::ListLive => return Ok(listed(entries.living(&world))),
        CollectAction::ListDead => return Ok(listed(entries.dead(&world))),
        CollectAction::DeleteDead | CollectAction::DeleteGiven => {
            Sweep::new(&store, database, server, site.wanted, collection.max_freed)
        }
    };
    if given {
        let paths = &collection.paths;
        given::refuse_living(&world, paths, layout, roots())?;
        sweep.all(given::unregistered(&world, paths), &mut world)?;
        // Somebody may have begun to use one meanwhile.
        given::refuse_living(&world, paths, layout, roots())?;
    } else if collection.max_freed != Some(0) {
        tracing::info!("deleting garbage...");
        sweep.all(entries.unregistered(&world), &mut world)?;
    }
    sweep_links(site, &store)?;
    sweep.finish()
}

/// Deletes what no path shares with the pool of hard links any more. As in Nix, who links to such a
/// file at this very moment finds that it is gone.
fn sweep_links(site: &Site<'_>, store: &RealStore) -> Result<(), GcError> {
    site.wanted.check()?;
    tracing::info!("deleting unused links...");
    let swept = Links::open(store.as_fd())?.sweep()?;
    tracing::info!("currently hard linking saves {} bytes", swept.saving);
    Ok(())
}

fn listed(names: Vec<String>) -> Collected {
    Collected { names, bytes_freed: 0 }
}
