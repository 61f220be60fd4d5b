//! The machines that stand behind the hook: they can't be in the machines file, as drover itself is
//! what stock Nix finds there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use drover_config::{Environment, User};

use super::lines::is_own_line;
use crate::configuration::Configuration;
use crate::file_turn::text_of;

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

/// Returns where the machines of a machines file go when drover takes their place: for a user who has a machines
/// file of his own that is beside his `nix.conf`, as those of the system aren't his to write.
pub(super) fn behind(environment: &Environment, machines: &Path, user: User) -> PathBuf {
    let usual = file(environment);
    let system = environment.conf_dir();
    if user == User::Root || machines.parent() == Some(&system) || usual.parent() != Some(&system) {
        return usual;
    }
    let folders = environment.user_conf_files().into_iter().rev();
    let folders: Vec<PathBuf> =
        folders.filter_map(|conf| conf.parent().map(Path::to_owned)).collect();
    let beside = folders.iter().find(|folder| machines.parent() == Some(folder.as_path()));
    beside.or(folders.first()).map_or(usual, |folder| folder.join(NAME))
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

    /// Returns where they are listed, by what tells lists apart: files by their real paths, drover's own lines
    /// by the file of the machines behind them.
    pub(super) fn sources(&self, configuration: &Configuration) -> String {
        let real = |file: PathBuf| fs_err::canonicalize(&file).unwrap_or(file);
        let behind = || format!("@{}", real(file(&configuration.host.environment)).display());
        let source = |entry: &str| match entry.strip_prefix('@') {
            _ if is_own_line(entry) => behind(),
            Some(path) => {
                let path = real(Path::new("/").join(path.trim()));
                match text_of(&path) {
                    Ok(text) if text.lines().any(is_own_line) => behind(),
                    _ => format!("@{}", path.display()),
                }
            }
            None => entry.split_whitespace().collect::<Vec<_>>().join(" "),
        };
        let entries = self.0.split([';', '\n']).map(str::trim).filter(|entry| !entry.is_empty());
        let sources: BTreeSet<String> = entries.map(source).collect();
        sources.into_iter().collect::<Vec<_>>().join("\n")
    }

    /// Returns the files that they may be read from, with those of the settings. Files that such files
    /// include aren't among them.
    pub(crate) fn files(&self, environment: &Environment) -> Vec<PathBuf> {
        let mut files = listed_in(&self.0, &environment.current_dir, environment);
        files.push(environment.conf_dir().join("nix.conf"));
        files.extend(environment.user_conf_files());
        files
    }
}

/// Returns the files that the machines of a value of `builders` may be listed in, which starts from a folder;
/// files left out that such files include.
pub(crate) fn listed_in(builders: &str, dir: &Path, environment: &Environment) -> Vec<PathBuf> {
    let lines = builders.lines().map(|line| line.split('#').next().unwrap_or_default());
    let entries = lines.flat_map(|line| line.split(';'));
    let files = entries.filter_map(|entry| Some(dir.join(entry.trim().strip_prefix('@')?.trim())));
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

    /// Files are watched where they are read.
    #[test]
    fn files_start_from_the_folder_of_the_value() {
        let environment = Environment {
            nix_conf_dir: Some("/etc/other".to_owned()),
            nix_config_home: Some("/nowhere".to_owned()),
            ..Environment::default()
        };
        let files = listed_in("@etc/a # near; @no\nssh://b;@ /c", Path::new("/"), &environment);
        let expected = ["/etc/a", "/c", "/etc/other/drover-machines"].map(PathBuf::from);
        assert_eq!(files, expected);
    }

    #[test]
    fn a_users_own_machines_go_beside_his_nix_conf() {
        let environment = Environment {
            nix_conf_dir: Some("/etc/other".to_owned()),
            nix_config_home: Some("/home/ann/.config/nix".to_owned()),
            ..Environment::default()
        };
        for (machines, user, expected) in [
            ("/home/ann/.config/nix/machines", User::Other, "/home/ann/.config/nix"),
            ("/home/ann/machines", User::Other, "/home/ann/.config/nix"),
            ("/etc/other/machines", User::Other, "/etc/other"),
            ("/root/machines", User::Root, "/etc/other"),
        ] {
            let found = behind(&environment, Path::new(machines), user);
            assert_eq!(found, Path::new(expected).join(NAME), "{machines}");
        }
    }
}
