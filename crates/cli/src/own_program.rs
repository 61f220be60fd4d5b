//! This very program, as it is called: by a path that an update in its place keeps.

use std::ffi::OsString;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::host::Host;
use crate::terminal::Terminal;

/// Where profiles have their programs, for those whose `PATH` doesn't name them, as under `sudo`.
const PROFILES: [&str; 3] =
    ["/run/current-system/sw/bin", "/nix/var/nix/profiles/default/bin", "/usr/local/bin"];

/// Returns this very program by a path that others may write down: as it was called or as the `PATH`
/// has it, where that leads to this very file. Where it is only known in a store, whose paths go with
/// the next collection of garbage, that is warned of.
///
/// # Errors
///
/// Its file can't be found out.
pub(crate) fn own_program(host: &Host, terminal: &Terminal) -> anyhow::Result<PathBuf> {
    let file = std::env::current_exe().context("cannot find drover's own file")?;
    let called = std::env::args_os().next().unwrap_or_default();
    let is_in_store = |path: &Path| {
        let store = host.store_dir.as_deref().unwrap_or("/nix/store");
        path.starts_with(store) || path.starts_with("/nix/store")
    };
    let places = places(called, host).into_iter().filter(|path| leads_to(path, &file));
    let is_root = rustix::process::geteuid().is_root();
    let mut places = places.filter(|path| !is_root || is_of_root(path));
    let lasting = places.find(|path| !is_in_store(path));
    let program = lasting.unwrap_or(file);
    if is_in_store(&program) {
        terminal.warn(&format!(
            "'{}' is in a store: when it is updated or collected as garbage this path is gone; have a profile \
             name it (nix profile install), and do this again by that name",
            program.display()
        ));
    }
    Ok(program)
}

/// Returns the paths by which this program may be known, the most telling first.
fn places(called: OsString, host: &Host) -> Vec<PathBuf> {
    let called = PathBuf::from(called);
    let name = called.file_name().map(PathBuf::from).unwrap_or_else(|| "drover".into());
    let as_called = called.components().count() > 1;
    let as_called = as_called.then(|| host.environment.current_dir.join(&called));
    let as_called = as_called.and_then(|path| std::path::absolute(path).ok());
    let folders = std::env::split_paths(&host.path).chain(PROFILES.map(PathBuf::from));
    let found = folders.filter(|folder| folder.is_absolute()).map(|folder| folder.join(&name));
    as_called.into_iter().chain(found).collect()
}

/// Whether nobody but root can have a path, or the links that it leads over, lead elsewhere: what root writes
/// down is started by root.
fn is_of_root(path: &Path) -> bool {
    const MOST_LINKS: usize = 40;
    const WRITABLE_BY_OTHERS: u32 = 0o022;
    const STICKY: u32 = 0o1000;
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        let is_kept = path.ancestors().all(|part| {
            fs_err::symlink_metadata(part).is_ok_and(|found| {
                let mode = found.permissions().mode();
                let is_closed = mode & WRITABLE_BY_OTHERS == 0 || mode & STICKY != 0;
                found.uid() == 0 && (is_closed || found.is_symlink())
            })
        });
        if !is_kept {
            return false;
        }
        match path.read_link() {
            Ok(next) => path = path.parent().unwrap_or(&path).join(next),
            Err(_) => return true,
        }
    }
    false
}

/// Whether a path can be run and is this file, by whatever links.
fn leads_to(path: &Path, file: &Path) -> bool {
    let can_run = fs_err::metadata(path)
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0);
    can_run && path.canonicalize().ok() == file.canonicalize().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_it_was_called_comes_before_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let mut host = Host { path: "bin:/usr/bin".to_owned(), ..Host::default() };
        host.environment.current_dir = root.clone();
        let places = |called: &str| places(called.into(), &host);
        assert_eq!(places("./tools/drover")[0], root.join("tools/drover"));
        // a relative folder of the PATH is another one tomorrow
        assert_eq!(places("drover")[0], Path::new("/usr/bin/drover"));
        assert_eq!(places("/opt/drover-2")[1], Path::new("/usr/bin/drover-2"));
    }

    #[test]
    fn what_others_can_turn_is_not_of_root() {
        assert!(is_of_root(Path::new("/bin/sh")));
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        fs_err::os::unix::fs::symlink("/bin/sh", &link).unwrap();
        let own = rustix::process::geteuid().is_root();
        assert_eq!(is_of_root(&link), own);
        fs_err::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(!is_of_root(&link));
        assert!(!is_of_root(&folder.path().join("none")));
    }

    #[test]
    fn only_what_is_this_very_file_counts() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        fs_err::os::unix::fs::symlink("/bin/sh", &link).unwrap();
        assert!(leads_to(&link, Path::new("/bin/sh")));
        assert!(!leads_to(&link, Path::new("/bin/cat")));
        assert!(!leads_to(&folder.path().join("none"), &folder.path().join("none")));
    }
}
