//! Where hooks and the daemon that schedules their builds meet.
//!
//! A folder that only this user can enter: whoever can connect is trusted. Hooks meet at one daemon that are for
//! the same store and the same machines, however the store is named and wherever the machines are listed: what
//! runs on a machine is counted by one scheduler then. Hooks of other stores or machines meet elsewhere.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use drover_core::{Hash, HashAlgorithm};
use drover_store_local::Place;
use tokio::net::UnixStream;

use super::behind;
use super::machines::Builders;
use crate::configuration::Configuration;
use crate::own_store;

/// Where root's daemons for hooks answer questions of everybody: who may enter the folder of the hooks
/// themselves has builds done.
const QUESTIONS: &str = "/run/drover-hook-control";

/// Where a daemon's own machines are noted, by which others find it who mean the same.
const NOTE: &str = "machines";

/// Where they meet.
pub(crate) struct Meeting {
    folder: PathBuf,
    /// What the names of all begin with that are for the same store.
    store: String,
    /// Where the daemon listens.
    pub(crate) socket: PathBuf,
    /// Whoever starts a daemon for this store holds a lock on it meanwhile.
    pub(crate) lock: PathBuf,
    /// What the daemon says.
    pub(crate) log: PathBuf,
}

/// A daemon for hooks that may be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Daemon {
    /// Where it answers questions.
    pub(crate) questions: PathBuf,
    /// What it's called beside others: hexadecimal digits.
    pub(crate) name: String,
}

/// A daemon for hooks that listens.
pub(crate) struct Met {
    pub(crate) stream: UnixStream,
    pub(crate) socket: PathBuf,
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
        make_folder(&folder, 0o700)?;
        check_private(&folder)?;
        let store = store_key(configuration);
        let around = surroundings(configuration);
        let list = short_hash(&[&builders.sources(configuration), &around]);
        let named = |ending: &str| folder.join(format!("{store}-{list}.{ending}"));
        Ok(Meeting {
            socket: named("socket"),
            lock: folder.join(format!("{store}.lock")),
            log: named("log"),
            folder,
            store,
        })
    }

    /// Connects to the daemon: the one for this list, or else one that has the same machines from another.
    /// Lists are read only where the first isn't there: each question of Nix comes this way.
    pub(crate) async fn join(
        &self,
        configuration: &Configuration,
        builders: &Builders,
    ) -> Option<Met> {
        if let Some(met) = meet(self.socket.clone()).await {
            return Some(met);
        }
        for socket in self.alike(&machines_key(configuration, builders)?) {
            if let Some(met) = meet(socket).await {
                return Some(met);
            }
        }
        None
    }

    /// Returns where daemons listen, or have listened, that have the same machines.
    fn alike(&self, machines: &str) -> Vec<PathBuf> {
        let notes = files_of(&self.folder, &self.store, NOTE);
        let same = notes.into_iter().filter(|note| {
            // one that is being written is another one for now
            fs_err::read_to_string(note).is_ok_and(|noted| noted == machines)
        });
        same.map(|note| note.with_extension("socket")).collect()
    }

    /// Returns where the daemon notes its machines.
    pub(crate) fn note(&self) -> PathBuf {
        self.socket.with_extension(NOTE)
    }

    /// Returns where it answers those who may not enter the folder: all users of this machine, of root's.
    /// Without such a place it goes on.
    pub(crate) fn public_questions(&self) -> Option<PathBuf> {
        let name = self.socket.file_name().filter(|_| self.folder == Path::new(OF_ROOT))?;
        let folder = Path::new(QUESTIONS);
        make_folder(folder, 0o755).ok()?;
        // whatever mask this process was started with
        fs_err::set_permissions(folder, Permissions::from_mode(0o755)).ok()?;
        Some(folder.join(name))
    }
}

async fn meet(socket: PathBuf) -> Option<Met> {
    let stream = UnixStream::connect(&socket).await.ok()?;
    Some(Met { stream, socket })
}

/// Returns the daemons for hooks that are for the store of the settings: those of this user, and root's.
pub(crate) fn daemons(configuration: &Configuration) -> Vec<Daemon> {
    let (own, store) = (folder(), store_key(configuration));
    let found = match check_private(&own) {
        Ok(()) => files_of(&own, &store, "control"),
        Err(_) => Vec::new(),
    };
    let called = |questions: PathBuf, owner: &str| {
        // root's are asked in two folders
        let file = questions.file_name().unwrap_or_default().display().to_string();
        Daemon { name: short_hash(&[owner, &file]), questions }
    };
    let owner = rustix::process::geteuid().as_raw().to_string();
    let mut daemons: Vec<Daemon> = found.into_iter().map(|file| called(file, &owner)).collect();
    if own != Path::new(OF_ROOT) {
        let of_root = files_of(Path::new(QUESTIONS), &store, "control");
        daemons.extend(of_root.into_iter().map(|file| called(file, "0")));
    }
    daemons
}

/// Returns the files of a store that end so, in their order.
fn files_of(folder: &Path, store: &str, ending: &str) -> Vec<PathBuf> {
    let is_it = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.strip_prefix(store).is_some_and(|rest| rest.starts_with('-'))
            && path.extension().is_some_and(|found| found == ending)
    };
    // without the folder there are none
    let entries = fs_err::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_it).collect();
    files.sort_unstable();
    files
}

/// Notes which machines a daemon has now, for those who mean the same.
pub(crate) fn note_machines(note: &Path, configuration: &Configuration) {
    let builders = Builders::given(Some(&configuration.settings.builders), configuration);
    let machines = machines_key(configuration, &builders).unwrap_or_default();
    // where it can't be noted, those who list them elsewhere start a daemon of their own
    drop(fs_err::write(note, machines));
}

fn make_folder(folder: &Path, mode: u32) -> anyhow::Result<()> {
    match std::fs::DirBuilder::new().mode(mode).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            let what = format!("cannot make the folder '{}'", folder.display());
            Err(anyhow::Error::from(error).context(what))
        }
        _ => Ok(()),
    }
}

/// The folder of root's hooks.
const OF_ROOT: &str = "/run/drover-hook";

/// Returns the folder of this user, whatever session it's asked in: the environment doesn't count.
fn folder() -> PathBuf {
    let uid = rustix::process::geteuid();
    if uid.is_root() && Path::new("/run").is_dir() {
        return PathBuf::from(OF_ROOT);
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
    if !is_own {
        bail!(
            "'{}' is user {}'s, and only that user or root can remove it: have it removed, or log in so that there \
             is a folder /run/user/{} (XDG_RUNTIME_DIR; 'loginctl enable-linger'), where the hook meets then",
            folder.display(),
            found.uid(),
            rustix::process::geteuid().as_raw()
        );
    }
    if !found.is_dir() || found.mode() & 0o077 != 0 {
        bail!(
            "'{}' must be a folder that is this user's and that nobody else can enter (mode 0700); \
             remove it, and it will be made anew",
            folder.display()
        );
    }
    Ok(())
}

/// Returns a name for the store of the settings: by its state directory, which no two stores share, be it
/// opened here or behind its daemon.
fn store_key(configuration: &Configuration) -> String {
    let store = &configuration.settings.store;
    let state = match own_store::place(store) {
        Ok(Some(Place::Local(layout) | Place::Own(layout))) => Some(layout.state),
        Ok(Some(Place::Daemon(socket))) => Some(match socket.parent().zip(socket.file_name()) {
            Some((folder, name)) if folder.ends_with("daemon-socket") && name == "socket" => {
                folder.parent().unwrap_or(folder).to_owned()
            }
            _ => socket,
        }),
        Ok(None) | Err(_) => None,
    };
    let real = |path: PathBuf| fs_err::canonicalize(&path).unwrap_or(path);
    let name = state.map_or_else(|| store.to_string(), |state| real(state).display().to_string());
    short_hash(&[&name])
}

/// Returns a name for what a list of machines comes to; nothing where that can't be told.
fn machines_key(configuration: &Configuration, builders: &Builders) -> Option<String> {
    let machines = behind::meant(configuration, builders.text(), Path::new("/")).ok()?;
    Some(short_hash(&[&behind::as_listed(&machines).join("\n"), &surroundings(configuration)]))
}

/// Returns what else decides how machines are reached. Root's daemon is one for all who are root.
fn surroundings(configuration: &Configuration) -> String {
    let agent = match rustix::process::geteuid().is_root() {
        true => String::new(),
        false => std::env::var("SSH_AUTH_SOCK").unwrap_or_default(),
    };
    format!("{}\n{agent}", configuration.host.ssh_options)
}

fn short_hash(texts: &[&str]) -> String {
    let hash = Hash::of(HashAlgorithm::Sha256, texts.join("\n").as_bytes());
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
