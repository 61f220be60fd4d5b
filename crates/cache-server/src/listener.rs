//! Where clients connect.

use std::fmt;
use std::io;
use std::net::TcpListener as StdTcpListener;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use listenfd::ListenFd;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::error::ServeError;

/// Where to listen: `ADDRESS:PORT` or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// An address or the name of one, and a port; 0 for any that is free.
    Tcp(String),
    /// A socket in the file system, which everybody may connect to who gets there.
    Unix(PathBuf),
}

impl FromStr for Place {
    type Err = ServeError;

    fn from_str(text: &str) -> Result<Place, ServeError> {
        let bad = || ServeError::Place { text: text.to_owned() };
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(bad()) } else { Ok(Place::Unix(path.into())) };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let bracketed = host.starts_with('[') && host.ends_with(']');
        if host.is_empty() || (host.contains(':') && !bracketed) || port.parse::<u16>().is_err() {
            return Err(bad());
        }
        Ok(Place::Tcp(text.to_owned()))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Tcp(address) => f.write_str(address),
            Place::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A socket that clients connect to. A file that it has made goes with it.
pub struct Listener {
    pub(crate) socket: Socket,
    file: Option<SocketFile>,
}

pub(crate) enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Somebody who has connected.
pub(crate) enum Peer {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// The file of a socket, with its device and inode.
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Ok(found) = fs_err::symlink_metadata(&self.path)
            && (found.dev(), found.ino()) == self.identity
            && let Err(error) = fs_err::remove_file(&self.path)
        {
            tracing::warn!("the socket stays: {error}");
        }
    }
}

impl Listener {
    /// Listens at a place. A socket that nobody listens at any more is replaced.
    ///
    /// # Errors
    ///
    /// What the system says, or what stands where the socket should be.
    pub async fn bind(place: &Place) -> Result<Listener, ServeError> {
        let failed = |source| ServeError::Listen { place: place.to_string(), source };
        match place {
            Place::Tcp(address) => {
                let socket = TcpListener::bind(address).await.map_err(failed)?;
                Ok(Listener { socket: Socket::Tcp(socket), file: None })
            }
            Place::Unix(path) => bind_unix(path, failed),
        }
    }

    /// Returns the sockets that the service manager has handed to this process (`LISTEN_FDS` of
    /// `sd_listen_fds(3)`), TCP and unix; none where it hasn't.
    ///
    /// # Errors
    ///
    /// Something that is no socket which listens.
    pub fn from_service_manager() -> Result<Vec<Listener>, ServeError> {
        let failed =
            |source| ServeError::Listen { place: "the socket handed over".to_owned(), source };
        let mut handed = ListenFd::from_env();
        let mut listeners = Vec::new();
        for at in 0..handed.len() {
            // whichever kind it isn't leaves it there
            if let Ok(Some(socket)) = handed.take_tcp_listener(at) {
                listeners.push(Listener::from_tcp(socket).map_err(failed)?);
            } else if let Some(socket) = handed.take_unix_listener(at).map_err(failed)? {
                listeners.push(Listener::from_unix(socket).map_err(failed)?);
            }
        }
        Ok(listeners)
    }

    /// Listens at a TCP socket that somebody else has made.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn from_tcp(socket: StdTcpListener) -> io::Result<Listener> {
        socket.set_nonblocking(true)?;
        Ok(Listener { socket: Socket::Tcp(TcpListener::from_std(socket)?), file: None })
    }

    /// The same for a unix socket.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn from_unix(socket: StdUnixListener) -> io::Result<Listener> {
        socket.set_nonblocking(true)?;
        Ok(Listener { socket: Socket::Unix(UnixListener::from_std(socket)?), file: None })
    }

    /// Returns where it listens, with the port that it has got.
    pub fn place(&self) -> String {
        let unknown = || "a socket".to_owned();
        match (&self.socket, &self.file) {
            (Socket::Tcp(socket), _) => {
                socket.local_addr().map_or_else(|_| unknown(), |address| address.to_string())
            }
            (Socket::Unix(_), Some(file)) => format!("unix:{}", file.path.display()),
            (Socket::Unix(socket), None) => {
                let address = socket.local_addr().ok();
                let path = address.as_ref().and_then(|address| address.as_pathname());
                path.map_or_else(unknown, |path| format!("unix:{}", path.display()))
            }
        }
    }

    pub(crate) async fn accept(&self) -> io::Result<Peer> {
        match &self.socket {
            Socket::Tcp(socket) => {
                let (stream, _) = socket.accept().await?;
                // answers are small and come at once
                stream.set_nodelay(true)?;
                Ok(Peer::Tcp(stream))
            }
            Socket::Unix(socket) => Ok(Peer::Unix(socket.accept().await?.0)),
        }
    }
}

fn bind_unix(
    path: &Path,
    failed: impl Fn(io::Error) -> ServeError,
) -> Result<Listener, ServeError> {
    let taken = |reason| ServeError::Taken { path: path.to_owned(), reason };
    match fs_err::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(taken("something else than a socket is there"));
        }
        Ok(_) if StdUnixStream::connect(path).is_ok() => {
            return Err(taken("somebody listens there"));
        }
        Ok(_) => fs_err::remove_file(path).map_err(&failed)?,
        Err(_) => {}
    }
    let socket = StdUnixListener::bind(path).map_err(&failed)?;
    // whoever is to be kept out is kept out by the folder
    fs_err::set_permissions(path, std::fs::Permissions::from_mode(0o666)).map_err(&failed)?;
    let found = fs_err::symlink_metadata(path).map_err(&failed)?;
    let file = SocketFile { path: path.to_owned(), identity: (found.dev(), found.ino()) };
    let listener = Listener::from_unix(socket).map_err(failed)?;
    Ok(Listener { file: Some(file), ..listener })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("127.0.0.1:5000")]
    #[case("[::1]:0")]
    #[case("localhost:80")]
    #[case("unix:/run/cache")]
    fn places(#[case] text: &str) {
        assert_eq!(text.parse::<Place>().unwrap().to_string(), text);
    }

    #[rstest]
    #[case("")]
    #[case("5000")]
    #[case(":5000")]
    #[case("::1:5000")]
    #[case("host:99999")]
    #[case("host:http")]
    #[case("unix:")]
    fn no_places(#[case] text: &str) {
        let error = text.parse::<Place>().unwrap_err().to_string();
        assert!(error.contains("ADDRESS:PORT or unix:PATH"), "{error}");
    }

    #[tokio::test]
    async fn a_socket_is_taken_over_only_when_nobody_listens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let place = Place::Unix(path.clone());
        let first = Listener::bind(&place).await.unwrap();
        let error = Listener::bind(&place).await.err().unwrap().to_string();
        assert!(error.contains("somebody listens there"), "{error}");
        drop(first);
        assert!(!path.exists());
        drop(StdUnixListener::bind(&path).unwrap());
        drop(Listener::bind(&place).await.unwrap());
        fs_err::write(&path, "x").unwrap();
        let error = Listener::bind(&place).await.err().unwrap().to_string();
        assert!(error.contains("something else"), "{error}");
        assert!(path.exists());
    }
}
