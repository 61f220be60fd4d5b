//! What ten machines have of the outputs of a large graph, before anything is built: how long the last
//! of them takes to say so, 50 ms away. Stock Nix asks nobody.
//!
//! All ten share this machine's processors with the client, so that what their daemons do for it, which
//! is the same for all and on machines of their own happens at the same time, stands in the figure ten
//! times.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use drover_testkit::{Fleet, Host, Suite};

use super::{Outcome, Wanted, conditions};

const NAME: &str = "asking 10 machines for 5,000 outputs, 50 ms";
const MACHINES: [&str; 10] = ["b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8", "b9"];
/// Milliseconds one way.
const DISTANCE: u32 = 25;
/// Milliseconds that the last answer may take: a round trip and a hundred.
const AIM: u64 = 150;
/// What drover says on its log when a machine has answered.
const ANSWERED: &str = " of 5000 paths (after ";

/// Measures the row if it is wanted.
pub(super) fn run(program: &Path, wanted: &Wanted, runs: usize) -> Result<Option<Outcome>> {
    if !wanted.has(NAME) {
        return Ok(None);
    }
    let fleet = Fleet::new("bench-asking")?;
    let client = fleet.host("c", Suite::Forky)?;
    client.put(program, "/usr/local/bin/drover")?;
    let hosts = fleet.hosts(MACHINES.map(|name| (name, Suite::Forky)))?;
    let last = hosts.last().context("no machine")?;
    client.delay(DISTANCE)?;
    let mut times = Vec::new();
    for _ in 0..runs {
        let time = once(&client, last)?;
        eprintln!("{NAME}: {time} ms");
        times.push(time);
    }
    times.sort_unstable();
    let time = times.get(times.len() / 2).context("nothing was measured")?;
    let conditions = conditions(&client, runs)?;
    let table = format!(
        "{conditions}\n\n| | drover | aim |\n|---|--:|--:|\n| {NAME} | {time} ms | {AIM} ms |\n"
    );
    let missed = (*time > AIM).then(|| format!("{NAME}: {time} ms"));
    Ok(Some(Outcome { table, faults: missed.into_iter().collect() }))
}

/// Has a fresh graph built whose last output one machine has; returns the milliseconds that the slowest
/// machine took to say what it has.
fn once(client: &Host, has_it: &Host) -> Result<u64> {
    // 5,000 outputs with the last one
    let drv = client.instantiate(&[("shape", "wide"), ("n", "4999")])?;
    let out = client.run_ok(&["nix-store", "-q", "--outputs", &drv])?;
    has_it.sh(&format!(
        "export NIX_REMOTE=local; nix-store --add /etc/hosts; echo built >{out}; \
         printf '%s\\n\\n0\\n' {out} | nix-store --register-validity"
    ))?;
    let system = format!("{}-linux", std::env::consts::ARCH);
    let machine = |name: &str| format!("ssh-ng://{name} {system} - 1 1\n");
    let machines: String = MACHINES.map(machine).concat();
    let argv =
        ["env", "DROVER_LOG=drover_store_remote=debug", "drover", "build", "--no-link", "-j0"];
    let done = client.run(&[&argv[..], &["--builders", &machines, &drv]].concat())?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{said}");
    let answers: Vec<u64> = said
        .lines()
        .filter_map(|line| line.split_once(ANSWERED)?.1.split(' ').next()?.parse().ok())
        .collect();
    ensure!(answers.len() == MACHINES.len(), "{} machines have answered: {said}", answers.len());
    ensure!(client.read(&out)? == b"built\n", "{out} is another one");
    answers.into_iter().max().context("nobody has answered")
}
