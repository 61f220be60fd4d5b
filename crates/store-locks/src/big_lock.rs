//! The big lock: who uses a store holds it shared for life, who changes its schema holds it alone.
//!
//! `<state>/db/big-lock`, as `LocalStore::LocalStore` in Nix's `src/libstore/local-store.cc`.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use crate::flock::{self, Locked, Sharing};
use crate::{LockError, Wait};

/// What Nix says of it.
const WAITING: &str = "waiting for the big Nix store lock...";

/// The big lock, shared with all who use the store.
#[derive(Debug)]
pub struct BigLock {
    file: Locked,
    path: PathBuf,
}

/// The big lock, had alone.
#[derive(Debug)]
pub struct ExclusiveBigLock {
    file: Locked,
    path: PathBuf,
}

impl BigLock {
    /// Takes the lock of the database in `db_dir`, to be held as long as the store is used.
    ///
    /// # Errors
    ///
    /// The file can't be made or opened, or the wait ended.
    pub fn shared(db_dir: &Path, wait: Wait<'_>) -> Result<BigLock, LockError> {
        let path = db_dir.join("big-lock");
        let file = Locked::new(flock::open(&path)?);
        flock::lock(file.as_fd(), &path, Sharing::Shared, wait, WAITING)?;
        Ok(BigLock { file, path })
    }

    /// Gives the shared lock up and then waits until nobody else has it.
    ///
    /// Two that did so while they hold it would wait for each other. In between others may have
    /// changed the schema: read it again.
    ///
    /// # Errors
    ///
    /// The wait ended. The lock is lost then: the store may not be used on.
    pub fn upgrade(self, wait: Wait<'_>) -> Result<ExclusiveBigLock, LockError> {
        flock::unlock(self.file.as_fd());
        flock::lock(self.file.as_fd(), &self.path, Sharing::Exclusive, wait, WAITING)?;
        Ok(ExclusiveBigLock { file: self.file, path: self.path })
    }
}

impl ExclusiveBigLock {
    /// Shares the lock again.
    ///
    /// The system may let another one have it alone in between: read the schema again.
    ///
    /// # Errors
    ///
    /// The wait ended. The lock is lost then: the store may not be used on.
    pub fn downgrade(self, wait: Wait<'_>) -> Result<BigLock, LockError> {
        flock::lock(self.file.as_fd(), &self.path, Sharing::Shared, wait, WAITING)?;
        Ok(BigLock { file: self.file, path: self.path })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Delay, Verdict};

    fn silent(_: Delay<'_>) -> Verdict {
        Verdict::Wait
    }

    fn soon() -> Wait<'static> {
        Wait::up_to(Duration::from_millis(30), &silent)
    }

    #[test]
    fn shared_by_many_or_had_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let one = BigLock::shared(dir.path(), soon()).unwrap();
        let two = BigLock::shared(dir.path(), soon()).unwrap();
        assert!(matches!(one.upgrade(soon()), Err(LockError::TimedOut { .. })));
        let alone = two.upgrade(soon()).unwrap();
        assert!(matches!(BigLock::shared(dir.path(), soon()), Err(LockError::TimedOut { .. })));
        let shared = alone.downgrade(soon()).unwrap();
        drop(BigLock::shared(dir.path(), soon()).unwrap());
        drop(shared);
    }

    /// Neither waits for the other while it holds what the other needs.
    #[test]
    fn two_upgrades_at_once_both_get_through() {
        let dir = tempfile::tempdir().unwrap();
        let both = [BigLock::shared(dir.path(), soon()), BigLock::shared(dir.path(), soon())];
        let wait = Wait::up_to(Duration::from_secs(20), &silent);
        std::thread::scope(|scope| {
            for lock in both {
                scope.spawn(move || {
                    let alone = lock.unwrap().upgrade(wait).unwrap();
                    drop(alone.downgrade(wait).unwrap());
                });
            }
        });
    }
}
