//! Paths on their way into a bucket.
//!
//! They are compressed into a folder for the time being, as for a cache in a folder, and go from there:
//! the NARs first, then the narinfos, so that whoever reads a narinfo finds what it names. A file that
//! was sent whole stays, whatever becomes of the others.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use drover_core::NarInfo;
use drover_store::{PathStream, StoreError};
use futures::stream::{self, TryStreamExt as _};
use object_store::buffered::BufWriter;
use object_store::{Attribute, Attributes};
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use crate::cache::Cache;
use crate::cache_info::{self, CacheInfo};
use crate::destination::{Destination, cannot_write};
use crate::error::TransferError;
use crate::push::push;
use crate::s3::{Bucket, describe};

/// Files that are on their way at once.
const AT_ONCE: usize = 4;
/// Bytes from which on a file is sent in parts of that size, if nothing is said, and what may be said.
const PART: usize = 8 * 1024 * 1024;
const PARTS: std::ops::RangeInclusive<usize> = 5 * 1024 * 1024..=64 * 1024 * 1024;
/// Parts of a file that are on their way at once.
const PARTS_AT_ONCE: usize = 2;
/// What a server takes at the least in a second: one that is slower isn't waited for.
const SLOWEST: u64 = 4096;

/// Adds paths to a cache in a bucket.
pub(crate) async fn upload(
    cache: &Arc<Cache>,
    bucket: &Bucket,
    paths: Box<dyn PathStream>,
) -> Result<(), StoreError> {
    let folder = tempfile::Builder::new().prefix("drover-s3-").tempdir();
    let folder = folder.map_err(|error| cannot_write(cache, &error))?;
    let fail = |error: TransferError| error.of(&cache.name);
    let has_info = cache.transport.read(cache_info::NAME, cache_info::MAX_SIZE).await;
    if has_info.map_err(fail)?.is_none() {
        let path = folder.path().join(cache_info::NAME);
        let written = fs_err::write(&path, CacheInfo::of_new(&cache.store_dir));
        written.map_err(|error| cannot_write(cache, &error))?;
        bucket.put(&path, cache_info::NAME, "text/x-nix-cache-info").await.map_err(fail)?;
    }
    let destination = Destination::Folder(folder.path().to_owned());
    let pushed = push(cache, &destination, paths).await;
    // what came whole before something went wrong is kept
    let sent = send(cache, bucket, folder.path()).await;
    pushed.and(sent)
}

async fn send(cache: &Cache, bucket: &Bucket, folder: &Path) -> Result<(), StoreError> {
    let refuse = |error: std::io::Error| cannot_write(cache, &error);
    let nars = names(&folder.join("nar"), "").map_err(refuse)?;
    let listings = names(folder, ".ls").map_err(refuse)?;
    let narinfos = names(folder, ".narinfo").map_err(refuse)?;
    let nars = nars.into_iter().map(|(path, name)| (path, format!("nar/{name}")));
    let fail = |error: TransferError| error.of(&cache.name);
    let sent = all(bucket, nars.collect(), "application/x-nix-nar").await;
    sent.map_err(fail)?;
    all(bucket, listings, "application/json").await.map_err(fail)?;
    let texts: Vec<Vec<u8>> = narinfos
        .iter()
        .map(|(path, _)| fs_err::read(path))
        .collect::<Result<_, _>>()
        .map_err(refuse)?;
    all(bucket, narinfos, "text/x-nix-narinfo").await.map_err(fail)?;
    for text in texts {
        // that it isn't there may have been noted a moment ago
        if let Ok(narinfo) = NarInfo::parse(&text, &cache.store_dir) {
            cache.forget(&narinfo.info.path).await;
        }
    }
    Ok(())
}

async fn all(
    bucket: &Bucket,
    files: Vec<(PathBuf, String)>,
    kind: &'static str,
) -> Result<(), TransferError> {
    let sending = files.into_iter().map(Ok);
    let sending = stream::iter(sending)
        .map_ok(|(path, name)| async move { bucket.put(&path, &name, kind).await });
    sending.try_buffer_unordered(AT_ONCE).try_collect().await
}

/// Returns the files of a folder, with their names.
fn names(folder: &Path, ending: &str) -> std::io::Result<Vec<(PathBuf, String)>> {
    let mut found = Vec::new();
    for entry in fs_err::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // what has no name yet has no end either
        if name.ends_with(ending) && !name.starts_with('.') && entry.file_type()?.is_file() {
            found.push((entry.path(), name));
        }
    }
    found.sort();
    Ok(found)
}

impl Bucket {
    /// Sends a file, in parts where it is large.
    pub(crate) async fn put(
        &self,
        path: &Path,
        name: &str,
        kind: &'static str,
    ) -> Result<(), TransferError> {
        let url = self.url_of(name);
        let fail = |error: std::io::Error| {
            let known = error.get_ref().and_then(|it| it.downcast_ref::<object_store::Error>());
            let reason = known.map_or_else(|| error.to_string(), describe);
            TransferError::Bucket { url: url.clone(), reason }
        };
        let store = Arc::clone(self.store()?);
        let kind = Attributes::from_iter([(Attribute::ContentType, kind)]);
        let part = self.parameters.buffer_size.unwrap_or(PART);
        let part = part.clamp(*PARTS.start(), *PARTS.end());
        let mut to = BufWriter::with_capacity(store, self.key(name), part)
            .with_max_concurrency(PARTS_AT_ONCE)
            .with_attributes(kind);
        let mut from = tokio::fs::File::open(path).await.map_err(fail)?;
        let bytes = from.metadata().await.map_err(fail)?.len();
        let limit = self.silence() + Duration::from_secs(bytes / SLOWEST);
        let sent = async {
            tokio::io::copy(&mut from, &mut to).await?;
            to.shutdown().await
        };
        match timeout(limit, sent).await {
            Ok(sent) => sent.map_err(fail),
            Err(_) => Err(TransferError::Stalled { url, bytes: 0, seconds: limit.as_secs() }),
        }
    }
}
