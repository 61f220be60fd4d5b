//! Temporary roots: what a session uses and nobody may delete while it lives.
//!
//! As `LocalStore::addTempRoot` in Nix's `src/libstore/gc.cc`, with two differences that no Nix can
//! tell. A file is named `<pid>-<number>` instead of `<pid>`, as a process has many sessions (Nix
//! reads the number that a name begins with). And a root is written down before the garbage
//! collector is asked: Nix does so afterwards, and loses it to a second collector that begins in
//! between.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use drover_core::{StoreDir, StorePath};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::flock::{self, Sharing};
use crate::roots_client::RootsClient;
use crate::{LockError, Wait};

/// Paths that one session may protect: ten times a large store.
const MAX_ROOTS: usize = 1 << 20;

pub(crate) fn folder(state_dir: &Path) -> PathBuf {
    state_dir.join("temproots")
}

/// The temporary roots of one session. They end when it is dropped.
///
/// Nothing is opened before the first root.
#[derive(Debug)]
pub struct TempRoots {
    state_dir: PathBuf,
    store_dir: StoreDir,
    kept: Mutex<Option<Kept>>,
}

impl TempRoots {
    /// Returns a session without roots.
    ///
    /// `store_dir` is the one that paths are written with, wherever their files really are.
    pub fn new(state_dir: &Path, store_dir: &StoreDir) -> TempRoots {
        TempRoots {
            state_dir: state_dir.to_owned(),
            store_dir: store_dir.clone(),
            kept: Mutex::new(None),
        }
    }

    /// Protects paths, valid or not: from when this returns until the session ends, no garbage
    /// collector deletes any of them.
    ///
    /// If one was deleting a path right now, this waits until it is gone. So ask afterwards whether
    /// a path is valid. A running collector keeps what a valid path refers to as well.
    ///
    /// # Errors
    ///
    /// A file can't be made or written, or the wait ended; then nothing is known of the paths'
    /// protection.
    pub fn add<'a>(
        &self,
        paths: impl IntoIterator<Item = &'a StorePath>,
        wait: Wait<'_>,
    ) -> Result<(), LockError> {
        self.protect(paths, wait)
    }

    /// Protects paths also from a garbage collector that runs already and outlives the session: once
    /// a link that keeps them is in its place, and before the session may end.
    ///
    /// A collector that has read the links before, and reads the sessions' roots afterwards, sees
    /// neither.
    ///
    /// # Errors
    ///
    /// As [`TempRoots::add`].
    pub fn hand_over(&self, paths: &[StorePath], wait: Wait<'_>) -> Result<(), LockError> {
        self.protect(paths, wait)?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *kept {
            Some(kept) => kept.client.announce(&self.store_dir, paths, wait),
            None => Ok(()),
        }
    }

    fn protect<'a>(
        &self,
        paths: impl IntoIterator<Item = &'a StorePath>,
        wait: Wait<'_>,
    ) -> Result<(), LockError> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kept.as_ref().map(|kept| &kept.known);
        let mut new: Vec<StorePath> = paths
            .into_iter()
            .filter(|path| known.is_none_or(|known| !known.contains(path)))
            .cloned()
            .collect();
        new.sort_unstable();
        new.dedup();
        if new.is_empty() {
            return Ok(());
        }
        let kept = match &mut *kept {
            Some(kept) => kept,
            none => none.insert(Kept::new(&self.state_dir)?),
        };
        if MAX_ROOTS < kept.known.len() + new.len() {
            return Err(LockError::TooManyRoots { limit: MAX_ROOTS });
        }
        kept.file.append(&self.store_dir, &new)?;
        kept.client.announce(&self.store_dir, &new, wait)?;
        kept.known.extend(new);
        Ok(())
    }
}

/// What a session with roots keeps.
#[derive(Debug)]
struct Kept {
    file: RootsFile,
    client: RootsClient,
    known: HashSet<StorePath>,
}

impl Kept {
    fn new(state_dir: &Path) -> Result<Kept, LockError> {
        Ok(Kept {
            file: RootsFile::new(&folder(state_dir))?,
            client: RootsClient::new(state_dir)?,
            known: HashSet::new(),
        })
    }
}

/// A file of temporary roots, locked as long as it counts.
#[derive(Debug)]
struct RootsFile {
    file: OwnedFd,
    path: PathBuf,
    length: u64,
}

impl RootsFile {
    fn new(folder: &Path) -> Result<RootsFile, LockError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        match rustix::fs::mkdir(folder, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(LockError::io("make folder", folder, errno)),
        }
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let path = folder.join(format!("{}-{number}", std::process::id()));
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let file = match rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR) {
                Ok(file) => file,
                // Of a dead process, or one in a container that has the same number.
                Err(Errno::EXIST) => continue,
                Err(errno) => return Err(LockError::io("make", &path, errno)),
            };
            // A collector that saw the file before it was locked deletes it.
            let failed = |errno| LockError::io("lock", &path, errno);
            if flock::try_lock(file.as_fd(), Sharing::Exclusive).map_err(failed)?
                && !flock::is_stale(file.as_fd()).map_err(failed)?
            {
                return Ok(RootsFile { file, path, length: 0 });
            }
        }
    }

    /// Writes roots behind those that are there; all or none.
    ///
    /// Half a root would stop every later garbage collection, so it is cut off again.
    fn append(&mut self, store_dir: &StoreDir, paths: &[StorePath]) -> Result<(), LockError> {
        let text: String = paths.iter().map(|path| store_dir.display(path) + "\0").collect();
        let mut rest = text.as_bytes();
        let mut at = self.length;
        while !rest.is_empty() {
            match rustix::io::pwrite(&self.file, rest, at) {
                Ok(written) => {
                    rest = rest.get(written..).unwrap_or_default();
                    at += u64::try_from(written).unwrap_or_default();
                }
                Err(Errno::INTR) => {}
                Err(errno) => {
                    let cut = rustix::fs::ftruncate(&self.file, self.length);
                    let action = if cut.is_ok() { "write" } else { "write, or shorten again," };
                    return Err(LockError::io(action, &self.path, errno));
                }
            }
        }
        self.length = at;
        Ok(())
    }
}

impl Drop for RootsFile {
    fn drop(&mut self) {
        // While it is locked: nobody else deletes it, and nobody else's has its name.
        rustix::fs::unlink(&self.path).ok();
        flock::unlock(self.file.as_fd());
    }
}
