//! All configuration together: which places there are, and what wins.
//!
//! Follows `loadConfFile` (`src/libstore/globals.cc`) and `Config::set`
//! (`src/libutil/configuration.cc`) of C++ Nix.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::environment::Environment;
use crate::error::ConfigError;
use crate::files::Files;
use crate::include::{Line, Reader};
use crate::keys;
use crate::origin::{Note, Origin};
use crate::value;

/// A setting given on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// The flag as the user knows it, such as `--builders` or `--option cores`.
    pub flag: String,
    /// Name of the setting; an older name or `extra-` as in a file will do.
    pub name: String,
    /// The value.
    pub value: String,
}

impl Override {
    /// Returns what `--option NAME VALUE` says.
    pub fn option(name: &str, value: &str) -> Override {
        let flag = format!("--option {name}");
        Override { flag, name: name.to_owned(), value: value.to_owned() }
    }

    /// Returns what `--NAME VALUE` says.
    pub fn flag(name: &str, value: &str) -> Override {
        let flag = format!("--{name}");
        Override { flag, name: name.to_owned(), value: value.to_owned() }
    }
}

/// Everything that `nix.conf`, the environment and the command line have set,
/// as text.
///
/// Settings are found by their current name, whichever name they were set by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NixConf {
    settings: BTreeMap<String, RawSetting>,
    notes: Vec<Note>,
}

/// What has been set for one setting, as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawSetting {
    parts: Vec<(String, Origin)>,
    base: Base,
}

/// What the parts of a setting come on top of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// Nothing: the setting was set.
    Empty,
    /// The default: there were only `extra-` lines.
    Default,
}

impl RawSetting {
    /// Returns the value: what was set last, and what `extra-` lines have added
    /// since, joined by spaces. See [`RawSetting::base`] for what is missing.
    pub fn text(&self) -> String {
        self.parts().collect::<Vec<_>>().join(" ")
    }

    /// Returns the values that the text is joined from, in order.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().map(|(text, _)| text.as_str())
    }

    /// Returns what the text comes on top of.
    pub fn base(&self) -> Base {
        self.base
    }

    /// Returns where each part of the text was written, in order.
    pub fn origins(&self) -> impl DoubleEndedIterator<Item = &Origin> {
        self.parts.iter().map(|(_, origin)| origin)
    }

    /// Returns where the last part of the text was written.
    pub fn origin(&self) -> &Origin {
        self.origins().next_back().unwrap_or(&Origin::Default)
    }
}

impl NixConf {
    /// Reads all places in the order of Nix: the system's `nix.conf`, the user's
    /// files, `NIX_CONFIG`, and `overrides` from the command line. What comes
    /// later wins.
    ///
    /// Files that are missing or cannot be read are skipped, the latter with a
    /// note. Settings that drover does not know are kept as they are.
    ///
    /// # Errors
    ///
    /// Returns an error for the first line that is wrong, even if a later line
    /// would have replaced it.
    pub fn load(
        environment: &Environment,
        files: &(impl Files + ?Sized),
        overrides: &[Override],
    ) -> Result<NixConf, ConfigError> {
        let (conf, errors) = NixConf::read(environment, files);
        match errors.into_iter().next() {
            Some(error) => Err(error),
            None => conf.overridden(overrides),
        }
    }

    /// Reads the same, but passes over lines that are wrong, and returns why they are: for those who look
    /// for what is wrong.
    ///
    /// # Errors
    ///
    /// What is wrong in `overrides`.
    pub fn load_what_is_sound(
        environment: &Environment,
        files: &(impl Files + ?Sized),
        overrides: &[Override],
    ) -> Result<(NixConf, Vec<ConfigError>), ConfigError> {
        let (conf, errors) = NixConf::read(environment, files);
        Ok((conf.overridden(overrides)?, errors))
    }

    fn read(
        environment: &Environment,
        files: &(impl Files + ?Sized),
    ) -> (NixConf, Vec<ConfigError>) {
        let mut reader = Reader::new(files);
        reader.file(&environment.conf_dir().join("nix.conf"));
        for file in environment.user_conf_files() {
            reader.file(&file);
        }
        if let Some(text) = &environment.nix_config {
            reader.variable("NIX_CONFIG", text, &environment.current_dir);
        }
        let Reader { lines, notes, mut errors, .. } = reader;
        let mut conf = NixConf { settings: BTreeMap::new(), notes };
        for line in lines {
            errors.extend(conf.set(line).err());
        }
        (conf, errors)
    }

    fn overridden(mut self, overrides: &[Override]) -> Result<NixConf, ConfigError> {
        for Override { flag, name, value } in overrides {
            let origin = Origin::CommandLine { flag: flag.as_str().into() };
            self.set(Line { name: name.clone(), value: value.clone(), origin })?;
        }
        Ok(self)
    }

    /// Returns the same as if a setting had not been set.
    #[must_use]
    pub fn without(mut self, name: &str) -> NixConf {
        self.settings.remove(keys::find(name).map_or(name, |key| key.name));
        self
    }

    /// Returns what has been set for a setting, by its current or an older name.
    ///
    /// `extra-NAME` is found only if `NAME` is not a list, or not known.
    ///
    /// # Panics
    ///
    /// In tests, where a setting is read that is not among those that this crate knows of: it would be told
    /// of nowhere.
    pub fn raw(&self, name: &str) -> Option<&RawSetting> {
        let is_known = keys::find(name).is_some_and(|key| key.kind.is_read());
        debug_assert!(is_known, "{name} is not among the settings that are read");
        self.written(name)
    }

    /// Returns the whole number that has been set for a setting, its unit worked in.
    ///
    /// # Errors
    ///
    /// Something else has been set.
    pub fn number(&self, name: &'static str) -> Result<Option<u64>, ConfigError> {
        let Some(setting) = self.raw(name) else { return Ok(None) };
        let text = setting.text();
        value::number64(&text).map(Some).map_err(|accepted| ConfigError::BadValue {
            origin: setting.origin().clone(),
            setting: name,
            value: text,
            accepted,
        })
    }

    /// Returns everything that has been set, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &RawSetting)> {
        self.settings.iter().map(|(name, setting)| (name.as_str(), setting))
    }

    /// Returns where the effective value of a setting was written.
    pub fn origin(&self, name: &str) -> &Origin {
        self.written(name).map_or(&Origin::Default, RawSetting::origin)
    }

    fn written(&self, name: &str) -> Option<&RawSetting> {
        self.settings.get(keys::find(name).map_or(name, |key| key.name))
    }

    /// Returns the files in which something is set.
    pub fn files(&self) -> BTreeSet<&Path> {
        let origins = self.settings.values().flat_map(RawSetting::origins);
        let files = origins.filter_map(|origin| match origin {
            Origin::File { path, .. } => Some(&**path),
            _ => None,
        });
        files.collect()
    }

    /// Returns what was strange about the files that were read.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    fn set(&mut self, line: Line) -> Result<(), ConfigError> {
        let Line { name, value, origin } = line;
        let appended = || {
            let key = keys::find(name.strip_prefix("extra-")?)?;
            key.kind.is_appendable().then_some(key)
        };
        // A setting whose own name begins with `extra-` comes first.
        let (key, append) = match keys::find(&name) {
            Some(key) => (Some(key), false),
            None => (appended(), true),
        };
        let Some(key) = key else {
            let setting = RawSetting { parts: vec![(value, origin)], base: Base::Empty };
            self.settings.insert(name, setting);
            return Ok(());
        };
        if let Err(accepted) = value::check(key.kind, &value) {
            return Err(ConfigError::BadValue { origin, setting: key.name, value, accepted });
        }
        if append {
            let empty = || RawSetting { parts: Vec::new(), base: Base::Default };
            let setting = self.settings.entry(key.name.to_owned()).or_insert_with(empty);
            setting.parts.push((value, origin));
        } else {
            let setting = RawSetting { parts: vec![(value, origin)], base: Base::Empty };
            self.settings.insert(key.name.to_owned(), setting);
        }
        Ok(())
    }
}
