//! The settings of binary caches, with their types and defaults.
//!
//! As in C++ Nix 2.36 (`filetransfer.hh`, `globals.hh` and `local-settings.hh`).

use std::path::PathBuf;
use std::time::Duration;

/// How binary caches are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheOptions {
    /// `filetransfer-retry-attempts`, once `download-attempts`: the first attempt among them.
    pub download_attempts: u32,
    /// `http-connections`: 0 means no limit.
    pub http_connections: u32,
    /// `netrc-file`: who asks which host; it need not be there.
    pub netrc_file: PathBuf,
    /// `ssl-cert-file`: nothing means where such files usually are.
    pub ssl_cert_file: Option<PathBuf>,
    /// `stalled-download-timeout`: nothing means no limit.
    pub stalled_download_timeout: Option<Duration>,
    /// `user-agent-suffix`
    pub user_agent_suffix: String,
    /// `narinfo-cache-positive-ttl`: how long it's kept that a cache has a path.
    pub positive_ttl: Duration,
    /// `narinfo-cache-negative-ttl`: how long it's kept that it doesn't.
    pub negative_ttl: Duration,
}
