//! Binary caches, as configured.

use std::time::Duration;

use drover_config::{CacheOptions, NixConf, Scheme, StoreReference};
use drover_core::StoreDir;
use drover_store_cache::{CacheSettings, CacheStore, Pauses};

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
    Ok(CacheStore::open(reference, store_dir, settings(configuration)?)?)
}

fn settings(configuration: &Configuration) -> anyhow::Result<CacheSettings> {
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
    Ok(CacheSettings {
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
        pauses: pauses(&configuration.conf)?,
        ..CacheSettings::default()
    })
}

/// Returns how long it's waited before something is tried again.
fn pauses(conf: &NixConf) -> anyhow::Result<Pauses> {
    let usual = Pauses::default();
    let milliseconds = |name: &'static str, usual: Duration| -> anyhow::Result<Duration> {
        Ok(conf.number(name)?.map_or(usual, Duration::from_millis))
    };
    Ok(Pauses {
        first: milliseconds("filetransfer-retry-delay", usual.first)?,
        first_when_busy: milliseconds(
            "filetransfer-retry-delay-rate-limited",
            usual.first_when_busy,
        )?,
        longest: milliseconds("filetransfer-retry-max-delay", usual.longest)?,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use drover_config::Environment;

    use super::*;

    #[test]
    fn pauses_are_those_of_the_settings() {
        let from = |text: &str| {
            let files = BTreeMap::from([(PathBuf::from("/etc/nix/nix.conf"), text.to_owned())]);
            pauses(&NixConf::load(&Environment::default(), &files, &[]).unwrap())
        };
        let set = "filetransfer-retry-delay = 1\nfiletransfer-retry-delay-rate-limited = 2\n\
                   filetransfer-retry-max-delay = 3\n";
        let expected = Pauses {
            first: Duration::from_millis(1),
            first_when_busy: Duration::from_millis(2),
            longest: Duration::from_millis(3),
        };
        assert_eq!(from(set).unwrap(), expected);
        assert_eq!(from("").unwrap(), Pauses::default());
    }
}
