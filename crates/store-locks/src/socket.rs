//! The socket on which a running garbage collector is told of roots: `<state>/gc-socket/socket`.
//!
//! A path in a socket address has 107 bytes, so longer ones go through the folder's descriptor.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::LockError;

const NAME: &str = "socket";
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

pub(crate) fn path(state_dir: &Path) -> PathBuf {
    folder_path(state_dir).join(NAME)
}

fn folder_path(state_dir: &Path) -> PathBuf {
    state_dir.join("gc-socket")
}

fn folder(state_dir: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(folder_path(state_dir), flags, Mode::empty())
}

fn made_folder(state_dir: &Path) -> Result<OwnedFd, LockError> {
    let path = folder_path(state_dir);
    match rustix::fs::mkdir(&path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(LockError::io("make folder", &path, errno)),
    }
    folder(state_dir).map_err(|errno| LockError::io("open folder", &path, errno))
}

fn address(folder: &OwnedFd, name: &str) -> Result<SocketAddrUnix, Errno> {
    SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", folder.as_fd().as_raw_fd()))
}

fn new() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// Connects to the garbage collector that runs.
pub(crate) fn connect(state_dir: &Path) -> Result<OwnedFd, Errno> {
    let folder = folder(state_dir)?;
    let socket = new()?;
    rustix::net::connect(&socket, &address(&folder, NAME)?)?;
    Ok(socket)
}

/// Makes sure that there is a socket by that name, one that refuses connections until
/// [`listen`] puts its own there.
///
/// Nix 2.8 takes "refused" for a garbage collector that is about to listen or has just ended, and
/// tries again; but where there is no socket, it goes on as if its root had been acknowledged.
pub(crate) fn ensure(state_dir: &Path) -> Result<(), LockError> {
    let folder = made_folder(state_dir)?;
    match rustix::fs::statat(&folder, NAME, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(()),
        Err(Errno::NOENT) => {
            drop(bind(&folder, state_dir)?);
            publish_unless_there(&folder, state_dir)
        }
        Err(errno) => Err(LockError::io("look at socket", &path(state_dir), errno)),
    }
}

/// Listens by that name, which may be done with the GC lock only.
///
/// The name never stands for nothing meanwhile.
pub(crate) fn listen(state_dir: &Path) -> Result<OwnedFd, LockError> {
    let folder = made_folder(state_dir)?;
    let socket = bind(&folder, state_dir)?;
    rustix::net::listen(&socket, BACKLOG)
        .map_err(|errno| LockError::io("listen on socket", &path(state_dir), errno))?;
    publish(&folder, state_dir)?;
    Ok(socket)
}

fn temporary() -> String {
    let thread = std::thread::current().id();
    format!(".{NAME}-{}-{thread:?}", std::process::id())
}

fn bind(folder: &OwnedFd, state_dir: &Path) -> Result<OwnedFd, LockError> {
    let failed = |errno| LockError::io("make socket", &path(state_dir), errno);
    let name = temporary();
    match rustix::fs::unlinkat(folder, &name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(failed(errno)),
    }
    let socket = new().map_err(failed)?;
    rustix::net::bind(&socket, &address(folder, &name).map_err(failed)?).map_err(failed)?;
    // Anyone who may use the store may add roots.
    let everyone = Mode::from_raw_mode(0o666);
    rustix::fs::chmodat(folder, &name, everyone, AtFlags::empty()).map_err(failed)?;
    Ok(socket)
}

/// Leaves the socket alone that a garbage collector has put there meanwhile.
fn publish_unless_there(folder: &OwnedFd, state_dir: &Path) -> Result<(), LockError> {
    let named = rustix::fs::linkat(folder, temporary(), folder, NAME, AtFlags::empty());
    let removed = rustix::fs::unlinkat(folder, temporary(), AtFlags::empty());
    match named {
        Err(Errno::EXIST) => removed,
        named => named.and(removed),
    }
    .map_err(|errno| LockError::io("name socket", &path(state_dir), errno))
}

fn publish(folder: &OwnedFd, state_dir: &Path) -> Result<(), LockError> {
    rustix::fs::renameat(folder, temporary(), folder, NAME)
        .map_err(|errno| LockError::io("name socket", &path(state_dir), errno))
}
