//! What a builder on this machine needs of its store: locks on the outputs from before the build
//! until they are registered, a folder where they come about, and their registration.
//!
//! What was valid before is never removed. What a build has made comes into the store whole, in one
//! transaction, or not at all.

use std::collections::BTreeSet;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use drover_core::{PathInfo, Realisation, StorePath};
use drover_store::{StoreError, WhenValid};
use drover_store_files::{FileName, FilesError, remove_tree, rename_into};
use drover_store_locks::{PathLocks, RealStore, TempDir, Tried};

use crate::LocalStore;
use crate::error::LocalError;
use crate::failpoint::{Point, reach};
use crate::import::{Batch, Ready};
use crate::opened::patience;
use crate::patience::Patience;
use crate::tree;
use crate::view::View;

/// How long a build waits for others that make the same: as long as that takes, as in Nix.
const FOR_EVER: Duration = Duration::from_secs(u64::MAX / 4);

/// Locks on paths that nobody else makes or removes meanwhile.
#[derive(Debug)]
pub struct BuildLocks {
    held: Vec<PathLocks>,
    paths: BTreeSet<StorePath>,
    /// Paths that only who has these locks makes anything of.
    own: BTreeSet<StorePath>,
}

/// Outputs that are ready to become valid, with locks on all of them.
#[derive(Debug)]
pub struct LockedProducts {
    locks: BuildLocks,
    products: Vec<Product>,
}

/// An output that is whole, checked and in canonical form, in a workshop's folder.
#[derive(Debug)]
pub struct Product {
    /// What is known of it.
    pub info: PathInfo,
    /// What it is called in the folder.
    pub entry: String,
}

/// A folder in the store's directory for what one build makes, which nobody but this process's user
/// can look into, and which no garbage collector touches.
///
/// What is in it when it is dropped is removed on a thread that may block.
pub struct Workshop {
    view: View,
    folder: Arc<TempDir>,
    real_store: Arc<RealStore>,
}

impl LocalStore {
    /// Waits until it has the locks of all these paths. Hold none meanwhile.
    ///
    /// # Errors
    ///
    /// The store can't be locked.
    pub async fn lock_outputs(&self, paths: BTreeSet<StorePath>) -> Result<BuildLocks, StoreError> {
        let mut patience = Patience::new(FOR_EVER);
        loop {
            let wanted = paths.clone();
            let tried = self
                .blocking(move |view| {
                    view.refuse_read_only("build")?;
                    Ok(PathLocks::try_acquire(&view.opened.real_store, &wanted)?)
                })
                .await?;
            match tried {
                Tried::Held(held) => {
                    reach(Point::AfterLock);
                    return Ok(BuildLocks { held: vec![held], paths, own: BTreeSet::new() });
                }
                Tried::Busy(path) => {
                    let real = self.layout().real_path(&path);
                    let what = format!("waiting for lock on '{}'", real.display());
                    patience.pause(&what).await.map_err(|error| self.told(error))?;
                }
            }
        }
    }

    /// Takes the locks of all these paths if nobody has any of them.
    ///
    /// # Errors
    ///
    /// The store can't be locked.
    pub async fn lock_free_outputs(
        &self,
        paths: BTreeSet<StorePath>,
    ) -> Result<Option<BuildLocks>, StoreError> {
        self.blocking(move |view| {
            view.refuse_read_only("build")?;
            Ok(match PathLocks::try_acquire(&view.opened.real_store, &paths)? {
                Tried::Held(held) => {
                    Some(BuildLocks { held: vec![held], paths, own: BTreeSet::new() })
                }
                Tried::Busy(_) => None,
            })
        })
        .await
    }

    /// Opens a folder for what a build makes.
    ///
    /// # Errors
    ///
    /// It can't be made.
    pub async fn workshop(&self) -> Result<Workshop, StoreError> {
        self.blocking(|view| {
            view.refuse_read_only("build")?;
            let wait = patience(view.options().lock_patience);
            let folder = Arc::new(TempDir::new(&view.opened.real_store, &view.roots, wait)?);
            let real_store = Arc::clone(&view.opened.real_store);
            Ok(Workshop { view: view.clone(), folder, real_store })
        })
        .await
    }

    /// Removes what lies at the places of paths that are locked or the build's own, and not valid.
    ///
    /// # Errors
    ///
    /// It can't be removed.
    pub async fn clear_outputs(
        &self,
        locks: &BuildLocks,
        paths: BTreeSet<StorePath>,
    ) -> Result<(), StoreError> {
        let clears = |path: &StorePath| locks.paths.contains(path) || locks.own.contains(path);
        let paths: Vec<StorePath> = paths.into_iter().filter(clears).collect();
        self.blocking(move |view| {
            let valid = view.valid(&paths)?;
            for path in paths.iter().filter(|path| !valid.contains(path)) {
                tree::remove_path(view, path)?;
            }
            Ok(())
        })
        .await
    }

    /// Waits until it has the locks of all that was made. Those that aren't held yet are of paths that
    /// follow from contents; whoever else has one of these has it for a moment only.
    ///
    /// Dropping the future gives all locks back.
    ///
    /// # Errors
    ///
    /// The store can't be locked. All locks are given back.
    pub async fn lock_products(
        &self,
        mut locks: BuildLocks,
        products: Vec<Product>,
    ) -> Result<LockedProducts, StoreError> {
        let paths: BTreeSet<StorePath> =
            products.iter().map(|product| product.info.path.clone()).collect();
        let new: BTreeSet<StorePath> = paths.difference(&locks.paths).cloned().collect();
        if !new.is_empty() {
            let BuildLocks { held, paths, .. } = self.lock_outputs(new).await?;
            locks.held.extend(held);
            locks.paths.extend(paths);
        }
        Ok(LockedProducts { locks, products })
    }

    /// Makes what a build has made valid, with what its outputs became: all of it in one transaction.
    /// What is valid by now stays as it is, or is replaced. Returns the locks.
    ///
    /// # Errors
    ///
    /// Nothing was registered, and nothing is left. All locks are given back.
    pub async fn register_outputs(
        &self,
        workshop: &Workshop,
        LockedProducts { locks, products }: LockedProducts,
        realisations: Vec<Realisation>,
        when_valid: WhenValid,
    ) -> Result<BuildLocks, StoreError> {
        let paths: BTreeSet<StorePath> =
            products.iter().map(|product| product.info.path.clone()).collect();
        let Workshop { view, folder, .. } = workshop;
        view.collect_if_due();
        let ready = |Product { info, entry }| Ready { info, outputs: Default::default(), entry };
        let ready = products.into_iter().map(ready).collect();
        let (view, folder) = (view.clone(), Arc::clone(folder));
        let mut batch = Batch { view, folder, ready, when_valid };
        let done = self.job(move |view| {
            view.hold(&paths)?;
            reach(Point::AfterRoot);
            let done = batch.commit_locked(&paths, &realisations);
            batch.clear();
            reach(Point::AfterClearing);
            // they came along, as this goes on where nobody waits for it any more
            done.map(|()| locks)
        });
        done.await
    }
}

impl BuildLocks {
    /// Says that these paths too are made by nobody else meanwhile, as they follow from those that are
    /// locked and are no output's in the end: where a build writes what has no path yet.
    pub fn cover(&mut self, paths: impl IntoIterator<Item = StorePath>) {
        self.own.extend(paths);
    }

    /// Returns how many paths are locked.
    pub fn len(&self) -> usize {
        self.held.iter().map(PathLocks::len).sum()
    }

    /// Whether nothing is locked.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Workshop {
    /// Returns the folder.
    pub fn folder(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }

    /// Returns the store's own directory.
    pub fn store(&self) -> BorrowedFd<'_> {
        self.real_store.as_fd()
    }

    /// Moves something from the folder to where it lies beside a valid path, for who wants to compare
    /// them, and returns where: the path with `.check` behind it. What was there is removed. It's no
    /// path of the store's, and the next garbage collector takes it. Synchronous, for a thread that may
    /// block.
    ///
    /// # Errors
    ///
    /// It can't be moved.
    pub fn keep_beside(&self, entry: &str, path: &StorePath) -> Result<PathBuf, StoreError> {
        let name = format!("{}.check", path.base_name());
        let place = self.real_store.path().join(&name);
        let moved = || -> Result<(), FilesError> {
            let [from, to] = [entry, &name].map(|name| FileName::new(name.as_bytes()));
            let (from, to) = (from?, to?);
            remove_tree(self.store(), &to)?;
            rename_into(self.folder(), &from, self.store(), &to)
        };
        let told =
            |error: FilesError| LocalError::from(error).into_store_error(&self.view.layout().name);
        moved().map(|()| place).map_err(told)
    }

    /// Removes what is in the folder. Synchronous, for a thread that may block.
    pub fn clear(&self) {
        match entries(self.folder()) {
            Ok(entries) => entries.iter().for_each(|entry| {
                // what can't be removed is garbage to the next collector
                tree::remove(&*self.folder, entry).ok();
            }),
            Err(error) => tracing::warn!("cannot look into a build's folder: {error}"),
        }
    }

    /// Returns descriptors of the folder and of the store's directory that live on their own.
    ///
    /// # Errors
    ///
    /// The process has no descriptor left.
    pub fn descriptors(&self) -> std::io::Result<(OwnedFd, OwnedFd)> {
        Ok((self.folder().try_clone_to_owned()?, self.store().try_clone_to_owned()?))
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        match entries(self.folder()) {
            Ok(entries) if entries.is_empty() => {}
            Ok(entries) => tree::abandon(Arc::clone(&self.folder), entries, ()),
            // What can't be listed is garbage to the next collector.
            Err(error) => tracing::warn!("cannot look into a build's folder: {error}"),
        }
    }
}

fn entries(folder: BorrowedFd<'_>) -> Result<Vec<String>, LocalError> {
    let fail = |errno: rustix::io::Errno| LocalError::Io {
        doing: "list",
        path: "a build's folder".into(),
        source: errno.into(),
    };
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(folder).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        match entry.file_name().to_str() {
            Ok("." | "..") | Err(_) => {}
            Ok(name) => names.push(name.to_owned()),
        }
    }
    Ok(names)
}
