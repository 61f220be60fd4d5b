//! Where a cache's files are.

use std::future::Future;
use std::io::BufRead;
use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::Compression;

use crate::error::TransferError;

/// A place with files that are named by relative URLs.
#[async_trait]
pub(crate) trait Transport: Send + Sync {
    /// Returns the whole URL of a file, for words about it; without a password.
    fn url(&self, name: &str) -> String;

    /// Reads a small file whole; nothing where there is none. Tries again what may pass.
    async fn read(&self, name: &str, limit: u64) -> Result<Option<Bytes>, TransferError>;

    /// Returns how many small files are best asked for together, by [`Transport::read_some`].
    fn together(&self) -> usize {
        1
    }

    /// Reads small files as [`Transport::read`] does, and answers in the order of the names.
    async fn read_some(
        &self,
        names: &[String],
        limit: u64,
    ) -> Vec<Result<Option<Bytes>, TransferError>> {
        let mut read = Vec::with_capacity(names.len());
        for name in names {
            read.push(self.read(name, limit).await);
        }
        read
    }

    /// Opens a file, once; nothing where there is none.
    async fn open(&self, name: &str) -> Result<Option<Body>, TransferError>;
}

/// What brings a body's bytes.
pub(crate) type Pump = Pin<Box<dyn Future<Output = Result<(), TransferError>> + Send>>;

/// A file that is on its way.
pub(crate) struct Body {
    /// Its bytes, to be read on a thread that may block.
    pub(crate) reader: Box<dyn BufRead + Send>,
    /// Must be polled while it is read. Its error is why the reader failed.
    pub(crate) pump: Pump,
    /// How the transport compressed it, besides what it is by itself.
    pub(crate) encoding: Compression,
}
