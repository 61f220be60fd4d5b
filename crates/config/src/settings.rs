//! The settings that drover reads, with their types and defaults.
//!
//! Names, meanings and defaults are those of C++ Nix 2.36 (`Setting<…>` in
//! `src/libstore/include/nix/store/*-settings.hh`, `globals.hh`,
//! `filetransfer.hh` and `src/nix/unix/daemon.cc`).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::caches::CacheOptions;
use crate::environment::{Environment, split_colons};
use crate::error::ConfigError;
use crate::nix_conf::{Base, NixConf, RawSetting};
use crate::store_reference::{StoreReference, StoreReferenceError};
use crate::typed_store::whole_store_name;
use crate::value::{self, Accepted, MaxJobs, Sandbox};
use crate::words::words;

/// The key of what Nix's own cache has.
const USUAL_KEY: &str = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";

/// What the defaults of some settings depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalSystem {
    /// Default of `system`, such as `x86_64-linux`.
    pub system: String,
    /// Default of `extra-platforms`.
    pub extra_platforms: BTreeSet<String>,
    /// Default of `system-features`.
    pub system_features: BTreeSet<String>,
    /// Who runs drover; decides the default of `build-users-group`.
    pub user: User,
}

/// Who runs a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// The superuser.
    Root,
    /// Anyone else.
    Other,
}

impl LocalSystem {
    /// Returns the defaults that follow from the system alone.
    ///
    /// Nix adds `kvm` to the features if `/dev/kvm` can be written, and levels
    /// of the processor such as `x86_64-v3-linux` to the platforms; that is
    /// for the caller to find out.
    pub fn new(system: &str, user: User) -> LocalSystem {
        let extra_platforms = match system {
            "x86_64-linux" => BTreeSet::from(["i686-linux".to_owned()]),
            _ => BTreeSet::new(),
        };
        let mut system_features: BTreeSet<String> =
            ["benchmark", "big-parallel", "nixos-test"].map(str::to_owned).into();
        if system.ends_with("-linux") {
            system_features.insert("uid-range".to_owned());
        }
        LocalSystem { system: system.to_owned(), extra_platforms, system_features, user }
    }
}

/// The settings that drover reads, under the names that Nix gives them.
///
/// [`NixConf::origin`] knows where each one was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `allowed-users`: who may talk to the daemon (`*` for all, `@group`).
    pub allowed_users: Vec<String>,
    /// `always-allow-substitutes`: substitute even derivations that forbid it.
    pub always_allow_substitutes: bool,
    /// `build-users-group`: the group of the users that builds run as; empty
    /// if they run as drover's own.
    pub build_users_group: String,
    /// `builders`: machines, for [`parse_machines`](crate::parse_machines).
    pub builders: String,
    /// `builders-use-substitutes`: builders fetch inputs themselves.
    pub builders_use_substitutes: bool,
    /// How binary caches are asked.
    pub caches: CacheOptions,
    /// `compress-build-log`
    pub compress_build_log: bool,
    /// `connect-timeout`: for downloads; nothing means no limit.
    pub connect_timeout: Option<Duration>,
    /// `cores`: what a build is told to use; 0 means all.
    pub cores: u32,
    /// `experimental-features`
    pub experimental_features: BTreeSet<String>,
    /// `extra-platforms`: what this machine builds for beside `system`.
    pub extra_platforms: BTreeSet<String>,
    /// `fallback`: build what cannot be substituted.
    pub fallback: bool,
    /// `fsync-metadata`: sync the database.
    pub fsync_metadata: bool,
    /// `fsync-store-paths`: sync store paths before they are registered. Nix leaves this out unless it's
    /// told to; a power cut costs it the store then.
    pub fsync_store_paths: bool,
    /// `keep-build-log`
    pub keep_build_log: bool,
    /// `keep-failed`: keep the directories of failed builds.
    pub keep_failed: bool,
    /// `keep-going`: go on with other builds when one fails.
    pub keep_going: bool,
    /// `local-speed-factor`, which is drover's own, as it's written: how fast this machine is beside the others.
    pub local_speed_factor: String,
    /// `log-lines`: how much of a failed build's log to show.
    pub log_lines: u64,
    /// `max-jobs`: builds at once on this machine.
    pub max_jobs: MaxJobs,
    /// `max-build-log-size`, in bytes; nothing means no limit.
    pub max_log_size: Option<u64>,
    /// `max-silent-time`: nothing means no limit.
    pub max_silent_time: Option<Duration>,
    /// `max-substitution-jobs`: substitutions at once.
    pub max_substitution_jobs: u32,
    /// `require-sigs`: take only paths signed by a trusted key.
    pub require_sigs: bool,
    /// `naming-users`, which is drover's own: who may say by what names connections come, trusted or not.
    pub naming_users: Vec<String>,
    /// `require-sigs-from-builders`, which is drover's own: take only what is signed by a trusted key
    /// of what other machines have built, too.
    pub require_sigs_from_builders: bool,
    /// `sandbox`
    pub sandbox: Sandbox,
    /// `sandbox-fallback`: build without a sandbox if the kernel has none.
    pub sandbox_fallback: bool,
    /// `sandbox-paths`: `PATH`, `INSIDE=OUTSIDE`, either with a final `?`.
    pub sandbox_paths: Vec<String>,
    /// `secret-key-files`: keys to sign builds with.
    pub secret_key_files: Vec<PathBuf>,
    /// `store`: where paths are wanted.
    pub store: StoreReference,
    /// `substitute`: use substituters at all.
    pub substitute: bool,
    /// `substituters`, in order.
    pub substituters: Vec<StoreReference>,
    /// What is wrong with words of `substituters` that are no stores; as with Nix, the others count all
    /// the same.
    pub unusable_substituters: Vec<StoreReferenceError>,
    /// `sync-before-registering`
    pub sync_before_registering: bool,
    /// `system`: what this machine builds for.
    pub system: String,
    /// `system-features`: what this machine offers to derivations.
    pub system_features: BTreeSet<String>,
    /// `timeout` of a build; nothing means no limit.
    pub timeout: Option<Duration>,
    /// `trusted-public-keys`, as `name:base64`.
    pub trusted_public_keys: Vec<String>,
    /// `trusted-substituters`: more that users may ask for.
    pub trusted_substituters: Vec<StoreReference>,
    /// `trusted-users`: who may do what root may (`@group`).
    pub trusted_users: Vec<String>,
}

impl Settings {
    /// Reads the settings out of `conf`.
    ///
    /// # Errors
    ///
    /// Returns an error if `NIX_REMOTE` is not a store. All other values have
    /// been checked when `conf` was loaded.
    pub fn new(
        conf: &NixConf,
        environment: &Environment,
        host: &LocalSystem,
    ) -> Result<Settings, ConfigError> {
        let get = Lookup { conf, current_dir: &environment.current_dir };
        Ok(Settings {
            allowed_users: get.words("allowed-users", &["*"]),
            always_allow_substitutes: get.switch("always-allow-substitutes", false)?,
            build_users_group: get.text("build-users-group", || build_users_group(host)),
            builders: get.text("builders", || default_builders(environment)),
            builders_use_substitutes: get.switch("builders-use-substitutes", false)?,
            caches: get.caches(environment)?,
            compress_build_log: get.switch("compress-build-log", true)?,
            connect_timeout: get.seconds("connect-timeout", 15)?,
            cores: get.number("cores", 0)?,
            experimental_features: get.set("experimental-features", &BTreeSet::new()),
            extra_platforms: get.set("extra-platforms", &host.extra_platforms),
            fallback: get.switch("fallback", false)?,
            fsync_metadata: get.switch("fsync-metadata", true)?,
            fsync_store_paths: get.switch("fsync-store-paths", true)?,
            keep_build_log: get.switch("keep-build-log", true)?,
            keep_failed: get.switch("keep-failed", false)?,
            keep_going: get.switch("keep-going", false)?,
            local_speed_factor: get.text("local-speed-factor", || "1".to_owned()),
            log_lines: get.value("log-lines", value::number64)?.unwrap_or(25),
            max_jobs: get.value("max-jobs", value::jobs)?.unwrap_or(MaxJobs::Count(1)),
            max_log_size: get.limit("max-build-log-size")?,
            max_silent_time: get.seconds("max-silent-time", 0)?,
            max_substitution_jobs: get.number("max-substitution-jobs", 16)?,
            naming_users: get.words("naming-users", &[]),
            require_sigs: get.switch("require-sigs", true)?,
            require_sigs_from_builders: get.switch("require-sigs-from-builders", false)?,
            sandbox: get.value("sandbox", value::sandbox)?.unwrap_or(default_sandbox(host)),
            sandbox_fallback: get.switch("sandbox-fallback", true)?,
            sandbox_paths: get.words("sandbox-paths", &[]),
            secret_key_files: get.words("secret-key-files", &[]).iter().map(Into::into).collect(),
            store: get.store(environment)?,
            substitute: get.switch("substitute", true)?,
            substituters: get.stores("substituters", &["https://cache.nixos.org/"]),
            unusable_substituters: get.no_stores(&["substituters", "trusted-substituters"]),
            sync_before_registering: get.switch("sync-before-registering", false)?,
            system: get.text("system", || host.system.clone()),
            system_features: get.set("system-features", &host.system_features),
            timeout: get.seconds("timeout", 0)?,
            trusted_public_keys: get.words("trusted-public-keys", &[USUAL_KEY]),
            trusted_substituters: get.stores("trusted-substituters", &[]),
            trusted_users: get.words("trusted-users", &["root"]),
        })
    }
}

fn build_users_group(host: &LocalSystem) -> String {
    match host.user {
        User::Root => "nixbld".to_owned(),
        User::Other => String::new(),
    }
}

fn default_builders(environment: &Environment) -> String {
    match &environment.nix_remote_systems {
        Some(files) => split_colons(files).map(|file| format!("@{file}\n")).collect(),
        None => format!("@{}", environment.conf_dir().join("machines").display()),
    }
}

fn default_sandbox(host: &LocalSystem) -> Sandbox {
    let isolates = host.system.ends_with("-linux") || host.system.ends_with("-freebsd");
    if isolates { Sandbox::Enabled } else { Sandbox::Disabled }
}

fn default_store(environment: &Environment) -> Result<StoreReference, ConfigError> {
    let text = environment.nix_remote.as_deref().unwrap_or("auto");
    value::store(&whole_store_name(text, &environment.current_dir)).map_err(|accepted| {
        ConfigError::BadValue {
            origin: crate::Origin::Environment { name: "NIX_REMOTE", line: 1 },
            setting: "store",
            value: text.to_owned(),
            accepted,
        }
    })
}

/// Reads single settings; nothing means the default.
struct Lookup<'c> {
    conf: &'c NixConf,
    /// Where paths of stores begin that don't begin at the root.
    current_dir: &'c Path,
}

impl Lookup<'_> {
    fn value<T>(
        &self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, Accepted>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(setting) = self.conf.raw(name) else { return Ok(None) };
        let text = setting.text();
        parse(&text).map(Some).map_err(|accepted| ConfigError::BadValue {
            origin: setting.origin().clone(),
            setting: name,
            value: text,
            accepted,
        })
    }

    fn number(&self, name: &'static str, default: u32) -> Result<u32, ConfigError> {
        Ok(self.value(name, value::number32)?.unwrap_or(default))
    }

    fn switch(&self, name: &'static str, default: bool) -> Result<bool, ConfigError> {
        Ok(self.value(name, value::switch)?.unwrap_or(default))
    }

    fn store(&self, environment: &Environment) -> Result<StoreReference, ConfigError> {
        match self.value("store", value::store)? {
            Some(store) => Ok(store),
            None => default_store(environment),
        }
    }

    /// A number of which zero means that there is no limit.
    fn limit(&self, name: &'static str) -> Result<Option<u64>, ConfigError> {
        Ok(self.value(name, value::number64)?.filter(|limit| *limit != 0))
    }

    fn seconds(&self, name: &'static str, default: u64) -> Result<Option<Duration>, ConfigError> {
        let seconds = self.value(name, value::number64)?.unwrap_or(default);
        Ok((seconds != 0).then(|| Duration::from_secs(seconds)))
    }

    fn ttl(&self, name: &'static str, default: u64) -> Result<Duration, ConfigError> {
        let seconds = self.value(name, value::number64)?;
        Ok(Duration::from_secs(seconds.unwrap_or(default)))
    }

    fn caches(&self, environment: &Environment) -> Result<CacheOptions, ConfigError> {
        let file = |name| Some(self.text(name, String::new)).filter(|file| !file.is_empty());
        let number = |name| self.value(name, value::number32);
        let netrc = || environment.conf_dir().join("netrc");
        Ok(CacheOptions {
            download_attempts: number("filetransfer-retry-attempts")?.unwrap_or(5),
            http_connections: number("http-connections")?.unwrap_or(25),
            netrc_file: file("netrc-file").map_or_else(netrc, PathBuf::from),
            ssl_cert_file: file("ssl-cert-file").map(PathBuf::from),
            stalled_download_timeout: self.seconds("stalled-download-timeout", 300)?,
            user_agent_suffix: self.text("user-agent-suffix", String::new),
            positive_ttl: self.ttl("narinfo-cache-positive-ttl", 30 * 24 * 3600)?,
            negative_ttl: self.ttl("narinfo-cache-negative-ttl", 3600)?,
        })
    }

    fn text(&self, name: &str, default: impl FnOnce() -> String) -> String {
        self.conf.raw(name).map_or_else(default, RawSetting::text)
    }

    fn words(&self, name: &str, default: &[&str]) -> Vec<String> {
        let setting = self.conf.raw(name);
        let kept = match setting.map(RawSetting::base) {
            Some(Base::Empty) => &[],
            Some(Base::Default) | None => default,
        };
        let added = setting.map(RawSetting::text).unwrap_or_default();
        kept.iter().copied().chain(words(&added)).map(str::to_owned).collect()
    }

    fn set(&self, name: &str, default: &BTreeSet<String>) -> BTreeSet<String> {
        let default: Vec<&str> = default.iter().map(String::as_str).collect();
        self.words(name, &default).into_iter().collect()
    }

    fn stores(&self, name: &str, default: &[&str]) -> Vec<StoreReference> {
        self.store_names(name, default).filter_map(|word| word.parse().ok()).collect()
    }

    /// Returns what is wrong with those words that are no stores.
    fn no_stores(&self, names: &[&str]) -> Vec<StoreReferenceError> {
        let words = names.iter().flat_map(|name| self.store_names(name, &[]));
        words.filter_map(|word| word.parse::<StoreReference>().err()).collect()
    }

    fn store_names(&self, name: &str, default: &[&str]) -> impl Iterator<Item = String> {
        self.words(name, default).into_iter().map(|word| whole_store_name(&word, self.current_dir))
    }
}
