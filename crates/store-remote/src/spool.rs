//! Paths that are fetched whole before they go on.
//!
//! Who sends paths to a server with few channels must not wait for their source while it holds one of
//! them: the source may be such a server, too, and wait for us. So they wait here meanwhile, in memory
//! where they are small, in a file without a name otherwise.

use std::collections::VecDeque;
use std::io::SeekFrom;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use drover_core::PathInfo;
use drover_store::{PathStream, StoreError};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};

/// Bytes that are kept in memory.
const IN_MEMORY: u64 = 1024 * 1024;
/// Bytes that are read back at once.
const PIECE: usize = 256 * 1024;

/// Fetches paths whole; `store` is where they go, for errors.
pub(crate) async fn spooled(
    mut paths: Box<dyn PathStream>,
    store: &str,
) -> Result<Box<dyn PathStream>, StoreError> {
    let mut spool = Spool {
        store: store.to_owned(),
        count: paths.count(),
        waiting: VecDeque::new(),
        memory: BytesMut::new(),
        file: None,
        left: 0,
    };
    while let Some(info) = paths.next_path().await? {
        let mut size = 0_u64;
        while let Some(chunk) = paths.chunk().await? {
            size += chunk.len() as u64;
            spool.put(&chunk).await?;
        }
        spool.waiting.push_back((info, size));
    }
    spool.rewind().await?;
    Ok(Box::new(spool))
}

/// Paths that were fetched.
struct Spool {
    store: String,
    count: usize,
    /// Each with the length of its NAR.
    waiting: VecDeque<(PathInfo, u64)>,
    memory: BytesMut,
    /// Where all of it is once it's too much for the memory.
    file: Option<File>,
    /// Bytes of the current path that weren't taken.
    left: u64,
}

impl Spool {
    fn failed(&self, error: &std::io::Error) -> StoreError {
        let (store, folder) = (self.store.clone(), std::env::temp_dir());
        StoreError::Waiting { store, folder, reason: error.to_string() }
    }

    async fn put(&mut self, chunk: &[u8]) -> Result<(), StoreError> {
        if self.file.is_none() && (self.memory.len() + chunk.len()) as u64 <= IN_MEMORY {
            self.memory.extend_from_slice(chunk);
            return Ok(());
        }
        let written = async {
            let mut file = match self.file.take() {
                Some(file) => file,
                None => {
                    let mut file = File::from_std(tempfile::tempfile()?);
                    file.write_all(&std::mem::take(&mut self.memory)).await?;
                    file
                }
            };
            file.write_all(chunk).await?;
            Ok(file)
        };
        match written.await {
            Ok(file) => self.file = Some(file),
            Err(error) => return Err(self.failed(&error)),
        }
        Ok(())
    }

    async fn rewind(&mut self) -> Result<(), StoreError> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let back = async {
            file.flush().await?;
            file.seek(SeekFrom::Start(0)).await
        };
        back.await.map(drop).map_err(|error| self.failed(&error))
    }
}

#[async_trait]
impl PathStream for Spool {
    fn count(&self) -> usize {
        self.count
    }

    async fn next_path(&mut self) -> Result<Option<PathInfo>, StoreError> {
        // what was left of the last one is passed over
        while self.chunk().await?.is_some() {}
        Ok(self.waiting.pop_front().map(|(info, size)| {
            self.left = size;
            info
        }))
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        let wanted = PIECE.min(usize::try_from(self.left).unwrap_or(PIECE));
        if wanted == 0 {
            return Ok(None);
        }
        self.left -= wanted as u64;
        let Some(file) = &mut self.file else {
            return Ok(Some(self.memory.split_to(wanted).freeze()));
        };
        let mut piece = vec![0; wanted];
        match file.read_exact(&mut piece).await {
            Ok(_) => Ok(Some(piece.into())),
            Err(error) => Err(self.failed(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Paths of these sizes, in chunks.
    struct Given(Vec<usize>, VecDeque<Bytes>);

    fn nar(size: usize) -> Vec<u8> {
        (0..size).map(|at| u8::try_from(at * 7 % 251).unwrap_or_default()).collect()
    }

    #[async_trait]
    impl PathStream for Given {
        fn count(&self) -> usize {
            self.0.len()
        }

        async fn next_path(&mut self) -> Result<Option<PathInfo>, StoreError> {
            let Some(size) = self.0.pop() else { return Ok(None) };
            let chunks = nar(size).chunks(70_000).map(Bytes::copy_from_slice).collect();
            self.1 = chunks;
            let (info, _) = drover_store::contract::flat_file(&format!("f{size}"), b"", &[]);
            Ok(Some(info))
        }

        async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
            Ok(self.1.pop_front())
        }
    }

    #[tokio::test]
    async fn what_goes_in_comes_out_from_memory_and_from_a_file() {
        for sizes in [vec![], vec![0, 5, 100_000], vec![3_000_000, 0, 1, 700_000, 900_000]] {
            let given = Box::new(Given(sizes.clone(), VecDeque::new()));
            let mut spooled = spooled(given, "store").await.expect("room for it");
            let mut left = sizes;
            while let Some(info) = spooled.next_path().await.expect("a path") {
                let size = left.pop().expect("no more than went in");
                assert!(info.path.to_string().ends_with(&format!("f{size}")));
                let mut all = Vec::new();
                while let Some(chunk) = spooled.chunk().await.expect("a chunk") {
                    all.extend_from_slice(&chunk);
                }
                assert!(all == nar(size), "{size}");
            }
            assert!(left.is_empty());
        }
    }
}
