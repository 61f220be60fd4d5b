//! Files that wait for their narinfos, and stay for a while behind them: all paths with the same contents
//! have one file, and whoever uploads them sends it once.
//!
//! They have no names in the file system, so that nothing is left of them when the server ends. A file
//! under the URL of another one is refused unless it is the same.

use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
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
/// How long a file stays that was asked for, when a path has been made of it, unless its room is needed.
const STAYS: Duration = Duration::from_secs(60);

/// Files that wait for their narinfos.
pub(super) struct Spool {
    folder: PathBuf,
    most: u64,
    patience: Duration,
    used: Arc<AtomicU64>,
    shelf: Arc<Shelf>,
}

#[derive(Default)]
struct Shelf(Mutex<HashMap<NarUrl, Waiting>>);

impl Shelf {
    fn files(&self) -> std::sync::MutexGuard<'_, HashMap<NarUrl, Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of all files of which paths were made.
    fn make_room(&self) {
        self.files().retain(|_, waiting| waiting.state == State::Awaited);
    }
}

/// A file that waits.
#[derive(Clone)]
struct Waiting {
    file: Arc<Spooled>,
    hash: Hash,
    state: State,
    /// When it goes by itself.
    until: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No path has been made of it yet.
    Awaited,
    /// It may be of others, too.
    Taken,
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
    shelf: Weak<Shelf>,
}

impl Room {
    /// Takes more, unless there would be too much in all.
    pub(super) fn grow(&mut self, bytes: u64) -> Result<(), Refusal> {
        self.bytes += bytes;
        if self.used.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) <= self.most {
            return Ok(());
        }
        if let Some(shelf) = self.shelf.upgrade() {
            shelf.make_room();
        }
        if self.used.load(Ordering::Relaxed) > self.most {
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
        Spool { folder, most, patience, used: Arc::default(), shelf: Arc::default() }
    }

    /// Returns room for something that is being uploaded: what waits counts together with it.
    pub(super) fn room(&self) -> Room {
        let shelf = Arc::downgrade(&self.shelf);
        Room { used: Arc::clone(&self.used), most: self.most, bytes: 0, shelf }
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
            state: State::Awaited,
            until: Instant::now() + self.patience,
        };
        self.keep(url, waiting)
    }

    fn keep(&self, url: NarUrl, waiting: Waiting) -> Result<Answer, Refusal> {
        if self.shelf.files().len() >= MOST_FILES {
            self.shelf.make_room();
        }
        let mut files = self.shelf.files();
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

    /// Returns a file that waits. Whoever hears that it is there won't send it, so it stays for a while.
    pub(super) fn find(&self, url: &NarUrl) -> Option<Arc<Spooled>> {
        self.clear();
        let mut files = self.shelf.files();
        let waiting = files.get_mut(url)?;
        waiting.until = waiting.until.max(Instant::now() + STAYS);
        Some(Arc::clone(&waiting.file))
    }

    /// Notes that a path was made of a file.
    pub(super) fn taken(&self, url: &NarUrl) {
        if let Some(waiting) = self.shelf.files().get_mut(url) {
            waiting.state = State::Taken;
            waiting.until = Instant::now() + STAYS;
        }
    }

    /// Lets go of what has waited for too long.
    pub(super) fn clear(&self) {
        self.shelf.files().retain(|_, waiting| Instant::now() < waiting.until);
    }
}

/// Keeps what the system says to the log. Where there is no room, whoever sends it must know that it's of
/// no use to send it again.
fn told<T>(done: Result<std::io::Result<T>, tokio::task::JoinError>) -> Result<T, Refusal> {
    let done = done.map_err(|error| Refusal::failed("keeping an upload", &error))?;
    done.map_err(|error| {
        let refusal = Refusal::failed("keeping an upload", &error);
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                let says = "there is no room for it where uploads wait; see the server's log";
                Refusal::new(StatusCode::INSUFFICIENT_STORAGE, says)
            }
            _ => refusal,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spool(folder: &tempfile::TempDir) -> Spool {
        Spool::new(folder.path().to_owned(), 100, Duration::from_secs(3600))
    }

    /// Has a file of 60 bytes wait.
    fn put(spool: &Spool, url: &NarUrl) {
        let mut room = spool.room();
        room.grow(60).unwrap();
        let file = Arc::new(Spooled { file: tempfile::tempfile().unwrap(), _room: room });
        let hash = Hash::of(HashAlgorithm::Sha256, b"");
        let until = Instant::now() + spool.patience;
        let waiting = Waiting { file, hash, state: State::Awaited, until };
        spool.keep(url.clone(), waiting).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_for_too_long_goes_without_anybody_asking() {
        let folder = tempfile::tempdir().unwrap();
        let spool = spool(&folder);
        put(&spool, &NarUrl::parse("nar/x.nar").unwrap());
        tokio::time::advance(Duration::from_secs(3599)).await;
        spool.clear();
        assert_eq!(spool.used.load(Ordering::Relaxed), 60);
        tokio::time::advance(Duration::from_secs(1)).await;
        spool.clear();
        assert_eq!(spool.used.load(Ordering::Relaxed), 0);
    }

    #[rstest::rstest]
    #[case(ErrorKind::StorageFull, StatusCode::INSUFFICIENT_STORAGE)]
    #[case(ErrorKind::QuotaExceeded, StatusCode::INSUFFICIENT_STORAGE)]
    #[case(ErrorKind::Other, StatusCode::INTERNAL_SERVER_ERROR)]
    fn a_full_disk_is_told_of(#[case] error: ErrorKind, #[case] status: StatusCode) {
        let refused = told::<()>(Ok(Err(error.into()))).unwrap_err();
        assert_eq!(refused.status, status);
        assert_eq!(refused.says.contains("no room"), status == StatusCode::INSUFFICIENT_STORAGE);
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

    #[tokio::test(start_paused = true)]
    async fn what_was_taken_stays_as_long_as_there_is_room() {
        let folder = tempfile::tempdir().unwrap();
        let spool = spool(&folder);
        let url = NarUrl::parse("nar/x.nar").unwrap();
        let put = || {
            put(&spool, &url);
            spool.taken(&url);
        };
        put();
        tokio::time::advance(STAYS / 2).await;
        assert!(spool.find(&url).is_some());
        tokio::time::advance(STAYS / 2 + Duration::from_secs(1)).await;
        assert!(spool.find(&url).is_some(), "it was asked for meanwhile");
        tokio::time::advance(STAYS).await;
        assert!(spool.find(&url).is_none());
        put();
        spool.room().grow(41).unwrap();
        assert!(spool.find(&url).is_none());
    }
}
