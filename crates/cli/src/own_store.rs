//! This machine's store, opened from its files and not through a daemon.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use drover_config::{NixConf, Settings, StoreReference};
use drover_core::StorePath;
use drover_store_local::{
    Access as LayoutAccess, ContentSync, Layout, LayoutError, LocalOptions, LocalStore, LogForm,
    Optimise, Place, RequiredSignatures, Sources, Surroundings, Symlinks, Uid,
};
use rustix::fs::Access;

use crate::configuration::Configuration;
use crate::local_store::StockDaemon;
use crate::output_trust::trusted_keys;
use crate::terminal::Terminal;
use crate::variables::variable;

/// Says where a store of this machine is: in its files, or behind its daemon.
///
/// # Errors
///
/// One whose folders are none.
pub(crate) fn place(reference: &StoreReference) -> anyhow::Result<Option<Place>> {
    let uid = match rustix::process::geteuid().is_root() {
        true => Uid::Root,
        false => Uid::Other,
    };
    let around = Surroundings {
        variable: &|name| variable(name)?.into_string().ok(),
        exists: &|path| path.exists(),
        writable: &is_writable,
        uid,
    };
    match Layout::decide(reference, &around) {
        Ok(place) => Ok(Some(place)),
        Err(LayoutError::NotLocal { .. }) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("store '{reference}' can't be used")),
    }
}

/// Whether this user may write something.
pub(crate) fn is_writable(path: &Path) -> bool {
    rustix::fs::access(path, Access::READ_OK | Access::WRITE_OK).is_ok()
}

/// Opens the store that builds are for from its files, where this user may write them.
///
/// A store with a substituter that drover can't ask is left to a daemon of Nix where there is one;
/// where there is none, builds go on without it, and the user is told.
///
/// # Errors
///
/// A setting with a value that it can't have.
pub(crate) fn for_building(
    configuration: &Configuration,
    local: &crate::local_store::LocalStore,
    sources: Sources,
    terminal: &Terminal,
) -> anyhow::Result<Option<LocalStore>> {
    let Configuration { settings, conf, host, .. } = configuration;
    let Some(layout) = writable_layout(&settings.store)? else { return Ok(None) };
    if !sources.unasked.is_empty() && local.stock_daemon(host) == StockDaemon::Present {
        return Ok(None);
    }
    for unasked in &sources.unasked {
        terminal.warn(unasked);
    }
    Ok(Some(open(layout, settings, conf)?.substituting_from(sources)))
}

/// Returns where a store of this machine is, if this user may write its files or make it.
///
/// # Errors
///
/// Those of [`place`].
pub(crate) fn writable_layout(reference: &StoreReference) -> anyhow::Result<Option<Layout>> {
    let Some(Place::Local(layout) | Place::Own(layout)) = place(reference)? else {
        return Ok(None);
    };
    // NixOS mounts the store's directory read-only for all but its daemon
    let may_be_written = layout.access == LayoutAccess::ReadWrite
        && can_be_written(&layout.state)
        && can_be_written(&layout.real);
    Ok(may_be_written.then_some(layout))
}

/// Whether a folder can be written, or be made where it is absent.
fn can_be_written(folder: &Path) -> bool {
    let nearest = folder.ancestors().find(|folder| folder.exists());
    nearest.is_some_and(|folder| folder.is_dir() && is_writable(folder))
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

/// Returns the settings of a store, of which its address may say itself whether it requires signatures.
///
/// # Errors
///
/// It says neither yes nor no.
pub(crate) fn settings_of(
    reference: &StoreReference,
    settings: &Settings,
) -> anyhow::Result<Settings> {
    let mut settings = settings.clone();
    match reference.param("require-sigs") {
        None => {}
        Some("true" | "yes" | "1") => settings.require_sigs = true,
        Some("false" | "no" | "0") => settings.require_sigs = false,
        Some(other) => anyhow::bail!(
            "store '{reference}': 'require-sigs' is '{other}' and must be true or false"
        ),
    }
    Ok(settings)
}

/// Opens a store in which somebody else holds the locks of these paths, and waits for them to be added.
///
/// # Errors
///
/// A setting with a value that it can't have.
pub(crate) fn open_under_locks(
    layout: Layout,
    settings: &Settings,
    conf: &NixConf,
    locked: BTreeSet<StorePath>,
) -> anyhow::Result<LocalStore> {
    let options = LocalOptions { locked_by_caller: locked, ..options(settings, conf)? };
    Ok(LocalStore::new(layout, options))
}

/// Returns a setting that is on or off.
pub(crate) fn is_on(conf: &NixConf, name: &str, default: bool) -> anyhow::Result<bool> {
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

/// Returns what settings ask of a store.
///
/// # Errors
///
/// A setting with a value that it can't have.
pub(crate) fn options(settings: &Settings, conf: &NixConf) -> anyhow::Result<LocalOptions> {
    let usual = LocalOptions::default();
    Ok(LocalOptions {
        signatures: match settings.require_sigs {
            true => RequiredSignatures::By(trusted_keys(settings, conf)?),
            false => RequiredSignatures::None,
        },
        contents: match settings.fsync_store_paths {
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
        reserved: conf.number("gc-reserved-space")?.unwrap_or(usual.reserved),
        keep_outputs: is_on(conf, "keep-outputs", usual.keep_outputs)?,
        keep_derivations: is_on(conf, "keep-derivations", usual.keep_derivations)?,
        min_free: conf.number("min-free")?.unwrap_or(usual.min_free),
        max_free: conf.number("max-free")?.unwrap_or(usual.max_free),
        free_interval: conf
            .number("min-free-check-interval")?
            .map_or(usual.free_interval, Duration::from_secs),
        ..usual
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use drover_config::{Environment, LocalSystem, User};
    use rstest::rstest;

    use super::*;

    /// Returns the options that a `nix.conf` asks for.
    fn from(text: &str) -> anyhow::Result<LocalOptions> {
        let files = BTreeMap::from([(PathBuf::from("/etc/nix/nix.conf"), text.to_owned())]);
        let environment = Environment::default();
        let conf = NixConf::load(&environment, &files, &[])?;
        let local = LocalSystem::new("x86_64-linux", User::Other);
        let settings = Settings::new(&conf, &environment, &local)?;
        options(&settings, &conf)
    }

    #[test]
    fn sizes_may_have_units() {
        let options = from(
            "min-free = 1G\nmax-free = 3g\nmin-free-check-interval = 7\ngc-reserved-space = 16M\n",
        )
        .unwrap();
        assert_eq!((options.min_free, options.max_free), (1 << 30, 3 << 30));
        assert_eq!((options.free_interval, options.reserved), (Duration::from_secs(7), 16 << 20));
        let usual = from("").unwrap();
        assert_eq!((usual.min_free, usual.max_free), (0, u64::MAX));
        assert_eq!((usual.free_interval, usual.reserved), (Duration::from_secs(5), 8 << 20));
    }

    #[rstest]
    #[case::word("min-free = much")]
    #[case::unit("max-free = 3X")]
    #[case::fraction("min-free-check-interval = 0.5")]
    #[case::overflow("gc-reserved-space = 99999999T")]
    #[case::switch("keep-outputs = perhaps")]
    fn what_is_none_is_refused_where_it_stands(#[case] line: &str) {
        let error = format!("{:#}", from(line).unwrap_err());
        let name = line.split(' ').next().unwrap();
        assert!(error.contains("/etc/nix/nix.conf:1") && error.contains(name), "{error}");
    }
}
