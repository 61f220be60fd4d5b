//! File trees of this machine from NARs (`nix-store --restore`).
//!
//! Follows `RestoreSink` (`src/libutil/fs-sink.cc`) of Nix: nothing that is there already is
//! written to or followed.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use drover_nar::{Executable, Limits, Parser, Progress, Visitor};
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::error::CompatError;
use crate::host::Input;

/// Bytes read at once.
const PIECE: usize = 256 * 1024;

/// Pieces that may wait to be written.
const QUEUE: usize = 4;

/// Unpacks one NAR from a stream to a path at which there is nothing yet. What comes after the NAR
/// is left unread or thrown away. What was written stays where it fails.
pub(crate) async fn unpack(mut input: Input, path: PathBuf) -> Result<(), CompatError> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let mut work = JoinSet::new();
    work.spawn_blocking(move || unpack_pieces(receiver, path));
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        let read = input.read_buf(&mut piece).await;
        let read =
            read.map_err(|source| CompatError::Stream { action: "reading from file", source })?;
        // the receiver is gone once the NAR is whole, or has failed
        if read == 0 || sender.send(Bytes::from(piece)).await.is_err() {
            break;
        }
    }
    drop(sender);
    match work.join_next().await {
        Some(Ok(outcome)) => outcome,
        _ => Err(CompatError::failed("unpacking was given up")),
    }
}

fn unpack_pieces(mut pieces: mpsc::Receiver<Bytes>, path: PathBuf) -> Result<(), CompatError> {
    let mut parser = Parser::new(Limits::default());
    let mut tree = Tree { path, file: None, failure: None };
    while let Some(piece) = pieces.blocking_recv() {
        let progress = parser.feed(&piece, &mut tree);
        if let Some(failure) = tree.failure.take() {
            return Err(failure);
        }
        if let Progress::Done { .. } = progress? {
            return Ok(());
        }
    }
    Err(CompatError::EndOfFile)
}

/// Makes the tree, as far as nothing has failed.
struct Tree {
    /// The node that comes next, or the open one.
    path: PathBuf,
    file: Option<File>,
    failure: Option<CompatError>,
}

impl Tree {
    fn attempt(&mut self, action: &'static str, work: impl FnOnce(&Path) -> io::Result<()>) {
        if self.failure.is_none() {
            let path = self.path.clone();
            self.failure =
                work(&self.path).err().map(|source| CompatError::File { action, path, source });
        }
    }
}

impl Visitor for Tree {
    fn directory(&mut self) {
        if self.failure.is_none() && self.path.is_dir() {
            let path = self.path.display();
            self.failure = Some(CompatError::failed(format!("path '{path}' already exists")));
        }
        self.attempt("creating directory", |path| std::fs::create_dir(path));
    }

    fn entry(&mut self, name: &[u8]) {
        self.path.push(OsStr::from_bytes(name));
    }

    fn entry_end(&mut self) {
        self.path.pop();
    }

    fn regular(&mut self, executable: Executable, _: u64) {
        let mode = match executable {
            Executable::No => 0o666,
            Executable::Yes => 0o777,
        };
        let mut made = None;
        self.attempt("creating file", |path| {
            let mut how = File::options();
            made = Some(how.write(true).create_new(true).mode(mode).open(path)?);
            Ok(())
        });
        self.file = made;
    }

    fn contents(&mut self, chunk: &[u8]) {
        if let Some(mut file) = self.file.take() {
            self.attempt("writing to file", |_| file.write_all(chunk));
            self.file = Some(file);
        }
    }

    fn regular_end(&mut self) {
        self.file = None;
    }

    fn symlink(&mut self, target: &[u8]) {
        self.attempt("creating symlink at", |path| {
            std::os::unix::fs::symlink(OsStr::from_bytes(target), path)
        });
    }
}
