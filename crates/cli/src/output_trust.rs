//! Whether outputs that come from other machines need a signature.

use anyhow::Context as _;
use drover_config::Settings;
use drover_core::TrustedKeys;
use drover_fleet::{OutputTrust, ServiceOptions};

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
    Ok(ServiceOptions { outputs: output_trust(settings)?, ..ServiceOptions::default() })
}
