//! One build of one fresh graph by one side: how long it takes, and how much memory at the peak.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use drover_testkit::Host;

use super::rows::{Row, Way};
use crate::bench::side::Side;

/// What one build cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measurement {
    pub(super) time: Duration,
    /// Most memory that the client program itself held, in bytes.
    pub(super) memory: u64,
}

/// Longer than stock Nix takes for the worst row.
const LIMIT: Duration = Duration::from_secs(600);

/// Builds a fresh graph and checks that its output is there.
pub(super) fn once(client: &Host, side: Side, row: &Row) -> Result<Measurement> {
    let arguments = row.arguments();
    let arguments: Vec<_> = arguments.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let drv = client.instantiate(&arguments)?;
    let system = format!("{}-linux", std::env::consts::ARCH);
    let builder = |name| format!("ssh-ng://{name} {system} - {} 1\n", row.jobs);
    let builders = builder("b1") + &builder("b2");
    let stock = |builders| vec!["nix-store", "-r", &drv, "-j0", "--builders", builders];
    client.write("/etc/nix/drover-machines", &builders)?;
    let line = client.run_ok(&["drover", "hook", "line"])?;
    let mut argv = match (side, row.way) {
        (Side::Stock, _) => stock(&builders),
        (Side::Drover, Way::Line) => stock(&line),
        (Side::Drover, Way::BuildHook) => stock(&builders),
        (Side::Drover, Way::Command) => {
            vec!["drover", "build", "--no-link", "-j0", "--builders", &builders, &drv]
        }
    };
    match (side, row.way) {
        (Side::Stock, _) => argv.extend(["--option", "builders-use-substitutes", "true"]),
        (Side::Drover, Way::BuildHook) => {
            argv.extend(["--option", "build-hook", "/usr/local/bin/drover hook"]);
        }
        (Side::Drover, Way::Line | Way::Command) => {}
    }
    let measurement = timed(client, &argv)?;
    let outputs = client.run_ok(&["nix-store", "-q", "--outputs", &drv])?;
    let mut check = vec!["nix-store", "--check-validity"];
    check.extend(outputs.lines());
    ensure!(check.len() > 2, "{drv} has no outputs");
    client.run_ok(&check).context("the output is not in the client's store")?;
    Ok(measurement)
}

/// Runs a program to its end, watching its memory.
fn timed(client: &Host, argv: &[&str]) -> Result<Measurement> {
    let start = Instant::now();
    let mut running = client.spawn(argv)?;
    let (mut pid, mut memory) = (None, 0);
    loop {
        let ended = running.try_wait()?;
        let time = start.elapsed();
        match ended {
            Some(status) if status.success() => return Ok(Measurement { time, memory }),
            Some(status) => {
                let said = running.stderr();
                let last: Vec<&str> = said.lines().rev().take(5).collect();
                bail!("{status}: {}", last.into_iter().rev().collect::<Vec<_>>().join(" | "));
            }
            None => ensure!(time < LIMIT, "not done within {LIMIT:?}"),
        }
        pid = pid.or_else(|| running.pid());
        // The mark only rises, so the last one that is read is the peak.
        memory = pid.and_then(high_water_mark).unwrap_or(memory);
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Returns the most memory that a process has held so far, in bytes.
fn high_water_mark(pid: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes << 10)
}
