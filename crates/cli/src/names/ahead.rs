//! The daemon that a client on standard input and output is passed on to.

use std::io;
use std::path::PathBuf;

use drover_config::Scheme;
use drover_daemon::{Stdio, introduction, is_client_name, relay};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;

use super::Opened;
use crate::configuration::Configuration;
use crate::standing::{Introductions, find};

/// A daemon to which a connection is to be passed on, so that all builds go through one scheduler.
pub(super) enum Ahead {
    /// Drover's own, which stands before the store.
    Drover(PathBuf),
    /// Another, or one that may listen at the usual place.
    Usual(PathBuf),
}

/// Returns the daemon that stands before a store, or may.
pub(super) fn daemon_ahead(opened: &Opened, configuration: &Configuration) -> Option<Ahead> {
    let state = match opened {
        Opened::Own(store) => &store.layout().state,
        // for users who can't write it, it's the daemon's
        Opened::Remote(_) => &configuration.host.state_dir,
    };
    let is_usual = {
        let store = &configuration.settings.store;
        *store.scheme() == Scheme::Auto && store.params().is_empty()
    };
    if (is_usual || matches!(opened, Opened::Own(_)))
        && let Some(found) = find(state)
    {
        return Some(match found.introductions {
            Introductions::Known => Ahead::Drover(found.socket),
            Introductions::Unknown => Ahead::Usual(found.socket),
        });
    }
    is_usual.then(|| Ahead::Usual(configuration.host.daemon_socket()))
}

/// Passes on what a client says to the daemon that stands ahead, with the name of the client where its
/// key has one.
///
/// # Errors
///
/// Nobody listens there, or the connection broke.
pub(super) async fn pass_on(wires: Stdio, ahead: Ahead) -> Result<(), Passing> {
    let (Ahead::Drover(socket) | Ahead::Usual(socket)) = &ahead;
    let Ok(daemon) = UnixStream::connect(socket).await else { return Err(Passing::Nobody(wires)) };
    let (input, output) = daemon.into_split();
    let mut daemon = Stdio { input: Box::new(input), output: Box::new(output) };
    match (&ahead, client_name().map_err(Passing::Broken)?) {
        (Ahead::Drover(_), Some(name)) => {
            let said = daemon.output.write_all(&introduction(&name)).await;
            said.map_err(Passing::Broken)?;
        }
        (Ahead::Usual(socket), Some(name)) => {
            // without it, it would be taken for all others who come as this user
            let says = format!(
                "the daemon at '{}' is not known to be drover's and can't be told that this is \
                 '{name}' (DROVER_CLIENT)",
                socket.display()
            );
            return Err(Passing::Broken(io::Error::other(says)));
        }
        (_, None) => {}
    }
    relay(wires, daemon).await.map_err(Passing::Broken)
}

/// Why a connection was not passed on to its end.
pub(super) enum Passing {
    /// Nobody listens; the client has said nothing yet.
    Nobody(Stdio),
    Broken(io::Error),
}

/// Returns the name that this client has by its key: `environment="DROVER_CLIENT=alice"` or a command with
/// that variable in `authorized_keys`.
fn client_name() -> io::Result<Option<String>> {
    match std::env::var("DROVER_CLIENT") {
        Err(std::env::VarError::NotPresent) => Ok(None),
        Ok(name) if is_client_name(&name) => Ok(Some(name)),
        Ok(_) | Err(std::env::VarError::NotUnicode(_)) => Err(io::Error::other(
            "DROVER_CLIENT must be up to 64 letters, digits and ._@+-; nobody is let in without the name \
             that the key was given",
        )),
    }
}
