//! Sockets that the service manager holds open and hands over.
//!
//! Follows `sd_listen_fds(3)` and `serveUnixSocket` in `src/libutil/unix/` of Nix.

use listenfd::ListenFd;

use crate::error::DaemonError;
use crate::listener::Listener;

/// Returns the sockets that the service manager hands over in `LISTEN_FDS`, none where there is none.
/// Must be called within a runtime, once, before other threads look at the environment.
///
/// # Errors
///
/// Something handed over that is no listening unix socket.
pub fn sockets_from_systemd() -> Result<Vec<Listener>, DaemonError> {
    let mut handed = ListenFd::from_env();
    let bad = |error: std::io::Error| DaemonError::Activation { reason: error.to_string() };
    let mut listeners = Vec::new();
    for at in 0..handed.len() {
        if let Some(socket) = handed.take_unix_listener(at).map_err(bad)? {
            listeners.push(Listener::from_socket(socket).map_err(bad)?);
        }
    }
    Ok(listeners)
}
