//! Puts the tree of a NAR on the disk, as its bytes come.

use std::os::fd::BorrowedFd;

use drover_nar::{Limits, Parser, Progress};

use crate::tree_writer::TreeWriter;
use crate::{FileName, FilesError, Form};

/// Unpacks one NAR.
///
/// The tree is made beneath a directory that nobody else may change, which is the caller's business.
/// Owner and group of what is made are the caller's, modes and times those of its [`Form`]. The rules
/// of archives are those of [`drover_nar::Parser`]; nothing that breaks one is made. Where there are
/// many small files, up to four threads make them; they end with the unpacker.
///
/// After an error, or if it is dropped before its end, what has been made stays: the caller removes
/// it, with [`remove_tree`](crate::remove_tree). Nothing has been synced to the disk.
///
/// Follows `RestoreSink` of Nix (`src/libutil/fs-sink.cc`).
#[derive(Debug)]
pub struct Unpacker {
    parser: Parser,
    tree: TreeWriter,
}

impl Unpacker {
    /// Begins to unpack an archive to `name` in `dir`, in the form of a store.
    ///
    /// `limits` bound what is made: with [`Limits::of_size`] of the size that was announced, no more
    /// than that gets to the disk.
    ///
    /// # Errors
    ///
    /// The process has no descriptor left.
    pub fn new(
        dir: BorrowedFd<'_>,
        name: &FileName,
        limits: Limits,
    ) -> Result<Unpacker, FilesError> {
        Unpacker::with_form(dir, name, limits, Form::Store)
    }

    /// Begins to unpack an archive to `name` in `dir`.
    ///
    /// # Errors
    ///
    /// As [`Unpacker::new`].
    pub fn with_form(
        dir: BorrowedFd<'_>,
        name: &FileName,
        limits: Limits,
        form: Form,
    ) -> Result<Unpacker, FilesError> {
        Ok(Unpacker { parser: Parser::new(limits), tree: TreeWriter::new(dir, name, form)? })
    }

    /// Unpacks the next bytes.
    ///
    /// Large files are fastest with pieces of 64 KiB and more, which are written as they are.
    ///
    /// # Errors
    ///
    /// The first rule that the archive breaks, or what the system refused. The unpacker is of no use
    /// from then on.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Progress, FilesError> {
        let progress = self.parser.feed(bytes, &mut self.tree);
        // What the parser found later than an error of the tree is of less interest.
        self.tree.check()?;
        Ok(progress?)
    }

    /// Ends the archive, and waits until all of it is made.
    ///
    /// # Errors
    ///
    /// The archive is not complete, or what the system refused.
    pub fn finish(self) -> Result<(), FilesError> {
        self.parser.finish()?;
        self.tree.finish()
    }

    /// Returns a parser that stands where this stands.
    pub(crate) fn parser(&self) -> &Parser {
        &self.parser
    }
}
