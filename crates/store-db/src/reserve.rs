//! Space that is kept back, so that the garbage collector can work on a full disk.
//!
//! SQLite can't open a database where there is no room at all. The file `reserved` holds some, which
//! is given up before a collection. Follows `LocalStore::LocalStore` and `collectGarbage` of Nix.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};

use crate::DbError;

/// Fills the file `reserved` in the database's folder with `bytes`.
///
/// # Errors
///
/// No room, or no permission. The store works without.
pub fn hold_reserve(dir: &Path, bytes: u64) -> Result<(), DbError> {
    let path = dir.join("reserved");
    if fs::metadata(&path).is_ok_and(|metadata| metadata.size() == bytes) {
        return Ok(());
    }
    let fill = || -> io::Result<()> {
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        if bytes > 0 {
            fallocate(&file, FallocateFlags::empty(), 0, bytes)?;
        }
        file.set_len(bytes)
    };
    fill().map_err(|source| DbError::Io { doing: "reserve space in", path: path.clone(), source })
}

/// Gives the reserved space up.
///
/// # Errors
///
/// No permission. It is no error where the file is absent.
pub fn release_reserve(dir: &Path) -> Result<(), DbError> {
    let path = dir.join("reserved");
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(DbError::Io { doing: "remove", path, source })
        }
        _ => Ok(()),
    }
}
