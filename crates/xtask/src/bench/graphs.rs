//! Graphs of builds on two builders, by stock Nix and by drover, from the same client.

mod measure;
mod rows;
mod table;

use std::path::Path;

use anyhow::Result;
use drover_testkit::{Fleet, Host, Suite};

use super::side::Side;
use super::{Outcome, Wanted, conditions};
use measure::Measurement;
use rows::Row;
use table::Line;

/// Milliseconds one way; a round trip takes twice that.
const DISTANCES: [u32; 2] = [0, 25];

/// Measures the rows that are wanted; `None` if there are none.
pub(super) fn run(program: &Path, wanted: &Wanted, runs: usize) -> Result<Option<Outcome>> {
    let rows: Vec<&Row> = rows::ALL.iter().filter(|row| wanted.has(&row.name())).collect();
    if rows.is_empty() {
        return Ok(None);
    }
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
    for row in rows {
        for distance in DISTANCES {
            client.delay(distance)?;
            lines.push(measure_row(&client, row, distance, runs));
        }
    }
    let failed = lines.iter().filter(|line| line.failed());
    let faults = failed.map(|line| format!("{}: a run failed", line.name)).collect();
    let table = format!("{}\n\n{}", conditions(&client, runs)?, table::render(&lines));
    Ok(Some(Outcome { table, faults }))
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
