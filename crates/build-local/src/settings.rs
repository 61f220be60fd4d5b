//! What is configured of builds on this machine.
//!
//! Names, meanings and defaults are those of Nix's settings (`local-settings.hh`, `globals.hh`); a
//! sandbox path is read as in `LocalStore`'s `parsePathInChroot`
//! (`src/libstore/unix/build/derivation-builder.cc`).

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use drover_builtins::Fetching;
use drover_core::SecretKey;
use drover_sandbox::{Forwarder, LauncherProgram, SyscallFilter, TmpfsSize};

use crate::hooks::PostBuildHook;

/// Whether builds are shut in (`sandbox`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SandboxMode {
    /// All are.
    Always,
    /// Those are not that say so (`__noChroot`), and those with access to the network.
    Relaxed,
    /// None is, where the store's files are where its paths say.
    Never,
}

/// What happens where the kernel has no namespaces for this user (`sandbox-fallback`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SandboxFallback {
    /// Builds go on without, and the user is told.
    WithoutSandbox,
    /// They fail.
    Fail,
}

/// As whom builds run where root starts them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BuildUsers {
    /// As the members of a group (`build-users-group`).
    Group(String),
    /// As users with numbers that belong to nobody (`auto-allocate-uids`, `start-id`, `id-count`).
    Allocated {
        /// The first number.
        first: u32,
        /// How many there are.
        count: u32,
    },
}

/// Whether builds have control groups of their own (`use-cgroups`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Groups {
    /// All have one; where there can be none they fail.
    Always,
    /// Those over a range of users have one, where there can be any.
    ForRanges,
}

/// Whether builds' logs are kept (`keep-build-log`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepLog {
    /// They are.
    Yes,
    /// They aren't.
    No,
}

/// A path that builds see (`sandbox-paths`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxPath {
    /// Where it's seen: an absolute path without `..`.
    pub inside: PathBuf,
    /// What is seen there, as the system finds it.
    pub outside: PathBuf,
    /// What happens where it's absent.
    pub wherever: Wherever,
}

/// Whether something has to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wherever {
    /// It has to.
    Always,
    /// It's shown if it's there (`?`).
    IfPresent,
}

/// Why a text is no sandbox path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxPathError {
    /// A path that isn't absolute.
    #[error("sandbox path '{text}' must consist of absolute paths")]
    Relative {
        /// The text.
        text: String,
    },
}

impl FromStr for SandboxPath {
    type Err = SandboxPathError;

    fn from_str(text: &str) -> Result<SandboxPath, SandboxPathError> {
        let (whole, wherever) = match text.strip_suffix('?') {
            Some(whole) => (whole, Wherever::IfPresent),
            None => (text, Wherever::Always),
        };
        let (inside, outside) = whole.split_once('=').unwrap_or((whole, whole));
        let [inside, outside] = [inside, outside].map(PathBuf::from);
        match inside.is_absolute() && outside.is_absolute() {
            true => Ok(SandboxPath { inside: straightened(&inside), outside, wherever }),
            false => Err(SandboxPathError::Relative { text: text.to_owned() }),
        }
    }
}

/// Returns an absolute path without `.` and `..`, as Nix reads those that builds see: by its letters alone
/// (`canonPath`).
pub(crate) fn straightened(path: &Path) -> PathBuf {
    let mut straight = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => straight.push(name),
            Component::ParentDir => drop(straight.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    straight
}

/// Looks a variable up.
type Lookup = dyn Fn(&str) -> Option<Vec<u8>> + Send + Sync;

/// Returns the value of a variable outside of all builds, for `impureEnvVars`.
#[derive(Clone)]
pub struct Outside(pub Arc<Lookup>);

impl fmt::Debug for Outside {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // what is in variables may be secret
        out.write_str("Outside")
    }
}

/// Whether builds that are shut in may have the supplementary groups of the user that starts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnGroups {
    /// They may.
    MayStay,
    /// They may not: such a build fails.
    MustGo,
}

/// Whether those who wait for a build may give it variables (`impure-env`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnVariables {
    /// They may.
    Taken,
    /// They may not: it's an experiment that isn't configured (`configurable-impure-env`).
    Ignored,
}

/// What signs all that is built here.
#[derive(Clone, Default)]
pub struct SigningKeys(pub Arc<Vec<SecretKey>>);

impl fmt::Debug for SigningKeys {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "SigningKeys({})", self.0.len())
    }
}

/// What is configured of builds on this machine.
#[derive(Clone, Debug)]
pub struct LocalSettings {
    /// What starts a launcher of builds.
    pub launcher: LauncherProgram,
    /// What this machine builds for: `system` and `extra-platforms`.
    pub systems: BTreeSet<String>,
    /// What this machine is, such as `x86_64-linux` (`system`).
    pub system: String,
    /// What it offers to derivations (`system-features`).
    pub features: BTreeSet<String>,
    /// Whether builds are shut in.
    pub sandbox: SandboxMode,
    /// What happens where they can't be.
    pub fallback: SandboxFallback,
    /// What they see beside their inputs (`sandbox-paths`).
    pub paths: Vec<SandboxPath>,
    /// Where their folder is, as they see it (`sandbox-build-dir`).
    pub sandbox_build_dir: String,
    /// The size of `/dev/shm` (`sandbox-dev-shm-size`).
    pub dev_shm: TmpfsSize,
    /// Where their folders are made (`build-dir`); in the store's state directory where absent.
    pub build_dir: Option<PathBuf>,
    /// As whom they run, where root starts them.
    pub users: BuildUsers,
    /// Where the locks on these users are; in the store's state directory where absent. All stores of
    /// a machine must have the same place, as a build kills whatever runs as its user.
    pub user_locks: Option<PathBuf>,
    /// What becomes of this process's supplementary groups where builds run as its own user, who can't
    /// leave them (`require-drop-supplementary-groups`).
    pub own_groups: OwnGroups,
    /// Whether they have control groups of their own.
    pub groups: Groups,
    /// Which system calls they are refused (`filter-syscalls`).
    pub filter: SyscallFilter,
    /// Cores that each may use, 0 for all (`cores`).
    pub cores: u32,
    /// After how long a build is ended (`timeout`).
    pub timeout: Option<Duration>,
    /// After how long without a word it is ended (`max-silent-time`).
    pub max_silent_time: Option<Duration>,
    /// Bytes that its log may have (`max-build-log-size`).
    pub max_log_size: Option<u64>,
    /// Lines of a failed build's log that are told with its failure (`log-lines`).
    pub log_lines: usize,
    /// Whether the folders of failed builds are kept (`keep-failed`), as a wish of every build.
    pub keep_failed: KeepFailed,
    /// What signs what is built (`secret-key-files`).
    pub keys: SigningKeys,
    /// What is asked before each build that is shut in what it shall see beside the rest
    /// (`pre-build-hook`).
    pub pre_build_hook: Option<PathBuf>,
    /// What runs after each build that went well, unless who waits for it has another.
    pub post_build_hook: Option<PostBuildHook>,
    /// The settings, as such another one gets them by `NIX_CONFIG`.
    pub hook_settings: String,
    /// What shows how outputs differ that were built once more (`diff-hook`, where `run-diff-hook` is
    /// set). It runs as the build's user.
    pub diff_hook: Option<PathBuf>,
    /// Whether logs are kept.
    pub keep_log: KeepLog,
    /// What gives builds with access to the network one of their own (`pasta-path`). Without it they have
    /// the machine's.
    pub forwarder: Option<Forwarder>,
    /// Certificates that builds with access to the network see (`ssl-cert-file`).
    pub certificates: Option<PathBuf>,
    /// Variables that such builds may get.
    pub outside: Outside,
    /// Whether those who wait for a build may give it variables in their place.
    pub own_variables: OwnVariables,
    /// What is configured of downloads, apart from what is in files and variables.
    pub fetching: Fetching,
    /// The file that says who downloads are for (`netrc-file`).
    pub netrc: Option<PathBuf>,
}

/// Whether the folder of a failed build is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepFailed {
    /// It is.
    Yes,
    /// It isn't.
    No,
}

impl LocalSettings {
    /// The first of the numbers that Nix gives to builds, and how many there are.
    pub const ALLOCATED: BuildUsers =
        BuildUsers::Allocated { first: 0x3400_0000, count: 128 << 16 };

    /// Returns settings as they are where nothing is configured, for a machine of this kind.
    pub fn new(launcher: LauncherProgram, system: &str) -> LocalSettings {
        LocalSettings {
            launcher,
            systems: BTreeSet::from([system.to_owned()]),
            system: system.to_owned(),
            features: BTreeSet::new(),
            sandbox: SandboxMode::Always,
            fallback: SandboxFallback::WithoutSandbox,
            paths: Vec::new(),
            sandbox_build_dir: "/build".to_owned(),
            dev_shm: TmpfsSize::Percent(50),
            build_dir: None,
            users: LocalSettings::ALLOCATED,
            user_locks: None,
            own_groups: OwnGroups::MayStay,
            groups: Groups::ForRanges,
            filter: SyscallFilter::Builds,
            cores: 0,
            timeout: None,
            max_silent_time: None,
            max_log_size: None,
            log_lines: 25,
            keep_failed: KeepFailed::No,
            keys: SigningKeys::default(),
            pre_build_hook: None,
            post_build_hook: None,
            hook_settings: String::new(),
            diff_hook: None,
            keep_log: KeepLog::Yes,
            forwarder: None,
            certificates: None,
            outside: Outside(Arc::new(|_| None)),
            own_variables: OwnVariables::Ignored,
            fetching: Fetching::default(),
            netrc: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::same("/bin/sh", "/bin/sh", "/bin/sh", Wherever::Always)]
    #[case::other("/bin/sh=/x/busybox", "/bin/sh", "/x/busybox", Wherever::Always)]
    #[case::optional("/dev/nvidia0?", "/dev/nvidia0", "/dev/nvidia0", Wherever::IfPresent)]
    #[case::both("/a=/b?", "/a", "/b", Wherever::IfPresent)]
    #[case::crooked("/a//b/./c/../d/=/b/", "/a/b/d", "/b/", Wherever::Always)]
    #[case::above_all("/../a/", "/a", "/../a/", Wherever::Always)]
    fn sandbox_paths_are_read_as_in_nix(
        #[case] text: &str,
        #[case] inside: &str,
        #[case] outside: &str,
        #[case] wherever: Wherever,
    ) {
        let expected = SandboxPath { inside: inside.into(), outside: outside.into(), wherever };
        assert_eq!(text.parse(), Ok(expected));
    }

    #[test]
    fn a_relative_sandbox_path_is_refused() {
        for text in ["bin/sh", "/bin/sh=busybox", ""] {
            assert!(text.parse::<SandboxPath>().is_err(), "{text}");
        }
    }
}
