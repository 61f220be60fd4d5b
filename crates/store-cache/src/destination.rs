//! Where a cache that is written to puts its files: a folder or a server.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use drover_core::{Compression, NarInfo, StorePath};
use drover_store::StoreError;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::runtime::Handle;

use crate::cache::Cache;
use crate::http::HttpTransport;
use crate::http_put::Upload;
use crate::s3::Bucket;
use crate::unnamed::Unnamed;

const NARINFO: &str = "text/x-nix-narinfo";

/// How a cache is written.
pub(crate) enum Writing {
    /// File by file, as they are made.
    Files(Destination),
    /// All files are made first, and sent then.
    Bucket(Arc<Bucket>),
}

/// Where files are put.
#[derive(Clone)]
pub(crate) enum Destination {
    Folder(PathBuf),
    Server(Arc<HttpTransport>),
}

impl Destination {
    /// Makes a file for a NAR. Blocks.
    pub(crate) fn temporary(&self) -> io::Result<Unnamed> {
        match self {
            Destination::Folder(folder) => Unnamed::in_folder(&folder.join("nar")),
            Destination::Server(_) => Unnamed::anywhere(),
        }
    }

    /// Puts the file of a NAR under its name. Blocks.
    pub(crate) fn put_nar(
        &self,
        cache: &Cache,
        file: Unnamed,
        name: &str,
        compression: Compression,
    ) -> Result<(), StoreError> {
        let refuse = |error: io::Error| cannot_write(cache, &error);
        match self {
            Destination::Folder(folder) => file.persist(&folder.join(name)).map_err(refuse),
            Destination::Server(server) => {
                let file: File = file.into_file();
                let size = file.metadata().map_err(refuse)?.len();
                let upload = Upload::File(Arc::new(file), size);
                let content_type = content_type(compression);
                let put = Handle::current().block_on(server.put(name, content_type, &upload));
                put.map_err(|error| error.of(&cache.name))
            }
        }
    }

    /// Puts a small NAR under its name. Blocks.
    pub(crate) fn put_small_nar(
        &self,
        cache: &Cache,
        file: Vec<u8>,
        name: &str,
        compression: Compression,
    ) -> Result<(), StoreError> {
        match self {
            Destination::Folder(folder) => {
                write_whole(folder, name, &file).map_err(|error| cannot_write(cache, &error))
            }
            Destination::Server(server) => {
                let upload = Upload::Bytes(file.into());
                let put = server.put(name, content_type(compression), &upload);
                Handle::current().block_on(put).map_err(|error| error.of(&cache.name))
            }
        }
    }

    /// Puts a listing under its name. Blocks.
    pub(crate) fn put_listing(
        &self,
        cache: &Cache,
        name: &str,
        text: String,
    ) -> Result<(), StoreError> {
        match self {
            Destination::Folder(folder) => write_whole(folder, name, text.as_bytes())
                .map_err(|error| cannot_write(cache, &error)),
            Destination::Server(server) => {
                let upload = Upload::Bytes(text.into());
                let put = server.put(name, "application/json", &upload);
                Handle::current().block_on(put).map_err(|error| error.of(&cache.name))
            }
        }
    }

    /// Whether the cache has a good narinfo of the path. Blocks.
    pub(crate) fn has(&self, cache: &Arc<Cache>, path: &StorePath) -> bool {
        match self {
            Destination::Folder(folder) => {
                let file = folder.join(format!("{}.narinfo", path.hash_part()));
                let Ok(text) = fs_err::read(file) else { return false };
                NarInfo::parse(&text, &cache.store_dir)
                    .is_ok_and(|narinfo| narinfo.answers(path).is_ok())
            }
            // what doesn't answer now is told of when it is written to
            Destination::Server(_) => Handle::current()
                .block_on(cache.ask_anew(std::slice::from_ref(path)))
                .is_ok_and(|answers| answers.into_iter().flatten().next().is_some()),
        }
    }

    /// Writes the narinfos of NARs that are there; what a narinfo refers to comes before it.
    pub(crate) async fn publish(
        &self,
        cache: &Arc<Cache>,
        done: Vec<NarInfo>,
    ) -> Result<(), StoreError> {
        match self {
            Destination::Folder(folder) => publish_in_folder(cache, folder.clone(), done).await,
            Destination::Server(server) => {
                for wave in waves(done) {
                    stream::iter(wave.into_iter().map(|narinfo| put(cache, server, narinfo)))
                        .buffer_unordered(cache.settings.connections())
                        .try_collect::<()>()
                        .await?;
                }
                Ok(())
            }
        }
    }
}

async fn put(
    cache: &Arc<Cache>,
    server: &Arc<HttpTransport>,
    narinfo: NarInfo,
) -> Result<(), StoreError> {
    let name = format!("{}.narinfo", narinfo.info.path.hash_part());
    let upload = Upload::Bytes(narinfo.to_text(&cache.store_dir).into());
    let put = server.put(&name, NARINFO, &upload).await;
    put.map_err(|error| error.of(&cache.name))?;
    // the server may tell of it in other words
    cache.forget(&narinfo.info.path).await;
    Ok(())
}

/// Divides narinfos, which come after what they refer to, so that none refers to another of its part.
fn waves(narinfos: Vec<NarInfo>) -> Vec<Vec<NarInfo>> {
    let mut waves: Vec<Vec<NarInfo>> = Vec::new();
    let mut place: std::collections::HashMap<StorePath, usize> = Default::default();
    for narinfo in narinfos {
        let path = narinfo.info.path.clone();
        let others = narinfo.info.references.iter().filter(|other| **other != path);
        let after = others.filter_map(|other| place.get(other)).max();
        let at = after.map_or(0, |last| last + 1);
        place.insert(path, at);
        match waves.get_mut(at) {
            Some(wave) => wave.push(narinfo),
            None => waves.push(vec![narinfo]),
        }
    }
    waves
}

async fn publish_in_folder(
    cache: &Arc<Cache>,
    folder: PathBuf,
    done: Vec<NarInfo>,
) -> Result<(), StoreError> {
    let store_dir = cache.store_dir.clone();
    let written = tokio::task::spawn_blocking(move || -> io::Result<Vec<NarInfo>> {
        let nars = fs_err::File::open(folder.join("nar"))?;
        rustix::fs::syncfs(nars.file())?;
        for narinfo in &done {
            let name = format!("{}.narinfo", narinfo.info.path.hash_part());
            write_whole(&folder, &name, narinfo.to_text(&store_dir).as_bytes())?;
        }
        // what is said to be there is there after a loss of power, too
        rustix::fs::syncfs(nars.file())?;
        Ok(done)
    });
    let written = written.await.map_err(io::Error::other).and_then(|written| written);
    for narinfo in written.map_err(|error| cannot_write(cache, &error))? {
        cache.answers.put(Arc::new(narinfo));
    }
    Ok(())
}

/// As Nix tells it (`src/libstore/binary-cache-store.cc`).
fn content_type(compression: Compression) -> &'static str {
    match compression {
        Compression::None => "application/x-nix-nar",
        Compression::Xz => "application/x-xz",
        Compression::Zstd => "application/zstd",
        Compression::Bzip2 => "application/x-bzip2",
        Compression::Gzip | Compression::Brotli => "application/octet-stream",
    }
}

/// Writes a file that is there whole or not at all.
pub(crate) fn write_whole(folder: &Path, name: &str, contents: &[u8]) -> io::Result<()> {
    let path = folder.join(name);
    // a name such as `nar/HASH.nar` is that of a folder below
    let mut file = Unnamed::in_folder(path.parent().unwrap_or(folder))?;
    file.write_all(contents)?;
    file.persist(&path)
}

pub(crate) fn cannot_write(cache: &Cache, error: &io::Error) -> StoreError {
    let store = cache.name.clone();
    let message = format!("cannot write to '{store}': {error}");
    StoreError::refused(store, message)
}

impl Upload {
    /// Returns a short text.
    pub(crate) fn text(text: String) -> Upload {
        Upload::Bytes(Bytes::from(text))
    }
}
