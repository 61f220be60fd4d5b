//! The machines that stand behind the hook: they can't be in the machines file, as drover itself is
//! what stock Nix finds there.

use std::path::PathBuf;

use drover_config::Environment;

use crate::configuration::Configuration;

/// The file beside `nix.conf`: lines as of a machines file.
const NAME: &str = "drover-machines";

/// Returns where these machines are listed: the first of a user's files that exists, else the
/// system's, whether it exists or not.
pub(crate) fn file(environment: &Environment) -> PathBuf {
    let of_users = environment.user_conf_files().into_iter().rev();
    let beside = of_users.filter_map(|conf| Some(conf.parent()?.join(NAME)));
    let system = environment.conf_dir().join(NAME);
    beside.into_iter().find(|file| file.exists()).unwrap_or(system)
}

/// The machines of a daemon for hooks, as a value of `builders`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Builders(String);

impl Builders {
    /// Returns those that are given, or else those of the file.
    pub(crate) fn given(text: Option<&str>, configuration: &Configuration) -> Builders {
        match text {
            Some(text) => Builders(text.to_owned()),
            None => Builders(format!("@{}", file(&configuration.host.environment).display())),
        }
    }

    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    /// Returns the files that they may be read from, with those of the settings. Files that such files
    /// include aren't among them.
    pub(crate) fn files(&self, environment: &Environment) -> Vec<PathBuf> {
        let mut files = listed_in(&self.0, environment);
        files.push(environment.conf_dir().join("nix.conf"));
        files.extend(environment.user_conf_files());
        files
    }
}

/// Returns the files that the machines of a value of `builders` may be listed in, files left out that such
/// files include.
pub(crate) fn listed_in(builders: &str, environment: &Environment) -> Vec<PathBuf> {
    let entries = builders.split([';', '\n']).filter_map(|entry| entry.trim().strip_prefix('@'));
    let files = entries.map(|file| PathBuf::from(file.trim()));
    files.chain([file(environment)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_file_comes_first() {
        let folder = tempfile::tempdir().unwrap();
        let environment = Environment {
            nix_conf_dir: Some("/etc/other".to_owned()),
            nix_config_home: Some(folder.path().display().to_string()),
            ..Environment::default()
        };
        assert_eq!(file(&environment), PathBuf::from("/etc/other/drover-machines"));
        let own = folder.path().join(NAME);
        fs_err::write(&own, "").unwrap();
        assert_eq!(file(&environment), own);
    }
}
