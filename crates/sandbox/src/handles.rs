//! The open files that a plan speaks of.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Stands for one open file in [`Handles`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Handle(u32);

/// Open files, in the order in which they were added.
///
/// Files and folders may be opened with `O_PATH`. At most [`Handles::MAX`] can be sent with one plan;
/// what lies in one folder is better named by [`Source::In`](crate::Source::In).
#[derive(Clone, Debug, Default)]
pub struct Handles {
    files: Vec<Arc<OwnedFd>>,
}

impl Handles {
    /// How many there can be, as the kernel passes no more in one message.
    pub const MAX: usize = 250;

    /// Returns an empty table.
    pub fn new() -> Handles {
        Handles::default()
    }

    /// Adds an open file. One that is here already gets the handle that it has.
    pub fn add(&mut self, file: impl Into<Arc<OwnedFd>>) -> Handle {
        let file = file.into();
        let known = self.files.iter().position(|it| it.as_raw_fd() == file.as_raw_fd());
        let at = known.unwrap_or_else(|| {
            self.files.push(file);
            self.files.len() - 1
        });
        Handle(u32::try_from(at).unwrap_or(u32::MAX))
    }

    /// Returns how many there are.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Returns the open file, if it is one of these.
    pub fn get(&self, handle: Handle) -> Option<BorrowedFd<'_>> {
        self.files.get(handle.at()).map(|file| file.as_fd())
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.files.iter().map(|file| file.as_fd())
    }
}

impl FromIterator<OwnedFd> for Handles {
    fn from_iter<T: IntoIterator<Item = OwnedFd>>(files: T) -> Handles {
        Handles { files: files.into_iter().map(Arc::new).collect() }
    }
}

impl Handle {
    pub(crate) fn at(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}
