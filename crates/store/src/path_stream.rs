//! Paths on their way from one store to another, with their contents.

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::{HashAlgorithm, Hasher, NarHash, NarSize, PathInfo};

use crate::error::StoreError;

/// Paths with their NARs, one after another; references come before those that refer to them.
///
/// Dropping it ends the transfer.
#[async_trait]
pub trait PathStream: Send {
    /// Returns how many paths there are in all.
    fn count(&self) -> usize;

    /// Goes on to the next path, whose contents follow by [`PathStream::chunk`].
    async fn next_path(&mut self) -> Result<Option<PathInfo>, StoreError>;

    /// Returns the next bytes of the current path's NAR; `None` at its end. The end is only reached
    /// when the NAR is whole and is what its info says.
    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError>;
}

/// What the files of a path look like from outside. Where two are equal, nobody has changed a byte of
/// them from before the first was taken until after the second, unless past the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeStamp {
    /// The SHA-256 of what is seen of all files.
    pub digest: [u8; 32],
    /// When the last of them was changed, in seconds since 1970. As long as that isn't some ticks of
    /// the file system's clock ago, a change may not show.
    pub changed: i64,
}

/// Checks a NAR against its info while it passes.
pub struct Verified {
    store: String,
    info: PathInfo,
    hasher: Hasher,
    size: u64,
}

impl Verified {
    /// Returns the check of a NAR that `store` sends.
    pub fn new(store: String, info: PathInfo) -> Verified {
        Verified { store, info, hasher: Hasher::new(HashAlgorithm::Sha256), size: 0 }
    }

    /// Takes note of bytes that pass.
    ///
    /// # Errors
    ///
    /// [`StoreError::SizeMismatch`] as soon as there are more than announced.
    pub fn pass(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.size = self.size.saturating_add(bytes.len() as u64);
        if self.size > self.info.nar_size.0 {
            return Err(self.size_mismatch());
        }
        self.hasher.update(bytes);
        Ok(())
    }

    /// Says whether what passed is what was announced.
    ///
    /// # Errors
    ///
    /// Another size or another hash.
    pub fn finish(self) -> Result<(), StoreError> {
        if self.size != self.info.nar_size.0 {
            return Err(self.size_mismatch());
        }
        let hash = self.hasher.finish();
        if hash.digest() == self.info.nar_hash.0 {
            return Ok(());
        }
        Err(StoreError::HashMismatch {
            store: self.store,
            path: self.info.path,
            expected: self.info.nar_hash,
            actual: NarHash(hash.digest().try_into().unwrap_or_default()),
        })
    }

    fn size_mismatch(&self) -> StoreError {
        StoreError::SizeMismatch {
            store: self.store.clone(),
            path: self.info.path.clone(),
            expected: self.info.nar_size,
            actual: NarSize(self.size),
        }
    }
}
