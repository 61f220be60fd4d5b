//! How this crate reads files: through its caller.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Reads whole text files.
///
/// Closures of the right shape and maps from path to text are `Files` too.
pub trait Files {
    /// Returns the text of the file at `path`, an absolute path, or nothing if
    /// there is no such file.
    ///
    /// # Errors
    ///
    /// Returns an error if there is one that cannot be read, or is not UTF-8.
    /// Implementations should refuse files of absurd size.
    fn read(&self, path: &Path) -> io::Result<Option<String>>;
}

impl<F: Fn(&Path) -> io::Result<Option<String>>> Files for F {
    fn read(&self, path: &Path) -> io::Result<Option<String>> {
        self(path)
    }
}

impl Files for BTreeMap<PathBuf, String> {
    fn read(&self, path: &Path) -> io::Result<Option<String>> {
        Ok(self.get(path).cloned())
    }
}
