//! Binary caches, as configured.

use std::path::PathBuf;
use std::time::Duration;

use drover_config::{Scheme, StoreReference};
use drover_store_cache::{CacheSettings, CacheStore};

use crate::configuration::Configuration;

/// In the place of no limit on how long a server may be silent.
const NO_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// Whether a store is a binary cache.
pub(crate) fn is_one(reference: &StoreReference) -> bool {
    matches!(reference.scheme(), Scheme::File | Scheme::Http | Scheme::Https | Scheme::S3)
}

/// Opens a cache; nothing is connected before it is needed.
///
/// # Errors
///
/// A kind of cache that can't be used, and parameters or settings that are no good.
pub(crate) fn open(
    reference: &StoreReference,
    configuration: &Configuration,
) -> anyhow::Result<CacheStore> {
    let store_dir = configuration.store_dir.clone();
    Ok(CacheStore::open(reference, store_dir, settings(configuration)?)?)
}

fn settings(configuration: &Configuration) -> anyhow::Result<CacheSettings> {
    let Configuration { conf, host, .. } = configuration;
    let usual = CacheSettings::default();
    let text = |name: &str| conf.raw(name).map(|raw| raw.text()).filter(|text| !text.is_empty());
    let seconds = |name| anyhow::Ok(conf.number(name)?.map(Duration::from_secs));
    let file = |name: &str| text(name).map(PathBuf::from);
    let attempts = conf.number("download-attempts")?.map(u32::try_from).transpose();
    let connections = conf.number("http-connections")?.map(usize::try_from).transpose();
    let netrc = host.environment.conf_dir().join("netrc");
    Ok(CacheSettings {
        connect_timeout: match seconds("connect-timeout")? {
            Some(limit) => Some(limit).filter(|limit| !limit.is_zero()),
            None => usual.connect_timeout,
        },
        stalled_download_timeout: match seconds("stalled-download-timeout")? {
            Some(limit) if limit.is_zero() => NO_LIMIT,
            limit => limit.unwrap_or(usual.stalled_download_timeout),
        },
        // more than can be counted is as many as there can be
        download_attempts: attempts.unwrap_or(Some(u32::MAX)).unwrap_or(usual.download_attempts),
        http_connections: connections.unwrap_or(Some(usize::MAX)).unwrap_or(usual.http_connections),
        netrc_file: Some(file("netrc-file").unwrap_or(netrc)),
        ca_file: file("ssl-cert-file"),
        user_agent_suffix: text("user-agent-suffix").unwrap_or_default(),
        disk_cache: host.cache_dir.clone(),
        positive_ttl: seconds("narinfo-cache-positive-ttl")?.unwrap_or(usual.positive_ttl),
        negative_ttl: seconds("narinfo-cache-negative-ttl")?.unwrap_or(usual.negative_ttl),
        ..usual
    })
}
