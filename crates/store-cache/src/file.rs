//! A cache in a folder.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::Compression;

use crate::error::TransferError;
use crate::transport::{Body, Transport};

/// Bytes of a large file that are read at once.
const AT_ONCE: usize = 128 * 1024;
/// Small files that are read in one go.
const TOGETHER: usize = 256;

/// A cache in a folder.
pub(crate) struct FileTransport {
    folder: PathBuf,
}

impl FileTransport {
    pub(crate) fn new(folder: PathBuf) -> FileTransport {
        FileTransport { folder }
    }

    /// Returns the file's path. A query means nothing to a folder.
    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name.split_once('?').map_or(name, |(path, _)| path))
    }
}

#[async_trait]
impl Transport for FileTransport {
    fn url(&self, name: &str) -> String {
        format!("file://{}", self.path(name).display())
    }

    async fn read(&self, name: &str, limit: u64) -> Result<Option<Bytes>, TransferError> {
        let (path, url) = (self.path(name), self.url(name));
        blocking(move || read(&path, url, limit)).await
    }

    fn together(&self) -> usize {
        TOGETHER
    }

    /// To hand one file to another thread takes several times as long as to read it.
    async fn read_some(
        &self,
        names: &[String],
        limit: u64,
    ) -> Vec<Result<Option<Bytes>, TransferError>> {
        let files: Vec<_> = names.iter().map(|name| (self.path(name), self.url(name))).collect();
        let all = blocking(move || {
            Ok(files.into_iter().map(|(path, url)| read(&path, url, limit)).collect())
        });
        let failed = |error: TransferError| names.iter().map(|_| Err(error.clone())).collect();
        all.await.unwrap_or_else(failed)
    }

    async fn open(&self, name: &str) -> Result<Option<Body>, TransferError> {
        let (path, url) = (self.path(name), self.url(name));
        let file = blocking(move || open(&path).map_err(|error| refused(&url, &error))).await?;
        Ok(file.map(|file| Body {
            reader: Box::new(BufReader::with_capacity(AT_ONCE, file)),
            pump: Box::pin(std::future::ready(Ok(()))),
            encoding: Compression::None,
        }))
    }
}

/// Reads a small file whole.
fn read(path: &Path, url: String, limit: u64) -> Result<Option<Bytes>, TransferError> {
    let refuse = |error: io::Error| refused(&url, &error);
    let Some(file) = open(path).map_err(refuse)? else { return Ok(None) };
    let mut bytes = Vec::with_capacity(2048);
    let longest = limit.saturating_add(1);
    file.take(longest).read_to_end(&mut bytes).map_err(refuse)?;
    if bytes.len() as u64 > limit {
        return Err(TransferError::TooLarge { url, limit });
    }
    Ok(Some(bytes.into()))
}

/// Opens a regular file, without waiting for anybody at the other end of a pipe.
fn open(path: &Path) -> io::Result<Option<File>> {
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = match File::options().read(true).custom_flags(nonblocking).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if file.metadata()?.is_file() { Ok(Some(file)) } else { Err(io::Error::other("it is no file")) }
}

fn refused(url: &str, error: &io::Error) -> TransferError {
    TransferError::Read { url: url.to_owned(), reason: error.to_string() }
}

/// Runs what may block on a thread of its own.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TransferError> + Send + 'static,
) -> Result<T, TransferError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is going down, and nobody will read this.
            Err(error) => Err(TransferError::Cut { url: String::new(), reason: error.to_string() }),
        },
    }
}

/// Whether a folder is a cache to be: empty, or not even there.
pub(crate) fn is_new(folder: &std::path::Path) -> bool {
    match folder.read_dir() {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}
