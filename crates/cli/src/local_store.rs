//! Which store is the local one, and how it is reached.
//!
//! drover opens the store itself where this user may write its files (`own_store`). What is here is
//! the way of everybody else, and of those who want what only Nix's daemon can do yet, substitute
//! and build on this machine: the daemon that listens, or else a private `nix-daemon --stdio`.

use std::num::NonZeroU32;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use drover_config::{Scheme, StoreReference};
use drover_core::StoreDir;
use drover_store_local::{Layout, Place};
use drover_store_remote::{Address, Program};
use rustix::fs::Access;

use crate::address::{address, connections, store_argument};
use crate::configuration::Configuration;
use crate::host::Host;
use crate::own_store;
use crate::standing::daemon_of;

/// Whether there is a daemon of Nix for a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StockDaemon {
    /// One listens, or its program is there to be started.
    Present,
    /// Neither.
    Absent,
}

/// The local store.
#[derive(Clone, Debug)]
pub(crate) struct LocalStore {
    /// How the user calls it.
    pub(crate) name: String,
    /// How it is reached.
    pub(crate) address: Address,
    /// How many connections to it may be open at once, where that is bounded.
    pub(crate) connections: Option<NonZeroU32>,
    /// The directory that its paths are in.
    pub(crate) store_dir: StoreDir,
    /// Where its files are on this machine.
    pub(crate) real_dir: Option<PathBuf>,
    /// Its name as an argument for Nix's own programs, so that they use the same one; nothing where
    /// they find it by themselves.
    pub(crate) argument: Option<String>,
}

impl LocalStore {
    /// Chooses the store: `--store`, else `NIX_REMOTE`, else the setting, else the daemon's.
    ///
    /// # Errors
    ///
    /// A kind of store that can't be used, or none that could be, with what to do about it.
    pub(crate) fn choose(configuration: &Configuration) -> anyhow::Result<LocalStore> {
        let Configuration { host, settings, .. } = configuration;
        let store = &settings.store;
        if let Some(Place::Own(layout)) = own_store::place(store)? {
            return LocalStore::of_user(layout, host);
        }
        let store_dir = match store.param("store").filter(|_| !store.scheme().is_ssh()) {
            Some(dir) => dir.parse().with_context(|| format!("store '{store}' can't be used"))?,
            None => configuration.store_dir.clone(),
        };
        let address = match store.scheme() {
            Scheme::Auto => automatic(store, host)?,
            _ => address(store, &host.daemon_socket())?,
        };
        Ok(LocalStore {
            name: match (store.scheme(), &address) {
                (Scheme::Auto, Address::Socket(_)) => "daemon".to_owned(),
                _ => store_argument(store),
            },
            address,
            connections: connections(store)?,
            real_dir: real_dir(store, &store_dir),
            store_dir,
            argument: (*store.scheme() != Scheme::Auto).then(|| store_argument(store)),
        })
    }

    /// Returns the user's own store, which is made on first use.
    fn of_user(layout: Layout, host: &Host) -> anyhow::Result<LocalStore> {
        let root: StoreReference = layout.name.parse()?;
        Ok(LocalStore {
            address: address(&root, &host.daemon_socket())?,
            connections: None,
            argument: Some(store_argument(&root)),
            name: layout.name,
            store_dir: layout.store_dir,
            real_dir: Some(layout.real),
        })
    }

    /// Says whether there is a daemon of Nix for it. One of drover's own neither substitutes nor
    /// builds on this machine yet.
    pub(crate) fn stock_daemon(&self, host: &Host) -> StockDaemon {
        let is_there = match &self.address {
            Address::Socket(socket) => {
                !self.is_kept_by_drover(socket, host) && UnixStream::connect(socket).is_ok()
            }
            Address::Local(Program::Worker { command, .. }) => match command.as_slice() {
                [only] if only == "nix-daemon" => host.finds_other("nix-daemon"),
                _ => true,
            },
            Address::Local(Program::Serve { .. }) | Address::Ssh(..) => true,
        };
        match is_there {
            true => StockDaemon::Present,
            false => StockDaemon::Absent,
        }
    }

    /// Whether the daemon that listens at a socket is drover's own.
    fn is_kept_by_drover(&self, socket: &Path, host: &Host) -> bool {
        let beside = self.real_dir.as_ref().and_then(|dir| Some(dir.parent()?.join("var/nix")));
        let states = beside.into_iter().chain([host.state_dir.clone()]);
        states.into_iter().any(|state| daemon_of(&state).is_some_and(|found| found == *socket))
    }

    /// Checks that the program is there that serves a store which has no daemon, and which drover
    /// can't open itself.
    ///
    /// # Errors
    ///
    /// It isn't; says how to get it.
    pub(crate) fn require_program(&self, host: &Host) -> anyhow::Result<()> {
        if matches!(self.address, Address::Local(_))
            && self.stock_daemon(host) == StockDaemon::Absent
        {
            bail!(
                "this user may not write store '{}', and there is neither a daemon for it nor a \
                 'nix-daemon' on the PATH to open it with; choose a store of your own with --store \
                 'local?root=DIR', or install Nix (Debian and Ubuntu: apt install nix-bin; \
                 elsewhere: https://nixos.org/download)",
                self.name,
            );
        }
        Ok(())
    }

    /// Returns the logical path of a file that may be given by its place on this machine.
    pub(crate) fn logical(&self, file: &Path) -> PathBuf {
        match self.real_dir.as_ref().and_then(|real_dir| file.strip_prefix(real_dir).ok()) {
            Some(rest) => Path::new(self.store_dir.as_str()).join(rest),
            None => file.to_owned(),
        }
    }
}

/// The daemon if it listens; else the store itself if this user may write it.
fn automatic(store: &StoreReference, host: &Host) -> anyhow::Result<Address> {
    let socket = host.daemon_socket();
    if store.params().is_empty() && socket.exists() {
        return Ok(Address::Socket(socket));
    }
    let state_dir = match store.param("root") {
        Some(root) => Path::new(root).join("nix/var/nix"),
        None => host.state_dir.clone(),
    };
    let writable = rustix::fs::access(&state_dir, Access::READ_OK | Access::WRITE_OK).is_ok();
    if state_dir.exists() && !writable {
        bail!(
            "there is no Nix daemon at '{}', and '{}' can't be written; start the daemon \
             (systemctl start nix-daemon, or: sudo nix-daemon &), or choose a store of your own \
             with --store 'local?root=DIR'",
            socket.display(),
            state_dir.display(),
        );
    }
    Ok(address(store, &socket)?)
}

/// Returns where the store's files are on this machine, where that follows from its name.
fn real_dir(store: &StoreReference, store_dir: &StoreDir) -> Option<PathBuf> {
    match store.scheme() {
        Scheme::Ssh | Scheme::SshNg => return None,
        _ => {}
    }
    if let Some(real) = store.param("real").filter(|real| !real.is_empty()) {
        return Some(PathBuf::from(real));
    }
    let root = match store.scheme() {
        Scheme::Local if !store.path().is_empty() => Some(store.path()),
        _ => store.param("root").filter(|root| !root.is_empty()),
    };
    let relative = store_dir.as_str().trim_start_matches('/');
    Some(Path::new(root.unwrap_or("/")).join(relative))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("auto", Some("/nix/store"))]
    #[case("daemon", Some("/nix/store"))]
    #[case("unix:///s?root=/r", Some("/r/nix/store"))]
    #[case("local?root=/r", Some("/r/nix/store"))]
    #[case("/r", Some("/r/nix/store"))]
    #[case("local?root=/r&real=/elsewhere", Some("/elsewhere"))]
    #[case("ssh-ng://b1", None)]
    fn files_are_below_the_root(#[case] uri: &str, #[case] expected: Option<&str>) {
        let found = real_dir(&uri.parse().unwrap(), &StoreDir::default());
        assert_eq!(found.as_deref(), expected.map(Path::new));
    }

    #[test]
    fn real_paths_are_logical_ones() {
        let store = LocalStore {
            name: String::new(),
            address: Address::Socket("/s".into()),
            connections: None,
            store_dir: StoreDir::default(),
            real_dir: Some("/r/nix/store".into()),
            argument: None,
        };
        assert_eq!(store.logical(Path::new("/r/nix/store/x")), Path::new("/nix/store/x"));
        assert_eq!(store.logical(Path::new("/nix/store/x")), Path::new("/nix/store/x"));
    }
}
