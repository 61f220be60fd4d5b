//! Files that have no name before they are whole, so that nothing is left of one whose writer ends.
//!
//! Where the file system can't have such files they have names of their own until then. Those, and
//! names between two steps, are left behind by who is killed, and swept up later.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use tempfile::{NamedTempFile, TempPath};

/// What names begin with that are nobody's for ever.
const PREFIX: &str = ".drover-";

/// How old a file is that nobody writes any more.
const LEFT_BEHIND: Duration = Duration::from_secs(24 * 3600);

/// A file that is being written.
pub(crate) enum Unnamed {
    Nameless { file: File, folder: PathBuf },
    Named(NamedTempFile),
}

impl Unnamed {
    /// Makes one in a folder. Others may read it when it gets its name, as far as the umask says so.
    pub(crate) fn in_folder(folder: &Path) -> io::Result<Unnamed> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        match rustix::fs::open(folder, flags, Mode::from_raw_mode(0o666)) {
            Ok(file) => Ok(Unnamed::Nameless { file: file.into(), folder: folder.to_owned() }),
            // an old kernel, or a file system that has none
            Err(_) => named(folder).map(Unnamed::Named),
        }
    }

    /// Makes one that never gets a name.
    pub(crate) fn anywhere() -> io::Result<Unnamed> {
        let file = tempfile::tempfile()?;
        Ok(Unnamed::Nameless { file, folder: std::env::temp_dir() })
    }

    /// Returns the file itself.
    pub(crate) fn into_file(self) -> File {
        match self {
            Unnamed::Nameless { file, .. } => file,
            Unnamed::Named(named) => named.into_file(),
        }
    }

    /// Gives it a name in its folder, also in the place of another.
    pub(crate) fn persist(self, path: &Path) -> io::Result<()> {
        let (file, folder) = match self {
            Unnamed::Named(named) => {
                named.persist(path).map_err(|error| error.error)?;
                return Ok(());
            }
            Unnamed::Nameless { file, folder } => (file, folder),
        };
        let link = |to: &Path| -> io::Result<()> {
            let open = format!("/proc/self/fd/{}", file.as_raw_fd());
            Ok(rustix::fs::linkat(CWD, open, CWD, to, AtFlags::SYMLINK_FOLLOW)?)
        };
        match link(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            linked => return linked,
        }
        // nothing but a rename takes the place of another
        let (_, between): (File, TempPath) = named(&folder)?.into_parts();
        std::fs::remove_file(&between)?;
        link(&between)?;
        between.persist(path).map_err(|error| error.error)
    }
}

impl Write for Unnamed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Unnamed::Nameless { file, .. } => file.write(bytes),
            Unnamed::Named(named) => named.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Unnamed::Nameless { file, .. } => file.flush(),
            Unnamed::Named(named) => named.flush(),
        }
    }
}

fn named(folder: &Path) -> io::Result<NamedTempFile> {
    tempfile::Builder::new()
        .prefix(PREFIX)
        .permissions(std::fs::Permissions::from_mode(0o666))
        .tempfile_in(folder)
}

/// Removes what others have left behind in a folder. What can't be removed stays.
pub(crate) fn sweep(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let is_ours = entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes());
        let changed = || entry.metadata().ok().filter(|found| found.is_file())?.modified().ok();
        let age = || SystemTime::now().duration_since(changed()?).ok();
        if is_ours && age().is_some_and(|age| LEFT_BEHIND < age) {
            drop(std::fs::remove_file(entry.path()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string();
        let mut names: Vec<String> = entries.map(|entry| name(entry).unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_gets_its_name_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let make = |contents: &str| {
            let mut file = Unnamed::in_folder(folder.path()).unwrap();
            file.write_all(contents.as_bytes()).unwrap();
            file
        };
        // that of /tmp can have none only if it's an old one
        let one = make("one");
        assert!(matches!(one, Unnamed::Named(_)) || names(folder.path()).is_empty());
        one.persist(&folder.path().join("a")).unwrap();
        make("two").persist(&folder.path().join("a")).unwrap();
        let named = named(folder.path()).unwrap();
        Unnamed::Named(named).persist(&folder.path().join("b")).unwrap();
        assert_eq!(names(folder.path()), ["a", "b"]);
        assert_eq!(fs::read(folder.path().join("a")).unwrap(), b"two");
        let mode = |name: &str| fs::metadata(folder.path().join(name)).unwrap().permissions();
        assert_eq!(mode("a"), mode("b"));
    }

    #[test]
    fn what_others_left_behind_is_swept_up() {
        let folder = tempfile::tempdir().unwrap();
        let old = SystemTime::now() - LEFT_BEHIND - Duration::from_secs(60);
        for (name, is_old) in [(".drover-old", true), (".drover-new", false), ("x.nar", true)] {
            let file = File::create(folder.path().join(name)).unwrap();
            if is_old {
                file.set_modified(old).unwrap();
            }
        }
        sweep(folder.path());
        assert_eq!(names(folder.path()), [".drover-new", "x.nar"]);
    }
}
