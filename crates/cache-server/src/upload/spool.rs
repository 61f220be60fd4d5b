//! Files that wait for their narinfos.
//!
//! They have no names in the file system, so that nothing is left of them when the server ends. A file
//! under the URL of another one is refused unless it is the same.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use drover_core::{Hash, HashAlgorithm, Hasher, NarUrl};
use http::StatusCode;
use tokio::time::Instant;

use super::Arriving;
use crate::body::{self, Answer};
use crate::refusal::Refusal;

/// Bytes that are gathered before they are written.
const BLOCK: usize = 1024 * 1024;
/// Files that wait at the most.
const MOST_FILES: usize = 4096;

/// Files that wait for their narinfos.
pub(super) struct Spool {
    folder: PathBuf,
    most: u64,
    patience: Duration,
    used: Arc<AtomicU64>,
    files: Mutex<HashMap<NarUrl, Waiting>>,
}

/// A file that waits.
#[derive(Clone)]
struct Waiting {
    file: Arc<Spooled>,
    hash: Hash,
    since: Instant,
}

/// A file, for as long as somebody needs it.
pub(super) struct Spooled {
    pub(super) file: File,
    _room: Room,
}

/// Bytes that are taken.
pub(super) struct Room {
    used: Arc<AtomicU64>,
    most: u64,
    bytes: u64,
}

impl Room {
    /// Takes more, unless there would be too much in all.
    pub(super) fn grow(&mut self, bytes: u64) -> Result<(), Refusal> {
        self.bytes += bytes;
        if self.used.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) > self.most {
            let says = "too much is being uploaded, or waits for its narinfos; try again later";
            return Err(Refusal::new(StatusCode::INSUFFICIENT_STORAGE, says));
        }
        Ok(())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Spool {
    pub(super) fn new(folder: PathBuf, most: u64, patience: Duration) -> Spool {
        Spool { folder, most, patience, used: Arc::default(), files: Mutex::default() }
    }

    /// Returns room for something that is being uploaded: what waits counts together with it.
    pub(super) fn room(&self) -> Room {
        Room { used: Arc::clone(&self.used), most: self.most, bytes: 0 }
    }

    /// Takes a file.
    pub(super) async fn take(&self, url: NarUrl, mut from: Arriving) -> Result<Answer, Refusal> {
        self.clear();
        let folder = self.folder.clone();
        let made = tokio::task::spawn_blocking(move || tempfile::tempfile_in(folder)).await;
        let mut file = told(made)?;
        let mut room = self.room();
        let mut hasher = Hasher::new(HashAlgorithm::Sha256);
        let mut block = Vec::new();
        loop {
            let next = from.next().await?;
            let ended = next.is_none();
            if let Some(bytes) = next {
                room.grow(bytes.len() as u64)?;
                block.extend_from_slice(&bytes);
            }
            if ended || block.len() >= BLOCK {
                let full = std::mem::take(&mut block);
                let written = tokio::task::spawn_blocking(move || {
                    hasher.update(&full);
                    file.write_all(&full).map(|()| (file, hasher))
                });
                (file, hasher) = told(written.await)?;
            }
            if ended {
                break;
            }
        }
        let waiting = Waiting {
            file: Arc::new(Spooled { file, _room: room }),
            hash: hasher.finish(),
            since: Instant::now(),
        };
        self.keep(url, waiting)
    }

    fn keep(&self, url: NarUrl, waiting: Waiting) -> Result<Answer, Refusal> {
        let mut files = self.files();
        if let Some(there) = files.get(&url)
            && there.hash != waiting.hash
        {
            let says = "another file waits under this name already";
            return Err(Refusal::new(StatusCode::CONFLICT, says));
        }
        if files.len() >= MOST_FILES {
            let says = "too many files wait for their narinfos; try again later";
            return Err(Refusal::new(StatusCode::INSUFFICIENT_STORAGE, says));
        }
        files.insert(url, waiting);
        Ok(body::status(StatusCode::CREATED, ""))
    }

    /// Returns a file that waits.
    pub(super) fn find(&self, url: &NarUrl) -> Option<Arc<Spooled>> {
        self.clear();
        self.files().get(url).map(|waiting| Arc::clone(&waiting.file))
    }

    pub(super) fn remove(&self, url: &NarUrl) {
        self.files().remove(url);
    }

    /// Lets go of what has waited for too long.
    pub(super) fn clear(&self) {
        self.files().retain(|_, waiting| waiting.since.elapsed() < self.patience);
    }

    fn files(&self) -> std::sync::MutexGuard<'_, HashMap<NarUrl, Waiting>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps what the system says to the log.
fn told<T>(done: Result<std::io::Result<T>, tokio::task::JoinError>) -> Result<T, Refusal> {
    let done = done.map_err(|error| Refusal::failed("keeping an upload", &error))?;
    done.map_err(|error| Refusal::failed("keeping an upload", &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spool(folder: &tempfile::TempDir) -> Spool {
        Spool::new(folder.path().to_owned(), 100, Duration::from_secs(3600))
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_for_too_long_goes_without_anybody_asking() {
        let folder = tempfile::tempdir().unwrap();
        let spool = spool(&folder);
        let mut room = spool.room();
        room.grow(60).unwrap();
        let file = Arc::new(Spooled { file: tempfile::tempfile().unwrap(), _room: room });
        let hash = Hash::of(HashAlgorithm::Sha256, b"");
        let waiting = Waiting { file, hash, since: Instant::now() };
        spool.keep(NarUrl::parse("nar/x.nar").unwrap(), waiting).unwrap();
        tokio::time::advance(Duration::from_secs(3599)).await;
        spool.clear();
        assert_eq!(spool.used.load(Ordering::Relaxed), 60);
        tokio::time::advance(Duration::from_secs(1)).await;
        spool.clear();
        assert_eq!(spool.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_is_on_its_way_counts_with_what_waits() {
        let folder = tempfile::tempdir().unwrap();
        let spool = spool(&folder);
        let (mut log, mut file) = (spool.room(), spool.room());
        log.grow(70).unwrap();
        let refused = file.grow(31).unwrap_err();
        assert_eq!(refused.status, StatusCode::INSUFFICIENT_STORAGE);
        drop((log, file));
        spool.room().grow(100).unwrap();
    }
}
