//! Where roots and the files of running fleets are kept, and the locks that guard them.
//!
//! A lock is an advisory `flock` on a file, so it ends with the process that holds it.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use rustix::fs::FlockOperation;

/// Returns the cache folder, made if need be.
pub(crate) fn folder() -> Result<PathBuf> {
    let folder = match std::env::var_os("DROVER_TEST_CACHE") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache"),
    };
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let folder = folder.canonicalize()?;
    // Mount options and apt's source lines have no way to quote these.
    let plain = |c: char| !c.is_whitespace() && !matches!(c, ':' | ',' | '\\' | '[' | ']');
    ensure!(
        folder.to_str().is_some_and(|text| text.chars().all(plain)),
        "the test cache {} has a character in its path that mount cannot take: \
         set DROVER_TEST_CACHE to another folder",
        folder.display()
    );
    Ok(folder)
}

/// Waits for the lock at `path`; it is held until the file is dropped.
pub(crate) fn lock(path: &Path) -> Result<File> {
    let file = open(path)?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive)
        .with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// Whether somebody holds the lock at `path`; nobody does where there is no such file.
pub(crate) fn is_held(path: &Path) -> Result<bool> {
    let file = match File::options().write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error).with_context(|| format!("cannot open {}", path.display())),
    };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(false),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

fn open(path: &Path) -> Result<File> {
    let mut options = File::options();
    options.create(true).truncate(false).write(true);
    options.open(path).with_context(|| format!("cannot open {}", path.display()))
}
