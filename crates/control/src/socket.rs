//! The file that a control socket is.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{
    SocketAddr, UnixListener as StdUnixListener, UnixStream as StdUnixStream,
};
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// Returns where the control socket of a daemon is that listens at `socket`.
pub fn socket_beside(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(".control");
    path.into()
}

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for questions at '{}': {reason}", path.display())]
pub struct SocketError {
    /// Where it was to be.
    pub path: PathBuf,
    /// What is wrong.
    pub reason: String,
}

/// A socket that questions come in at. The file goes with it.
#[derive(Debug)]
pub struct Socket {
    pub(crate) listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file.
    identity: (u64, u64),
}

impl Socket {
    /// Makes the socket, open to everybody from its first moment on (who may ask is decided for each
    /// who connects), in the place of one that nobody listens to any more.
    ///
    /// # Errors
    ///
    /// [`SocketError`], where another daemon listens there, something that is no socket stands there,
    /// or the path is too long for a socket.
    pub fn bind(path: &Path) -> Result<Socket, SocketError> {
        let refuse = |reason: String| SocketError { path: path.to_owned(), reason };
        let failed = |error: io::Error| refuse(error.to_string());
        // nobody could connect to it by that path
        SocketAddr::from_pathname(path).map_err(failed)?;
        match fs_err::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(refuse("something else than a socket is there".to_owned()));
            }
            Ok(_) if StdUnixStream::connect(path).is_ok() => {
                return Err(refuse("another daemon listens there".to_owned()));
            }
            _ => {}
        }
        // under a name of its own until it is what it is to be
        let draft = path.with_file_name(format!(".c{}", std::process::id()));
        drop(fs_err::remove_file(&draft));
        let made = (|| {
            let listener = StdUnixListener::bind(&draft)?;
            listener.set_nonblocking(true)?;
            fs_err::set_permissions(&draft, std::fs::Permissions::from_mode(0o666))?;
            let found = fs_err::symlink_metadata(&draft)?;
            fs_err::rename(&draft, path)?;
            Ok((UnixListener::from_std(listener)?, (found.dev(), found.ino())))
        })();
        match made {
            Ok((listener, identity)) => Ok(Socket { listener, path: path.to_owned(), identity }),
            Err(error) => {
                drop(fs_err::remove_file(&draft));
                Err(failed(error))
            }
        }
    }
}

impl Drop for Socket {
    /// Removes the file, unless another daemon has put its own there.
    fn drop(&mut self) {
        if let Ok(found) = fs_err::symlink_metadata(&self.path)
            && (found.dev(), found.ino()) == self.identity
            && let Err(error) = fs_err::remove_file(&self.path)
        {
            tracing::warn!(%error, "the control socket stays");
        }
    }
}
