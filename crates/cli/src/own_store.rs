//! This machine's store, opened from its files and not through a daemon.

use std::path::Path;

use anyhow::Context as _;
use drover_config::{NixConf, Settings, StoreReference};
use drover_core::TrustedKeys;
use drover_store::Substitute;
use drover_store_local::{
    ContentSync, Layout, LocalOptions, LocalStore, LogForm, Optimise, Place, RequiredSignatures,
    Surroundings, Symlinks, Uid,
};
use rustix::fs::Access;

use crate::builders::substitute;
use crate::configuration::Configuration;

/// Says where a store of this machine is: in its files, or behind its daemon.
///
/// # Errors
///
/// Not a store of this machine, or one whose folders are none.
pub(crate) fn place(reference: &StoreReference) -> anyhow::Result<Place> {
    let uid = match rustix::process::geteuid().is_root() {
        true => Uid::Root,
        false => Uid::Other,
    };
    let around = Surroundings {
        variable: &|name| std::env::var(name).ok(),
        exists: &|path| path.exists(),
        writable: &is_writable,
        uid,
    };
    Layout::decide(reference, &around).with_context(|| format!("store '{reference}' can't be used"))
}

fn is_writable(path: &Path) -> bool {
    rustix::fs::access(path, Access::READ_OK | Access::WRITE_OK).is_ok()
}

/// Opens the store that builds are for from its files, where this user may write them. As long as
/// drover asks no substituters itself, a store that has some is left to Nix's own daemon.
///
/// # Errors
///
/// A setting with a value that it can't have.
pub(crate) fn for_building(configuration: &Configuration) -> anyhow::Result<Option<LocalStore>> {
    let Configuration { settings, conf, .. } = configuration;
    if substitute(settings) == Substitute::Yes {
        return Ok(None);
    }
    match place(&settings.store) {
        // NixOS mounts the store's directory read-only for all but its daemon
        Ok(Place::Local(layout)) if is_writable(&layout.state) && is_writable(&layout.real) => {
            open(layout, settings, conf).map(Some)
        }
        _ => Ok(None),
    }
}

/// Opens a store from its files, as configured.
///
/// # Errors
///
/// A setting with a value that it can't have.
pub(crate) fn open(
    layout: Layout,
    settings: &Settings,
    conf: &NixConf,
) -> anyhow::Result<LocalStore> {
    Ok(LocalStore::new(layout, options(settings, conf)?))
}

/// Returns a setting that is on or off.
fn is_on(conf: &NixConf, name: &str, default: bool) -> anyhow::Result<bool> {
    match conf.raw(name).map(|raw| raw.text()).as_deref() {
        None => Ok(default),
        Some("true" | "yes" | "1") => Ok(true),
        Some("false" | "no" | "0") => Ok(false),
        Some(other) => anyhow::bail!(
            "{}: setting '{name}' is '{other}' and must be 'true' or 'false'",
            conf.origin(name)
        ),
    }
}

/// Returns a setting that is a number of bytes.
fn bytes(conf: &NixConf, name: &str, default: u64) -> anyhow::Result<u64> {
    match conf.raw(name).map(|raw| raw.text()) {
        None => Ok(default),
        Some(text) => text.trim().parse().with_context(|| {
            let origin = conf.origin(name);
            format!("{origin}: setting '{name}' is '{text}' and must be a number of bytes")
        }),
    }
}

fn options(settings: &Settings, conf: &NixConf) -> anyhow::Result<LocalOptions> {
    let usual = LocalOptions::default();
    let keys = || {
        let keys = settings.trusted_public_keys.iter().map(String::as_str);
        TrustedKeys::parse(keys).context("setting 'trusted-public-keys' can't be used")
    };
    Ok(LocalOptions {
        signatures: match settings.require_sigs {
            true => RequiredSignatures::By(keys()?),
            false => RequiredSignatures::None,
        },
        // Nix leaves this out unless it's told to; a power cut costs it the store then
        contents: match is_on(conf, "fsync-store-paths", true)? {
            true => ContentSync::Full,
            false => ContentSync::Off,
        },
        metadata: match settings.fsync_metadata {
            true => usual.metadata,
            false => drover_store_local::MetadataSync::Off,
        },
        optimise: match is_on(conf, "auto-optimise-store", false)? {
            true => Optimise::OnImport,
            false => Optimise::OnDemand,
        },
        logs: match settings.compress_build_log {
            true => LogForm::Compressed,
            false => LogForm::Plain,
        },
        build_group: Some(settings.build_users_group.clone()).filter(|group| !group.is_empty()),
        symlinks: match is_on(conf, "allow-symlinked-store", false)? {
            true => Symlinks::Allowed,
            false => Symlinks::Refused,
        },
        reserved: bytes(conf, "gc-reserved-space", usual.reserved)?,
        keep_outputs: is_on(conf, "keep-outputs", usual.keep_outputs)?,
        keep_derivations: is_on(conf, "keep-derivations", usual.keep_derivations)?,
        min_free: bytes(conf, "min-free", usual.min_free)?,
        max_free: bytes(conf, "max-free", usual.max_free)?,
        ..usual
    })
}
