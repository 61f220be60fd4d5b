//! What is lacking where a path can't be unpacked.

use std::io::ErrorKind;

use drover_core::StorePath;
use drover_store_files::FilesError;

use crate::error::{Lacking, LocalError};
use crate::view::View;

/// Says of an error for which path there was no room, and what there is none of, if that is it.
pub(super) fn told(view: &View, path: &StorePath, error: LocalError) -> LocalError {
    let source = match error {
        LocalError::Files(source) if is_want_of_room(&source) => source,
        error => return error,
    };
    let lacking = match rustix::fs::fstatvfs(&view.opened.real_store) {
        Ok(system) if system.f_files != 0 && system.f_favail == 0 => {
            Lacking::Inodes(system.f_files)
        }
        _ => Lacking::Bytes,
    };
    LocalError::NoRoom { path: view.display(path), lacking, source }
}

fn is_want_of_room(error: &FilesError) -> bool {
    let FilesError::Io { source, .. } = error else { return false };
    matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}
