//! drover's own builder for this machine, as configured.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use drover_build_local::{
    BuildUsers, Groups, KeepFailed, KeepLog, LocalBuilder, LocalSettings, OwnGroups, PER_RANGE,
    PostBuildHook, SandboxFallback, SandboxMode, SandboxPath, SigningKeys, Wherever,
    refusal_of_users,
};
use drover_config::{Base, NixConf, Sandbox, Settings};
use drover_fleet::{MachineSpec, Site};
use drover_sandbox::{LauncherProgram, Standing, SyscallFilter, TmpfsSize};
use drover_schedule::{Bandwidth, Machine, MachineKind};
use drover_store::{Builder, Substitute};
use drover_store_local::{Layout, LocalStore};

use crate::builders::LOCAL;
use crate::configuration::Configuration;
use crate::host;
use crate::own_store::is_on;
use crate::terminal::Terminal;
use crate::{downloads, forwarding, signing, usual_shell};

/// With this argument the program is the launcher of builds.
pub(crate) const LAUNCHER: &str = "__sandbox";

/// Who keeps to the limits of builds' time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LimitsKeptBy {
    /// The builder, as there's only one who has things built.
    Builder,
    /// Who gives builds to it, as limits differ from client to client.
    Caller,
}

/// Says why this machine's builds can't be done by drover as it's configured.
pub(crate) fn refusal(configuration: &Configuration, layout: &Layout) -> Option<String> {
    let Configuration { settings, .. } = configuration;
    let in_place = layout.real.as_os_str() == layout.store_dir.as_str();
    if Standing::of_this_process() == Standing::Root
        && in_place
        && settings.sandbox == Sandbox::Disabled
        && settings.build_users_group.is_empty()
    {
        return Some(
            "drover builds nothing as root: name build users by 'build-users-group', or have \
             builds shut in by 'sandbox = true'"
                .to_owned(),
        );
    }
    match users(configuration) {
        Ok(users) if Standing::of_this_process() == Standing::Root => refusal_of_users(&users),
        // what is wrong with the settings is told where they are read
        _ => None,
    }
}

/// Returns the builder, which is the same for all lists of machines.
///
/// # Errors
///
/// A setting with a value that it can't have, or a key that is none.
pub(crate) fn builder(
    configuration: &Configuration,
    store: Arc<LocalStore>,
    limits: LimitsKeptBy,
    other: Option<Arc<dyn Builder>>,
    terminal: &Terminal,
) -> anyhow::Result<LocalBuilder> {
    let keys = signing::keys(&configuration.settings.secret_key_files, terminal)?;
    if is_on(&configuration.conf, "allow-new-privileges", false)? {
        terminal
            .warn("'allow-new-privileges' has no effect: programs in builds get no more rights");
    }
    let settings = settings(configuration, limits)?;
    terminal.detail(&forwarding::told(&configuration.conf, settings.forwarder.as_ref()));
    let settings = LocalSettings { keys: SigningKeys(Arc::new(keys)), ..settings };
    Ok(match other {
        Some(other) => LocalBuilder::with_other(store, settings, other),
        None => LocalBuilder::new(store, settings),
    })
}

/// Who builds on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LocalBuildsBy {
    /// drover, which leaves outputs' paths to their contents where a derivation says so, without being
    /// told that this is an experiment.
    Drover,
    /// Nix's daemon.
    Nix,
}

/// Returns this machine, if it builds: unless `max-jobs` is 0.
///
/// # Errors
///
/// A setting with a value that it can't have.
pub(crate) fn machine(
    configuration: &Configuration,
    substitute: Substitute,
    by: LocalBuildsBy,
    open: Arc<dyn Fn() -> Arc<dyn Site> + Send + Sync>,
) -> anyhow::Result<Option<MachineSpec>> {
    let settings = &configuration.settings;
    let slots = settings.max_jobs.resolve(host::processors());
    if slots == 0 {
        return Ok(None);
    }
    let features = match by {
        LocalBuildsBy::Drover => features(settings),
        LocalBuildsBy::Nix => settings.system_features.clone(),
    };
    let description = Machine {
        name: LOCAL.to_owned(),
        kind: MachineKind::Local,
        systems: systems(configuration),
        slots,
        speed_factor: speed_factor(configuration)?,
        supported_features: features,
        mandatory_features: Default::default(),
        round_trip: Duration::ZERO,
        bandwidth: Bandwidth(0),
        other_terms: Vec::new(),
    };
    Ok(Some(MachineSpec { description, substitute, open }))
}

/// Returns the systems that this machine builds for.
pub(crate) fn systems(configuration: &Configuration) -> BTreeSet<String> {
    let settings = &configuration.settings;
    let mut systems = settings.extra_platforms.clone();
    systems.insert(settings.system.clone());
    systems
}

/// Returns the features of this machine where drover builds, which needs no setting for floating derivations.
pub(crate) fn features(settings: &Settings) -> BTreeSet<String> {
    let mut features = settings.system_features.clone();
    features.insert("ca-derivations".to_owned());
    features
}

/// How fast this machine is beside the others, by the setting `local-speed-factor`, which Nix lacks.
fn speed_factor(Configuration { settings, conf, .. }: &Configuration) -> anyhow::Result<f64> {
    const NAME: &str = "local-speed-factor";
    let text = &settings.local_speed_factor;
    match text.trim().parse::<f64>() {
        Ok(factor) if factor.is_finite() && factor > 0.0 => Ok(factor),
        _ => bail!(
            "{}: setting '{NAME}' is '{text}' and must be a number above 0",
            conf.origin(NAME)
        ),
    }
}

fn settings(configuration: &Configuration, limits: LimitsKeptBy) -> anyhow::Result<LocalSettings> {
    let Configuration { settings, conf, .. } = configuration;
    let usual = LocalSettings::new(LauncherProgram::this_one(LAUNCHER), &settings.system);
    let text = |name: &str| conf.raw(name).map(|raw| raw.text()).filter(|text| !text.is_empty());
    let of_builder = |limit: Option<Duration>| limit.filter(|_| limits == LimitsKeptBy::Builder);
    Ok(LocalSettings {
        systems: systems(configuration),
        features: settings.system_features.clone(),
        sandbox: sandbox_mode(settings.sandbox),
        fallback: match settings.sandbox_fallback {
            true => SandboxFallback::WithoutSandbox,
            false => SandboxFallback::Fail,
        },
        paths: sandbox_paths(configuration)?,
        sandbox_build_dir: sandbox_build_dir(configuration)?.unwrap_or(usual.sandbox_build_dir),
        dev_shm: match text("sandbox-dev-shm-size") {
            Some(size) => shm_size(conf, &size)?,
            None => usual.dev_shm,
        },
        build_dir: path_of(conf, "build-dir")?,
        users: users(configuration)?,
        user_locks: Some(user_locks(&configuration.host.state_dir)),
        own_groups: own_groups(conf)?,
        groups: groups(conf)?,
        filter: filter(conf)?,
        cores: settings.cores,
        timeout: of_builder(settings.timeout),
        max_silent_time: of_builder(settings.max_silent_time),
        max_log_size: settings.max_log_size,
        log_lines: usize::try_from(settings.log_lines).unwrap_or(usize::MAX),
        keep_failed: match settings.keep_failed {
            true => KeepFailed::Yes,
            false => KeepFailed::No,
        },
        pre_build_hook: path_of(conf, "pre-build-hook")?,
        post_build_hook: post_build_hook(conf)?,
        hook_settings: hook_settings(conf),
        diff_hook: diff_hook(conf)?,
        keep_log: if settings.keep_build_log { KeepLog::Yes } else { KeepLog::No },
        forwarder: forwarding::forwarder(conf)?,
        certificates: certificates(text("ssl-cert-file")),
        outside: downloads::outside(conf)?,
        own_variables: downloads::own_variables(conf),
        fetching: downloads::fetching(conf)?,
        netrc: Some(downloads::netrc_file(configuration)),
        ..usual
    })
}

/// Says whether builds may have this user's supplementary groups. Root, who can leave them but in a user
/// namespace, wants to have left them, as in Nix.
fn own_groups(conf: &NixConf) -> anyhow::Result<OwnGroups> {
    let is_root = rustix::process::geteuid().is_root();
    Ok(match is_on(conf, "require-drop-supplementary-groups", is_root)? {
        true => OwnGroups::MustGo,
        false => OwnGroups::MayStay,
    })
}

fn filter(conf: &NixConf) -> anyhow::Result<SyscallFilter> {
    Ok(match is_on(conf, "filter-syscalls", true)? {
        true => SyscallFilter::Builds,
        false => SyscallFilter::Off,
    })
}

fn groups(conf: &NixConf) -> anyhow::Result<Groups> {
    Ok(match is_on(conf, "use-cgroups", false)? {
        true => Groups::Always,
        false => Groups::ForRanges,
    })
}

/// Returns what shows how outputs differ, where that is wanted.
fn diff_hook(conf: &NixConf) -> anyhow::Result<Option<PathBuf>> {
    match is_on(conf, "run-diff-hook", false)? {
        true => path_of(conf, "diff-hook"),
        false => Ok(None),
    }
}

/// Returns what runs after builds, wherever they were done.
///
/// # Errors
///
/// It isn't named by its whole path.
pub(crate) fn post_build_hook(conf: &NixConf) -> anyhow::Result<Option<PostBuildHook>> {
    let Some(program) = path_of(conf, "post-build-hook")? else { return Ok(None) };
    Ok(Some(PostBuildHook { program, settings: hook_settings(conf) }))
}

/// Returns all settings, as hooks get them.
pub(crate) fn hook_settings(conf: &NixConf) -> String {
    let line = |(name, raw): (&str, &drover_config::RawSetting)| {
        let more = match raw.base() {
            Base::Empty => "",
            Base::Default => "extra-",
        };
        format!("{more}{name} = {}\n", raw.text().replace('\n', " "))
    };
    conf.iter().map(line).collect()
}

/// Returns a file or a folder that is named by its whole path, as it must be; nothing where none is.
pub(crate) fn path_of(conf: &NixConf, name: &'static str) -> anyhow::Result<Option<PathBuf>> {
    let text = conf.raw(name).map(|raw| raw.text()).filter(|text| !text.is_empty());
    let Some(path) = text.map(PathBuf::from) else { return Ok(None) };
    match path.is_absolute() {
        true => Ok(Some(path)),
        false => bail!(
            "{}: setting '{name}' is '{}' and must be an absolute path",
            conf.origin(name),
            path.display()
        ),
    }
}

fn sandbox_paths(configuration: &Configuration) -> anyhow::Result<Vec<SandboxPath>> {
    let Configuration { settings, conf, .. } = configuration;
    let origin = || conf.origin("sandbox-paths").to_string();
    let given = settings.sandbox_paths.iter().map(|path| path.parse().with_context(origin));
    let mut paths: Vec<SandboxPath> = given.collect::<anyhow::Result<_>>()?;
    let is_set = conf.raw("sandbox-paths").is_some_and(|raw| raw.base() == Base::Empty);
    let shell = Path::new("/bin/sh");
    if !is_set
        && !paths.iter().any(|path| path.inside == shell)
        && let Some(outside) = usual_shell::find()
    {
        let (inside, wherever) = (shell.to_owned(), Wherever::IfPresent);
        paths.push(SandboxPath { inside, outside, wherever });
    }
    Ok(paths)
}

fn sandbox_mode(sandbox: Sandbox) -> SandboxMode {
    match sandbox {
        Sandbox::Enabled => SandboxMode::Always,
        Sandbox::Relaxed => SandboxMode::Relaxed,
        Sandbox::Disabled => SandboxMode::Never,
    }
}

/// As whom builds run that root starts. Without a group of its own, Nix has them run as root; here
/// they get users that belong to nobody.
fn users(configuration: &Configuration) -> anyhow::Result<BuildUsers> {
    let Configuration { settings, conf, .. } = configuration;
    let group = settings.build_users_group.clone();
    if !group.is_empty() && !is_on(conf, "auto-allocate-uids", false)? {
        return Ok(BuildUsers::Group(group));
    }
    let BuildUsers::Allocated { first, count } = LocalSettings::ALLOCATED else {
        return Ok(LocalSettings::ALLOCATED);
    };
    let number = |name: &'static str, usual: u32| -> anyhow::Result<u32> {
        let given = conf.number(name)?.unwrap_or(usual.into());
        u32::try_from(given).with_context(|| format!("{}: setting '{name}'", conf.origin(name)))
    };
    let (first, count) = (number("start-id", first)?, number("id-count", count)?);
    if count < PER_RANGE {
        let origin = conf.origin("id-count");
        bail!(
            "{origin}: setting 'id-count' is '{count}' and must be {PER_RANGE} at least, as one build takes so many"
        );
    }
    // the last number stands for nobody
    if u32::MAX - first < count {
        let origin = conf.origin("start-id");
        bail!(
            "{origin}: setting 'start-id' is '{first}', and 'id-count' numbers from there on ({count}) are more than there are"
        );
    }
    Ok(BuildUsers::Allocated { first, count })
}

/// Checks where builds find their folder in the sandbox: nothing else may be there.
fn sandbox_build_dir(configuration: &Configuration) -> anyhow::Result<Option<String>> {
    let Configuration { conf, store_dir, .. } = configuration;
    let Some(dir) = path_of(conf, "sandbox-build-dir")? else { return Ok(None) };
    let is_plain = dir.components().skip(1).all(|part| matches!(part, Component::Normal(_)));
    let rule = if !is_plain || dir == *"/" {
        "must be a folder's plain path below '/'"
    } else if Path::new(store_dir.as_str()).starts_with(&dir) {
        "must not contain the store's folder"
    } else {
        match dir.to_str() {
            Some(dir) => return Ok(Some(dir.to_owned())),
            None => "must be UTF-8",
        }
    };
    let origin = conf.origin("sandbox-build-dir");
    bail!("{origin}: setting 'sandbox-build-dir' is '{}' and {rule}", dir.display())
}

/// Where Nix has its locks on users, whatever the store; where there is no Nix, in a place that is as
/// much the same for all stores.
fn user_locks(state: &Path) -> PathBuf {
    match state.exists() {
        true => state.to_owned(),
        false => PathBuf::from("/run/drover"),
    }
}

/// Reads the size of a file system in memory, in bytes or per cent, as `mount` does.
fn shm_size(conf: &NixConf, text: &str) -> anyhow::Result<TmpfsSize> {
    let bad = || {
        format!(
            "{}: setting 'sandbox-dev-shm-size' is '{text}' and must be a number, with 'k', 'm', \
             'g' or '%' behind it",
            conf.origin("sandbox-dev-shm-size")
        )
    };
    if let Some(percent) = text.strip_suffix('%') {
        return Ok(TmpfsSize::Percent(percent.parse().with_context(bad)?));
    }
    let (digits, shift) = match text.to_ascii_lowercase().as_bytes().last() {
        Some(b'k') => (text.len() - 1, 10),
        Some(b'm') => (text.len() - 1, 20),
        Some(b'g') => (text.len() - 1, 30),
        _ => (text.len(), 0),
    };
    let number: u64 = text.get(..digits).unwrap_or_default().parse().with_context(bad)?;
    Ok(TmpfsSize::Bytes(number.checked_mul(1 << shift).with_context(bad)?))
}

fn certificates(set: Option<String>) -> Option<PathBuf> {
    let variable = |name: &str| std::env::var(name).ok().filter(|file| !file.is_empty());
    let set = set.or_else(|| variable("NIX_SSL_CERT_FILE")).or_else(|| variable("SSL_CERT_FILE"));
    let usual = [
        "/etc/ssl/certs/ca-certificates.crt",
        "/nix/var/nix/profiles/default/etc/ssl/certs/ca-bundle.crt",
    ];
    let usual = usual.into_iter().map(PathBuf::from).find(|file| file.exists());
    set.map(PathBuf::from).or(usual)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use drover_config::{LocalSystem, Settings, User};
    use drover_core::StoreDir;

    use super::*;
    use crate::host::Host;

    /// All that is made of the settings of a `nix.conf`.
    fn made_of(text: &str) -> String {
        let mut host = Host::of_this_process();
        host.environment = Default::default();
        let files = BTreeMap::from([(PathBuf::from("/etc/nix/nix.conf"), text.to_owned())]);
        let conf = NixConf::load(&host.environment, &files, &[]).unwrap();
        let local = LocalSystem::new("x86_64-linux", User::Root);
        let typed = Settings::new(&conf, &host.environment, &local).unwrap();
        let store = crate::own_store::options(&typed, &conf).unwrap();
        let store_dir = StoreDir::default();
        let overrides = Vec::new();
        let configuration = Configuration { host, conf, settings: typed, store_dir, overrides };
        let mut builder = settings(&configuration, LimitsKeptBy::Builder).unwrap();
        // these are the text itself
        builder.hook_settings = String::new();
        let speed = speed_factor(&configuration).unwrap();
        let fetching = &builder.fetching;
        let pauses = [fetching.pause_ms, fetching.pause_when_busy_ms, fetching.longest_pause_ms];
        let given = (&fetching.hashed_mirrors, pauses, (builder.outside.0)("DROVER_TEST_IMPURE"));
        format!("{:?}\n{store:?}\n{builder:?}\n{speed} {given:?}", configuration.settings)
    }

    #[test]
    fn the_reference_tells_the_defaults() {
        let page = include_str!("../../../docs/settings.md");
        // what comes behind that is read elsewhere, or has no effect
        let (page, rest) = page.split_once("## By the names of Nix's programs").unwrap();
        assert!(rest.contains("| `build-hook` |"));
        let mut told = 0;
        for row in page.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = row.split(" | ").collect();
            let name = row.split('`').nth(1).unwrap();
            let (kind, default) = (cells[1], cells[2].trim_matches('`'));
            let is_exact = default != cells[2];
            let another = match (kind, default) {
                ("true or false", "true") | ("true, relaxed or false", _) => "false",
                // by whom it's run, which is root here
                ("true or false", "*`true` for root*") => "false",
                ("true or false", _) => "true",
                _ if name == "id-count" => "131072",
                ("whole number" | "number or auto", _) => "7",
                _ if name == "local-speed-factor" => "7",
                _ if name == "sandbox-dev-shm-size" => "7%",
                _ if name == "trusted-public-keys" => "",
                _ if name == "impure-env" => "DROVER_TEST_IMPURE=b",
                _ => "/x",
            };
            let more = match name {
                "diff-hook" => "\nrun-diff-hook = true",
                "run-diff-hook" => "\ndiff-hook = /x",
                "impure-env" => "\nexperimental-features = configurable-impure-env",
                "start-id" | "id-count" => "\nauto-allocate-uids = true",
                _ => "",
            };
            let (with, without) = (made_of(&format!("{name} = {another}{more}")), made_of(more));
            assert_ne!(with, without, "{name} changes nothing");
            if is_exact {
                let same = made_of(&format!("{name} = {default}{more}"));
                assert_eq!(same, without, "{name} = {default}");
                told += 1;
            }
        }
        assert!(told > 40, "only {told} defaults");
    }
}
