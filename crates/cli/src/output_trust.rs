//! Whether outputs that come from other machines need a signature.

use anyhow::Context as _;
use drover_config::{NixConf, Settings};
use drover_core::TrustedKeys;
use drover_fleet::{OutputTrust, OwnKind, ServiceOptions};

use crate::configuration::Configuration;
use crate::own_builder;

/// Returns what such outputs need.
///
/// # Errors
///
/// Keys that are none.
pub(crate) fn output_trust(configuration: &Configuration) -> anyhow::Result<OutputTrust> {
    let Configuration { settings, conf, .. } = configuration;
    if !settings.require_sigs_from_builders {
        return Ok(OutputTrust::Machine);
    }
    Ok(OutputTrust::Signature(trusted_keys(settings, conf)?))
}

/// Returns whose signatures count.
///
/// # Errors
///
/// A text that is no key, and where it stands.
pub(crate) fn trusted_keys(settings: &Settings, conf: &NixConf) -> anyhow::Result<TrustedKeys> {
    const NAME: &str = "trusted-public-keys";
    let mut keys = TrustedKeys::default();
    for text in &settings.trusted_public_keys {
        let key = text.parse().with_context(|| {
            format!("{}: '{text}' in setting '{NAME}' can't be used", conf.origin(NAME))
        })?;
        keys.add(key);
    }
    Ok(keys)
}

/// Returns how a service for many clients works.
///
/// # Errors
///
/// As [`output_trust`].
pub(crate) fn service_options(configuration: &Configuration) -> anyhow::Result<ServiceOptions> {
    let settings = &configuration.settings;
    let own_kind = OwnKind {
        system: settings.system.clone(),
        other_systems: settings.extra_platforms.clone(),
        features: own_builder::features(settings),
    };
    let outputs = output_trust(configuration)?;
    Ok(ServiceOptions { outputs, own_kind: Some(own_kind), ..ServiceOptions::default() })
}
