//! A terminal for output: some programs write by lines to a terminal, and by blocks to a pipe.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
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
    upper: OwnedFd,
    /// The same once more, for the runtime: that is woken by all that comes, also while it's read here.
    watched: Option<AsyncFd<OwnedFd>>,
}

impl TerminalReader {
    /// Reads from the upper end of a terminal.
    ///
    /// # Errors
    /// If it can't be set to that.
    pub fn new(upper: OwnedFd) -> io::Result<TerminalReader> {
        rustix::io::ioctl_fionbio(&upper, true)?;
        Ok(TerminalReader { upper, watched: None })
    }

    /// Waits for bytes, and returns how many there are; 0 when all lower ends are closed. Dropping the
    /// future loses nothing. To be called within a tokio runtime.
    ///
    /// # Errors
    /// If it can't be read, or the runtime can't watch it.
    pub async fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = |upper: &OwnedFd| Ok(rustix::io::read(upper, &mut *bytes)?);
        let watched = match &self.watched {
            Some(watched) => watched,
            None => {
                let upper = self.upper.try_clone()?;
                self.watched.insert(sys::watch(upper, Interest::READABLE)?)
            }
        };
        ended(watched.async_io(Interest::READABLE, read).await)
    }

    /// Reads what comes without a pause, for `limit` at the most, and returns how many bytes that are. A
    /// terminal gives 4 KiB at once; who writes much has the next by the time they are passed on, and to
    /// learn of each from the runtime takes longer than to read it.
    ///
    /// Blocks, for about a millisecond where nothing comes. An error ends it, and the next read has it.
    pub fn read_on(&mut self, bytes: &mut [u8], limit: Duration) -> usize {
        self.watched = None;
        let (began, mut filled) = (Instant::now(), 0);
        while let Some(room) = bytes.get_mut(filled..).filter(|room| !room.is_empty()) {
            let read = match self.read_at_once(room) {
                Ok(0) if self.is_ready_soon() => self.read_at_once(room),
                read => read,
            };
            match read {
                Ok(read @ 1..) => filled += read,
                Ok(0) | Err(_) => break,
            }
            if limit <= began.elapsed() {
                break;
            }
        }
        filled
    }

    /// Returns what is there by now; 0 bytes if nothing is.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn read_at_once(&self, bytes: &mut [u8]) -> io::Result<usize> {
        match rustix::io::read(&self.upper, bytes) {
            Err(Errno::WOULDBLOCK) => Ok(0),
            read => ended(read.map_err(io::Error::from)),
        }
    }

    fn is_ready_soon(&self) -> bool {
        const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        let mut upper = [PollFd::new(&self.upper, PollFlags::IN)];
        rustix::event::poll(&mut upper, Some(&PAUSE)).is_ok_and(|ready| ready != 0)
    }
}

/// That nobody can write any more is told as an error.
fn ended(read: io::Result<usize>) -> io::Result<usize> {
    match read {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::IO) => Ok(0),
        read => read,
    }
}
