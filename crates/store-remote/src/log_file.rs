//! Logs of builds, where the server keeps them in a folder of this machine: no protocol tells them.
//!
//! Follows `getBuildLogExact` in `src/libstore/local-fs-store.cc` of Nix: `drvs/xx/REST[.bz2]`.

use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use bzip2::bufread::MultiBzDecoder;
use drover_core::StorePath;
use drover_store::{ByteStream, StoreError};

/// Bytes that are read at once.
const PIECE: usize = 256 * 1024;

type Reader = Box<dyn Read + Send>;

fn failed(store: &str, error: &io::Error) -> StoreError {
    let message = format!("cannot read a build log of '{store}': {error}");
    StoreError::refused(store, message)
}

async fn blocking<T: Send + 'static>(
    store: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, StoreError> {
    let done = tokio::task::spawn_blocking(work).await.unwrap_or_else(|end| Err(end.into()));
    done.map_err(|error| failed(store, &error))
}

/// Returns a log, where it is kept.
pub(crate) async fn read(
    store: &str,
    folder: &Path,
    derivation: &StorePath,
) -> Result<Option<Box<dyn ByteStream>>, StoreError> {
    let drvs = folder.join("drvs");
    let name = derivation.base_name().to_owned();
    let found = blocking(store, move || open(&drvs, &name)).await?;
    let store = store.to_owned();
    Ok(found.map(|reader| Box::new(LogFile { store, reader: Some(reader) }) as _))
}

fn open(drvs: &Path, name: &str) -> io::Result<Option<Reader>> {
    let (first, rest) = name.split_at_checked(2).unwrap_or((name, ""));
    for place in [drvs.join(first).join(rest), drvs.join(name)] {
        if let Some(file) = existing(&place)? {
            return Ok(Some(Box::new(file)));
        }
        let mut compressed = place.into_os_string();
        compressed.push(".bz2");
        if let Some(file) = existing(&PathBuf::from(compressed))? {
            let file = BufReader::with_capacity(PIECE, file);
            return Ok(Some(Box::new(MultiBzDecoder::new(file))));
        }
    }
    Ok(None)
}

fn existing(path: &Path) -> io::Result<Option<fs_err::File>> {
    match fs_err::File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A log on its way out.
struct LogFile {
    store: String,
    /// `None` at the end.
    reader: Option<Reader>,
}

#[async_trait]
impl ByteStream for LogFile {
    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        let Some(mut reader) = self.reader.take() else { return Ok(None) };
        let read = move || {
            let mut piece = vec![0; PIECE];
            let read = reader.read(&mut piece)?;
            piece.truncate(read);
            Ok((reader, Bytes::from(piece)))
        };
        let (reader, piece) = blocking(&self.store, read).await?;
        if piece.is_empty() {
            return Ok(None);
        }
        self.reader = Some(reader);
        Ok(Some(piece))
    }
}
