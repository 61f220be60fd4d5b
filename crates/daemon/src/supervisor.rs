//! Tells the service manager how the daemon is: `sd_notify`, by hand.
//!
//! Follows `sd_notify(3)`: datagrams of `NAME=value` lines to the socket in `NOTIFY_SOCKET`.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::{Instant, sleep};

/// How long the service manager may have no room for what it has to know.
const PATIENCE: Duration = Duration::from_secs(3);
/// Rest between two tries.
const PAUSE: Duration = Duration::from_millis(10);

/// What the service manager is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SupervisorState {
    /// Clients are taken in.
    Ready,
    /// Settings are read anew; [`SupervisorState::Ready`] follows.
    Reloading,
    /// It ends.
    Stopping,
    /// It is alive.
    Alive,
}

/// The service manager, if there is one.
#[derive(Clone, Debug, Default)]
pub struct Supervisor {
    socket: Option<OsString>,
    watchdog: Option<Duration>,
}

impl Supervisor {
    /// Returns the one that `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` name; `variable` looks
    /// variables up.
    pub fn new(variable: impl Fn(&str) -> Option<OsString>) -> Supervisor {
        let number = |name| variable(name)?.to_str()?.parse::<u64>().ok();
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|_| ours).map(Duration::from_micros);
        Supervisor { socket: variable("NOTIFY_SOCKET"), watchdog }
    }

    /// Returns how often [`SupervisorState::Alive`] is to be told: twice as often as it is looked for.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog.map(|period| period / 2)
    }

    /// Tells how the daemon is; nothing where nobody asked.
    ///
    /// # Errors
    ///
    /// The service manager's socket doesn't take it.
    pub fn tell(&self, state: SupervisorState) -> io::Result<()> {
        let Some(socket) = &self.socket else { return Ok(()) };
        let text = match state {
            SupervisorState::Ready => "READY=1".to_owned(),
            SupervisorState::Stopping => "STOPPING=1".to_owned(),
            SupervisorState::Alive => "WATCHDOG=1".to_owned(),
            SupervisorState::Reloading => {
                let now = clock_gettime(ClockId::Monotonic);
                let microseconds = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
                format!("RELOADING=1\nMONOTONIC_USEC={microseconds}")
            }
        };
        let ours = UnixDatagram::unbound()?;
        // one that doesn't listen must not hold up everybody else
        ours.set_nonblocking(true)?;
        ours.send_to_addr(text.as_bytes(), &address(socket)?)?;
        Ok(())
    }

    /// Tells it as [`Supervisor::tell`] does, but waits a while for a service manager that has no room for it:
    /// one that misses [`SupervisorState::Ready`] after a reload takes that to have failed.
    ///
    /// # Errors
    ///
    /// The service manager's socket doesn't take it.
    pub async fn tell_in_time(&self, state: SupervisorState) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.tell(state) {
                Err(error) if is_full(&error) && Instant::now() < deadline => sleep(PAUSE).await,
                told => return told,
            }
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

fn address(socket: &OsStr) -> io::Result<SocketAddr> {
    match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(socket),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_service_manager_hears_of_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).expect("a socket");
        let supervisor = Supervisor::new(|name| match name {
            "NOTIFY_SOCKET" => Some(path.clone().into()),
            "WATCHDOG_USEC" => Some("30000000".into()),
            _ => None,
        });
        assert_eq!(supervisor.watchdog(), Some(Duration::from_secs(15)));
        let mut buffer = [0; 100];
        for (state, expected) in [
            (SupervisorState::Ready, "READY=1"),
            (SupervisorState::Alive, "WATCHDOG=1"),
            (SupervisorState::Reloading, "RELOADING=1\nMONOTONIC_USEC="),
            (SupervisorState::Stopping, "STOPPING=1"),
        ] {
            supervisor.tell(state).expect("told");
            let len = manager.recv(&mut buffer).expect("heard");
            assert!(buffer[..len].starts_with(expected.as_bytes()), "{state:?}");
        }
        // what nobody takes is an error and no wait
        let untaken = (0..10_000).find_map(|_| supervisor.tell(SupervisorState::Alive).err());
        assert_eq!(untaken.expect("a full queue").kind(), io::ErrorKind::WouldBlock);
        // but for what it has to know, when it has room again
        let hears = async {
            manager.set_nonblocking(true).expect("set");
            loop {
                match manager.recv(&mut buffer) {
                    Ok(len) if buffer[..len] == *b"STOPPING=1" => break,
                    Ok(_) => {}
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        let telling = supervisor.tell_in_time(SupervisorState::Stopping);
        let limit = Duration::from_secs(60);
        let both = async { tokio::join!(biased; telling, hears).0 };
        tokio::time::timeout(limit, both).await.expect("heard").expect("told");
        let nobody = Supervisor::new(|_| None);
        nobody.tell(SupervisorState::Ready).expect("nobody asked");
        assert_eq!(nobody.watchdog(), None);
    }
}
