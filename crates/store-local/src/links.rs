//! Links that keep paths: made here, found by the garbage collector.
//!
//! Follows `addIndirectRoot` (`src/libstore/gc.cc`) and `addPermRoot` (`indirect-root-store.cc`) of
//! Nix.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use drover_core::{Hash, HashAlgorithm, HashNotation, StorePath};

use crate::error::LocalError;
use crate::view::View;

/// Registers a link outside the store: `gcroots/auto/<hash of its path>` leads to it.
pub(crate) fn add_indirect(view: &View, link: &str) -> Result<(), LocalError> {
    view.refuse_read_only("add a root")?;
    if !link.starts_with('/') {
        return Err(LocalError::Root(format!("root '{link}' must be an absolute path")));
    }
    let hash = Hash::of(HashAlgorithm::Sha1, link.as_bytes());
    let auto = view.layout().roots().join("auto");
    make_link(&auto.join(hash.digits(HashNotation::Base32)), Path::new(link))?;
    let target = fs::read_link(link).ok();
    match target.and_then(|target| kept_by(view, &target)) {
        Some(path) => view.hand_over(&path),
        None => Ok(()),
    }
}

/// Returns the path that a link with this target keeps.
fn kept_by(view: &View, target: &Path) -> Option<StorePath> {
    let below = target.strip_prefix(view.layout().store_dir.as_str()).ok()?;
    let name = below.components().next()?.as_os_str().to_str()?;
    StorePath::from_base_name(name).ok()
}

/// Makes a link to a path and registers it; returns where it is.
pub(crate) fn add_permanent(
    view: &View,
    path: &StorePath,
    link: &str,
) -> Result<String, LocalError> {
    view.refuse_read_only("add a root")?;
    let refuse = |why: &str| Err(LocalError::Root(why.to_owned()));
    let Some(link) = clean(link) else {
        return refuse(&format!("root '{link}' must be an absolute path"));
    };
    let store_dir = view.layout().store_dir.as_str();
    let shown = link.display().to_string();
    if link.starts_with(store_dir) {
        return refuse(&format!(
            "creating a garbage collector root ({shown}) in the Nix store is forbidden (are you \
             running nix-build inside the store?)"
        ));
    }
    view.hold([path])?;
    match fs::symlink_metadata(&link) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(LocalError::Io { doing: "look at", path: link, source }),
        Ok(_) if fs::read_link(&link).is_ok_and(|target| target.starts_with(store_dir)) => {}
        Ok(_) => return refuse(&format!("cannot create symlink '{shown}'; already exists")),
    }
    make_link(&link, Path::new(&view.display(path)))?;
    add_indirect(view, &shown)?;
    Ok(shown)
}

/// Puts a link in its place at once, whatever link was there.
fn make_link(link: &Path, target: &Path) -> Result<(), LocalError> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let parent = link.parent().unwrap_or(Path::new("/"));
    let fail = |doing, path: &Path, source| LocalError::Io { doing, path: path.to_owned(), source };
    fs::create_dir_all(parent).map_err(|error| fail("create folder", parent, error))?;
    let new = loop {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let mut new = link.as_os_str().to_owned();
        new.push(format!(".tmp-{}-{count}", std::process::id()));
        let new = PathBuf::from(new);
        match symlink(target, &new) {
            // Left by a process of that number that was killed.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => {
                break made
                    .map(|()| new.clone())
                    .map_err(|error| fail("create link", &new, error))?;
            }
        }
    };
    fs::rename(&new, link).map_err(|error| {
        fs::remove_file(&new).ok();
        fail("create link", link, error)
    })
}

fn clean(text: &str) -> Option<PathBuf> {
    let mut path = PathBuf::from("/");
    for component in Path::new(text.strip_prefix('/')?).components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::ParentDir => {
                path.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    Some(path)
}
