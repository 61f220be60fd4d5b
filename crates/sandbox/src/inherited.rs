//! Descriptors that a process was started with.

use std::io;

use crate::sys;

/// Has no program that is started from now on get any of this process's descriptors beside the first three,
/// unless it's given to it.
///
/// # Errors
///
/// The system is older than `close_range` (Linux 5.9).
pub fn keep_descriptors_from_children() -> io::Result<()> {
    sys::close_on_exec_from(3).map_err(io::Error::from)
}

/// Closes all descriptors from `first` on that this process was started with. To be called before anything
/// is opened: whoever owns one of them would lose it.
///
/// # Errors
///
/// The system is older than `close_range` (Linux 5.9).
pub fn close_inherited(first: u32) -> io::Result<()> {
    sys::close_from(first).map_err(io::Error::from)
}
