//! Deleting paths that are given, and only these.

use std::collections::BTreeSet;
use std::ffi::CString;

use drover_core::StorePath;
use rustix::fs::FileType;

use super::entries::Entry;
use super::error::GcError;
use super::explain::explain;
use super::world::World;
use crate::Layout;

/// Refuses paths that something needs.
///
/// # Errors
///
/// [`GcError::Alive`] for the first that lives, with the reason.
pub(super) fn refuse_living<'a>(
    world: &World,
    paths: &BTreeSet<StorePath>,
    layout: &Layout,
    roots: impl Iterator<Item = &'a (String, StorePath)>,
) -> Result<(), GcError> {
    match paths.iter().find(|path| world.is_alive(path)) {
        None => Ok(()),
        Some(path) => Err(GcError::Alive {
            path: layout.store_dir.display(path),
            why: explain(world, path, roots),
        }),
    }
}

/// Returns those that aren't valid. That one isn't there at all is no error, as in Nix.
pub(super) fn unregistered(world: &World, paths: &BTreeSet<StorePath>) -> Vec<Entry> {
    let unregistered = paths.iter().filter(|path| !world.is_valid(path));
    unregistered
        .filter_map(|path| CString::new(path.base_name()).ok())
        .map(|name| Entry::new(&name, FileType::Unknown))
        .collect()
}
