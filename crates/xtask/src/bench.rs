//! `cargo xtask bench`: stock Nix against drover, on the same hosts and in the same run, taking turns:
//! fresh graphs of builds (`graphs`), what machines are asked before (`seeking`, drover alone), what is
//! asked of stores and daemons (`stores`), serving a binary cache (`serving`, against nginx), and what is
//! asked before a build (`asking`, drover alone).
//!
//! | variable | meaning |
//! |---|---|
//! | `DROVER` | the program to measure; `target/release/drover` unless given |
//! | `RUNS` | how often each is run, 3 unless given; the table has the medians |
//! | `ROWS` | only the rows with this text in their name, or one of several: `ROWS=push/pull` |
//!
//! All hosts share this machine's processors, so what takes processor time is slower than on
//! machines of their own, for both sides; what sleeps is not.

mod asking;
mod graphs;
mod nginx;
mod seeking;
mod serving;
mod side;
mod stores;

use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};
use drover_testkit::Host;

/// A table, and what keeps it from being whole.
struct Outcome {
    table: String,
    faults: Vec<String>,
}

/// The rows that are to be measured.
struct Wanted(String);

impl Wanted {
    fn has(&self, name: &str) -> bool {
        self.0.split('/').any(|text| name.contains(text))
    }
}

/// Measures everything and prints a Markdown table for each kind of row.
pub(crate) fn run(workspace: &Path) -> Result<()> {
    let runs: usize = match std::env::var("RUNS") {
        Ok(text) => text.parse().with_context(|| format!("RUNS={text} is no number"))?,
        Err(_) => 3,
    };
    ensure!(runs != 0, "RUNS=0 measures nothing");
    let wanted = Wanted(std::env::var("ROWS").unwrap_or_default());
    let program = program(workspace)?;
    let mut faults = Vec::new();
    let mut tables = 0;
    for kind in [graphs::run, seeking::run, stores::run, serving::run, asking::run] {
        if let Some(outcome) = kind(&program, &wanted, runs)? {
            println!("{}\n", outcome.table);
            faults.extend(outcome.faults);
            tables += 1;
        }
    }
    ensure!(tables != 0, "no row has {:?} in its name", wanted.0);
    match faults.as_slice() {
        [] => Ok(()),
        faults => bail!("{}", faults.join("; ")),
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
        "{drover} against {nix}; all hosts on one machine with {cores} cores, Linux {kernel}; \
         medians of {runs}."
    ))
}
