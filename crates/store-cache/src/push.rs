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
/// Jobs that run at once at the most.
const MOST_AT_ONCE: usize = 16;
/// A NAR that is no larger is given to its job whole, and shares it with others.
const SMALL: u64 = 64 * 1024;
/// Small NARs of a job.
const TOGETHER: usize = 32;

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
        small: Vec::new(),
        running: VecDeque::new(),
        done: Vec::new(),
        state: State::Good,
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
    /// Small NARs that wait for a job.
    small: Vec<(PathInfo, Input)>,
    running: VecDeque<JoinHandle<Written>>,
    done: Vec<NarInfo>,
    at_once: usize,
    state: State,
}

/// Whether everything has gone well so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Good,
    /// Something failed; what came behind it may refer to it, and isn't told of.
    Failed,
}

/// What a job has written, and what kept it from going on.
struct Written {
    narinfos: Vec<NarInfo>,
    failed: Option<StoreError>,
}

/// Where a job gets a NAR.
enum Input {
    Whole(VecDeque<Bytes>),
    Pieces(mpsc::Receiver<Piece>),
}

/// A piece of a NAR, or its end.
enum Piece {
    Bytes(Bytes),
    End,
}

impl Push<'_> {
    async fn take_all(&mut self, paths: &mut dyn PathStream) -> Result<(), StoreError> {
        while let Some(info) = paths.next_path().await? {
            let references: Vec<StorePath> =
                info.references.iter().filter(|path| **path != info.path).cloned().collect();
            if let Some(path) = self.lacks(&references).await? {
                return Err(StoreError::NotValid { store: self.cache.name.clone(), path });
            }
            let path = info.path.clone();
            if self.there.contains(&path) {
                while paths.chunk().await?.is_some() {}
            } else if info.nar_size.0 <= SMALL {
                self.take_small(info, paths).await?;
            } else {
                self.take_large(info, paths).await?;
            }
            self.there.insert(path);
        }
        Ok(())
    }

    /// Returns the first of these paths that the cache doesn't have.
    async fn lacks(&mut self, paths: &[StorePath]) -> Result<Option<StorePath>, StoreError> {
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

    async fn take_small(
        &mut self,
        info: PathInfo,
        paths: &mut dyn PathStream,
    ) -> Result<(), StoreError> {
        let mut pieces = VecDeque::new();
        let mut size = 0u64;
        while let Some(bytes) = paths.chunk().await? {
            size = size.saturating_add(bytes.len() as u64);
            // What is more than was announced is refused when it is hashed.
            if size <= 2 * SMALL {
                pieces.push_back(bytes);
            }
        }
        self.small.push((info, Input::Whole(pieces)));
        if self.small.len() >= TOGETHER { self.start_small().await } else { Ok(()) }
    }

    async fn start_small(&mut self) -> Result<(), StoreError> {
        let small = std::mem::take(&mut self.small);
        if small.is_empty() { Ok(()) } else { self.start(small).await }
    }

    async fn take_large(
        &mut self,
        info: PathInfo,
        paths: &mut dyn PathStream,
    ) -> Result<(), StoreError> {
        // Those that came before are written before.
        self.start_small().await?;
        let (sender, pieces) = mpsc::channel(PIECES);
        self.start(vec![(info, Input::Pieces(pieces))]).await?;
        while let Some(bytes) = paths.chunk().await? {
            if sender.send(Piece::Bytes(bytes)).await.is_err() {
                // It failed, and the reason comes when it is reaped; or the path is there already.
                while paths.chunk().await?.is_some() {}
                break;
            }
        }
        drop(sender.send(Piece::End).await);
        Ok(())
    }

    async fn start(&mut self, nars: Vec<(PathInfo, Input)>) -> Result<(), StoreError> {
        while self.running.len() >= self.at_once {
            self.reap().await?;
        }
        let job = Job { cache: self.cache.clone(), folder: self.folder.to_owned() };
        self.running.push_back(tokio::task::spawn_blocking(move || job.run(nars)));
        Ok(())
    }

    /// Waits for the first that is running.
    async fn reap(&mut self) -> Result<(), StoreError> {
        let Some(first) = self.running.pop_front() else { return Ok(()) };
        let written = match first.await {
            Ok(written) => written,
            Err(error) => {
                self.state = State::Failed;
                let reason = format!("compressing a path failed: {error}");
                return Err(self.cache.speaks_badly(reason));
            }
        };
        if self.state == State::Failed {
            return Ok(());
        }
        self.done.extend(written.narinfos);
        if let Some(error) = written.failed {
            self.state = State::Failed;
            return Err(error);
        }
        if self.done.len() >= BATCH { self.publish().await } else { Ok(()) }
    }

    async fn finish(&mut self) -> Result<(), StoreError> {
        let mut finished = match self.state {
            State::Good => self.start_small().await,
            State::Failed => Ok(()),
        };
        while !self.running.is_empty() {
            finished = finished.and(self.reap().await);
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

/// Compresses NARs, one after another.
struct Job {
    cache: Arc<Cache>,
    folder: PathBuf,
}

impl Job {
    fn run(self, nars: Vec<(PathInfo, Input)>) -> Written {
        let mut written = Written { narinfos: Vec::with_capacity(nars.len()), failed: None };
        for (info, input) in nars {
            match self.write(&info, input) {
                Ok(narinfo) => written.narinfos.extend(narinfo),
                Err(error) => {
                    written.failed = Some(error);
                    break;
                }
            }
        }
        written
    }

    /// Writes one. Nothing where the cache has it.
    fn write(&self, info: &PathInfo, input: Input) -> Result<Option<NarInfo>, StoreError> {
        if self.has(info) {
            return Ok(None);
        }
        let parameters = &self.cache.parameters;
        let compression = parameters.compression;
        let refuse = |error: io::Error| cannot_write(&self.cache, &error);
        let file = temporary(&self.folder.join("nar")).map_err(refuse)?;
        let hashed = Hashed {
            to: BufWriter::with_capacity(128 * 1024, file),
            hasher: (compression != Compression::None).then(|| Hasher::new(HashAlgorithm::Sha256)),
            size: 0,
        };
        let mut encoder =
            Encoder::new(hashed, compression, parameters.level, info.nar_size.0).map_err(refuse)?;
        let mut verified = Verified::new(self.cache.name.clone(), info.clone());
        let mut input = input;
        while let Some(bytes) = self.next(&mut input, info)? {
            verified.pass(&bytes)?;
            encoder.write(&bytes).map_err(refuse)?;
        }
        verified.finish()?;
        let Hashed { to, hasher, size } = encoder.finish().map_err(refuse)?;
        let file = to.into_inner().map_err(|error| refuse(error.into_error()))?;
        let file_hash = hasher.map_or_else(|| info.nar_hash.to_hash(), Hasher::finish);
        let digits = file_hash.digits(HashNotation::Base32);
        let url = format!("nar/{digits}.nar{}", compression.file_ending());
        file.persist(self.folder.join(&url)).map_err(|error| refuse(error.error))?;
        Ok(Some(self.narinfo(info, &url, file_hash, size)))
    }

    /// Whether the cache has a good narinfo of the path.
    fn has(&self, info: &PathInfo) -> bool {
        let file = self.folder.join(format!("{}.narinfo", info.path.hash_part()));
        let Ok(text) = fs_err::read(file) else { return false };
        NarInfo::parse(&text, &self.cache.store_dir)
            .is_ok_and(|narinfo| narinfo.answers(&info.path).is_ok())
    }

    fn next(&self, input: &mut Input, info: &PathInfo) -> Result<Option<Bytes>, StoreError> {
        let pieces = match input {
            Input::Whole(pieces) => return Ok(pieces.pop_front()),
            Input::Pieces(pieces) => pieces,
        };
        match pieces.blocking_recv() {
            Some(Piece::Bytes(bytes)) => Ok(Some(bytes)),
            Some(Piece::End) => Ok(None),
            None => {
                let reason = format!("the transfer of '{}' ended", info.path);
                Err(StoreError::Lost { store: self.cache.name.clone(), reason })
            }
        }
    }

    fn narinfo(&self, info: &PathInfo, url: &str, file_hash: Hash, file_size: u64) -> NarInfo {
        let mut info = PathInfo { registration_time: 0, ultimate: false, ..info.clone() };
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
