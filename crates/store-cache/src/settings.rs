//! What is set about caches, and what a store address says of one.
//!
//! Names and defaults follow `src/libstore/include/nix/store/filetransfer.hh`, `globals.hh` and
//! `binary-cache-store.hh` of Nix.

use std::path::PathBuf;
use std::time::Duration;

use drover_config::{Scheme, StoreReference};
use drover_core::{Compression, SecretKey};

use crate::error::CacheError;

/// What is set about all caches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheSettings {
    /// `connect-timeout`; nothing means no limit.
    pub connect_timeout: Option<Duration>,
    /// `stalled-download-timeout`: how long a server may send next to nothing.
    pub stalled_download_timeout: Duration,
    /// `download-attempts`, the first among them; 0 counts as 1.
    pub download_attempts: u32,
    /// The pause before the second attempt; it doubles with each further one.
    pub first_pause: Duration,
    /// `http-connections`; 0 means as many as there are questions, 128 at most.
    pub http_connections: usize,
    /// `netrc-file`; one that isn't there is none.
    pub netrc_file: Option<PathBuf>,
    /// `ssl-cert-file`; nothing means the first that is there of those that Nix looks for
    /// ([`find_ca_file`](crate::find_ca_file)).
    pub ca_file: Option<PathBuf>,
    /// Whether the environment may name a proxy.
    pub proxies: ProxyUse,
    /// What is added to the user agent (`user-agent-suffix`).
    pub user_agent_suffix: String,
    /// Where answers are kept from run to run; nothing means nowhere.
    pub disk_cache: Option<PathBuf>,
    /// `narinfo-cache-positive-ttl`: how long an answer is good.
    pub positive_ttl: Duration,
    /// `narinfo-cache-negative-ttl`: how long it is believed that a path isn't there.
    pub negative_ttl: Duration,
}

impl Default for CacheSettings {
    fn default() -> CacheSettings {
        CacheSettings {
            connect_timeout: Some(Duration::from_secs(15)),
            stalled_download_timeout: Duration::from_secs(300),
            download_attempts: 5,
            first_pause: Duration::from_millis(250),
            http_connections: 25,
            netrc_file: None,
            ca_file: None,
            proxies: ProxyUse::Environment,
            user_agent_suffix: String::new(),
            disk_cache: None,
            positive_ttl: Duration::from_secs(30 * 24 * 3600),
            negative_ttl: Duration::from_secs(3600),
        }
    }
}

impl CacheSettings {
    /// Returns how many connections there may be at once.
    pub(crate) fn connections(&self) -> usize {
        if self.http_connections == 0 { 128 } else { self.http_connections.min(1024) }
    }
}

/// Which way requests go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyUse {
    /// Through what `http_proxy`, `https_proxy` and `all_proxy` name, but for hosts in `no_proxy`.
    Environment,
    /// Straight.
    Never,
}

/// Whether a cache's paths are taken without a signature by a trusted key (`?trusted=`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheTrust {
    /// They are.
    Trusted,
    /// They aren't.
    NeedsSignatures,
}

/// Whether many paths should be asked for that perhaps nobody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MassQuery {
    /// The cache takes it gladly.
    Wanted,
    /// It had rather not.
    Unwanted,
}

/// What a store address says behind `?`.
pub(crate) struct Parameters {
    pub(crate) priority: Option<i64>,
    pub(crate) mass_query: Option<MassQuery>,
    pub(crate) trust: CacheTrust,
    pub(crate) compression: Compression,
    pub(crate) level: Option<i32>,
    pub(crate) secret_keys: Vec<SecretKey>,
}

/// Parameters of Nix that change nothing of what is done here.
const PASSED_OVER: [&str; 8] = [
    "path-info-cache-size",
    "store",
    "system-features",
    "parallel-compression",
    "local-nar-cache",
    "narinfo-compression",
    "ls-compression",
    "log-compression",
];

impl Parameters {
    pub(crate) fn read(reference: &StoreReference) -> Result<Parameters, CacheError> {
        let mut parameters = Parameters {
            priority: None,
            mass_query: None,
            trust: CacheTrust::NeedsSignatures,
            compression: Compression::Zstd,
            level: None,
            secret_keys: Vec::new(),
        };
        for (name, value) in reference.params() {
            parameters.take(name, value)?;
        }
        parameters.check_level()?;
        Ok(parameters)
    }

    fn take(&mut self, name: &str, value: &str) -> Result<(), CacheError> {
        match name {
            "priority" => self.priority = Some(number(name, value)?),
            "want-mass-query" => {
                self.mass_query = Some(match switch(name, value)? {
                    Switch::On => MassQuery::Wanted,
                    Switch::Off => MassQuery::Unwanted,
                });
            }
            "trusted" => {
                self.trust = match switch(name, value)? {
                    Switch::On => CacheTrust::Trusted,
                    Switch::Off => CacheTrust::NeedsSignatures,
                }
            }
            "compression" => self.compression = written(value)?,
            "compression-level" => {
                let level = number(name, value)?;
                // -1 is Nix's word for the default.
                self.level = i32::try_from(level).ok().filter(|level| *level != -1);
            }
            "secret-key" => self.secret_keys.push(read_key(value)?),
            "secret-keys" => {
                for file in value.split(',').filter(|file| !file.is_empty()) {
                    self.secret_keys.push(read_key(file)?);
                }
            }
            "write-nar-listing" | "index-debug-info" => {
                if let Switch::On = switch(name, value)? {
                    return Err(CacheError::Unsupported { name: name.to_owned() });
                }
            }
            _ if PASSED_OVER.contains(&name) => {}
            _ => tracing::warn!("unknown parameter '{name}' of a binary cache is passed over"),
        }
        Ok(())
    }

    fn check_level(&self) -> Result<(), CacheError> {
        let Some(level) = self.level else { return Ok(()) };
        let levels = match self.compression {
            Compression::None | Compression::Brotli => i32::MIN..=i32::MAX,
            Compression::Zstd => -7..=22,
            Compression::Xz | Compression::Gzip => 0..=9,
            Compression::Bzip2 => 1..=9,
        };
        if levels.contains(&level) {
            return Ok(());
        }
        Err(CacheError::Level { compression: self.compression, level, levels })
    }
}

/// Returns a compression that is written here.
fn written(name: &str) -> Result<Compression, CacheError> {
    match name.parse() {
        Ok(Compression::Brotli) => Err(CacheError::NotWritten { compression: Compression::Brotli }),
        Ok(compression) => Ok(compression),
        Err(source) => Err(CacheError::Compression { source }),
    }
}

fn number(name: &str, value: &str) -> Result<i64, CacheError> {
    value.parse().map_err(|_| CacheError::Number { name: name.to_owned(), value: value.to_owned() })
}

enum Switch {
    On,
    Off,
}

fn switch(name: &str, value: &str) -> Result<Switch, CacheError> {
    match value {
        "true" | "yes" | "1" => Ok(Switch::On),
        "false" | "no" | "0" => Ok(Switch::Off),
        _ => Err(CacheError::Switch { name: name.to_owned(), value: value.to_owned() }),
    }
}

fn read_key(file: &str) -> Result<SecretKey, CacheError> {
    let path = PathBuf::from(file);
    let text = match fs_err::read_to_string(&path) {
        Ok(text) => text,
        Err(source) => return Err(CacheError::KeyFile { path, source }),
    };
    text.parse().map_err(|source| CacheError::Key { path, source })
}

/// Checks that a reference is of a kind of cache that is spoken here.
pub(crate) fn check_scheme(reference: &StoreReference) -> Result<(), CacheError> {
    match reference.scheme() {
        Scheme::File | Scheme::Http | Scheme::Https => Ok(()),
        scheme => Err(CacheError::Scheme { scheme: scheme.as_str().to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn read(parameters: &str) -> Result<Parameters, CacheError> {
        Parameters::read(&format!("file:///c?{parameters}").parse().expect("a reference"))
    }

    #[test]
    fn reads_what_nix_has() {
        let all = "priority=-3&want-mass-query=true&trusted=1&compression=xz&compression-level=9";
        let read = read(&format!("{all}&path-info-cache-size=7")).expect("good parameters");
        assert_eq!((read.priority, read.mass_query), (Some(-3), Some(MassQuery::Wanted)));
        assert_eq!((read.trust, read.compression), (CacheTrust::Trusted, Compression::Xz));
        assert_eq!(read.level, Some(9));
    }

    #[rstest]
    #[case("priority=x", "priority must be a whole number, not 'x'")]
    #[case("trusted=maybe", "trusted must be true or false, not 'maybe'")]
    #[case("compression=lzip", "compression 'lzip' is not known here")]
    #[case("compression=br", "br is read but not written here: use zstd, xz, gzip, bzip2 or none")]
    #[case("compression-level=23", "zstd has no level 23, only -7 to 22")]
    #[case("compression=gzip&compression-level=10", "gzip has no level 10, only 0 to 9")]
    #[case("secret-key=/nowhere/key", "cannot read the secret key in /nowhere/key")]
    #[case("write-nar-listing=true", "write-nar-listing is not done here")]
    fn refuses(#[case] parameters: &str, #[case] says: &str) {
        let error = read(parameters).err().expect(parameters).to_string();
        assert!(error.contains(says), "{error}");
    }
}
