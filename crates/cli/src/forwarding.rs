//! What gives builds that may use the network one of their own: `pasta`, by the setting `pasta-path`, which is
//! Lix's.

use std::path::{Path, PathBuf};

use drover_config::NixConf;
use drover_sandbox::{Forwarder, Scope};

use crate::own_builder::path_of;

/// The setting.
pub(crate) const SETTING: &str = "pasta-path";

/// Where it is beside the folders of `PATH`, in which a service may have little.
const FOLDERS: [&str; 4] = [
    "/usr/bin",
    "/usr/local/bin",
    "/run/current-system/sw/bin",
    "/nix/var/nix/profiles/default/bin",
];

/// Returns the program; nothing where there is none, or none is wanted.
///
/// # Errors
///
/// It's named, but not by its whole path.
pub(crate) fn forwarder(conf: &NixConf) -> anyhow::Result<Option<Forwarder>> {
    if conf.raw(SETTING).is_some() {
        // who names it wants it, and is told why it doesn't work
        return Ok(path_of(conf, SETTING)?.map(|program| Forwarder { program }));
    }
    let found = if Forwarder::has_device() { find() } else { None };
    Ok(found.map(|program| Forwarder { program }))
}

fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(FOLDERS.map(PathBuf::from));
    let mut files = folders.filter(|it| it.is_absolute()).map(|folder| folder.join("pasta"));
    files.find(|file| can_be_run(file))
}

fn can_be_run(file: &Path) -> bool {
    file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok()
}

/// Returns what gives such builds a network of their own, unless they have one or aren't to have one.
pub(crate) fn remedy(conf: &NixConf, forwarder: Option<&Forwarder>) -> Option<&'static str> {
    match forwarder {
        None if conf.raw(SETTING).is_none() => Some(match Forwarder::has_device() {
            true => "install pasta (in passt), or name it by 'pasta-path'",
            false => "have '/dev/net/tun' there (modprobe tun), for this user to read and write",
        }),
        _ => None,
    }
}

/// Says which network such builds have.
pub(crate) fn told(conf: &NixConf, forwarder: Option<&Forwarder>) -> String {
    let builds = "fixed-output and impure builds that drover does here";
    match forwarder {
        Some(Forwarder { program }) => {
            format!("{builds} have a network of their own, by '{}'", program.display())
        }
        None => {
            let why = match conf.raw(SETTING) {
                Some(_) => "'pasta-path' is empty",
                None if !Forwarder::has_device() => "'/dev/net/tun' can't be used",
                None => "there is no 'pasta' here",
            };
            let sockets = match Scope::is_supported() {
                true => "Landlock keeps them from abstract sockets of others",
                false => "this kernel's Landlock can't keep them from abstract sockets of others",
            };
            format!("{builds} have this machine's network, as {why}; {sockets}")
        }
    }
}
