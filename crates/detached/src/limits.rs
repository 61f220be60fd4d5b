//! How much is held, and remembered.

use std::time::Duration;

/// How much is held, and remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Orders of one user that are held at a time.
    pub running_per_user: usize,
    /// Those of all users together.
    pub running: usize,
    /// Orders of one user that are remembered after their end, the newest.
    pub ended_per_user: usize,
    /// Those of all users together.
    pub ended: usize,
    /// For how long one is remembered after its end.
    pub remembered: Duration,
    /// Bytes that are kept of what an order says, the newest.
    pub log: usize,
    /// Derivations of an order.
    pub derivations: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            running_per_user: 64,
            running: 256,
            ended_per_user: 64,
            ended: 256,
            remembered: Duration::from_secs(24 * 60 * 60),
            log: 256 * 1024,
            derivations: 1000,
        }
    }
}
