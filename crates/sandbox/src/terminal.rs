//! A terminal for output: some programs write by lines to a terminal, and by blocks to a pipe.

use std::io;
use std::os::fd::OwnedFd;

use rustix::pty::OpenptFlags;
use rustix::termios::OptionalActions;

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
