//! Environment variables of this process, with what stands for those that aren't set.

use std::ffi::OsString;

/// Returns a variable. Where `HOME` isn't set, as in services, the user's folder is that of the user
/// database, as in Nix (`getHome`, `src/libutil/users.cc`).
pub(crate) fn variable(name: &str) -> Option<OsString> {
    let set = std::env::var_os(name);
    if name != "HOME" {
        return set;
    }
    set.filter(|home| !home.is_empty()).or_else(home_of_user)
}

fn home_of_user() -> Option<OsString> {
    let uid = nix::unistd::Uid::from_raw(rustix::process::geteuid().as_raw());
    let user = nix::unistd::User::from_uid(uid).ok().flatten()?;
    user.dir.is_absolute().then(|| user.dir.into_os_string())
}
