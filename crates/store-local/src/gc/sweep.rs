//! Deleting what is dead while others go on adding.

use std::ffi::{CStr, CString};

use drover_core::StorePath;
use drover_store::Collected;
use drover_store_db::{Database, DbError, NodeId};
use drover_store_locks::{Claim, DirLock, LockError, RealStore, RootsServer, StaleLock};
use rustix::fs::FileType;
use rustix::io::Errno;

use super::Wanted;
use super::entries::Entry;
use super::error::GcError;
use super::trash::{Taken, Trash, delete_in_place};
use super::world::{Dead, World};
use crate::failpoint::{Point, reach};

/// Paths that are deleted at once: one transaction that is waited for until it is on the disk, and
/// some milliseconds during which who wants one of them waits.
const BATCH: usize = 256;
/// The same where there is a limit, as the sizes of some paths are unknown.
const LIMITED_BATCH: usize = 8;

/// What deletes.
pub(super) struct Sweep<'a> {
    store: &'a RealStore,
    database: Database,
    server: &'a RootsServer,
    wanted: &'a Wanted,
    max_freed: Option<u64>,
    trash: Option<Trash<'a>>,
    collected: Collected,
    /// The first thing that could not be deleted.
    failed: Option<GcError>,
}

impl<'a> Sweep<'a> {
    pub(super) fn new(
        store: &'a RealStore,
        database: Database,
        server: &'a RootsServer,
        wanted: &'a Wanted,
        max_freed: Option<u64>,
    ) -> Sweep<'a> {
        let (trash, collected, failed) = (None, Collected::default(), None);
        Sweep { store, database, server, wanted, max_freed, trash, collected, failed }
    }

    /// Returns what was deleted.
    ///
    /// # Errors
    ///
    /// Something could not be deleted. All else was.
    pub(super) fn finish(self) -> Result<Collected, GcError> {
        if let Some(most) = self.max_freed.filter(|_| self.is_enough()) {
            tracing::info!("deleted more than {most} bytes; stopping");
        }
        match self.failed {
            Some(error) => Err(error),
            None => Ok(self.collected),
        }
    }

    /// Deletes what is dead: what was never registered, and valid paths.
    pub(super) fn all(
        &mut self,
        unregistered: Vec<Entry>,
        world: &mut World,
    ) -> Result<(), GcError> {
        self.unregistered(world, unregistered)?;
        let dead = world.dead_in_order();
        self.valid(world, dead)
    }

    /// Deletes valid paths that are dead and stay so.
    pub(super) fn valid(&mut self, world: &mut World, dead: Dead) -> Result<(), GcError> {
        let mut order = dead.order.into_iter().peekable();
        while order.peek().is_some() && !self.is_enough() {
            let mut batch = Vec::new();
            let mut bytes = 0_u64;
            let most = if self.max_freed.is_some() { LIMITED_BATCH } else { BATCH };
            while batch.len() < most && self.left().is_none_or(|left| bytes <= left) {
                let Some(node) = order.next() else { break };
                if world.is_dead(node) {
                    bytes = bytes.saturating_add(world.nar_size(node));
                    batch.push(node);
                }
            }
            self.valid_batch(world, batch)?;
        }
        if !self.is_enough() {
            self.valid_batch(world, dead.together)?;
        }
        Ok(())
    }

    fn left(&self) -> Option<u64> {
        self.max_freed.map(|most| most.saturating_sub(self.collected.bytes_freed))
    }

    /// Whether more has been freed than was to be, which is where Nix stops.
    fn is_enough(&self) -> bool {
        self.max_freed.is_some_and(|most| most < self.collected.bytes_freed)
    }

    fn valid_batch(&mut self, world: &mut World, mut batch: Vec<NodeId>) -> Result<(), GcError> {
        self.wanted.check()?;
        loop {
            batch.retain(|node| world.is_dead(*node));
            let paths: Vec<StorePath> =
                batch.iter().filter_map(|node| world.path(*node).cloned()).collect();
            if paths.is_empty() {
                return Ok(());
            }
            let claim = match self.server.claim(&paths) {
                Claim::Granted(claim) => claim,
                Claim::Arrived(roots) => {
                    world.protect(roots.iter());
                    continue;
                }
            };
            match self.database.invalidate(&paths) {
                Ok(()) => {}
                // Somebody has registered a path meanwhile that refers to one of these.
                Err(DbError::InUse { path, .. }) => {
                    drop(claim);
                    match paths.iter().find(|known| path.ends_with(known.base_name())) {
                        Some(path) => world.keep(std::iter::once(path)),
                        None => return Ok(()),
                    }
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            world.delete(&batch);
            reach(Point::CollectorInvalidated);
            let names = paths.iter().filter_map(|path| CString::new(path.base_name()).ok());
            self.move_away(names)?;
            drop(claim);
            reach(Point::CollectorMoved);
            self.empty_trash()?;
            reach(Point::CollectorDeleted);
            return Ok(());
        }
    }

    /// Deletes what was never registered, if it isn't by now and nobody uses it.
    fn unregistered(&mut self, world: &mut World, entries: Vec<Entry>) -> Result<(), GcError> {
        let mut entries = entries.into_iter().peekable();
        while entries.peek().is_some() && !self.is_enough() {
            // One at a time where there is a limit: nobody knows their sizes.
            let count = if self.max_freed.is_some() { 1 } else { BATCH };
            let batch: Vec<Entry> = entries.by_ref().take(count).collect();
            self.unregistered_batch(world, batch)?;
        }
        Ok(())
    }

    fn unregistered_batch(
        &mut self,
        world: &mut World,
        mut batch: Vec<Entry>,
    ) -> Result<(), GcError> {
        self.wanted.check()?;
        let claim = loop {
            batch.retain(|entry| !entry.is_protected(world));
            let paths: Vec<StorePath> =
                batch.iter().filter_map(|entry| entry.path.clone()).collect();
            match self.server.claim(&paths) {
                Claim::Granted(claim) => break claim,
                Claim::Arrived(roots) => world.protect(roots.iter()),
            }
        };
        let paths: Vec<&StorePath> = batch.iter().filter_map(|entry| entry.path.as_ref()).collect();
        let valid = self.database.valid(paths)?;
        let mut held = Vec::new();
        let mut names = Vec::new();
        for entry in batch {
            if entry.path.as_ref().is_some_and(|path| valid.contains(path)) {
                continue;
            }
            match self.use_of(&entry)? {
                Use::Nobody(lock) => {
                    held.extend(lock);
                    names.push(entry.name);
                }
                Use::Deleted => self.collected.names.push(entry.shown()),
                Use::Somebody => {
                    tracing::debug!("'{}' is in use", entry.shown());
                }
            }
        }
        self.move_away(names.into_iter())?;
        drop(claim);
        self.empty_trash()
    }

    /// Finds out whether somebody uses something that is not registered.
    fn use_of(&self, entry: &Entry) -> Result<Use, GcError> {
        let name = entry.shown();
        if let Some(path) = &entry.path {
            if path.name().ends_with(".lock") && entry.kind != FileType::Directory {
                return Ok(match StaleLock::delete(self.store, &name)? {
                    StaleLock::Deleted => Use::Deleted,
                    StaleLock::InUse => Use::Somebody,
                });
            }
            let lock = format!("{name}.lock");
            if StaleLock::is_held(self.store, &lock)? {
                return Ok(Use::Somebody);
            }
        } else if is_of_living_process(&name) {
            return Ok(Use::Somebody);
        }
        if !matches!(entry.kind, FileType::Directory | FileType::Unknown) {
            return Ok(Use::Nobody(None));
        }
        match DirLock::try_acquire(self.store, &name) {
            Ok(Some(lock)) => Ok(Use::Nobody(Some(lock))),
            Ok(None) => Ok(Use::Somebody),
            // It has gone, is something else, or is nobody's business.
            Err(LockError::Io { .. }) => Ok(Use::Nobody(None)),
            Err(error) => Err(error.into()),
        }
    }

    /// Moves things into the trash, which nobody else sees.
    fn move_away(&mut self, names: impl Iterator<Item = CString>) -> Result<(), GcError> {
        for name in names {
            let shown = name.to_string_lossy().into_owned();
            tracing::info!("deleting '{}'", self.store.path().join(&shown).display());
            match self.take_away(&name)? {
                Ok(Taken::Moved | Taken::Absent) => {}
                Ok(Taken::Removed { bytes }) => self.collected.bytes_freed += bytes,
                Err(error) => {
                    self.failed.get_or_insert(error);
                    continue;
                }
            }
            self.collected.names.push(shown);
        }
        Ok(())
    }

    /// Moves something into the trash; where there is no room for one, deletes it where it is.
    fn take_away(&mut self, name: &CStr) -> Result<Result<Taken, GcError>, GcError> {
        let trash = match &mut self.trash {
            Some(trash) => trash,
            none => match Trash::new(self.store) {
                Ok(trash) => none.insert(trash),
                Err(error) if error.is_for_lack_of_room() => {
                    return Ok(delete_in_place(self.store, name));
                }
                Err(error) => return Err(error),
            },
        };
        Ok(trash.take(name))
    }

    fn empty_trash(&mut self) -> Result<(), GcError> {
        if let Some(trash) = &mut self.trash {
            match trash.empty() {
                Ok(bytes) => self.collected.bytes_freed += bytes,
                Err(error) => {
                    self.failed.get_or_insert(error);
                }
            }
        }
        Ok(())
    }
}

/// Whether somebody uses something that is not registered.
enum Use {
    /// Nobody; a directory is locked as long as it is deleted.
    Nobody(Option<DirLock>),
    /// Nobody did, and it is gone.
    Deleted,
    /// Somebody does.
    Somebody,
}

/// Whether a name is one that Nix up to 2.8 gives to what it unpacks, or any Nix to a link until it is where
/// it belongs, without lock or root, and its process still runs.
fn is_of_living_process(name: &str) -> bool {
    const PREFIXES: [&str; 3] = ["add-", "nix-", ".tmp-link-"];
    let rest = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix));
    let Some((pid, number)) = rest.and_then(|rest| rest.split_once('-')) else { return false };
    if number.contains('-') {
        return false;
    }
    let pid = pid.parse().ok().and_then(rustix::process::Pid::from_raw);
    pid.is_some_and(|pid| !matches!(rustix::process::test_kill_process(pid), Err(Errno::SRCH)))
}
