//! Logs of builds: `<log>/drvs/xx/REST[.bz2]`, by the derivation's name.
//!
//! Follows `addBuildLog` and `getBuildLogExact` of Nix (`local-store.cc`, `local-fs-store.cc`).

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use bzip2::Compression;
use bzip2::bufread::MultiBzDecoder;
use bzip2::write::BzEncoder;
use drover_core::StorePath;
use drover_store::{ByteStream, StoreError};

use crate::LocalStore;
use crate::error::LocalError;
use crate::options::LogForm;
use crate::view::View;

/// Bytes that are read or written at once.
const PIECE: usize = 256 * 1024;

/// A file that becomes the log when it is whole.
struct Writing {
    to: Box<dyn Finish>,
    temporary: PathBuf,
    last: PathBuf,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Begun,
    Finished,
}

trait Finish: Write + Send {
    fn finish(self: Box<Self>) -> io::Result<()>;
}

impl Finish for BzEncoder<File> {
    fn finish(self: Box<Self>) -> io::Result<()> {
        BzEncoder::finish(*self).map(drop)
    }
}

impl Finish for File {
    fn finish(self: Box<Self>) -> io::Result<()> {
        Ok(())
    }
}

fn fail(doing: &'static str, path: &Path, source: io::Error) -> LocalError {
    LocalError::Io { doing, path: path.to_owned(), source }
}

/// Where the log of a derivation is, without `.bz2`; first where Nix keeps it today.
fn places(view: &View, derivation: &StorePath) -> [PathBuf; 2] {
    let drvs = view.layout().log.join("drvs");
    let name = derivation.base_name();
    let (first, rest) = name.split_at_checked(2).unwrap_or((name, ""));
    [drvs.join(first).join(rest), drvs.join(name)]
}

fn compressed(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".bz2");
    name.into()
}

impl Writing {
    /// Begins a log; `None` where there is one.
    fn begin(view: &View, derivation: &StorePath) -> Result<Option<Writing>, LocalError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        view.refuse_read_only("keep a build log")?;
        let [plain, _] = places(view, derivation);
        let last = match view.options().logs {
            LogForm::Compressed => compressed(&plain),
            LogForm::Plain => plain.clone(),
        };
        if plain.exists() || compressed(&plain).exists() {
            return Ok(None);
        }
        let parent = last.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(parent).map_err(|error| fail("create folder", parent, error))?;
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let mut temporary = last.clone().into_os_string();
        temporary.push(format!(".tmp.{}-{count}", std::process::id()));
        let temporary = PathBuf::from(temporary);
        let file = File::create(&temporary).map_err(|error| fail("create", &temporary, error))?;
        let to: Box<dyn Finish> = match view.options().logs {
            LogForm::Compressed => Box::new(BzEncoder::new(file, Compression::best())),
            LogForm::Plain => Box::new(file),
        };
        Ok(Some(Writing { to, temporary, last, state: State::Begun }))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), LocalError> {
        self.to.write_all(bytes).map_err(|error| fail("write", &self.temporary, error))
    }

    fn finish(mut self) -> Result<(), LocalError> {
        let to: Box<dyn Finish> = std::mem::replace(&mut self.to, Box::new(Nothing));
        to.finish().map_err(|error| fail("write", &self.temporary, error))?;
        fs::rename(&self.temporary, &self.last)
            .map_err(|error| fail("rename", &self.temporary, error))?;
        self.state = State::Finished;
        Ok(())
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if self.state == State::Begun {
            fs::remove_file(&self.temporary).ok();
        }
    }
}

/// What a finished log is written to.
struct Nothing;

impl Write for Nothing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Finish for Nothing {
    fn finish(self: Box<Self>) -> io::Result<()> {
        Ok(())
    }
}

/// Keeps a log, unless there is one.
pub(crate) async fn add(
    store: &LocalStore,
    derivation: &StorePath,
    mut log: Box<dyn ByteStream>,
) -> Result<(), StoreError> {
    let path = derivation.clone();
    let Some(mut writing) = store.job(move |view| Writing::begin(view, &path)).await? else {
        return Ok(());
    };
    while let Some(bytes) = log.chunk().await? {
        writing = store
            .job(move |_| {
                writing.write(&bytes)?;
                Ok(writing)
            })
            .await?;
    }
    store.job(move |_| writing.finish()).await
}

/// Returns a log that is kept.
pub(crate) async fn read(
    store: &LocalStore,
    derivation: &StorePath,
) -> Result<Option<Box<dyn ByteStream>>, StoreError> {
    let path = derivation.clone();
    let found = store.job(move |view| open(view, &path)).await?;
    let view = store.same_session();
    Ok(found.map(|log| Box::new(Log { store: view, reader: Some(log) }) as Box<dyn ByteStream>))
}

type Reader = Box<dyn Read + Send>;

fn open(view: &View, derivation: &StorePath) -> Result<Option<Reader>, LocalError> {
    for place in places(view, derivation) {
        for path in [place.clone(), compressed(&place)] {
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(fail("open", &path, error)),
            };
            return Ok(Some(if path == place {
                Box::new(file)
            } else {
                Box::new(MultiBzDecoder::new(BufReader::with_capacity(PIECE, file)))
            }));
        }
    }
    Ok(None)
}

/// A log on its way out.
struct Log {
    store: LocalStore,
    reader: Option<Reader>,
}

#[async_trait]
impl ByteStream for Log {
    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        let Some(mut reader) = self.reader.take() else { return Ok(None) };
        let read = move |_: &View| {
            let mut piece = vec![0; PIECE];
            let read = reader
                .read(&mut piece)
                .map_err(|error| fail("read", Path::new("a build log"), error))?;
            piece.truncate(read);
            Ok((reader, Bytes::from(piece)))
        };
        let (reader, piece) = self.store.job(read).await?;
        if piece.is_empty() {
            return Ok(None);
        }
        self.reader = Some(reader);
        Ok(Some(piece))
    }
}
