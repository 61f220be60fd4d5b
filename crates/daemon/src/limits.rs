//! How much of what a client may take.

use std::time::Duration;

/// How much a client may take, and for how long it is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The whole handshake.
    pub handshake: Duration,
    /// A client that is in the middle of a request, or of the data behind it, must send
    /// [`Limits::least`] bytes in each such period. Between requests it is waited for without end.
    pub window: Duration,
    /// Bytes.
    pub least: u64,
    /// For how long a client may take nothing of what it is sent.
    pub write: Duration,
    /// For how long work goes on for a client that has closed its side: one that was only quick to
    /// say all that it had to say gets its answers.
    pub after_hangup: Duration,
    /// How long a daemon that stops waits for the next request of a client for which nothing is being
    /// done: between two requests it may just be thinking.
    pub farewell: Duration,
    /// Bytes that are read and thrown away after an operation failed, so that the connection can go
    /// on.
    pub drain: u64,
    /// Clients at a time.
    pub connections: usize,
    /// Clients of one user at a time; root has no such limit.
    pub connections_per_user: usize,
    /// Collections, checks and lists of the whole store that go on at a time for clients who aren't
    /// trusted, and as many for those who are.
    pub heavy: usize,
    /// Those of one user who isn't trusted.
    pub heavy_per_user: usize,
    /// Signatures that a path has at most, as far as clients add them who aren't trusted.
    pub signatures: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            handshake: Duration::from_secs(60),
            window: Duration::from_secs(600),
            least: 4096,
            write: Duration::from_secs(600),
            after_hangup: Duration::from_secs(2),
            farewell: Duration::from_secs(10),
            drain: 1 << 30,
            connections: 4096,
            connections_per_user: 1024,
            heavy: 4,
            heavy_per_user: 2,
            signatures: 64,
        }
    }
}
