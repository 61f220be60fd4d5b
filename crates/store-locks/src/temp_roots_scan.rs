//! What a garbage collector reads of temporary roots: `LocalStore::findTempRoots` in Nix's
//! `src/libstore/gc.cc`.

use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;

use drover_core::{StoreDir, StorePath, StorePathError};
use rustix::fs::{Dir, Mode, OFlags};
use rustix::io::Errno;

use crate::flock::{self, Locked, Sharing};
use crate::{LockError, temp_roots};

/// Bytes of a file that is read: about a million roots in any store.
const MAX_FILE: u64 = 1 << 28;

/// Returns the temporary roots of all sessions that live, each with a name as Nix gives it,
/// `{temp:<pid>}`. Files of sessions that have ended are deleted.
///
/// Roots that are added afterwards are not in it: a collector takes its lock and begins to listen
/// before it calls this.
///
/// # Errors
///
/// Something that can't be read or understood; it may protect anything, so nothing may be deleted.
pub fn find_temporary_roots(
    state_dir: &Path,
    store_dir: &StoreDir,
) -> Result<Vec<(String, StorePath)>, LockError> {
    let folder = temp_roots::folder(state_dir);
    let failed = |errno| LockError::io("read folder", &folder, errno);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = match rustix::fs::open(&folder, flags, Mode::empty()) {
        Ok(dir) => dir,
        Err(Errno::NOENT) => return Ok(Vec::new()),
        Err(errno) => return Err(failed(errno)),
    };
    let mut roots = Vec::new();
    for entry in Dir::read_from(&dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        // Some package managers put hidden files into empty folders to keep them.
        if name.starts_with('.') {
            continue;
        }
        let path = folder.join(name);
        let Some(text) = read_if_alive(&path)? else { continue };
        let link = format!("{{temp:{}}}", process(name));
        for record in text.split_inclusive(|byte| *byte == 0) {
            // What has no end yet is being written, and will be announced.
            let Some(record) = record.strip_suffix(&[0]) else { continue };
            let root = parse(store_dir, record)
                .map_err(|source| LockError::BadRecord { path: path.clone(), source })?;
            roots.push((link.clone(), root));
        }
    }
    Ok(roots)
}

fn parse(store_dir: &StoreDir, record: &[u8]) -> Result<StorePath, StorePathError> {
    store_dir.parse(&String::from_utf8_lossy(record))
}

/// Returns the number that a file's name begins with.
fn process(name: &str) -> &str {
    let end = name.find(|c: char| !c.is_ascii_digit()).unwrap_or(name.len());
    name.get(..end).unwrap_or(name)
}

/// Returns the contents of a file whose session lives; deletes it otherwise.
fn read_if_alive(path: &Path) -> Result<Option<Vec<u8>>, LockError> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(LockError::io("open file of temporary roots", path, errno)),
    };
    let failed = |errno| LockError::io("lock file of temporary roots", path, errno);
    if flock::try_lock(file.as_fd(), Sharing::Exclusive).map_err(failed)? {
        let file = Locked::new(file);
        match rustix::fs::unlink(path) {
            Ok(()) | Err(Errno::NOENT) => flock::mark_stale(file.as_fd()),
            Err(errno) => {
                return Err(LockError::io("delete stale file of temporary roots", path, errno));
            }
        }
        return Ok(None);
    }
    let mut text = Vec::new();
    let read_failed = |source| LockError::Io { action: "read", path: path.to_owned(), source };
    std::fs::File::from(file).take(MAX_FILE + 1).read_to_end(&mut text).map_err(read_failed)?;
    let bytes = u64::try_from(text.len()).unwrap_or(u64::MAX);
    if MAX_FILE < bytes {
        return Err(LockError::TooLong { path: path.to_owned(), bytes, limit: MAX_FILE });
    }
    Ok(Some(text))
}
