//! File trees of this machine as NARs, and flat files as they are, in pieces.
//!
//! Reading is done on a thread that may block; it ends when nobody takes the pieces any more.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use drover_store::{ByteStream, StoreError};
use drover_store_files::{FileName, Packer};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::error::CompatError;

/// Bytes of a piece.
const PIECE: usize = 256 * 1024;

/// Pieces that may wait to be taken.
const QUEUE: usize = 4;

/// How a file becomes bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The NAR of the tree.
    Nar,
    /// The contents of one file; links are followed.
    Flat,
}

/// The bytes of a file or a tree, in pieces.
pub(crate) struct Packed {
    path: PathBuf,
    pieces: mpsc::Receiver<Bytes>,
    work: JoinSet<Result<(), CompatError>>,
}

/// Begins to read a file or a tree, whose path is absolute and ends in a name.
pub(crate) fn pack(path: PathBuf, form: Form) -> Packed {
    let (sender, pieces) = mpsc::channel(QUEUE);
    let mut work = JoinSet::new();
    let source = path.clone();
    work.spawn_blocking(move || match form {
        Form::Nar => pack_tree(&source, &sender),
        Form::Flat => pack_file(&source, &sender),
    });
    Packed { path, pieces, work }
}

impl Packed {
    /// Returns the next piece, never empty; none at the end.
    pub(crate) async fn piece(&mut self) -> Result<Option<Bytes>, CompatError> {
        if let Some(piece) = self.pieces.recv().await {
            return Ok(Some(piece));
        }
        match self.work.join_next().await {
            None | Some(Ok(Ok(()))) => Ok(None),
            Some(Ok(Err(error))) => Err(error),
            Some(Err(_)) => {
                let path = self.path.display();
                Err(CompatError::failed(format!("reading '{path}' was given up")))
            }
        }
    }
}

#[async_trait]
impl ByteStream for Packed {
    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        let piece = self.piece().await;
        piece.map_err(|error| StoreError::refused(self.path.display().to_string(), error.words()))
    }
}

fn file_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CompatError {
    let path = path.to_owned();
    move |source| CompatError::File { action, path, source }
}

/// Sends the contents of a file, until nobody takes them any more.
fn pack_file(path: &Path, sender: &mpsc::Sender<Bytes>) -> Result<(), CompatError> {
    let mut file = File::open(path).map_err(file_error("opening file", path))?;
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        let read = file.by_ref().take(PIECE as u64).read_to_end(&mut piece);
        read.map_err(file_error("reading from file", path))?;
        if piece.is_empty() || sender.blocking_send(piece.into()).is_err() {
            return Ok(());
        }
    }
}

/// Sends the NAR of a tree, until nobody takes it any more.
fn pack_tree(path: &Path, sender: &mpsc::Sender<Bytes>) -> Result<(), CompatError> {
    // a missing tree is told in Nix's words
    std::fs::symlink_metadata(path).map_err(file_error("getting status of", path))?;
    let files = |source| CompatError::Files { path: path.to_owned(), source };
    let name = path.file_name().unwrap_or_default();
    let name = FileName::new(name.as_bytes()).map_err(files)?;
    let parent = path.parent().unwrap_or(path);
    let folder = File::open(parent).map_err(file_error("opening directory", parent))?;
    let mut packer = Packer::new(folder.as_fd(), &name).map_err(files)?;
    while let Some(piece) = packer.next_block().map_err(files)? {
        if sender.blocking_send(piece).is_err() {
            break;
        }
    }
    Ok(())
}
