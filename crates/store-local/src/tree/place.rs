//! Putting trees in their place, and taking them away.

use std::os::fd::AsFd;
use std::sync::Arc;

use drover_core::StorePath;
use drover_store_files::{
    FileName, FilesError, LinkCheck, Links, Optimised, Synced, Tree, remove_tree, rename_into,
    sync_directory, sync_file_system, sync_trees,
};
use drover_store_locks::TempDir;
use rustix::fs::{AtFlags, RenameFlags};
use rustix::io::Errno;

use super::fail;
use crate::error::LocalError;
use crate::view::View;

/// Puts a tree in the place of a path that isn't valid; what lies there is removed. The path is
/// locked.
pub(crate) fn place(
    folder: &TempDir,
    entry: &str,
    view: &View,
    path: &StorePath,
) -> Result<(), LocalError> {
    let (entry, name) = (entry.parse()?, FileName::try_from(path)?);
    let store = view.opened.real_store.as_fd();
    match rename_into(folder.as_fd(), &entry, store, &name) {
        Err(FilesError::Exists { .. }) => {
            remove_tree(store, &name)?;
            Ok(rename_into(folder.as_fd(), &entry, store, &name)?)
        }
        renamed => Ok(renamed?),
    }
}

/// Puts a tree in the place of a valid path at once, and the path's old files in the tree's place.
pub(crate) fn exchange(
    folder: &TempDir,
    entry: &str,
    view: &View,
    path: &StorePath,
) -> Result<(), LocalError> {
    let (store, name) = (&view.opened.real_store, path.base_name());
    match rustix::fs::renameat_with(folder, entry, store, name, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(()),
        // The path had vanished, or the file system or the modes don't allow it.
        Err(Errno::NOENT | Errno::INVAL | Errno::ACCESS) => place(folder, entry, view, path),
        Err(errno) => Err(fail("move into the store", name, errno)),
    }
}

/// Files and directories up to which each is synced by itself.
const FEW: usize = 32;

/// Writes trees that are not in their place yet to the disk.
pub(crate) fn sync_new(folder: &TempDir, entries: Vec<&str>) -> Result<(), LocalError> {
    let names: Result<Vec<FileName>, _> = entries.into_iter().map(str::parse).collect();
    let names = names?;
    let trees = names.iter().map(|name| Tree { dir: folder.as_fd(), name });
    match sync_trees(trees, FEW)? {
        Synced::Whole => {}
        Synced::TooMany => sync_file_system(folder.as_fd())?,
    }
    Ok(())
}

/// Writes paths to the disk, with their names.
pub(crate) fn sync<'a>(
    view: &View,
    paths: impl IntoIterator<Item = &'a StorePath>,
) -> Result<(), LocalError> {
    let store = view.opened.real_store.as_fd();
    let names: Result<Vec<FileName>, _> = paths.into_iter().map(FileName::try_from).collect();
    let names = names?;
    let trees = names.iter().map(|name| Tree { dir: store, name });
    match sync_trees(trees, FEW)? {
        Synced::Whole => sync_directory(store)?,
        Synced::TooMany => sync_file_system(store)?,
    }
    Ok(())
}

/// Removes a path's files.
pub(crate) fn remove_path(view: &View, path: &StorePath) -> Result<(), LocalError> {
    remove(&view.opened.real_store, path.base_name())
}

/// Removes a tree. It is no error if there is none.
pub(crate) fn remove(folder: &impl AsFd, entry: &str) -> Result<(), LocalError> {
    remove_tree(folder.as_fd(), &entry.parse()?)?;
    Ok(())
}

/// Removes trees that nobody waits for any more, on a thread that may block; `work` on them ends
/// before.
pub(crate) fn abandon<T: Send + 'static>(folder: Arc<TempDir>, entries: Vec<String>, work: T) {
    let remove = move || {
        drop(work);
        for entry in &entries {
            self::remove(&*folder, entry).ok();
        }
    };
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(remove)),
        Err(_) => remove(),
    }
}

/// Puts hard links in the place of a path's files that others have, too; returns the bytes saved.
pub(crate) fn optimise(
    view: &View,
    links: &mut Links,
    path: &StorePath,
) -> Result<u64, LocalError> {
    let optimised = links.optimise(&FileName::try_from(path)?, LinkCheck::Size)?;
    Ok(tell(view, path, &optimised))
}

/// The same for a path that is not in its place yet.
pub(crate) fn optimise_new(
    view: &View,
    links: &mut Links,
    folder: &TempDir,
    entry: &str,
    path: &StorePath,
    check: LinkCheck,
) -> Result<u64, LocalError> {
    let optimised = links.optimise_in(folder.as_fd(), &entry.parse()?, check)?;
    Ok(tell(view, path, &optimised))
}

fn tell(view: &View, path: &StorePath, optimised: &Optimised) -> u64 {
    for finding in &optimised.findings {
        tracing::warn!("{}: {finding}", view.display(path));
    }
    optimised.bytes
}

/// Opens the pool of hard links.
pub(crate) fn links(view: &View) -> Result<Links, LocalError> {
    Ok(Links::open(view.opened.real_store.as_fd())?)
}

/// Removes a name from the pool of hard links, so that nobody links to what it stands for any more.
pub(crate) fn remove_link(view: &View, name: &str) -> Result<(), LocalError> {
    let link = format!(".links/{name}");
    match rustix::fs::unlinkat(&view.opened.real_store, &link, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(fail("remove", &link, errno)),
    }
}
