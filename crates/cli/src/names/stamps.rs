//! Whether files have changed since they were read.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What tells one version of a file from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp(Option<(SystemTime, u64, u64)>);

impl Stamp {
    fn of(file: &Path) -> Stamp {
        let found = fs_err::metadata(file).ok();
        Stamp(found.and_then(|found| Some((found.modified().ok()?, found.len(), found.ino()))))
    }

    pub(super) fn of_all(files: &[PathBuf]) -> Vec<Stamp> {
        files.iter().map(|file| Stamp::of(file)).collect()
    }
}
