//! The environment variables that decide which configuration is read.
//!
//! Follows `nixConfDir` and `nixUserConfFiles` of C++ Nix
//! (`src/libstore/globals.cc`) and `getConfigDirs` (`src/libutil/users.cc`).

use std::path::{Path, PathBuf};

use crate::origin::Origin;
use crate::paths::absolute;

/// The part of a process's surroundings that configuration depends on.
///
/// A variable that is set but empty is not the same as one that is not set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// `NIX_CONF_DIR`: where the system's `nix.conf` and `machines` are.
    pub nix_conf_dir: Option<String>,
    /// `NIX_USER_CONF_FILES`: the user's files, separated by colons, those that
    /// win first; replaces all of the following.
    pub nix_user_conf_files: Option<String>,
    /// `NIX_CONFIG_HOME`: the directory of the user's `nix.conf`.
    pub nix_config_home: Option<String>,
    /// `XDG_CONFIG_HOME`: the directory of the user's `nix/nix.conf`.
    pub xdg_config_home: Option<String>,
    /// `XDG_CONFIG_DIRS`: more such directories, separated by colons.
    pub xdg_config_dirs: Option<String>,
    /// `HOME`, for `~/.config`.
    pub home: Option<String>,
    /// `NIX_CONFIG`: lines as in `nix.conf` that win over all files.
    pub nix_config: Option<String>,
    /// `NIX_REMOTE`: the store, unless set otherwise.
    pub nix_remote: Option<String>,
    /// `NIX_REMOTE_SYSTEMS`: machines files, separated by colons, unless
    /// `builders` is set; obsolete but honoured.
    pub nix_remote_systems: Option<String>,
    /// The working directory, an absolute path. Relative paths in variables
    /// start from it; empty is the root.
    pub current_dir: PathBuf,
}

impl Environment {
    /// Collects the variables through `lookup`, such as `|name| std::env::var(name).ok()`.
    pub fn from_lookup(
        lookup: impl Fn(&str) -> Option<String>,
        current_dir: PathBuf,
    ) -> Environment {
        Environment {
            nix_conf_dir: lookup("NIX_CONF_DIR"),
            nix_user_conf_files: lookup("NIX_USER_CONF_FILES"),
            nix_config_home: lookup("NIX_CONFIG_HOME"),
            xdg_config_home: lookup("XDG_CONFIG_HOME"),
            xdg_config_dirs: lookup("XDG_CONFIG_DIRS"),
            home: lookup("HOME"),
            nix_config: lookup("NIX_CONFIG"),
            nix_remote: lookup("NIX_REMOTE"),
            nix_remote_systems: lookup("NIX_REMOTE_SYSTEMS"),
            current_dir,
        }
    }

    /// Returns the directory of the system's configuration.
    pub fn conf_dir(&self) -> PathBuf {
        let dir = self.nix_conf_dir.as_deref().filter(|dir| !dir.is_empty());
        self.absolute(dir.unwrap_or("/etc/nix"))
    }

    /// Returns the user's configuration files, whether or not they exist, in
    /// the order in which they are applied: the last one wins.
    pub fn user_conf_files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = match &self.nix_user_conf_files {
            Some(files) => split_colons(files).map(|file| self.absolute(file)).collect(),
            None => self.config_dirs().iter().map(|dir| dir.join("nix.conf")).collect(),
        };
        files.reverse();
        files
    }

    /// Returns what says how a setting is where nothing sets it: a variable, for the two that have one.
    pub fn origin_of_default(&self, setting: &str) -> Origin {
        let name = match setting {
            "builders" if self.nix_remote_systems.is_some() => "NIX_REMOTE_SYSTEMS",
            "store" if self.nix_remote.is_some() => "NIX_REMOTE",
            _ => return Origin::Default,
        };
        Origin::Environment { name, line: 1 }
    }

    /// Returns the directories that hold a user's `nix.conf`, the first wins.
    fn config_dirs(&self) -> Vec<PathBuf> {
        let home = match (&self.nix_config_home, &self.xdg_config_home, &self.home) {
            (Some(dir), _, _) => Some(self.absolute(dir)),
            (None, Some(dir), _) => Some(self.absolute(dir).join("nix")),
            (None, None, Some(home)) => Some(self.absolute(home).join(".config/nix")),
            (None, None, None) => None,
        };
        let others = self.xdg_config_dirs.as_deref().unwrap_or("/etc/xdg");
        let others = split_colons(others).map(|dir| self.absolute(dir).join("nix"));
        home.into_iter().chain(others).collect()
    }

    fn absolute(&self, path: &str) -> PathBuf {
        absolute(Path::new(path), &self.current_dir)
    }
}

/// Returns the non-empty parts between colons.
pub(crate) fn split_colons(list: &str) -> impl Iterator<Item = &str> {
    list.split(':').filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        let lookup = |name: &str| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        Environment::from_lookup(lookup, PathBuf::from("/somewhere"))
    }

    #[rstest]
    #[case::home(&[("HOME", "/h")], &["/etc/xdg/nix/nix.conf", "/h/.config/nix/nix.conf"])]
    #[case::xdg(
        &[("HOME", "/h"), ("XDG_CONFIG_HOME", "/x"), ("XDG_CONFIG_DIRS", "/a:/b")],
        &["/b/nix/nix.conf", "/a/nix/nix.conf", "/x/nix/nix.conf"],
    )]
    #[case::nix_config_home(
        &[("HOME", "/h"), ("XDG_CONFIG_HOME", "/x"), ("NIX_CONFIG_HOME", "/n"), ("XDG_CONFIG_DIRS", "")],
        &["/n/nix.conf"],
    )]
    #[case::files(
        &[("HOME", "/h"), ("NIX_USER_CONF_FILES", "/first:second")],
        &["/somewhere/second", "/first"],
    )]
    #[case::no_files(&[("HOME", "/h"), ("NIX_USER_CONF_FILES", "")], &[])]
    fn user_files_in_order_of_application(
        #[case] variables: &[(&str, &str)],
        #[case] expected: &[&str],
    ) {
        let expected: Vec<PathBuf> = expected.iter().map(PathBuf::from).collect();
        assert_eq!(environment(variables).user_conf_files(), expected);
    }

    #[rstest]
    #[case::store("store", "NIX_REMOTE:1")]
    #[case::builders("builders", "default")]
    #[case::other("cores", "default")]
    fn defaults_that_variables_give(#[case] setting: &str, #[case] expected: &str) {
        let environment = environment(&[("NIX_REMOTE", "daemon")]);
        assert_eq!(environment.origin_of_default(setting).to_string(), expected);
    }

    #[test]
    fn conf_dir_ignores_an_empty_variable() {
        assert_eq!(environment(&[("NIX_CONF_DIR", "")]).conf_dir(), Path::new("/etc/nix"));
        assert_eq!(environment(&[("NIX_CONF_DIR", "/a/../b/")]).conf_dir(), Path::new("/b"));
    }
}
