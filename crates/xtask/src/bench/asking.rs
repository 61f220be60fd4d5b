//! What is asked before a build: `drover explain` of a large graph, and `drover doctor` of many machines at
//! different distances, all at once against each alone.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use drover_testkit::{Fleet, Host, Suite};

use super::{Outcome, Wanted, conditions};

const EXPLAIN: &str = "explain 5,001 derivations";
const DOCTOR: &str = "doctor of 10 machines";

/// How long an explanation may take.
const EXPLANATION: Duration = Duration::from_secs(2);
/// How much longer all machines may take than the slowest alone.
const RATIO: f64 = 1.25;
/// Milliseconds one way to each machine.
const DISTANCES: [u32; 10] = [0, 5, 10, 15, 20, 30, 40, 60, 80, 100];
/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(300);

/// Measures the rows that are wanted; `None` if there are none.
pub(super) fn run(program: &Path, wanted: &Wanted, runs: usize) -> Result<Option<Outcome>> {
    let mut table = String::new();
    let mut faults = Vec::new();
    if wanted.has(EXPLAIN) {
        explain(program, runs, &mut table, &mut faults)?;
    }
    if wanted.has(DOCTOR) {
        doctor(program, runs, &mut table, &mut faults)?;
    }
    Ok((!table.is_empty()).then_some(Outcome { table, faults }))
}

/// One graph of which nothing is built, two machines that are connected to.
fn explain(
    program: &Path,
    runs: usize,
    table: &mut String,
    faults: &mut Vec<String>,
) -> Result<()> {
    let fleet = Fleet::new("bench")?;
    let hosts = [("c0", Suite::Forky), ("b1", Suite::Forky), ("b2", Suite::Forky)];
    let [client, _b1, _b2] = fleet.hosts(hosts)?;
    client.put(program, "/usr/local/bin/drover")?;
    let graph = [("shape", "layers"), ("n", "100"), ("d", "50"), ("k", "3")];
    let drv = client.instantiate(&graph)?;
    let builders = machines(&["b1".to_owned(), "b2".to_owned()]);
    let argv = ["drover", "explain", "-j0", "--builders", &builders, &drv];
    let said = String::from_utf8(client.run_within(LIMIT, &argv)?.stdout)?;
    ensure!(said.starts_with("distributing: yes: 5001 of 5001 derivations"), "it says: {said}");
    let took = median((0..runs).map(|_| timed(&client, &argv)).collect::<Result<_>>()?)?;
    let conditions = conditions(&client, runs)?;
    let (figure, aim) = (took.as_secs_f64(), EXPLANATION.as_secs());
    write!(table, "{conditions}\n\n| | drover | aim |\n|---|--:|--:|\n")?;
    writeln!(table, "| {EXPLAIN} | {figure:.2} s | {aim} s |")?;
    if took > EXPLANATION {
        faults.push(format!("{EXPLAIN}: {figure:.2} s of {aim} s"));
    }
    Ok(())
}

/// Ten machines: each alone, and all at once.
fn doctor(program: &Path, runs: usize, table: &mut String, faults: &mut Vec<String>) -> Result<()> {
    let fleet = Fleet::new("bench")?;
    let client = fleet.host("c0", Suite::Forky)?;
    client.put(program, "/usr/local/bin/drover")?;
    let names: Vec<String> = (0..DISTANCES.len()).map(|number| format!("m{number}")).collect();
    let _machines: Vec<Host> =
        names.iter().map(|name| fleet.host(name, Suite::Forky)).collect::<Result<_>>()?;
    // the program that delays
    client.delay(1)?;
    let mut config = "Host *\n  StrictHostKeyChecking yes\n  LogLevel ERROR\n".to_owned();
    for (name, distance) in names.iter().zip(DISTANCES).filter(|(_, distance)| *distance != 0) {
        let proxy = format!("/usr/local/bin/delay-proxy {distance} %h %p");
        write!(config, "Host {name}\n  ProxyCommand {proxy}\n")?;
    }
    client.write("/root/.ssh/config", &config)?;
    client.write("/etc/nix/machines", machines(&names).replace(';', "\n"))?;
    let (mut all, mut alone) = (Vec::new(), vec![Vec::new(); names.len()]);
    timed(&client, &["drover", "doctor"])?;
    for _ in 0..runs {
        all.push(timed(&client, &["drover", "doctor"])?);
        for (name, times) in names.iter().zip(&mut alone) {
            times.push(timed(&client, &["drover", "doctor", name])?);
        }
    }
    let all = median(all)?;
    let alone: Vec<Duration> = alone.into_iter().map(median).collect::<Result<_>>()?;
    let slowest = alone.iter().max().copied().context("there are no machines")?;
    let sum: Duration = alone.iter().sum();
    let ratio = all.as_secs_f64() / slowest.as_secs_f64();
    let conditions = conditions(&client, runs)?;
    let head = "| | all at once | the slowest alone | one after the other | ratio | aim |";
    write!(table, "{conditions}\n\n{head}\n|---|--:|--:|--:|--:|--:|\n")?;
    let [all, slowest, sum] = [all, slowest, sum].map(|time| time.as_secs_f64());
    writeln!(
        table,
        "| {DOCTOR} | {all:.2} s | {slowest:.2} s | {sum:.2} s | {ratio:.2} | {RATIO} |"
    )?;
    if ratio > RATIO {
        faults.push(format!("{DOCTOR}: {ratio:.2} times the slowest, of {RATIO}"));
    }
    Ok(())
}

/// Returns the lines of machines.
fn machines(names: &[String]) -> String {
    let arch = std::env::consts::ARCH;
    let lines = names.iter().map(|name| format!("ssh-ng://{name} {arch}-linux - 4 1"));
    lines.collect::<Vec<_>>().join(";")
}

/// Runs something that ends well, and says how long it took.
fn timed(client: &Host, argv: &[&str]) -> Result<Duration> {
    let began = Instant::now();
    let output = client.run_within(LIMIT, argv)?;
    let took = began.elapsed();
    let said = || String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{} ended with {}: {}", argv.join(" "), output.status, said());
    eprintln!(
        "{}: {:.2} s",
        argv.iter().take(3).copied().collect::<Vec<_>>().join(" "),
        took.as_secs_f64()
    );
    Ok(took)
}

fn median(mut times: Vec<Duration>) -> Result<Duration> {
    times.sort();
    times.get(times.len() / 2).copied().context("nothing was measured")
}
