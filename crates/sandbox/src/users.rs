//! Users for builds, which one build has at a time.
//!
//! Locks are files in a folder, held by `flock` for as long as the build: those of Nix
//! (`src/libstore/unix/user-lock.cc`), so that a Nix on the same machine never takes the same user.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::plan::{Identity, Ids};

/// Users to choose from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserPool {
    /// Users of the machine, each with a lock named by its number; Nix has them in `userpool`.
    Listed {
        /// Where the locks are.
        folder: PathBuf,
        /// The users, in the order in which they are tried.
        users: Vec<Ids>,
    },
    /// Ranges of numbers that belong to nobody, each with a lock named `slot-` and its place; Nix has
    /// them in `userpool2`.
    Ranges {
        /// Where the locks are.
        folder: PathBuf,
        /// The first number of the first range.
        first: u32,
        /// How many numbers there are in all.
        total: u32,
        /// How many one range has.
        per_range: u32,
    },
}

/// Users that nobody else has until this is dropped.
#[derive(Debug)]
pub struct LockedUsers {
    first: Ids,
    count: u32,
    _lock: OwnedFd,
}

/// Why no user could be locked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UserPoolError {
    /// A lock could not be opened or taken.
    #[error("cannot lock '{}'", path.display())]
    Lock {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A build as root, or as who runs this, could do anything.
    #[error("user {uid} must not be a build user, as builds could do all that it can")]
    Powerful {
        /// The user.
        uid: u32,
    },
}

impl UserPool {
    /// Locks the first users that are free; `None` if none are.
    ///
    /// Whoever gets them kills what still runs as them before it uses them, as a plan with
    /// [`Leftovers::Kill`](crate::Leftovers::Kill) does. The folder is made if it isn't there.
    ///
    /// # Errors
    /// If a lock can't be opened, or a listed user is one that must not be.
    pub fn lock(&self) -> Result<Option<LockedUsers>, UserPoolError> {
        let folder = match self {
            UserPool::Listed { folder, .. } | UserPool::Ranges { folder, .. } => folder,
        };
        let failed = |source| UserPoolError::Lock { path: folder.clone(), source };
        std::fs::create_dir_all(folder).map_err(failed)?;
        let own = rustix::process::geteuid().as_raw();
        for (name, first, count) in self.candidates() {
            if first.uid == 0 || first.gid == 0 || first.uid == own {
                return Err(UserPoolError::Powerful { uid: first.uid });
            }
            if let Some(lock) = lock(&folder.join(name))? {
                return Ok(Some(LockedUsers { first, count, _lock: lock }));
            }
        }
        Ok(None)
    }

    fn candidates(&self) -> Vec<(String, Ids, u32)> {
        match self {
            UserPool::Listed { users, .. } => {
                users.iter().map(|ids| (ids.uid.to_string(), *ids, 1)).collect()
            }
            UserPool::Ranges { first, total, per_range, .. } => {
                let slots = total.checked_div(*per_range).unwrap_or(0);
                let range = |slot: u32| {
                    let uid = first.checked_add(slot.checked_mul(*per_range)?)?;
                    Some((format!("slot-{slot}"), Ids { uid, gid: uid }, *per_range))
                };
                (0..slots).map_while(range).collect()
            }
        }
    }
}

impl LockedUsers {
    /// Returns the first, or only, user and group.
    pub fn first(&self) -> Ids {
        self.first
    }

    /// Returns how many there are.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Returns what a command is that runs as the first of them.
    pub fn as_user(&self) -> Identity {
        Identity::User(self.first)
    }

    /// Returns what a command is that has all of them.
    pub fn as_range(&self) -> Identity {
        Identity::Range { first: self.first, count: self.count }
    }
}

/// Takes a lock, if it's free. It's never removed, so what was locked stays what others lock.
fn lock(path: &Path) -> Result<Option<OwnedFd>, UserPoolError> {
    let failed = |errno: Errno| UserPoolError::Lock { path: path.to_owned(), source: errno.into() };
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mode = Mode::RUSR | Mode::WUSR;
    let file = rustix::fs::openat(CWD, path, flags, mode).map_err(failed)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(errno) => Err(failed(errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listed_user_is_given_to_one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let users = vec![Ids { uid: 30_001, gid: 30_000 }, Ids { uid: 30_002, gid: 30_000 }];
        let pool = UserPool::Listed { folder: folder.path().join("userpool"), users };
        let first = pool.lock().unwrap().unwrap();
        let second = pool.lock().unwrap().unwrap();
        assert_eq!((first.first().uid, second.first().uid), (30_001, 30_002));
        assert!(pool.lock().unwrap().is_none());
        drop(first);
        assert_eq!(
            pool.lock().unwrap().unwrap().as_user(),
            Identity::User(Ids { uid: 30_001, gid: 30_000 })
        );
        assert!(folder.path().join("userpool/30002").exists());
    }

    #[test]
    fn ranges_never_overlap_and_never_leave_the_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().to_owned();
        let (first, total, per_range) = (u32::MAX - 150_000, 1 << 18, 1 << 16);
        let pool = UserPool::Ranges { folder: folder.clone(), first, total, per_range };
        let locked: Vec<_> = std::iter::from_fn(|| pool.lock().unwrap()).collect();
        let starts: Vec<u32> = locked.iter().map(|it| it.first().uid).collect();
        assert_eq!(starts, [first, first + per_range, first + 2 * per_range]);
        assert!(folder.join("slot-2").exists());
    }

    #[test]
    fn root_is_no_build_user() {
        let folder = tempfile::tempdir().unwrap();
        for ids in [Ids { uid: 0, gid: 30_000 }, Ids { uid: 30_001, gid: 0 }] {
            let pool = UserPool::Listed { folder: folder.path().to_owned(), users: vec![ids] };
            assert!(matches!(pool.lock(), Err(UserPoolError::Powerful { .. })));
        }
    }
}
