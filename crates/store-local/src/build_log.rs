//! Logs of builds: `<log>/drvs/xx/REST[.bz2]`, by the derivation's name.
//!
//! Follows `addBuildLog` and `getBuildLogExact` of Nix (`local-store.cc`, `local-fs-store.cc`).

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use bzip2::bufread::MultiBzDecoder;
use drover_core::StorePath;
use drover_store::{ByteStream, LogForm, StoreError};

use crate::LocalStore;
use crate::compressed_log::CompressedLog;
use crate::error::LocalError;
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

impl Finish for CompressedLog {
    fn finish(self: Box<Self>) -> io::Result<()> {
        CompressedLog::finish(*self)
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
        let [plain, _] = places(view, derivation);
        match plain.exists() || compressed(&plain).exists() {
            true => Ok(None),
            false => Writing::replacing(view, derivation).map(Some),
        }
    }

    /// Begins a log that takes the place of one that is there.
    fn replacing(view: &View, derivation: &StorePath) -> Result<Writing, LocalError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        view.refuse_read_only("keep a build log")?;
        let [plain, _] = places(view, derivation);
        let last = match view.options().logs {
            LogForm::Compressed => compressed(&plain),
            LogForm::Plain => plain.clone(),
        };
        let parent = last.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(parent).map_err(|error| fail("create folder", parent, error))?;
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let mut temporary = last.clone().into_os_string();
        temporary.push(format!(".tmp.{}-{count}", std::process::id()));
        let temporary = PathBuf::from(temporary);
        let file = File::create(&temporary).map_err(|error| fail("create", &temporary, error))?;
        let to: Box<dyn Finish> = match view.options().logs {
            LogForm::Compressed => Box::new(CompressedLog::new(file)),
            LogForm::Plain => Box::new(file),
        };
        Ok(Writing { to, temporary, last, state: State::Begun })
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

/// The log of a build on this machine, in the making. It takes the place of an older one when it is
/// whole; if it is dropped before, nothing is kept. Synchronous, for threads that may block.
pub struct BuildLogWriter {
    store: LocalStore,
    writing: Writing,
}

impl LocalStore {
    /// Begins the log of a build.
    ///
    /// # Errors
    ///
    /// Its file can't be made.
    pub async fn begin_build_log(
        &self,
        derivation: &StorePath,
    ) -> Result<BuildLogWriter, StoreError> {
        let path = derivation.clone();
        let writing = self.blocking(move |view| Writing::replacing(view, &path)).await?;
        Ok(BuildLogWriter { store: self.same_session(), writing })
    }
}

impl BuildLogWriter {
    /// Writes the next bytes.
    ///
    /// # Errors
    ///
    /// They can't be written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.writing.write(bytes).map_err(|error| self.store.told(error))
    }

    /// Keeps the log.
    ///
    /// # Errors
    ///
    /// It can't be written or put in its place.
    pub fn finish(self) -> Result<(), StoreError> {
        let BuildLogWriter { store, writing } = self;
        let last = writing.last.clone();
        writing.finish().map_err(|error| store.told(error))?;
        // One that was kept in the other form would be found first, or after this one is gone.
        let other = match last.extension().is_some_and(|extension| extension == "bz2") {
            true => last.with_extension(""),
            false => compressed(&last),
        };
        if last != other {
            fs::remove_file(other).ok();
        }
        Ok(())
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
