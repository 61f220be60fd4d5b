//! Binary caches, as configured.

use std::time::Duration;

use drover_config::{CacheOptions, Scheme, StoreReference};
use drover_core::StoreDir;
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
/// A kind of cache that can't be used, and parameters that are no good.
pub(crate) fn open(
    reference: &StoreReference,
    configuration: &Configuration,
) -> anyhow::Result<CacheStore> {
    open_in(reference, configuration.store_dir.clone(), configuration)
}

/// Opens a cache of paths in a directory, which may be another than ours; nothing is connected before it
/// is needed.
///
/// # Errors
///
/// As [`open`].
pub(crate) fn open_in(
    reference: &StoreReference,
    store_dir: StoreDir,
    configuration: &Configuration,
) -> anyhow::Result<CacheStore> {
    Ok(CacheStore::open(reference, store_dir, settings(configuration))?)
}

fn settings(configuration: &Configuration) -> CacheSettings {
    let Configuration { settings, host, .. } = configuration;
    let CacheOptions {
        download_attempts,
        http_connections,
        netrc_file,
        ssl_cert_file,
        stalled_download_timeout,
        user_agent_suffix,
        positive_ttl,
        negative_ttl,
    } = settings.caches.clone();
    CacheSettings {
        connect_timeout: settings.connect_timeout,
        stalled_download_timeout: stalled_download_timeout.unwrap_or(NO_LIMIT),
        download_attempts,
        http_connections: usize::try_from(http_connections).unwrap_or(usize::MAX),
        netrc_file: Some(netrc_file),
        ca_file: ssl_cert_file,
        user_agent_suffix,
        disk_cache: host.cache_dir.clone(),
        aws: host.aws.clone(),
        positive_ttl,
        negative_ttl,
        ..CacheSettings::default()
    }
}
