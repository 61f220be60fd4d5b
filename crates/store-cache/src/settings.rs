//! What is set about caches, and what a store address says of one.
//!
//! Names and defaults follow `src/libstore/include/nix/store/filetransfer.hh`, `globals.hh` and
//! `binary-cache-store.hh` of Nix.

use std::path::PathBuf;
use std::time::Duration;

use drover_config::{Scheme, StoreReference};
use drover_core::{Compression, SecretKey};

use crate::error::CacheError;
use crate::s3::AwsFiles;
use crate::tls::Identity;

/// What is set about all caches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheSettings {
    /// `connect-timeout`; nothing means no limit.
    pub connect_timeout: Option<Duration>,
    /// `stalled-download-timeout`: how long a server may send next to nothing.
    pub stalled_download_timeout: Duration,
    /// `download-attempts`, the first among them; 0 counts as 1.
    pub download_attempts: u32,
    /// The pauses between them.
    pub pauses: Pauses,
    /// `http-connections`; 0 means as many as there are questions, 128 at most.
    pub http_connections: usize,
    /// `netrc-file`; one that isn't there is none.
    pub netrc_file: Option<PathBuf>,
    /// `ssl-cert-file`; nothing means the first that is there of those that Nix looks for
    /// ([`find_ca_file`](crate::find_ca_file)).
    pub ca_file: Option<PathBuf>,
    /// What is shown to servers that ask who we are; an address may name its own (`tls-certificate`).
    pub identity: Option<Identity>,
    /// Whether the environment may name a proxy.
    pub proxies: ProxyUse,
    /// What is added to the user agent (`user-agent-suffix`).
    pub user_agent_suffix: String,
    /// Where answers are kept from run to run; nothing means nowhere.
    pub disk_cache: Option<PathBuf>,
    /// Where the keys of buckets are found.
    pub aws: AwsFiles,
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
            pauses: Pauses::default(),
            http_connections: 25,
            netrc_file: None,
            ca_file: None,
            identity: None,
            proxies: ProxyUse::Environment,
            user_agent_suffix: String::new(),
            disk_cache: None,
            aws: AwsFiles::default(),
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

/// How long it's waited before something is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pauses {
    /// Before the second attempt (`filetransfer-retry-delay`); each is twice as long as the one before,
    /// give or take.
    pub first: Duration,
    /// The same where a server says that it's asked too often (`filetransfer-retry-delay-rate-limited`).
    pub first_when_busy: Duration,
    /// The longest (`filetransfer-retry-max-delay`), also where a server asks for a longer one.
    pub longest: Duration,
}

impl Default for Pauses {
    /// Those of Nix 2.34.
    fn default() -> Pauses {
        Pauses {
            first: Duration::from_millis(100),
            first_when_busy: Duration::from_secs(5),
            longest: Duration::from_secs(60),
        }
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

/// Whether what is in a NAR is written beside it (`?write-nar-listing=`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listings {
    Written,
    Omitted,
}

/// What a store address says behind `?`.
pub(crate) struct Parameters {
    pub(crate) priority: Option<i64>,
    pub(crate) mass_query: Option<MassQuery>,
    pub(crate) trust: CacheTrust,
    pub(crate) compression: Compression,
    pub(crate) level: Option<i32>,
    pub(crate) secret_keys: Vec<SecretKey>,
    pub(crate) listings: Listings,
    pub(crate) tls_certificate: Option<PathBuf>,
    pub(crate) tls_private_key: Option<PathBuf>,
    pub(crate) s3: S3Parameters,
}

/// What an address says of a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct S3Parameters {
    pub(crate) region: String,
    /// Another server than Amazon's: host and port, or a URL.
    pub(crate) endpoint: Option<String>,
    /// `http` or `https`, for an endpoint without one.
    pub(crate) scheme: &'static str,
    pub(crate) profile: Option<String>,
    /// Bytes of a part of a large file.
    pub(crate) buffer_size: Option<usize>,
    pub(crate) addressing: Addressing,
}

/// Where a URL has the name of the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Addressing {
    /// In its path, which all servers know.
    Path,
    /// Before the name of the host.
    Host,
}

impl Default for S3Parameters {
    fn default() -> S3Parameters {
        let region = "us-east-1".to_owned();
        S3Parameters {
            region,
            endpoint: None,
            scheme: "https",
            profile: None,
            buffer_size: None,
            addressing: Addressing::Path,
        }
    }
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
            s3: S3Parameters::default(),
            listings: Listings::Omitted,
            tls_certificate: None,
            tls_private_key: None,
        };
        let is_bucket = *reference.scheme() == Scheme::S3;
        for (name, value) in reference.params() {
            if !(is_bucket && parameters.take_of_bucket(name, value)?) {
                parameters.take(name, value)?;
            }
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
            "compression" => {
                self.compression = value.parse().map_err(CacheError::Compression)?;
            }
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
            "write-nar-listing" => {
                self.listings = match switch(name, value)? {
                    Switch::On => Listings::Written,
                    Switch::Off => Listings::Omitted,
                }
            }
            "tls-certificate" => self.tls_certificate = file(value),
            "tls-private-key" => self.tls_private_key = file(value),
            "index-debug-info" => {
                if let Switch::On = switch(name, value)? {
                    return Err(CacheError::Unsupported { name: name.to_owned() });
                }
            }
            _ if PASSED_OVER.contains(&name) => {}
            _ => tracing::warn!("unknown parameter '{name}' of a binary cache is passed over"),
        }
        Ok(())
    }

    /// Returns what servers are shown who ask for it. A key alone shows nothing, as with `curl`.
    pub(crate) fn identity(&self) -> Option<Identity> {
        let certificate = self.tls_certificate.clone()?;
        Some(Identity { certificate, key: self.tls_private_key.clone() })
    }

    /// Takes a parameter of a bucket. Returns whether it is one.
    fn take_of_bucket(&mut self, name: &str, value: &str) -> Result<bool, CacheError> {
        let s3 = &mut self.s3;
        match name {
            "region" => s3.region = value.to_owned(),
            "endpoint" => s3.endpoint = Some(value.to_owned()).filter(|value| !value.is_empty()),
            "scheme" => {
                s3.scheme = match value {
                    "http" => "http",
                    "" | "https" => "https",
                    _ => return Err(CacheError::BucketScheme { value: value.to_owned() }),
                }
            }
            "profile" => s3.profile = Some(value.to_owned()).filter(|value| !value.is_empty()),
            "buffer-size" | "multipart-chunk-size" => {
                s3.buffer_size = usize::try_from(number(name, value)?).ok();
            }
            // large files go in parts in any case, as no server takes all of them whole
            "multipart-upload" => {
                switch(name, value)?;
            }
            "multipart-threshold" => {
                number(name, value)?;
            }
            "addressing-style" => {
                s3.addressing = match value {
                    "path" | "auto" | "" => Addressing::Path,
                    "virtual" => Addressing::Host,
                    _ => return Err(CacheError::Addressing { value: value.to_owned() }),
                }
            }
            // it would be stored in another way than was asked for, and paid for so
            "storage-class" if !value.is_empty() => {
                return Err(CacheError::Unsupported { name: name.to_owned() });
            }
            "storage-class" => {}
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn check_level(&self) -> Result<(), CacheError> {
        let Some(level) = self.level else { return Ok(()) };
        let levels = match self.compression {
            Compression::None => i32::MIN..=i32::MAX,
            Compression::Brotli => 0..=11,
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

fn file(value: &str) -> Option<PathBuf> {
    Some(value).filter(|value| !value.is_empty()).map(PathBuf::from)
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
        Scheme::File | Scheme::Http | Scheme::Https | Scheme::S3 => Ok(()),
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
    #[case("compression=br&compression-level=12", "br has no level 12, only 0 to 11")]
    #[case("compression-level=23", "zstd has no level 23, only -7 to 22")]
    #[case("compression=gzip&compression-level=10", "gzip has no level 10, only 0 to 9")]
    #[case("secret-key=/nowhere/key", "cannot read the secret key in /nowhere/key")]
    #[case("index-debug-info=true", "index-debug-info is not done here")]
    fn refuses(#[case] parameters: &str, #[case] says: &str) {
        let error = read(parameters).err().expect(parameters);
        assert!(error.to_string().contains(says), "{error}");
        // what is behind it isn't in its words already
        let source = std::error::Error::source(&error).map(ToString::to_string);
        assert!(!source.is_some_and(|source| error.to_string().contains(&source)), "{error:?}");
    }

    fn of_bucket(parameters: &str) -> Result<Parameters, CacheError> {
        Parameters::read(&format!("s3://b?{parameters}").parse().expect("a reference"))
    }

    #[test]
    fn reads_what_nix_has_of_buckets() {
        let all = "addressing-style=virtual&multipart-chunk-size=7340032&multipart-threshold=1";
        let read = of_bucket(&format!("{all}&storage-class=")).expect("good parameters");
        assert_eq!(read.s3.addressing, Addressing::Host);
        assert_eq!(read.s3.buffer_size, Some(7_340_032));
        for (bad, says) in [
            ("addressing-style=far", "must be path, virtual or auto, not 'far'"),
            ("multipart-threshold=x", "multipart-threshold must be a whole number"),
            ("storage-class=GLACIER", "storage-class is not done here"),
        ] {
            let error = of_bucket(bad).err().expect(bad).to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
