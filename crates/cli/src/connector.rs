//! Opens stores: what all connections of a command have in common.

use std::num::NonZeroU32;
use std::sync::Arc;

use anyhow::Context as _;
use drover_core::StoreDir;
use drover_store::BuildSettings;
use drover_store_remote::{Address, ConnectOptions, Login, RemoteStore, SshTarget};

use crate::configuration::Configuration;
use crate::host::raise_file_limit;
use crate::local_store::LocalStore;
use crate::ssh_options;

/// Opens stores.
#[derive(Clone)]
pub(crate) struct Connector {
    options: ConnectOptions,
}

impl Connector {
    /// Returns a connector as configured.
    ///
    /// # Errors
    ///
    /// A `NIX_SSHOPTS` that can't be split, or no folder for sockets.
    pub(crate) fn new(configuration: &Configuration) -> anyhow::Result<Connector> {
        raise_file_limit();
        let host = &configuration.host;
        let runtime_dir = host
            .make_runtime_dir()
            .context("cannot make a folder for sockets; set XDG_RUNTIME_DIR or TMPDIR to one with a short path that can be written")?;
        let options = ConnectOptions {
            connect_timeout: configuration.connect_timeout(),
            ssh_arguments: ssh_options::split(&host.ssh_options)?,
            runtime_dir: Arc::new(runtime_dir),
        };
        Ok(Connector { options })
    }

    /// Opens a store; it connects on first use.
    pub(crate) fn open(
        &self,
        name: &str,
        store_dir: &StoreDir,
        address: &Address,
        settings: &BuildSettings,
    ) -> RemoteStore {
        RemoteStore::new(name, store_dir.clone(), address.clone(), &self.options, settings.clone())
    }

    /// Returns a machine to run single commands on; it connects on first use.
    pub(crate) fn log_in(&self, name: &str, target: SshTarget) -> Login {
        Login::new(name, target, &self.options)
    }

    /// Opens the local store; it connects on first use.
    pub(crate) fn open_local(&self, store: &LocalStore, settings: &BuildSettings) -> RemoteStore {
        let opened = self.open(&store.name, &store.store_dir, &store.address, settings);
        let opened = bounded(opened, store.connections);
        match &store.real_dir {
            Some(real_dir) => opened.with_real_dir(real_dir.clone()),
            None => opened,
        }
    }
}

/// Bounds the connections to a store, where they are to be.
pub(crate) fn bounded(store: RemoteStore, connections: Option<NonZeroU32>) -> RemoteStore {
    match connections {
        Some(bound) => store.with_connections(bound),
        None => store,
    }
}
