//! Places at which tests kill the program.

/// A place in the way from a stream to a valid path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    /// Unpacked and checked, nothing locked.
    BeforeLock,
    /// Locked, nothing renamed.
    AfterLock,
    /// In its place, not on the disk yet.
    AfterRename,
    /// On the disk, not registered.
    BeforeTransaction,
    /// Valid, still locked.
    AfterCommit,
}

/// Does nothing, except in this crate's own tests.
#[cfg(not(test))]
pub(crate) fn reach(_: Point) {}

/// Ends the process without any cleaning up where the environment names this place.
#[cfg(test)]
pub(crate) fn reach(point: Point) {
    if std::env::var("STORE_LOCAL_FAILPOINT").is_ok_and(|name| name == format!("{point:?}")) {
        std::process::abort();
    }
}
