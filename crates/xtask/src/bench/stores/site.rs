//! The hosts of one side: one where commands run, one that is copied to and from. Both have the
//! side's daemon, and its programs under Nix's names, so that both sides run the same command lines.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use drover_core::PathInfo;
use drover_testkit::{Fleet, Host, Suite};

use super::client::Client;
use super::paths::Paths;
use crate::bench::side::Side;

/// Longer than any command of these rows takes that isn't stopped on purpose.
const LIMIT: Duration = Duration::from_secs(170);

/// Whether contents are on the disk before a path becomes valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contents {
    /// As each side has it by default: synced by drover, left to the system by stock Nix.
    ByDefault,
    /// Left to the system by both.
    Unsynced,
}

/// The hosts of one side.
pub(super) struct Site {
    pub(super) side: Side,
    /// Where commands run.
    pub(super) near: Host,
    /// What is copied to and from.
    pub(super) far: Host,
    /// The near host's `/nix`, from outside.
    nix: PathBuf,
}

/// What something took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Spent {
    pub(super) time: Duration,
    /// On all hosts of the side, but not that of a client which is this program.
    pub(super) processor: Duration,
}

/// How a command ended that had a limit.
pub(super) enum Ended {
    Within(Spent),
    /// It was stopped.
    NotYet,
}

/// Measures from its making on.
pub(super) struct Clock<'a> {
    site: &'a Site,
    processor: Duration,
    start: Instant,
}

impl Clock<'_> {
    pub(super) fn stop(self) -> Spent {
        let time = self.start.elapsed();
        let processor = self.site.processor_time().saturating_sub(self.processor);
        Spent { time, processor }
    }
}

impl Site {
    /// Starts the hosts, which know the other one as `far`.
    pub(super) fn new(fleet: &Fleet, side: Side, program: &Path) -> Result<Site> {
        let names = [format!("{}-near", side.name()), format!("{}-far", side.name())];
        let [near, far] = [&names[0], &names[1]];
        let [near, far] = fleet.hosts([(near, Suite::Forky), (far, Suite::Forky)])?;
        for host in [&near, &far] {
            if side == Side::Drover {
                host.put(program, "/usr/local/bin/drover")?;
                host.run_ok(&["drover", "compat", "install", "/usr/local/bin"])?;
            }
            host.sh("mkdir -p /nix/bench")?;
        }
        let nix = fleet.folder().join(near.name()).join("nix");
        let site = Site { side, near, far, nix };
        site.keep_contents(Contents::ByDefault)?;
        Ok(site)
    }

    /// Has contents synced or not, from now on.
    pub(super) fn keep_contents(&self, contents: Contents) -> Result<()> {
        for host in [&self.near, &self.far] {
            let script = match contents {
                Contents::ByDefault => "sed -i /^fsync-store-paths/d /etc/nix/nix.conf",
                Contents::Unsynced => {
                    "grep -q ^fsync-store-paths /etc/nix/nix.conf || \
                     echo fsync-store-paths = false >>/etc/nix/nix.conf"
                }
            };
            host.sh(script)?;
            host.restart_daemon()?;
        }
        Ok(())
    }

    /// Returns the address of the other host.
    pub(super) fn far_store(&self) -> String {
        format!("ssh-ng://{}", self.far.name())
    }

    /// Returns a file or folder of the near host's `/nix`, from outside.
    pub(super) fn nix(&self, path: &str) -> PathBuf {
        self.nix.join(path)
    }

    /// Connects to the near host's daemon.
    pub(super) fn connect(
        &self,
    ) -> Result<Client<std::os::unix::net::UnixStream, std::os::unix::net::UnixStream>> {
        Client::connect(&self.nix("var/nix/daemon-socket/socket"))
    }

    /// Puts paths into the near host's store.
    pub(super) fn add(&self, paths: &Paths) -> Result<()> {
        let mut client = self.connect()?;
        paths.iter().try_for_each(|(info, nar)| client.add(info, nar))
    }

    /// Begins to measure.
    pub(super) fn clock(&self) -> Clock<'_> {
        Clock { site: self, processor: self.processor_time(), start: Instant::now() }
    }

    fn processor_time(&self) -> Duration {
        self.near.processor_time() + self.far.processor_time() + of_children()
    }

    /// Runs a script on the near host to its end.
    pub(super) fn time(&self, script: &str) -> Result<Spent> {
        match self.time_within(LIMIT, script)? {
            Ended::Within(spent) => Ok(spent),
            Ended::NotYet => anyhow::bail!("not done within {LIMIT:?}: {script}"),
        }
    }

    /// Runs a script on the near host; after `limit` it is stopped.
    pub(super) fn time_within(&self, limit: Duration, script: &str) -> Result<Ended> {
        let mut command = self.near.command(&["sh", "-euc", script]);
        let log = self.nix("bench/log");
        command.stdin(std::process::Stdio::null());
        command.stdout(std::process::Stdio::null());
        command.stderr(std::fs::File::create(&log)?);
        let clock = self.clock();
        let mut child = command.spawn()?;
        loop {
            if let Some(status) = child.try_wait()? {
                let spent = clock.stop();
                let said = || std::fs::read_to_string(&log).unwrap_or_default();
                ensure!(status.success(), "{status}: {script}: {}", said());
                return Ok(Ended::Within(spent));
            }
            if limit < clock.start.elapsed() {
                // The command inside goes on when the one who entered is killed.
                self.near.sh("pkill -x 'nix|nix-store|drover|ssh' || true")?;
                child.wait()?;
                return Ok(Ended::NotYet);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Returns the processor time of the programs that were started from here and have ended.
fn of_children() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit_once(") ").map(|(_, after)| after.split(' ').skip(13).take(2));
    let ticks: u64 = fields.into_iter().flatten().filter_map(|it| it.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// Deletes all that nothing keeps, and waits until the disk has nothing left to do.
pub(super) fn empty(host: &Host) -> Result<()> {
    host.run_ok(&["nix-store", "--gc", "--quiet"]).context("cannot empty a store")?;
    settle(host)
}

/// Waits until the disk has nothing left to do.
pub(super) fn settle(host: &Host) -> Result<()> {
    host.run_ok(&["sync", "-f", "/nix"]).map(drop)
}

/// Returns the full path, as commands take it.
pub(super) fn full(info: &PathInfo) -> String {
    format!("/nix/store/{}", info.path.base_name())
}
