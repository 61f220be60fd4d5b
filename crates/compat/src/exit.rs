//! How a process ends.

use drover_store::{Realised, exit_code};

/// The status that a process exits with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitStatus(pub u8);

impl ExitStatus {
    /// All is well.
    pub const SUCCESS: ExitStatus = ExitStatus(0);
    /// It isn't.
    pub const FAILURE: ExitStatus = ExitStatus(1);

    /// Returns the status for builds that failed.
    pub fn of_failures<'a>(failures: impl IntoIterator<Item = &'a Realised>) -> ExitStatus {
        ExitStatus(exit_code(failures.into_iter().filter_map(|failure| failure.status.failure())))
    }
}
