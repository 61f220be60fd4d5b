//! NARs that are kept for a while, and where.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::{Bytes, BytesMut};
use drover_core::{PathInfo, StorePath};
use drover_store::{PathStream, StoreError, Verified};
use tokio::io::AsyncWriteExt as _;

/// Bytes of a NAR that is kept in memory.
const SMALL: u64 = 1024 * 1024;
/// Bytes of all that are kept in memory.
const IN_MEMORY: u64 = 64 * 1024 * 1024;
/// Bytes that are read back at once.
const PIECE: u64 = 256 * 1024;

/// A path with its NAR.
pub(crate) struct Kept {
    info: PathInfo,
    nar: Nar,
}

enum Nar {
    Memory {
        bytes: Bytes,
        _share: Share,
    },
    /// A file without a name.
    File {
        file: Arc<File>,
        size: u64,
    },
}

impl Kept {
    pub(crate) fn info(&self) -> &PathInfo {
        &self.info
    }

    /// Says whether this is what somebody asks for; `store` is for errors.
    ///
    /// # Errors
    ///
    /// Another hash or another size is asked for.
    pub(crate) fn check(&self, asked: &PathInfo, store: &str) -> Result<(), StoreError> {
        let (store, path) = (store.to_owned(), asked.path.clone());
        if asked.nar_size != self.info.nar_size {
            let (expected, actual) = (asked.nar_size, self.info.nar_size);
            return Err(StoreError::SizeMismatch { store, path, expected, actual });
        }
        if asked.nar_hash != self.info.nar_hash {
            let (expected, actual) = (asked.nar_hash, self.info.nar_hash);
            return Err(StoreError::HashMismatch { store, path, expected, actual });
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        match &self.nar {
            Nar::Memory { bytes, .. } => bytes.len() as u64,
            Nar::File { size, .. } => *size,
        }
    }

    /// Returns some bytes of the NAR from an offset on; none at its end. `store` is for errors.
    pub(crate) async fn read(&self, at: u64, store: &str) -> Result<Option<Bytes>, StoreError> {
        let length = PIECE.min(self.size().saturating_sub(at));
        if length == 0 {
            return Ok(None);
        }
        let file = match &self.nar {
            Nar::Memory { bytes, .. } => {
                let start = usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
                return Ok(Some(bytes.slice(start..)));
            }
            Nar::File { file, .. } => Arc::clone(file),
        };
        let read = tokio::task::spawn_blocking(move || {
            let mut piece = vec![0; usize::try_from(length).unwrap_or_default()];
            file.read_exact_at(&mut piece, at).map(|()| piece)
        });
        match read.await.map_err(io::Error::other).and_then(|read| read) {
            Ok(piece) => Ok(Some(piece.into())),
            Err(error) => Err(failed(store, &error)),
        }
    }
}

fn failed(store: &str, error: &io::Error) -> StoreError {
    let reason = format!(
        "what was built could not be kept in the temporary folder '{}' (TMPDIR): {error}",
        std::env::temp_dir().display()
    );
    StoreError::Lost { store: store.to_owned(), reason }
}

/// Where paths are that some view has.
#[derive(Default)]
pub(crate) struct Shelf {
    paths: Mutex<HashMap<StorePath, Weak<Kept>>>,
    in_memory: Arc<AtomicU64>,
}

/// Bytes of the memory that are taken, until this is dropped.
struct Share {
    of: Arc<AtomicU64>,
    bytes: u64,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Shelf {
    fn paths(&self) -> MutexGuard<'_, HashMap<StorePath, Weak<Kept>>> {
        self.paths.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn find(&self, path: &StorePath) -> Option<Arc<Kept>> {
        self.paths().get(path)?.upgrade()
    }

    /// Returns what some view still has.
    pub(crate) fn all(&self) -> Vec<Arc<Kept>> {
        self.paths().values().filter_map(Weak::upgrade).collect()
    }

    /// Lets other views find a path. Those that no view has any more are forgotten.
    pub(crate) fn note(&self, kept: &Arc<Kept>) {
        let mut paths = self.paths();
        if paths.len() == paths.capacity() {
            paths.retain(|_, kept| kept.strong_count() > 0);
        }
        paths.insert(kept.info.path.clone(), Arc::downgrade(kept));
    }

    /// Takes bytes of the memory, if so many are left.
    fn share(&self, bytes: u64) -> Option<Share> {
        let of = Arc::clone(&self.in_memory);
        let share = Share { of, bytes };
        let before = self.in_memory.fetch_add(bytes, Ordering::Relaxed);
        // where it's too much, dropping it gives it back
        (bytes <= SMALL && before.saturating_add(bytes) <= IN_MEMORY).then_some(share)
    }

    /// Takes a path's NAR from a stream, and sees to it that it is what its info says.
    pub(crate) async fn keep(
        &self,
        store: &str,
        info: PathInfo,
        stream: &mut dyn PathStream,
    ) -> Result<Kept, StoreError> {
        let mut verified = Verified::new(store.to_owned(), info.clone());
        let nar = match self.share(info.nar_size.0) {
            Some(share) => {
                let mut bytes = BytesMut::new();
                while let Some(chunk) = stream.chunk().await? {
                    verified.pass(&chunk)?;
                    bytes.extend_from_slice(&chunk);
                }
                Nar::Memory { bytes: bytes.freeze(), _share: share }
            }
            None => in_file(store, stream, &mut verified).await?,
        };
        verified.finish()?;
        Ok(Kept { info, nar })
    }
}

async fn in_file(
    store: &str,
    stream: &mut dyn PathStream,
    verified: &mut Verified,
) -> Result<Nar, StoreError> {
    let made = tokio::task::spawn_blocking(tempfile::tempfile).await.map_err(io::Error::other);
    let file = made.and_then(|made| made).map_err(|error| failed(store, &error))?;
    let (mut file, mut size) = (tokio::fs::File::from_std(file), 0);
    while let Some(chunk) = stream.chunk().await? {
        verified.pass(&chunk)?;
        size += chunk.len() as u64;
        file.write_all(&chunk).await.map_err(|error| failed(store, &error))?;
    }
    file.flush().await.map_err(|error| failed(store, &error))?;
    Ok(Nar::File { file: Arc::new(file.into_std().await), size })
}
