//! What lies in the store's directory.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::os::fd::AsFd;

use drover_core::StorePath;
use drover_store_locks::RealStore;
use rustix::fs::{FileType, Mode, OFlags, RawDir};

use super::error::GcError;
use super::world::World;

/// The directory of hard links, which is no garbage.
const LINKS: &CStr = c".links";
/// Bytes of entries that are read at once.
const BUFFER: usize = 256 * 1024;

/// Something in the store's directory.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) name: CString,
    pub(super) kind: FileType,
    /// What the name means as a store path, if it is one.
    pub(super) path: Option<StorePath>,
}

impl Entry {
    pub(super) fn new(name: &CStr, kind: FileType) -> Entry {
        let path = name.to_str().ok().and_then(|name| StorePath::from_base_name(name).ok());
        Entry { name: name.to_owned(), kind, path }
    }

    pub(super) fn shown(&self) -> String {
        self.name.to_string_lossy().into_owned()
    }

    fn is_valid(&self, world: &World) -> bool {
        self.path.as_ref().is_some_and(|path| world.is_valid(path))
    }

    /// Whether a temporary root protects it.
    pub(super) fn is_protected(&self, world: &World) -> bool {
        self.path.as_ref().is_some_and(|path| world.is_protected(path))
    }
}

/// All that lies in the store's directory.
pub(super) struct Entries(Vec<Entry>);

impl Entries {
    pub(super) fn read(store: &RealStore) -> Result<Entries, GcError> {
        let failed = |errno| GcError::errno("read", store.path(), errno);
        // The position in a directory is its descriptor's.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(store, c".", flags, Mode::empty()).map_err(failed)?;
        let mut buffer = Vec::with_capacity(BUFFER);
        let mut listing = RawDir::new(dir.as_fd(), buffer.spare_capacity_mut());
        let mut entries = Vec::new();
        while let Some(entry) = listing.next() {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if name != c"." && name != c".." && name != LINKS {
                entries.push(Entry::new(name, entry.file_type()));
            }
        }
        Ok(Entries(entries))
    }

    /// Returns what is not a valid path and which no temporary root protects.
    pub(super) fn unregistered(&self, world: &World) -> Vec<Entry> {
        self.0
            .iter()
            .filter(|entry| !entry.is_valid(world) && !entry.is_protected(world))
            .cloned()
            .collect()
    }

    /// Returns the names of what lives, in their order.
    pub(super) fn living(&self, world: &World) -> Vec<String> {
        let mut names: BTreeSet<String> =
            world.living().map(|path| path.base_name().to_owned()).collect();
        let others = self.0.iter().filter(|e| !e.is_valid(world) && e.is_protected(world));
        names.extend(others.map(Entry::shown));
        names.into_iter().collect()
    }

    /// Returns the names of what doesn't live, in their order.
    pub(super) fn dead(&self, world: &World) -> Vec<String> {
        let mut names: BTreeSet<String> =
            world.dead().map(|path| path.base_name().to_owned()).collect();
        let others = self.0.iter().filter(|e| !e.is_valid(world) && !e.is_protected(world));
        names.extend(others.map(Entry::shown));
        names.into_iter().collect()
    }
}
