//! Directories that are being filled, by several threads maybe.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::form::Style;
use crate::{FileName, FilesError, TreePath};

/// The first thing that went wrong, whichever thread it was on.
#[derive(Debug, Default)]
pub(crate) struct Failure {
    happened: AtomicBool,
    first: Mutex<Option<FilesError>>,
}

impl Failure {
    pub(crate) fn record(&self, error: FilesError) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.happened.swap(true, Ordering::AcqRel) {
            *first = Some(error);
        }
    }

    /// Whether anything has gone wrong, so that nothing more is to be made.
    pub(crate) fn happened(&self) -> bool {
        self.happened.load(Ordering::Acquire)
    }

    /// Says that nothing more is to be made, though nothing went wrong.
    pub(crate) fn stop(&self) {
        self.happened.store(true, Ordering::Release);
    }

    pub(crate) fn check(&self) -> Result<(), FilesError> {
        if !self.happened() {
            return Ok(());
        }
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        first.take().map_or(Ok(()), Err)
    }
}

/// A directory that is being filled. Mode and time of a complete one are set when the last of those
/// who fill it lets go of it.
#[derive(Debug)]
pub(crate) struct Folder {
    dir: OwnedFd,
    name: FileName,
    /// The directory around it, which is so complete after this one; none for the root.
    around: Option<Arc<Folder>>,
    style: Style,
    complete: AtomicBool,
    failure: Arc<Failure>,
}

impl Folder {
    pub(crate) fn new(
        dir: OwnedFd,
        name: FileName,
        around: Option<Arc<Folder>>,
        style: Style,
        failure: Arc<Failure>,
    ) -> Folder {
        Folder { dir, name, around, style, complete: AtomicBool::new(false), failure }
    }

    pub(crate) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Says that it gets no more entries than it has been told of.
    pub(crate) fn complete(&self) {
        self.complete.store(true, Ordering::Release);
    }

    /// Returns where an entry of it is, or where it is itself.
    pub(crate) fn path(&self, entry: Option<&[u8]>) -> TreePath {
        let mut names = Vec::from_iter(entry);
        let mut folder = Some(self);
        while let Some(inner) = folder {
            names.push(inner.name.as_bytes());
            folder = inner.around.as_deref();
        }
        TreePath::of(names.into_iter().rev())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.complete.load(Ordering::Acquire)
            && let Err(errno) = self.style.finish_directory(self.dir.as_fd())
        {
            self.failure.record(FilesError::io("finish directory", self.path(None), errno));
        }
    }
}
