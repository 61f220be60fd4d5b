//! What was typed, together with `nix.conf` and the environment.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context as _;
use drover_config::{
    Base, ConfigError, Environment, NixConf, Note, Origin, Override, Scheme, Settings, Severity,
    StoreReference, whole_store_name,
};
use drover_core::StoreDir;
use drover_store::BuildSettings;

use crate::host::{self, FileSystem, Host};
use crate::terminal::Terminal;

/// How long a machine may take to greet where `connect-timeout` says nothing.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Everything that was configured, resolved.
#[derive(Clone)]
pub(crate) struct Configuration {
    /// The environment.
    pub(crate) host: Host,
    /// All settings as text, with where they were written.
    pub(crate) conf: NixConf,
    /// The settings with their types.
    pub(crate) settings: Settings,
    /// The directory that store paths are in, unless the store says otherwise.
    pub(crate) store_dir: StoreDir,
    /// What was typed.
    pub(crate) overrides: Vec<Override>,
}

impl Configuration {
    /// Reads the configuration, and warns of what is strange about it.
    ///
    /// # Errors
    ///
    /// A setting with a value that it can't have, wherever it was written.
    pub(crate) fn load(
        overrides: &[Override],
        terminal: &Terminal,
    ) -> anyhow::Result<Configuration> {
        let configuration = Configuration::load_beside_nix(overrides, terminal)?;
        configuration.warn_of_unknown(terminal);
        Ok(configuration)
    }

    /// The same where a program of Nix may read it, too, which warns of settings that nobody knows.
    pub(crate) fn load_beside_nix(
        overrides: &[Override],
        terminal: &Terminal,
    ) -> anyhow::Result<Configuration> {
        let overrides = with_whole_paths(overrides);
        let configuration = Configuration::read(Host::of_this_process(), overrides)?;
        tell(configuration.conf.notes(), terminal);
        let store = &configuration.settings.store;
        for name in store.unknown_params() {
            terminal.warn(&format!("store '{store}': unknown setting '{name}'"));
        }
        Ok(configuration)
    }

    /// Warns of settings that nobody knows, in Nix's words.
    pub(crate) fn warn_of_unknown(&self, terminal: &Terminal) {
        for setting in self.conf.unknown() {
            terminal.warn(&format!("unknown setting '{}'", setting.name));
        }
    }

    /// Reads the configuration without what is wrong with it, which is returned beside it.
    ///
    /// # Errors
    ///
    /// A setting with a value that it can't have, where it was typed.
    pub(crate) fn load_what_is_sound(
        overrides: &[Override],
    ) -> anyhow::Result<(Configuration, Vec<ConfigError>)> {
        let (host, overrides) = (Host::of_this_process(), with_whole_paths(overrides));
        let environment = &host.environment;
        let (mut conf, mut errors) =
            NixConf::load_what_is_sound(environment, &FileSystem, &overrides)?;
        loop {
            match Settings::new(&conf, environment, &host::local_system()) {
                Err(error @ ConfigError::BadValue { setting, .. })
                    if matches!(
                        conf.origin(setting),
                        Origin::File { .. } | Origin::Environment { .. }
                    ) =>
                {
                    conf = conf.without(setting);
                    errors.push(error);
                }
                settings => {
                    let configuration = Configuration::of(host, conf, settings?, overrides)?;
                    return Ok((configuration, errors));
                }
            }
        }
    }

    fn read(host: Host, overrides: Vec<Override>) -> anyhow::Result<Configuration> {
        let conf = NixConf::load(&host.environment, &FileSystem, &overrides)?;
        let settings = Settings::new(&conf, &host.environment, &host::local_system())?;
        Configuration::of(host, conf, settings, overrides)
    }

    fn of(
        host: Host,
        conf: NixConf,
        mut settings: Settings,
        overrides: Vec<Override>,
    ) -> anyhow::Result<Configuration> {
        if let Some(features) = features_of(&settings.store) {
            settings.system_features = features;
        }
        let store_dir = match &host.store_dir {
            Some(dir) => dir.parse().context("NIX_STORE_DIR can't be used")?,
            None => StoreDir::default(),
        };
        Ok(Configuration { host, conf, settings, store_dir, overrides })
    }

    /// Returns the same for the store that this machine's programs use by themselves, whichever was typed.
    ///
    /// # Errors
    ///
    /// As [`Configuration::load`].
    pub(crate) fn of_this_machine(&self) -> anyhow::Result<Configuration> {
        let typed = self.overrides.iter().filter(|given| given.name != "store").cloned().collect();
        let mut here = Configuration::read(self.host.clone(), typed)?;
        if here.settings.store.scheme().is_ssh() {
            here.settings.store = "auto".parse()?;
        }
        Ok(here)
    }

    /// Returns the places that say what a setting is: more than one where lines add to each other.
    pub(crate) fn places(&self, name: &str) -> Vec<String> {
        let name = match features_of(&self.settings.store) {
            Some(_) if name == "system-features" => "store",
            _ => name,
        };
        match self.conf.raw(name) {
            Some(set) => set.origins().map(ToString::to_string).collect(),
            None => vec![self.host.environment.origin_of_default(name).to_string()],
        }
    }

    /// Returns the settings as they are here where nobody has set anything.
    ///
    /// # Errors
    ///
    /// None: what fails is what somebody has set.
    pub(crate) fn defaults() -> anyhow::Result<Settings> {
        Ok(Settings::new(&NixConf::default(), &Environment::default(), &host::local_system())?)
    }

    /// Returns how long a machine may take to greet.
    pub(crate) fn connect_timeout(&self) -> Duration {
        self.set_connect_timeout().unwrap_or(CONNECT_TIMEOUT)
    }

    /// Returns how long a machine may take to greet, where `connect-timeout` says so.
    pub(crate) fn set_connect_timeout(&self) -> Option<Duration> {
        self.conf.raw("connect-timeout").and(self.settings.connect_timeout)
    }

    /// Returns the settings that go to every machine with a build.
    pub(crate) fn build_settings(&self) -> BuildSettings {
        BuildSettings {
            timeout: self.settings.timeout,
            max_silent_time: self.settings.max_silent_time,
            // nix.conf speaks of this machine; other machines have their own
            cores: is_from_command_line(self.conf.origin("cores")).then_some(self.settings.cores),
            usual_cores: self.settings.cores,
            keep_failed: self.settings.keep_failed,
            overrides: BTreeMap::new(),
        }
    }

    /// Returns the settings that go to the local store where drover spreads the builds itself: a
    /// daemon must not distribute what drover has given it to build.
    pub(crate) fn local_settings(&self) -> BuildSettings {
        let mut settings = self.client_settings();
        settings.overrides.insert("builders".to_owned(), String::new());
        settings
    }

    /// Returns the settings that go to a daemon, as from a stock client: what this user has set
    /// comes with them.
    pub(crate) fn client_settings(&self) -> BuildSettings {
        /// What means something to clients only, or travels otherwise.
        const OWN: [&str; 9] = [
            "cores",
            "experimental-features",
            "keep-failed",
            "keep-going",
            "max-jobs",
            "max-silent-time",
            "plugin-files",
            "store",
            "timeout",
        ];
        let mut overrides = BTreeMap::new();
        for (name, setting) in self.conf.iter().filter(|(name, _)| !OWN.contains(name)) {
            if is_of_this_user(setting.origin()) {
                let name = match setting.base() {
                    Base::Empty => name.to_owned(),
                    Base::Default => format!("extra-{name}"),
                };
                overrides.insert(name, setting.text());
            }
        }
        BuildSettings { cores: Some(self.settings.cores), overrides, ..self.build_settings() }
    }
}

/// Has a store that the command line names by a path begin with the working directory, as Nix has.
fn with_whole_paths(overrides: &[Override]) -> Vec<Override> {
    let whole = |given: &Override| {
        let base = std::env::current_dir().unwrap_or_default();
        match given.name == "store" {
            true => Override { value: whole_store_name(&given.value, &base), ..given.clone() },
            false => given.clone(),
        }
    };
    overrides.iter().map(whole).collect()
}

/// Returns what a store offers to builds that are done in it, if its address says so in the place of the
/// setting `system-features`.
fn features_of(store: &StoreReference) -> Option<BTreeSet<String>> {
    match store.scheme() {
        Scheme::Auto | Scheme::Local => {
            let features = store.param("system-features")?;
            Some(features.split_ascii_whitespace().map(str::to_owned).collect())
        }
        _ => None,
    }
}

fn is_from_command_line(origin: &Origin) -> bool {
    matches!(origin, Origin::CommandLine { .. })
}

fn is_of_this_user(origin: &Origin) -> bool {
    matches!(origin, Origin::CommandLine { .. } | Origin::Environment { .. })
}

/// Tells what the writer of the configuration may want to know.
pub(crate) fn tell(notes: &[Note], terminal: &Terminal) {
    for note in notes {
        match note.severity {
            Severity::Warning => terminal.warn(&note.to_string()),
            Severity::Hint => terminal.detail(&note.to_string()),
        }
    }
}
