//! Whether outputs that come from other machines need a signature.

use anyhow::Context as _;
use drover_config::Settings;
use drover_core::TrustedKeys;
use drover_fleet::{OutputTrust, OwnKind, ServiceOptions};

use crate::own_builder;

/// Returns what such outputs need.
///
/// # Errors
///
/// Keys that are none.
pub(crate) fn output_trust(settings: &Settings) -> anyhow::Result<OutputTrust> {
    if !settings.require_sigs_from_builders {
        return Ok(OutputTrust::Machine);
    }
    let keys = settings.trusted_public_keys.iter().map(String::as_str);
    let keys = TrustedKeys::parse(keys).context("setting 'trusted-public-keys' can't be used")?;
    Ok(OutputTrust::Signature(keys))
}

/// Returns how a service for many clients works.
///
/// # Errors
///
/// As [`output_trust`].
pub(crate) fn service_options(settings: &Settings) -> anyhow::Result<ServiceOptions> {
    let own_kind = OwnKind {
        system: settings.system.clone(),
        other_systems: settings.extra_platforms.clone(),
        features: own_builder::features(settings),
    };
    let outputs = output_trust(settings)?;
    Ok(ServiceOptions { outputs, own_kind: Some(own_kind), ..ServiceOptions::default() })
}
