//! Links that keep paths.
//!
//! Follows `LocalStore::findRoots` in Nix's `src/libstore/gc.cc`. Links are read and never followed:
//! a link that may not be followed is a root all the same.

use std::fs::{self, FileType};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use drover_core::StorePath;

use super::error::GcError;
use super::scan::path_in;
use crate::Layout;

/// Returns where links in `gcroots` and `profiles` lead, and the links; much of it may not be valid.
/// Those in `gcroots/auto` whose own link is gone are deleted.
pub(super) fn linked(layout: &Layout) -> Result<Vec<(String, StorePath)>, GcError> {
    let mut search = Search { layout, auto: layout.roots().join("auto"), found: Vec::new() };
    let mut folders = vec![layout.roots(), layout.state.join("profiles")];
    while let Some(folder) = folders.pop() {
        // A folder that is a link itself is one root.
        let Some(kind) = unless_gone(&folder, fs::symlink_metadata(&folder))? else { continue };
        if !kind.is_dir() {
            search.entry(&folder, kind.file_type())?;
            continue;
        }
        let Some(entries) = unless_gone(&folder, fs::read_dir(&folder))? else { continue };
        for entry in entries {
            let Some(entry) = unless_gone(&folder, entry)? else { continue };
            let Some(kind) = unless_gone(&entry.path(), entry.file_type())? else { continue };
            if kind.is_dir() {
                folders.push(entry.path());
            } else {
                search.entry(&entry.path(), kind)?;
            }
        }
    }
    Ok(search.found)
}

struct Search<'a> {
    layout: &'a Layout,
    auto: PathBuf,
    found: Vec<(String, StorePath)>,
}

impl Search<'_> {
    fn entry(&mut self, path: &Path, kind: FileType) -> Result<(), GcError> {
        if kind.is_symlink() {
            self.link(path)
        } else {
            // A file is a root by its name.
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if kind.is_file()
                && let Ok(root) = StorePath::from_base_name(name)
            {
                self.found.push((path.display().to_string(), root));
            }
            Ok(())
        }
    }

    fn link(&mut self, link: &Path) -> Result<(), GcError> {
        let Some(target) = unless_gone(link, fs::read_link(link))? else { return Ok(()) };
        if self.is_in_store(&target) {
            self.root(link, &target);
            return Ok(());
        }
        let target = absolute(link, &target);
        match fs::symlink_metadata(&target) {
            Ok(kind) if kind.is_symlink() => {
                if let Some(root) = unless_gone(&target, fs::read_link(&target))?
                    && self.is_in_store(&root)
                {
                    self.root(&target, &root);
                }
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                if link.starts_with(&self.auto) {
                    tracing::info!(
                        "removing stale link from '{}' to '{}'",
                        link.display(),
                        target.display()
                    );
                    // Its absence would change nothing, so neither does a failure.
                    fs::remove_file(link).ok();
                }
                Ok(())
            }
            Err(error) => unless_gone::<()>(&target, Err(error)).map(drop),
        }
    }

    fn root(&mut self, link: &Path, target: &Path) {
        let path = path_in(&self.layout.store_dir, target.as_os_str().as_bytes());
        self.found.extend(path.map(|path| (link.display().to_string(), path)));
    }

    fn is_in_store(&self, target: &Path) -> bool {
        let store = Path::new(self.layout.store_dir.as_str());
        target.starts_with(store) && target != store
    }
}

/// Makes a link's target absolute, by the text alone.
fn absolute(link: &Path, target: &Path) -> PathBuf {
    let mut path = PathBuf::new();
    let parent = link.parent().unwrap_or(Path::new("/"));
    for component in parent.join(target).components() {
        match component {
            Component::ParentDir => {
                path.pop();
            }
            Component::CurDir => {}
            other => path.push(other),
        }
    }
    path
}

/// Passes over what has gone and what may not be read, as Nix does. Anything else may hide a root.
fn unless_gone<T>(path: &Path, result: io::Result<T>) -> Result<Option<T>, GcError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(None),
            io::ErrorKind::PermissionDenied => {
                tracing::info!("cannot read potential root '{}'", path.display());
                Ok(None)
            }
            _ => Err(GcError::io("look for roots in", path, error)),
        },
    }
}
