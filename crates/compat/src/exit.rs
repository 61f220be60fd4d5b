//! How a process ends.

/// The status that a process exits with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitStatus(pub u8);

impl ExitStatus {
    /// All is well.
    pub const SUCCESS: ExitStatus = ExitStatus(0);
    /// It isn't.
    pub const FAILURE: ExitStatus = ExitStatus(1);
}
