//! A terminal for output: some programs write by lines to a terminal, and by blocks to a pipe.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::pty::OpenptFlags;
use rustix::termios::OptionalActions;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sys;

/// Both ends of a new terminal that passes bytes on as they are.
#[derive(Debug)]
pub struct Terminal {
    /// Where the output is read. When all lower ends are closed, reading fails with `EIO`.
    pub upper: OwnedFd,
    /// What a command gets as its output.
    pub lower: OwnedFd,
}

impl Terminal {
    /// Makes a terminal.
    ///
    /// # Errors
    /// If the kernel gives none.
    pub fn new() -> io::Result<Terminal> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let upper = rustix::pty::openpt(flags)?;
        rustix::pty::unlockpt(&upper)?;
        let lower = rustix::pty::ioctl_tiocgptpeer(&upper, flags)?;
        let mut modes = rustix::termios::tcgetattr(&lower)?;
        modes.make_raw();
        rustix::termios::tcsetattr(&lower, OptionalActions::Now, &modes)?;
        Ok(Terminal { upper, lower })
    }
}

/// What reads what was written to a terminal.
#[derive(Debug)]
pub struct TerminalReader {
    upper: AsyncFd<OwnedFd>,
}

impl TerminalReader {
    /// Reads from the upper end of a terminal. To be called within a tokio runtime.
    ///
    /// # Errors
    /// If the runtime can't watch it.
    pub fn new(upper: OwnedFd) -> io::Result<TerminalReader> {
        rustix::io::ioctl_fionbio(&upper, true)?;
        Ok(TerminalReader { upper: sys::watch(upper, Interest::READABLE)? })
    }

    /// Waits for bytes, and returns how many there are; 0 when all lower ends are closed. Dropping the
    /// future loses nothing.
    ///
    /// # Errors
    /// If it can't be read.
    pub async fn read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = |upper: &OwnedFd| Ok(rustix::io::read(upper, &mut *bytes)?);
        ended(self.upper.async_io(Interest::READABLE, read).await)
    }

    /// Returns what is there by now; 0 bytes if nothing is.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn read_at_once(&self, bytes: &mut [u8]) -> io::Result<usize> {
        match rustix::io::read(self.upper.get_ref(), bytes) {
            Err(Errno::WOULDBLOCK) => Ok(0),
            read => ended(read.map_err(io::Error::from)),
        }
    }
}

/// That nobody can write any more is told as an error.
fn ended(read: io::Result<usize>) -> io::Result<usize> {
    match read {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::IO) => Ok(0),
        read => read,
    }
}
