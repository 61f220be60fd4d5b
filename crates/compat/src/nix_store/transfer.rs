//! `nix-store --export` and `--import`.

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::{HashAlgorithm, Hasher, NarHash, NarSize, PathInfo, StoreDir, StorePath};
use drover_nar::{Limits, Parser, Progress};
use drover_store::{Keeper, PathStream, SignatureCheck, StoreError, Verified, WhenValid};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, BufReader};

use crate::closure::{infos_in_order, path_infos};
use crate::console::Console;
use crate::error::CompatError;
use crate::export_format::{NO_MORE, ONE_MORE, Trailer, read_more, read_trailer, reading, trailer};
use crate::host::Input;

/// Bytes of one NAR that are kept in memory; more go to a file without a name.
const MAX_IN_MEMORY: usize = 4 << 20;

/// Bytes of NARs that are gathered before they are added together.
const MAX_BATCH: usize = 8 << 20;

/// Paths that are gathered before they are added together.
const MAX_BATCH_PATHS: usize = 1000;

/// How long paths that were read wait for more to be added with.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Bytes read at once.
const PIECE: usize = 256 * 1024;

/// Writes paths to standard output, references first.
pub(super) async fn export(
    store: &dyn Keeper,
    paths: BTreeSet<StorePath>,
    console: &mut Console,
) -> Result<(), CompatError> {
    let paths: Vec<StorePath> = paths.into_iter().collect();
    let infos = path_infos(store, &paths).await?;
    let infos = infos_in_order(infos.into_iter().map(|info| (info.path.clone(), info)).collect());
    let store_dir = store.store_dir().clone();
    let mut stream = store.export_to_checker(infos).await?;
    let changed = |error| changed(&store_dir, error);
    while let Some(info) = stream.next_path().await? {
        console.write(&ONE_MORE).await?;
        // the form has no hash: who imports it takes what comes
        let mut verified = Verified::new(store.name().to_owned(), info.clone());
        while let Some(chunk) = stream.chunk().await.map_err(changed)? {
            verified.pass(&chunk).map_err(changed)?;
            console.write(&chunk).await?;
        }
        verified.finish().map_err(changed)?;
        console.write(&trailer(&store_dir, &info)).await?;
    }
    console.write(&NO_MORE).await?;
    console.flush().await
}

/// Says of a path that isn't any more what is registered what Nix says.
fn changed(store_dir: &StoreDir, error: StoreError) -> CompatError {
    match error {
        StoreError::HashMismatch { path, expected, actual, .. } => CompatError::failed(format!(
            "hash of path '{}' has changed from '{expected}' to '{actual}'!",
            store_dir.display(&path)
        )),
        error => error.into(),
    }
}

/// Adds the paths that come on standard input, and returns them in their order.
///
/// Small paths are added many at a time, or when no more come for now, so that who writes slowly
/// finds what they have written. Memory stays below the size of a batch, whatever comes.
pub(super) async fn import(
    store: &Arc<dyn Keeper>,
    input: Input,
) -> Result<Vec<StorePath>, CompatError> {
    let mut input = BufReader::with_capacity(PIECE, input);
    let mut imported = Vec::new();
    let mut batch = Batch::default();
    loop {
        if !batch.paths.is_empty() && !more_at_hand(&mut input).await? {
            add(store, std::mem::take(&mut batch)).await?;
        }
        if !read_more(&mut input).await? {
            break;
        }
        let path = read_path(&mut input, store.store_dir()).await?;
        imported.push(path.info.path.clone());
        batch.bytes += path.nar.memory();
        batch.paths.push_back(path);
        if batch.bytes >= MAX_BATCH || batch.paths.len() >= MAX_BATCH_PATHS {
            add(store, std::mem::take(&mut batch)).await?;
        }
    }
    if !batch.paths.is_empty() {
        add(store, batch).await?;
    }
    Ok(imported)
}

/// Tells whether more of the input comes within a short time. Its end counts as more.
async fn more_at_hand(input: &mut (impl AsyncBufRead + Unpin)) -> Result<bool, CompatError> {
    match tokio::time::timeout(LONGEST_PAUSE, input.fill_buf()).await {
        Ok(piece) => piece.map(|_| true).map_err(reading),
        Err(_) => Ok(false),
    }
}

async fn add(store: &Arc<dyn Keeper>, batch: Batch) -> Result<(), CompatError> {
    let stream = Box::new(batch.into_stream());
    Ok(store.add_paths(stream, SignatureCheck::Skip, WhenValid::Keep).await?)
}

/// Reads one path: its NAR, whose end only shows when it is parsed, and what follows.
async fn read_path(
    input: &mut (impl AsyncBufRead + Unpin),
    store_dir: &StoreDir,
) -> Result<Imported, CompatError> {
    let mut parser = Parser::new(Limits::default());
    let mut hasher = Hasher::new(HashAlgorithm::Sha256);
    let mut nar = Spool::Memory(Vec::new());
    loop {
        let piece = input.fill_buf().await.map_err(reading)?;
        if piece.is_empty() {
            return Err(CompatError::EndOfFile);
        }
        let progress = parser.feed(piece, &mut ())?;
        let used = match progress {
            Progress::More => piece.len(),
            Progress::Done { consumed } => consumed,
        };
        let piece = piece.get(..used).unwrap_or_default();
        hasher.update(piece);
        nar.put(piece).map_err(spooling)?;
        input.consume(used);
        if let Progress::Done { .. } = progress {
            break;
        }
    }
    nar.rewind().map_err(spooling)?;
    let Trailer { path, references, deriver } = read_trailer(input, store_dir).await?;
    let info = PathInfo {
        path,
        deriver,
        nar_hash: NarHash(hasher.finish().digest().try_into().unwrap_or_default()),
        nar_size: NarSize(parser.received()),
        references,
        registration_time: 0,
        ultimate: false,
        signatures: BTreeSet::new(),
        content_address: None,
    };
    Ok(Imported { info, nar })
}

fn spooling(source: io::Error) -> CompatError {
    CompatError::Stream { action: "keeping a path in a temporary file", source }
}

/// A path that was read.
struct Imported {
    info: PathInfo,
    nar: Spool,
}

/// A NAR that waits to be added.
enum Spool {
    Memory(Vec<u8>),
    File(std::fs::File),
}

impl Spool {
    fn memory(&self) -> usize {
        match self {
            Spool::Memory(bytes) => bytes.len(),
            // is added at once, as it would only take up room
            Spool::File(_) => MAX_BATCH,
        }
    }

    fn put(&mut self, piece: &[u8]) -> io::Result<()> {
        if let Spool::Memory(bytes) = self {
            if bytes.len() + piece.len() <= MAX_IN_MEMORY {
                bytes.extend_from_slice(piece);
                return Ok(());
            }
            let mut file = tempfile::tempfile()?;
            file.write_all(bytes)?;
            *self = Spool::File(file);
        }
        match self {
            Spool::File(file) => file.write_all(piece),
            Spool::Memory(_) => Ok(()),
        }
    }

    fn rewind(&mut self) -> io::Result<()> {
        match self {
            Spool::File(file) => file.rewind(),
            Spool::Memory(_) => Ok(()),
        }
    }

    /// Returns the next bytes; none at the end.
    fn take(&mut self) -> io::Result<Bytes> {
        match self {
            Spool::Memory(bytes) => Ok(std::mem::take(bytes).into()),
            Spool::File(file) => {
                let mut piece = vec![0; PIECE];
                let read = file.read(&mut piece)?;
                piece.truncate(read);
                Ok(piece.into())
            }
        }
    }
}

/// Paths that are added together.
#[derive(Default)]
struct Batch {
    paths: VecDeque<Imported>,
    bytes: usize,
}

impl Batch {
    fn into_stream(self) -> BatchStream {
        BatchStream { count: self.paths.len(), paths: self.paths, current: None }
    }
}

struct BatchStream {
    count: usize,
    paths: VecDeque<Imported>,
    current: Option<Spool>,
}

#[async_trait]
impl PathStream for BatchStream {
    fn count(&self) -> usize {
        self.count
    }

    async fn next_path(&mut self) -> Result<Option<PathInfo>, StoreError> {
        let Some(path) = self.paths.pop_front() else { return Ok(None) };
        self.current = Some(path.nar);
        Ok(Some(path.info))
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        let Some(nar) = &mut self.current else { return Ok(None) };
        let bytes = nar
            .take()
            .map_err(|error| StoreError::refused("standard input", spooling(error).to_string()))?;
        Ok(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }
}
