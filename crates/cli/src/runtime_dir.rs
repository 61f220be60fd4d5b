//! Folders for sockets and the like, which go with the process.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tempfile::TempDir;

/// Those of this process. Each goes with its last user, but who leaves at once doesn't wait for all of
/// them.
static MADE: Made = Made(Mutex::new(Vec::new()));

/// Makes one in the first of these folders in which that's possible.
pub(crate) fn make<'a>(parents: impl Iterator<Item = &'a Path>) -> io::Result<TempDir> {
    MADE.make(parents)
}

/// Removes what is left of those that were made: for the end of the process.
pub(crate) fn remove_all() {
    MADE.remove_all();
}

#[derive(Debug)]
struct Made(Mutex<Vec<PathBuf>>);

impl Made {
    fn make<'a>(&self, parents: impl Iterator<Item = &'a Path>) -> io::Result<TempDir> {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // a daemon makes one each time it reads its settings
        made.retain(|path| path.exists());
        let mut outcome = Err(io::Error::from(io::ErrorKind::NotFound));
        for parent in parents {
            outcome = tempfile::Builder::new().prefix("drover-").tempdir_in(parent);
            if let Ok(folder) = &outcome {
                made.push(folder.path().to_owned());
                break;
            }
        }
        outcome
    }

    fn remove_all(&self) {
        let made = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for path in made {
            // again where somebody puts something there, or takes it away, at the same moment
            for _ in 0..10 {
                if fs_err::remove_dir_all(&path).is_ok() || !path.exists() {
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_still_uses_goes_at_the_end() {
        let (parent, made) = (tempfile::tempdir().unwrap(), Made(Mutex::default()));
        let absent = parent.path().join("absent");
        let parents = || [absent.as_path(), parent.path()].into_iter();
        let used = made.make(parents()).unwrap();
        fs_err::write(used.path().join("socket"), "").unwrap();
        // as by a task that isn't dropped in time
        std::mem::forget(used);
        drop(made.make(parents()).unwrap());
        made.remove_all();
        assert_eq!(fs_err::read_dir(parent.path()).unwrap().count(), 0);
    }
}
