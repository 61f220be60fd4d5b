//! Links that keep paths, for servers on this machine.
//!
//! Follows `IndirectRootStore::addPermRoot` in `src/libstore/indirect-root-store.cc` of Nix: the
//! client makes the link with its own rights, and the server registers it.

use std::io;
use std::path::{Path, PathBuf};

use drover_core::{StoreDir, StorePath};
use drover_store::StoreError;
use fs_err::os::unix::fs::symlink;

/// Makes a link to a path, in the place of an older one.
pub(crate) async fn make(
    store: &str,
    store_dir: &StoreDir,
    path: &StorePath,
    link: &str,
) -> Result<(), StoreError> {
    let (inside, target) = (PathBuf::from(store_dir.as_str()), store_dir.display(path));
    let link = PathBuf::from(link);
    let made = tokio::task::spawn_blocking(move || replace(&inside, &target, &link)).await;
    let made = made.unwrap_or_else(|end| Err(end.to_string()));
    made.map_err(|message| StoreError::refused(store, message))
}

fn replace(store_dir: &Path, target: &str, link: &Path) -> Result<(), String> {
    let shown = link.display();
    if !link.is_absolute() {
        return Err(format!("a garbage collector root must be an absolute path, not '{shown}'"));
    }
    if link.starts_with(store_dir) {
        return Err(format!(
            "creating a garbage collector root ('{shown}') in the Nix store is forbidden (are you running nix-build inside the store?)"
        ));
    }
    match fs_err::read_link(link) {
        Ok(old) if old == Path::new(target) => return Ok(()),
        Ok(old) if old.starts_with(store_dir) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        _ => return Err(format!("cannot create symlink '{shown}'; already exists")),
    }
    let failed = |error: io::Error| format!("cannot create symlink '{shown}': {error}");
    if let Some(parent) = link.parent() {
        fs_err::create_dir_all(parent).map_err(failed)?;
    }
    let mut temporary = link.as_os_str().to_owned();
    temporary.push(format!(".tmp-{}", std::process::id()));
    let temporary = PathBuf::from(temporary);
    match fs_err::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => symlink(target, &temporary).map_err(failed)?,
    }
    fs_err::rename(&temporary, link).map_err(failed)
}
