//! Telling a running garbage collector of roots, as `LocalStore::addTempRoot` in Nix's
//! `src/libstore/gc.cc` does.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use drover_core::{StoreDir, StorePath};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use crate::flock::{self, Sharing};
use crate::wait::Waiting;
use crate::{LockError, Wait, gc_lock, socket};

const WAITING: &str = "waiting for the garbage collector to acknowledge a root";
/// Roots that are sent before their acknowledgements are read: their bytes fit into any socket's
/// buffers, in both directions.
const IN_FLIGHT: usize = 32;

/// What a session needs to tell a garbage collector of roots.
#[derive(Debug)]
pub(crate) struct RootsClient {
    state_dir: PathBuf,
    gc_lock: OwnedFd,
    connection: Option<OwnedFd>,
}

/// How an exchange with a garbage collector ended.
enum Told {
    /// It acknowledged all.
    All,
    /// It went away.
    Gone,
}

impl RootsClient {
    pub(crate) fn new(state_dir: &Path) -> Result<RootsClient, LockError> {
        let gc_lock = flock::open(&gc_lock::path(state_dir))?;
        Ok(RootsClient { state_dir: state_dir.to_owned(), gc_lock, connection: None })
    }

    /// Returns once no garbage collector runs, or the one that does knows of `paths`.
    ///
    /// They must stand in a file of temporary roots already, for collectors that begin from now on.
    pub(crate) fn announce(
        &mut self,
        store_dir: &StoreDir,
        paths: &[StorePath],
        wait: Wait<'_>,
    ) -> Result<(), LockError> {
        let mut waiting = wait.begin(WAITING);
        loop {
            if self.no_collector_runs()? {
                return Ok(());
            }
            if self.connection.is_none() {
                self.connection = self.connect()?;
            }
            match self.tell(store_dir, paths, &mut waiting) {
                Ok(Told::All) => return Ok(()),
                // It has ended, or is about to listen.
                Ok(Told::Gone) => self.connection = None,
                Err(error) => {
                    // What it answers later is not meant for the next root.
                    self.connection = None;
                    return Err(error);
                }
            }
            waiting.sleep()?;
        }
    }

    /// Whether there is no garbage collector at this moment.
    fn no_collector_runs(&self) -> Result<bool, LockError> {
        let failed = |errno| LockError::io("lock", &gc_lock::path(&self.state_dir), errno);
        let free = flock::try_lock(self.gc_lock.as_fd(), Sharing::Shared).map_err(failed)?;
        if free {
            flock::unlock(self.gc_lock.as_fd());
        }
        Ok(free)
    }

    fn connect(&self) -> Result<Option<OwnedFd>, LockError> {
        match socket::connect(&self.state_dir) {
            Ok(connection) => Ok(Some(connection)),
            // No such socket yet, nobody behind it, or more who wait than it takes.
            Err(Errno::NOENT | Errno::CONNREFUSED | Errno::AGAIN) => Ok(None),
            Err(errno) => Err(self.failed("connect to garbage collector at", errno)),
        }
    }

    fn failed(&self, action: &'static str, errno: Errno) -> LockError {
        LockError::io(action, &socket::path(&self.state_dir), errno)
    }

    fn tell(
        &self,
        store_dir: &StoreDir,
        paths: &[StorePath],
        waiting: &mut Waiting<'_>,
    ) -> Result<Told, LockError> {
        let Some(connection) = &self.connection else { return Ok(Told::Gone) };
        for some in paths.chunks(IN_FLIGHT) {
            let text: String = some.iter().map(|path| store_dir.display(path) + "\n").collect();
            if let Told::Gone = self.send(connection, text.as_bytes(), waiting)? {
                return Ok(Told::Gone);
            }
            if let Told::Gone = self.acknowledged(connection, some.len(), waiting)? {
                return Ok(Told::Gone);
            }
        }
        Ok(Told::All)
    }

    fn send(
        &self,
        connection: &OwnedFd,
        mut bytes: &[u8],
        waiting: &mut Waiting<'_>,
    ) -> Result<Told, LockError> {
        while !bytes.is_empty() {
            match rustix::net::send(connection, bytes, SendFlags::NOSIGNAL) {
                Ok(sent) => bytes = bytes.get(sent..).unwrap_or_default(),
                Err(Errno::AGAIN) => self.ready(connection, PollFlags::OUT, waiting)?,
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Ok(Told::Gone),
                Err(errno) => return Err(self.failed("write to garbage collector at", errno)),
            }
        }
        Ok(Told::All)
    }

    fn acknowledged(
        &self,
        connection: &OwnedFd,
        mut missing: usize,
        waiting: &mut Waiting<'_>,
    ) -> Result<Told, LockError> {
        while 0 < missing {
            let mut bytes = [0_u8; IN_FLIGHT];
            let room = bytes.get_mut(..missing.min(IN_FLIGHT)).unwrap_or_default();
            match rustix::net::recv(connection, room, RecvFlags::empty()) {
                Ok((0, _)) => return Ok(Told::Gone),
                Ok((got, _)) => {
                    let bad = bytes.iter().take(got).find(|byte| **byte != b'1');
                    if let Some(&got) = bad {
                        let path = socket::path(&self.state_dir);
                        return Err(LockError::BadAnswer { path, got });
                    }
                    missing = missing.saturating_sub(got);
                }
                Err(Errno::AGAIN) => self.ready(connection, PollFlags::IN, waiting)?,
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Ok(Told::Gone),
                Err(errno) => return Err(self.failed("read from garbage collector at", errno)),
            }
        }
        Ok(Told::All)
    }

    /// Waits until the connection has something or takes something, for one pause at the most.
    fn ready(
        &self,
        connection: &OwnedFd,
        for_what: PollFlags,
        waiting: &mut Waiting<'_>,
    ) -> Result<(), LockError> {
        let pause = timespec(waiting.pause()?);
        match rustix::event::poll(&mut [PollFd::new(connection, for_what)], Some(&pause)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(self.failed("wait for garbage collector at", errno)),
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_flight_fits_into_a_socket() {
        let longest = IN_FLIGHT * (4096 + 1 + 32 + 1 + 211 + 1);
        assert!(longest < 212_992 - 8192, "{longest}");
    }

    #[test]
    fn a_pause_as_the_system_wants_it() {
        let pause = timespec(Duration::from_millis(1025));
        assert_eq!((pause.tv_sec, pause.tv_nsec), (1, 25_000_000));
    }
}
