//! The exit status of the command.

use std::process::ExitCode;

use drover_store::{FailureCause, exit_code};

/// The exit status of the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ExitStatus(pub(crate) u8);

impl ExitStatus {
    /// All went well.
    pub(crate) const SUCCESS: ExitStatus = ExitStatus(0);
    /// Something went wrong that isn't a build.
    pub(crate) const GENERAL: ExitStatus = ExitStatus(1);
    /// The user ended it.
    pub(crate) const INTERRUPTED: ExitStatus = ExitStatus(130);

    /// Returns the status for builds that failed like this.
    pub(crate) fn of_failures(causes: impl IntoIterator<Item = FailureCause>) -> ExitStatus {
        ExitStatus(exit_code(causes))
    }
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> ExitCode {
        ExitCode::from(status.0)
    }
}

/// The user ended the command.
#[derive(Debug, thiserror::Error)]
#[error("interrupted by the user")]
pub(crate) struct Interrupted;
