//! Profiles: a link `NAME` to the current generation, and links `NAME-N-link` for all of them.
//!
//! Follows `src/libstore/profiles.cc` and `removeOldGenerations` (`nix-collect-garbage.cc`) of Nix.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::FlockOperation;

use crate::error::CompatError;
use crate::nix_store::Rehearsal;

/// Folders below the first that are looked into.
const MAX_DEPTH: usize = 64;

/// Which generations are old.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Old {
    /// All but the current one.
    NotCurrent,
    /// Those that were followed by another before then. The one that was current then stays, so
    /// that one can go back to it.
    Before(SystemTime),
}

fn file_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CompatError {
    let path = path.to_owned();
    move |source| CompatError::File { action, path, source }
}

/// Returns the profiles in a folder and the folders below: the links to something with `link` in
/// its name, where the folder can be read and written.
pub(crate) fn find_profiles(folder: &Path) -> Result<Vec<PathBuf>, CompatError> {
    let mut profiles = Vec::new();
    let mut folders = vec![(folder.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        let can_write = rustix::fs::access(&folder, rustix::fs::Access::WRITE_OK).is_ok();
        for entry in entries {
            let entry = entry.map_err(file_error("reading directory", &folder))?;
            let kind = entry.file_type().map_err(file_error("getting status of", &folder))?;
            if kind.is_dir() && depth < MAX_DEPTH {
                folders.push((entry.path(), depth + 1));
            }
            if !kind.is_symlink() || !can_write {
                continue;
            }
            let target = std::fs::read_link(entry.path()).unwrap_or_default();
            if target.as_os_str().as_bytes().windows(4).any(|word| word == b"link") {
                profiles.push(entry.path());
            }
        }
    }
    profiles.sort();
    Ok(profiles)
}

#[derive(Clone, Copy, Debug)]
struct Generation {
    number: u32,
    made: SystemTime,
}

/// Returns the number in `NAME-N-link`.
fn number_of(profile: &OsStr, name: &OsStr) -> Option<u32> {
    let rest = name.as_bytes().strip_prefix(profile.as_bytes())?.strip_prefix(b"-")?;
    let text = std::str::from_utf8(rest).ok()?;
    text.get(..text.find("-link")?)?.parse().ok()
}

/// Returns all generations of a profile, in order, and the current one's number.
fn generations(profile: &Path) -> Result<(Vec<Generation>, Option<u32>), CompatError> {
    let folder = profile.parent().unwrap_or(Path::new("/"));
    let name = profile.file_name().unwrap_or_default();
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(file_error("opening directory", folder))? {
        let entry = entry.map_err(file_error("reading directory", folder))?;
        let Some(number) = number_of(name, &entry.file_name()) else { continue };
        let path = entry.path();
        let metadata =
            std::fs::symlink_metadata(&path).map_err(file_error("getting status of", &path))?;
        let seconds = u64::try_from(metadata.mtime()).unwrap_or(0);
        let made = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        found.push(Generation { number, made });
    }
    found.sort_by_key(|generation| generation.number);
    let target = std::fs::read_link(profile).unwrap_or_default();
    let current = target.file_name().and_then(|target| number_of(name, target));
    Ok((found, current))
}

/// Deletes old generations of a profile and returns their numbers, or only these.
pub(crate) fn remove_old(
    profile: &Path,
    old: Old,
    rehearsal: Rehearsal,
) -> Result<Vec<u32>, CompatError> {
    let lock = Lock::take(profile)?;
    let (generations, current) = generations(profile)?;
    let numbers: Vec<u32> = match old {
        Old::NotCurrent => generations.iter().map(|generation| generation.number).collect(),
        Old::Before(time) => {
            let newest_first = generations.iter().rev();
            let older = newest_first.skip_while(|generation| generation.made >= time).skip(1);
            older.map(|generation| generation.number).collect()
        }
    };
    let numbers: Vec<u32> = numbers.into_iter().filter(|number| Some(*number) != current).collect();
    for number in &numbers {
        if rehearsal == Rehearsal::Yes {
            continue;
        }
        let mut path = profile.as_os_str().to_owned();
        path.push(format!("-{number}-link"));
        let path = PathBuf::from(path);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed.map_err(file_error("removing file", &path))?,
        }
    }
    lock.release();
    Ok(numbers)
}

/// The lock of a profile: an exclusive `flock` on `NAME.lock`, which is marked and removed in the
/// end, so that who waits for it knows to begin anew.
struct Lock {
    path: PathBuf,
    file: File,
}

impl Lock {
    fn take(profile: &Path) -> Result<Lock, CompatError> {
        let mut path = profile.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(OsStr::from_bytes(&path.into_vec()));
        loop {
            let mut how = File::options();
            let file = how.read(true).write(true).create(true).truncate(false).mode(0o600);
            let file = file.open(&path).map_err(file_error("opening lock file", &path))?;
            rustix::fs::flock(&file, FlockOperation::LockExclusive)
                .map_err(io::Error::from)
                .map_err(file_error("acquiring/releasing lock of", &path))?;
            let metadata = file.metadata().map_err(file_error("getting status of", &path))?;
            if metadata.len() == 0 {
                return Ok(Lock { path, file });
            }
        }
    }

    /// Removes the lock's file. One that stays does no harm, so errors mean nothing.
    fn release(self) {
        use std::io::Write as _;

        if std::fs::remove_file(&self.path).is_ok() {
            let mut file = self.file;
            drop(file.write_all(b"d"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes generations 1 to 4, each a day older than the next, with 3 as the current one.
    fn profile(folder: &Path) -> PathBuf {
        for number in 1..=4u32 {
            let link = folder.join(format!("p-{number}-link"));
            std::os::unix::fs::symlink("/nix/store/x", &link).unwrap();
            let age = Duration::from_secs(u64::from(4 - number) * 24 * 3600 + 10);
            let time = SystemTime::now().checked_sub(age).unwrap();
            let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
            let stamp = rustix::fs::Timespec { tv_sec: seconds.try_into().unwrap(), tv_nsec: 0 };
            rustix::fs::utimensat(
                rustix::fs::CWD,
                &link,
                &rustix::fs::Timestamps { last_access: stamp, last_modification: stamp },
                rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
            )
            .unwrap();
        }
        std::os::unix::fs::symlink("p-3-link", folder.join("p")).unwrap();
        std::fs::write(folder.join("other-1-link"), "").unwrap();
        folder.join("p")
    }

    fn left(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn all_but_the_current_one() {
        let folder = tempfile::tempdir().unwrap();
        let profile = profile(folder.path());
        assert_eq!(find_profiles(folder.path()).unwrap(), [profile.as_path()]);
        let told = remove_old(&profile, Old::NotCurrent, Rehearsal::Yes).unwrap();
        assert_eq!(left(folder.path()).len(), 6);
        assert_eq!(remove_old(&profile, Old::NotCurrent, Rehearsal::No).unwrap(), told);
        assert_eq!(told, [1, 2, 4]);
        assert_eq!(left(folder.path()), ["other-1-link", "p", "p-3-link"]);
    }

    #[test]
    fn the_one_that_was_current_then_stays() {
        let folder = tempfile::tempdir().unwrap();
        let profile = profile(folder.path());
        let before = SystemTime::now().checked_sub(Duration::from_secs(36 * 3600)).unwrap();
        let told = remove_old(&profile, Old::Before(before), Rehearsal::No).unwrap();
        assert_eq!(told, [1]);
    }

    #[test]
    fn numbers_in_names() {
        let number = |name: &str| number_of("p".as_ref(), name.as_ref());
        assert_eq!(number("p-12-link"), Some(12));
        for name in ["p", "p--link", "p-x-link", "p-1", "pp-1-link", "p-1x-link"] {
            assert_eq!(number(name), None, "{name}");
        }
    }
}
