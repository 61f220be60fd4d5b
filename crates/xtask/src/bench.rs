//! `cargo xtask bench`: stock Nix against drover, on the same fresh graphs, the same three hosts and
//! in the same run, taking turns.
//!
//! | variable | meaning |
//! |---|---|
//! | `DROVER` | the program to measure; `target/release/drover` unless given |
//! | `RUNS` | how often each is run, 3 unless given; the table has the medians |
//! | `ROWS` | only the rows with this text in their name |
//!
//! Three hosts share this machine's processors, so what takes processor time is slower than on
//! real builders, for both sides; what sleeps is not.

mod measure;
mod rows;
mod table;

use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};
use drover_testkit::{Fleet, Host, Suite};

use measure::{Measurement, Side};
use rows::Row;
use table::Line;

/// Milliseconds one way; a round trip takes twice that.
const DISTANCES: [u32; 2] = [0, 25];

/// Measures everything and prints a Markdown table.
pub(crate) fn run(workspace: &Path) -> Result<()> {
    let runs: usize = match std::env::var("RUNS") {
        Ok(text) => text.parse().with_context(|| format!("RUNS={text} is no number"))?,
        Err(_) => 3,
    };
    ensure!(runs != 0, "RUNS=0 measures nothing");
    let wanted = std::env::var("ROWS").unwrap_or_default();
    let program = program(workspace)?;

    let fleet = Fleet::new("bench")?;
    let hosts = [("c0", Suite::Forky), ("b1", Suite::Forky), ("b2", Suite::Forky)];
    let [client, _b1, _b2] = fleet.hosts(hosts)?;
    client.put(program, "/usr/local/bin/drover")?;

    // The first build of a host pays for cold caches; nobody's measurement shall.
    for side in Side::BOTH {
        if let Err(error) = measure::once(&client, side, &rows::WARM_UP) {
            eprintln!("warming up: {} FAILED: {error:#}", side.name());
        }
    }
    let mut lines = Vec::new();
    for row in rows::ALL.iter().filter(|row| row.name().contains(&wanted)) {
        for distance in DISTANCES {
            client.delay(distance)?;
            lines.push(measure_row(&client, row, distance, runs));
        }
    }
    ensure!(!lines.is_empty(), "no row has {wanted:?} in its name");
    println!("{}\n", conditions(&client, runs)?);
    println!("{}", table::render(&lines));
    match lines.iter().filter(|line| line.failed()).count() {
        0 => Ok(()),
        count => bail!("{count} rows have failures"),
    }
}

/// Runs both sides of one row in turn, and who is first alternates.
fn measure_row(client: &Host, row: &Row, distance: u32, runs: usize) -> Line {
    let (mut stock, mut drover) = (Vec::new(), Vec::new());
    for run in 0..runs {
        let sides = if run % 2 == 0 { Side::BOTH } else { [Side::Drover, Side::Stock] };
        for side in sides {
            let result = measure::once(client, side, row);
            report(row, distance, side, &result);
            match side {
                Side::Stock => stock.push(result.ok()),
                Side::Drover => drover.push(result.ok()),
            }
        }
    }
    Line { name: row.name(), round_trip: distance * 2, stock, drover, bound: row.bound() }
}

fn report(row: &Row, distance: u32, side: Side, result: &Result<Measurement>) {
    let name = row.name();
    let side = side.name();
    match result {
        Ok(it) => eprintln!("{name}, {} ms: {side} {:.2} s", distance * 2, it.time.as_secs_f64()),
        Err(error) => eprintln!("{name}, {} ms: {side} FAILED: {error:#}", distance * 2),
    }
}

fn program(workspace: &Path) -> Result<PathBuf> {
    let program = match (std::env::var_os("DROVER"), std::env::var_os("CARGO_TARGET_DIR")) {
        (Some(program), _) => PathBuf::from(program),
        (None, Some(target)) => Path::new(&target).join("release/drover"),
        (None, None) => workspace.join("target/release/drover"),
    };
    ensure!(program.is_file(), "there is no {}: `make bench` builds it", program.display());
    Ok(program)
}

fn conditions(client: &Host, runs: usize) -> Result<String> {
    let drover = client.run_ok(&["drover", "--version"])?;
    let nix = client.run_ok(&["nix", "--version"])?;
    let kernel = client.run_ok(&["uname", "-r"])?;
    let cores = thread::available_parallelism().map_or(0, usize::from);
    Ok(format!(
        "{drover} against {nix}; client and two builders on one machine with {cores} cores, \
         Linux {kernel}; medians of {runs}."
    ))
}
