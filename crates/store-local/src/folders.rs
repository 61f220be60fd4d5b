//! Makes the folders of a store, with the modes that Nix gives them.
//!
//! Follows `LocalStore::LocalStore` of Nix (`src/libstore/local-store.cc`).

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use crate::error::LocalError;
use crate::options::Symlinks;
use crate::{Access, Layout, LocalOptions};

/// The store's directory where builds run as users of a group, who may make files in it.
const SHARED_STORE: u32 = 0o1775;

pub(crate) fn make(layout: &Layout, options: &LocalOptions) -> Result<(), LocalError> {
    if layout.access == Access::ReadWrite {
        let per_user = [layout.state.join("profiles/per-user"), layout.roots().join("per-user")];
        let folders = [
            layout.real.clone(),
            layout.real.join(".links"),
            layout.state.join("profiles"),
            layout.state.join("temproots"),
            layout.db(),
            layout.roots(),
        ];
        for folder in folders.iter().chain(&per_user) {
            fs::create_dir_all(folder).map_err(|error| fail("create folder", folder, error))?;
        }
        for folder in &per_user {
            set_mode(folder, 0o755)?;
        }
        if let Some(group) = &options.build_group
            && rustix::process::geteuid().is_root()
        {
            share_with(&layout.real, group)?;
        }
    }
    match options.symlinks {
        Symlinks::Refused => refuse_symlinks(&layout.real),
        Symlinks::Allowed => Ok(()),
    }
}

fn share_with(store: &Path, name: &str) -> Result<(), LocalError> {
    let Some(group) = group_id(name) else {
        tracing::warn!("the group '{name}' specified in 'build-users-group' does not exist");
        return Ok(());
    };
    let now = fs::metadata(store).map_err(|error| fail("look at", store, error))?;
    if (now.uid(), now.gid()) != (0, group) {
        std::os::unix::fs::chown(store, Some(0), Some(group))
            .map_err(|error| fail("change the owner of", store, error))?;
    }
    set_mode(store, SHARED_STORE)
}

/// A user who may not change a mode needn't where it is right.
fn set_mode(path: &Path, mode: u32) -> Result<(), LocalError> {
    let now = fs::metadata(path).map_err(|error| fail("look at", path, error))?;
    if now.mode() & 0o7777 == mode {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|error| fail("change the mode of", path, error))
}

fn group_id(name: &str) -> Option<u32> {
    let groups = fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

fn refuse_symlinks(store: &Path) -> Result<(), LocalError> {
    for path in store.ancestors() {
        match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_symlink() => {
                return Err(LocalError::Symlink { path: path.to_owned() });
            }
            Ok(_) => {}
            Err(error) => return Err(fail("look at", path, error)),
        }
    }
    Ok(())
}

fn fail(doing: &'static str, path: &Path, source: io::Error) -> LocalError {
    LocalError::Io { doing, path: path.to_owned(), source }
}
