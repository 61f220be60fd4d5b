//! Paths on their way into a cache in a folder.
//!
//! Several NARs are compressed at once, on threads that may block. A NAR's file takes its name when
//! it is whole and is what was announced; the narinfo follows in the order of the stream when the
//! file is on disk, so that whoever reads a narinfo finds the file, and the paths that it refers to.

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use drover_core::{
    Compression, Hash, HashAlgorithm, HashNotation, Hasher, NarInfo, NarUrl, PathInfo, StorePath,
};
use drover_store::{PathStream, StoreError, Verified};
use tempfile::NamedTempFile;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::cache::Cache;
use crate::encode::Encoder;

/// Pieces of a NAR that wait to be compressed.
const PIECES: usize = 16;
/// Narinfos that wait for their NARs to be on disk.
const BATCH: usize = 1024;
/// NARs that are compressed at once at the most.
const MOST_AT_ONCE: usize = 16;

/// Adds paths to a cache in a folder.
pub(crate) async fn push(
    cache: &Arc<Cache>,
    folder: &Path,
    mut paths: Box<dyn PathStream>,
) -> Result<(), StoreError> {
    cache.info_or_new(folder).await?;
    let mut push = Push {
        cache,
        folder,
        there: BTreeSet::new(),
        running: VecDeque::new(),
        done: Vec::new(),
        at_once: std::thread::available_parallelism()
            .map_or(2, |count| count.get().min(MOST_AT_ONCE)),
    };
    let taken = push.take_all(&mut *paths).await;
    // What came whole before something went wrong is kept.
    let finished = push.finish().await;
    taken.and(finished)
}

struct Push<'a> {
    cache: &'a Arc<Cache>,
    folder: &'a Path,
    /// Paths that are in the cache, or will be by the end.
    there: BTreeSet<StorePath>,
    running: VecDeque<JoinHandle<Result<NarInfo, StoreError>>>,
    done: Vec<NarInfo>,
    at_once: usize,
}

/// A piece of a NAR, or its end.
enum Piece {
    Bytes(Bytes),
    End,
}

impl Push<'_> {
    async fn take_all(&mut self, paths: &mut dyn PathStream) -> Result<(), StoreError> {
        while let Some(info) = paths.next_path().await? {
            if self.has(std::slice::from_ref(&info.path)).await?.is_none() {
                while paths.chunk().await?.is_some() {}
                continue;
            }
            let references: Vec<StorePath> =
                info.references.iter().filter(|path| **path != info.path).cloned().collect();
            if let Some(path) = self.has(&references).await? {
                return Err(StoreError::NotValid { store: self.cache.name.clone(), path });
            }
            while self.running.len() >= self.at_once {
                self.reap().await?;
            }
            self.take(info, paths).await?;
        }
        Ok(())
    }

    /// Returns the first of these paths that the cache doesn't have.
    async fn has(&mut self, paths: &[StorePath]) -> Result<Option<StorePath>, StoreError> {
        let unknown = paths.iter().filter(|path| !self.there.contains(path));
        let unknown: Vec<StorePath> = unknown.cloned().collect();
        if unknown.is_empty() {
            return Ok(None);
        }
        let answers = self.cache.ask(&unknown).await?;
        let mut missing = None;
        for (path, answer) in unknown.into_iter().zip(answers) {
            match answer {
                Some(_) => drop(self.there.insert(path)),
                None => missing = missing.or(Some(path)),
            }
        }
        Ok(missing)
    }

    async fn take(&mut self, info: PathInfo, paths: &mut dyn PathStream) -> Result<(), StoreError> {
        let (sender, pieces) = mpsc::channel(PIECES);
        let path = info.path.clone();
        let job = Job { cache: self.cache.clone(), folder: self.folder.to_owned(), info };
        self.running.push_back(tokio::task::spawn_blocking(move || job.run(pieces)));
        while let Some(bytes) = paths.chunk().await? {
            if sender.send(Piece::Bytes(bytes)).await.is_err() {
                // It failed; the reason comes when it is reaped.
                break;
            }
        }
        drop(sender.send(Piece::End).await);
        self.there.insert(path);
        Ok(())
    }

    /// Waits for the first that is running.
    async fn reap(&mut self) -> Result<(), StoreError> {
        let Some(first) = self.running.pop_front() else { return Ok(()) };
        let done = first.await.map_err(|error| {
            self.cache.speaks_badly(format!("compressing a path failed: {error}"))
        })?;
        self.done.push(done?);
        if self.done.len() >= BATCH { self.publish().await } else { Ok(()) }
    }

    async fn finish(&mut self) -> Result<(), StoreError> {
        let mut finished = Ok(());
        while !self.running.is_empty() && finished.is_ok() {
            finished = self.reap().await;
        }
        finished.and(self.publish().await)
    }

    /// Writes the narinfos of NARs that are there.
    async fn publish(&mut self) -> Result<(), StoreError> {
        if self.done.is_empty() {
            return Ok(());
        }
        let done = std::mem::take(&mut self.done);
        let (folder, store_dir) = (self.folder.to_owned(), self.cache.store_dir.clone());
        let written = tokio::task::spawn_blocking(move || -> io::Result<Vec<NarInfo>> {
            let nars = fs_err::File::open(folder.join("nar"))?;
            rustix::fs::syncfs(nars.file())?;
            for narinfo in &done {
                let name = format!("{}.narinfo", narinfo.info.path.hash_part());
                write_whole(&folder, &name, narinfo.to_text(&store_dir).as_bytes())?;
            }
            Ok(done)
        });
        let written = written.await.map_err(io::Error::other).and_then(|written| written);
        for narinfo in written.map_err(|error| cannot_write(self.cache, &error))? {
            self.cache.answers.put(Arc::new(narinfo));
        }
        Ok(())
    }
}

/// Writes a file that is there whole or not at all.
pub(crate) fn write_whole(folder: &Path, name: &str, contents: &[u8]) -> io::Result<()> {
    let mut file = temporary(folder)?;
    file.write_all(contents)?;
    file.persist(folder.join(name)).map_err(|error| error.error)?;
    Ok(())
}

/// Makes a file that others may read when it gets its name, as far as the umask says so.
fn temporary(folder: &Path) -> io::Result<NamedTempFile> {
    tempfile::Builder::new()
        .prefix(".drover-")
        .permissions(std::fs::Permissions::from_mode(0o666))
        .tempfile_in(folder)
}

pub(crate) fn cannot_write(cache: &Cache, error: &io::Error) -> StoreError {
    let store = cache.name.clone();
    StoreError::Refused { message: format!("cannot write to '{store}': {error}"), store }
}

/// One path that is compressed.
struct Job {
    cache: Arc<Cache>,
    folder: PathBuf,
    info: PathInfo,
}

impl Job {
    fn run(self, mut pieces: mpsc::Receiver<Piece>) -> Result<NarInfo, StoreError> {
        let parameters = &self.cache.parameters;
        let compression = parameters.compression;
        let refuse = |error: io::Error| cannot_write(&self.cache, &error);
        let nars = self.folder.join("nar");
        let file = temporary(&nars).map_err(refuse)?;
        let hashed = Hashed {
            to: BufWriter::with_capacity(128 * 1024, file),
            hasher: (compression != Compression::None).then(|| Hasher::new(HashAlgorithm::Sha256)),
            size: 0,
        };
        let size = self.info.nar_size.0;
        let mut encoder =
            Encoder::new(hashed, compression, parameters.level, size).map_err(refuse)?;
        let mut verified = Verified::new(self.cache.name.clone(), self.info.clone());
        loop {
            match pieces.blocking_recv() {
                Some(Piece::Bytes(bytes)) => {
                    verified.pass(&bytes)?;
                    encoder.write(&bytes).map_err(refuse)?;
                }
                Some(Piece::End) => break,
                None => {
                    let reason = format!("the transfer of '{}' ended", self.info.path);
                    return Err(StoreError::Lost { store: self.cache.name.clone(), reason });
                }
            }
        }
        verified.finish()?;
        let Hashed { to, hasher, size } = encoder.finish().map_err(refuse)?;
        let file = to.into_inner().map_err(|error| refuse(error.into_error()))?;
        let file_hash = hasher.map_or_else(|| self.info.nar_hash.to_hash(), Hasher::finish);
        let digits = file_hash.digits(HashNotation::Base32);
        let url = format!("nar/{digits}.nar{}", compression.file_ending());
        file.persist(self.folder.join(&url)).map_err(|error| refuse(error.error))?;
        Ok(self.narinfo(&url, file_hash, size))
    }

    fn narinfo(&self, url: &str, file_hash: Hash, file_size: u64) -> NarInfo {
        let mut info = PathInfo { registration_time: 0, ultimate: false, ..self.info.clone() };
        let fingerprint = info.fingerprint(&self.cache.store_dir);
        for key in &self.cache.parameters.secret_keys {
            info.signatures.insert(key.sign(&fingerprint));
        }
        let Ok(url) = NarUrl::parse(url) else { unreachable!("digits make a good URL") };
        NarInfo {
            info,
            url,
            compression: self.cache.parameters.compression,
            file_hash: Some(file_hash),
            file_size: Some(file_size),
            bad_signatures: 0,
        }
    }
}

/// Hashes and counts what is written.
struct Hashed<W> {
    to: W,
    /// Nothing where the hash is known already.
    hasher: Option<Hasher>,
    size: u64,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to.write_all(bytes)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        self.size = self.size.saturating_add(bytes.len() as u64);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
