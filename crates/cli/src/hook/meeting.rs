//! Where hooks and the daemon that schedules their builds meet.
//!
//! A folder that only this user can enter: whoever can connect is trusted. Hooks of other stores or
//! other configurations meet elsewhere.

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use drover_core::{Hash, HashAlgorithm};

use super::machines::Builders;
use crate::configuration::Configuration;

/// Where they meet.
pub(crate) struct Meeting {
    /// Where the daemon listens.
    pub(crate) socket: PathBuf,
    /// Whoever starts the daemon holds a lock on it meanwhile.
    pub(crate) lock: PathBuf,
    /// What the daemon says.
    pub(crate) log: PathBuf,
}

impl Meeting {
    /// Makes the folder where it is absent.
    ///
    /// # Errors
    ///
    /// It can't be made, or it is somebody else's.
    pub(crate) fn of(
        configuration: &Configuration,
        builders: &Builders,
    ) -> anyhow::Result<Meeting> {
        let folder = folder();
        match std::fs::DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                let what = format!("cannot make the folder '{}'", folder.display());
                return Err(anyhow::Error::from(error).context(what));
            }
            _ => {}
        }
        check_private(&folder)?;
        Ok(Meeting::in_folder(&folder, configuration, builders))
    }

    /// Returns the same where the folder is there already.
    pub(crate) fn sought(configuration: &Configuration, builders: &Builders) -> Option<Meeting> {
        let folder = folder();
        check_private(&folder).ok()?;
        Some(Meeting::in_folder(&folder, configuration, builders))
    }

    fn in_folder(folder: &Path, configuration: &Configuration, builders: &Builders) -> Meeting {
        let key = key(configuration, builders);
        let named = |ending: &str| folder.join(format!("{key}.{ending}"));
        Meeting { socket: named("socket"), lock: named("lock"), log: named("log") }
    }
}

/// Returns the folder of this user, whatever session it's asked in: the environment doesn't count.
fn folder() -> PathBuf {
    let uid = rustix::process::geteuid();
    if uid.is_root() && Path::new("/run").is_dir() {
        return PathBuf::from("/run/drover-hook");
    }
    let of_user = PathBuf::from(format!("/run/user/{}", uid.as_raw()));
    let is_own = fs_err::metadata(&of_user).is_ok_and(|found| found.uid() == uid.as_raw());
    match is_own {
        true => of_user.join("drover-hook"),
        false => PathBuf::from(format!("/tmp/drover-hook-{}", uid.as_raw())),
    }
}

/// Refuses a folder that others can enter or have made: in a folder such as `/tmp` anybody could have.
fn check_private(folder: &Path) -> anyhow::Result<()> {
    let found = fs_err::symlink_metadata(folder)
        .with_context(|| format!("cannot use the folder '{}'", folder.display()))?;
    let is_own = found.uid() == rustix::process::geteuid().as_raw();
    if !found.is_dir() || !is_own || found.mode() & 0o077 != 0 {
        bail!(
            "'{}' must be a folder that is this user's and that nobody else can enter (mode 0700); \
             remove it, and it will be made anew",
            folder.display()
        );
    }
    Ok(())
}

/// Returns a name for what a daemon's builds depend on: the store, the configuration, the machines.
fn key(configuration: &Configuration, builders: &Builders) -> String {
    let Configuration { host, settings, store_dir, .. } = configuration;
    let environment = &host.environment;
    let text = [
        settings.store.to_string(),
        store_dir.to_string(),
        host.state_dir.display().to_string(),
        environment.conf_dir().display().to_string(),
        format!("{:?}", environment.user_conf_files()),
        builders.text().to_owned(),
        // with which it reaches the machines
        host.ssh_options.clone(),
        std::env::var("SSH_AUTH_SOCK").unwrap_or_default(),
    ]
    .join("\n");
    let hash = Hash::of(HashAlgorithm::Sha256, text.as_bytes());
    hash.digest().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_folder_that_others_can_enter_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mode = |mode| {
            fs_err::set_permissions(folder.path(), PermissionsExt::from_mode(mode)).unwrap();
        };
        mode(0o700);
        check_private(folder.path()).unwrap();
        mode(0o755);
        let refused = check_private(folder.path()).unwrap_err().to_string();
        assert!(refused.contains("nobody else can enter"), "{refused}");
        mode(0o700);
        let link = folder.path().join("link");
        fs_err::os::unix::fs::symlink(folder.path(), &link).unwrap();
        check_private(&link).unwrap_err();
    }
}
