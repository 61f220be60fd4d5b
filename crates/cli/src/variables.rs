//! Environment variables of this process, with what stands for those that aren't set.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Returns a variable. Where `HOME` isn't set, as in services, or is somebody else's, as `sudo` may leave it, the
/// user's folder is that of the user database, as in Nix (`getHome`, `src/libutil/users.cc`).
pub(crate) fn variable(name: &str) -> Option<OsString> {
    let set = std::env::var_os(name);
    match name {
        "HOME" => home(set),
        _ => set,
    }
}

fn home(set: Option<OsString>) -> Option<OsString> {
    set.filter(|home| !home.is_empty() && !is_others(Path::new(home))).or_else(home_of_user)
}

fn is_others(folder: &Path) -> bool {
    let own = rustix::process::geteuid().as_raw();
    std::fs::metadata(folder).is_ok_and(|found| found.uid() != own)
}

fn home_of_user() -> Option<OsString> {
    let uid = nix::unistd::Uid::from_raw(rustix::process::geteuid().as_raw());
    let user = nix::unistd::User::from_uid(uid).ok().flatten()?;
    user.dir.is_absolute().then(|| user.dir.into_os_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_that_is_somebody_elses_is_not_used() {
        let own = tempfile::tempdir().unwrap();
        let of_own = Some(own.path().as_os_str().to_owned());
        assert_eq!(home(of_own.clone()), of_own);
        assert_eq!(home(Some("/no/such/folder".into())), Some("/no/such/folder".into()));
        let others = match rustix::process::geteuid().is_root() {
            true => {
                std::os::unix::fs::chown(own.path(), Some(65534), None).unwrap();
                of_own
            }
            false => Some("/".into()),
        };
        assert_eq!(home(others), home_of_user());
        assert_eq!(home(Some("".into())), home_of_user());
    }
}
