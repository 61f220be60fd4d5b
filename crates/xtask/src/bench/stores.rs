//! Stores and daemons: the same commands and the same questions, to stock Nix and to drover.

mod builds;
mod caches;
mod client;
mod copies;
mod daemon;
mod files;
mod graph;
mod large;
mod paths;
mod rows;
mod site;
mod table;

use std::path::Path;

use anyhow::{Context as _, Result};
use drover_testkit::Fleet;

use super::side::Side;
use super::{Outcome, Wanted, conditions};
use rows::{ALL, Row, Sample};
use site::{Contents, Site};
use table::{Line, Runs};

/// Runs of a side that was stopped once: it won't be faster the next time.
const STOPPED_RUNS: usize = 1;

/// Measures the rows that are wanted; `None` if there are none.
pub(super) fn run(program: &Path, wanted: &Wanted, runs: usize) -> Result<Option<Outcome>> {
    let rows: Vec<&'static Row> = ALL.iter().filter(|row| wanted.has(row.name)).collect();
    if rows.is_empty() {
        return Ok(None);
    }
    let fleet = Fleet::new("bench-stores")?;
    let sites = Side::BOTH.map(|side| Site::new(&fleet, side, program));
    let [stock, drover] = sites;
    let sites = [stock?, drover?];
    let mut lines = Vec::new();
    for row in rows {
        for &contents in row.contents {
            let line = measure(&sites, row, contents, runs)
                .with_context(|| format!("cannot measure {:?}", row.name))?;
            lines.push(line);
        }
    }
    let fault = |line: &Line| Some(format!("{}: {}", line.name(), line.fault()?));
    let faults = lines.iter().filter_map(fault).collect();
    let conditions = sites
        .iter()
        .find(|site| site.side == Side::Drover)
        .map_or(Ok(String::new()), |site| conditions(&site.near, runs))?;
    Ok(Some(Outcome { table: format!("{conditions}\n\n{}", table::render(&lines)), faults }))
}

/// Runs both sides of one row in turn, and who is first alternates.
fn measure(sites: &[Site; 2], row: &'static Row, contents: Contents, runs: usize) -> Result<Line> {
    for site in sites {
        site.near.delay(0)?;
        site.keep_contents(contents)?;
        (row.prepare)(site)?;
        site.near.delay(row.distance)?;
    }
    let mut of_sides = [Runs::default(), Runs::default()];
    let mut limits = Vec::new();
    for run in 0..runs {
        let order = if run % 2 == 0 { [0, 1] } else { [1, 0] };
        for at in order {
            let (Some(site), Some(side)) = (sites.get(at), of_sides.get_mut(at)) else { continue };
            let stopped = side.0.iter().flatten().filter(|sample| sample.stopped).count();
            if stopped < STOPPED_RUNS {
                let result = (row.once)(site);
                report(row, site.side, &result);
                side.0.push(result.ok());
            }
            if let (Side::Drover, Some(limit)) = (site.side, row.limit) {
                limits.push(Some(limit(site)?));
            }
        }
    }
    let limit = Runs(limits).median();
    let [stock, drover] = of_sides;
    Ok(Line { row, contents, stock, drover, limit })
}

fn report(row: &Row, side: Side, result: &Result<Sample>) {
    let (name, side) = (row.name, side.name());
    match result {
        Ok(it) => eprintln!("{name}: {side} {}", table::figure(row.unit, it.value)),
        Err(error) => eprintln!("{name}: {side} FAILED: {error:#}"),
    }
}
