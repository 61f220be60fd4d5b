//! What came of a run, machine by machine.

use std::time::Duration;

use drover_fleet::{MachineTotals, Report};

use crate::units;

/// Returns the lines that sum a run up; none where nothing was done.
pub(crate) fn summary(report: &Report) -> Vec<String> {
    let used: Vec<&MachineTotals> =
        report.machines.iter().filter(|machine| is_used(machine)).collect();
    if used.is_empty() {
        return Vec::new();
    }
    let head = ["machine", "builds", "failed", "sent", "fetched", "busy"].map(str::to_owned);
    let mut rows = vec![head];
    rows.extend(used.iter().map(|machine| row(machine)));
    let mut lines = table(&rows);
    let busy: Duration = used.iter().map(|machine| machine.busy).sum();
    lines.push(format!(
        "{}{} in {}, {} of build time{}",
        units::count(report.built, "build"),
        match report.found {
            0 => String::new(),
            found => format!(" and {found} found built"),
        },
        units::time(report.took),
        units::time(busy),
        speedup(busy, report.took),
    ));
    lines
}

fn is_used(machine: &MachineTotals) -> bool {
    machine.builds > 0 || machine.failures > 0 || machine.bytes_up > 0 || machine.bytes_down > 0
}

fn row(machine: &MachineTotals) -> [String; 6] {
    [
        machine.machine.clone(),
        machine.builds.to_string(),
        machine.failures.to_string(),
        units::bytes(machine.bytes_up),
        units::bytes(machine.bytes_down),
        units::time(machine.busy),
    ]
}

/// Returns how many builds ran at a time on average, where that is more than one.
fn speedup(busy: Duration, took: Duration) -> String {
    match busy.as_millis().saturating_mul(10).checked_div(took.as_millis()) {
        Some(tenths) if 10 < tenths => format!(" ({}.{} at a time)", tenths / 10, tenths % 10),
        _ => String::new(),
    }
}

/// Returns rows with columns of equal width, the first to the left and the others to the right.
fn table(rows: &[[String; 6]]) -> Vec<String> {
    let mut widths = [0; 6];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |row: &[String; 6]| {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            match column {
                0 => line.push_str(&format!("{cell:<width$}")),
                _ => line.push_str(&format!("  {cell:>width$}")),
            }
        }
        line
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(machines: Vec<MachineTotals>) -> Report {
        Report {
            targets: Vec::new(),
            failures: Vec::new(),
            found: 0,
            built: machines.iter().map(|machine| machine.builds).sum(),
            machines,
            took: Duration::from_millis(3200),
        }
    }

    #[test]
    fn sums_up() {
        let b1 = MachineTotals {
            machine: "b1".to_owned(),
            builds: 20,
            failures: 0,
            bytes_up: 1_258_291,
            bytes_down: 0,
            busy: Duration::from_secs(10),
        };
        let idle = MachineTotals { machine: "b3".to_owned(), ..MachineTotals::default() };
        let long = MachineTotals { machine: "user@b2".to_owned(), builds: 1, ..b1.clone() };
        assert_eq!(
            summary(&report(vec![b1, idle, long])),
            [
                "machine  builds  failed     sent  fetched   busy",
                "b1           20       0  1.1 MiB      0 B  10.0s",
                "user@b2       1       0  1.1 MiB      0 B  10.0s",
                "21 builds in 3.2s, 20.0s of build time (6.2 at a time)",
            ]
        );
    }

    #[test]
    fn tells_what_was_found() {
        let b1 = MachineTotals { machine: "b1".to_owned(), builds: 2, ..MachineTotals::default() };
        let report = Report { found: 3, ..report(vec![b1]) };
        let last = summary(&report).pop().unwrap_or_default();
        assert_eq!(last, "2 builds and 3 found built in 3.2s, 0.0s of build time");
    }

    #[test]
    fn says_nothing_of_nothing() {
        assert_eq!(summary(&report(vec![MachineTotals::default()])), Vec::<String>::new());
    }
}
