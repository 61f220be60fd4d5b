//! Progress as lines that are kept up to date on a terminal.

use std::time::{Duration, Instant};

use super::fetches::Fetch;
use super::lines::route;
use super::names::Names;
use super::state::{Building, Copy, MachineProgress, MachineState, Progress};
use crate::units;

/// Builds and transfers that have a line of their own.
const LINES: usize = 8;

/// Machines that stand in the last line.
const MACHINES: usize = 8;

/// Builds and transfers that are over before this have no line: it could not be read.
const SHORT: Duration = Duration::from_millis(200);

/// Returns the lines as they are at this moment, the totals last. A line may be wider than the
/// terminal; it is cut there.
pub(crate) fn render(progress: &Progress, names: &dyn Names, now: Instant) -> Vec<String> {
    let is_long = |since: Instant| SHORT <= now.duration_since(since);
    let mut longest: Vec<_> =
        progress.building.iter().filter(|(_, building)| is_long(building.since)).collect();
    longest.sort_by_key(|(node, building)| (building.since, **node));
    let copies = progress.copies.values().filter(|copy| is_long(copy.since));
    let fetches = progress.fetches.running.values().filter(|fetch| is_long(fetch.since));
    let copies: Vec<String> = fetches
        .map(|fetch| fetch_line(fetch, now))
        .chain(copies.map(|copy| copy_line(copy, now)))
        .collect();
    // transfers have at least a quarter of the room, where they need it
    let for_copies = copies.len().min((LINES / 4).max(LINES.saturating_sub(longest.len())));
    let for_builds = longest.len().min(LINES - for_copies);
    let mut lines: Vec<String> = longest
        .iter()
        .take(for_builds)
        .map(|(node, building)| build_line(&names.name(**node), building, now))
        .collect();
    let left_out = longest.len() - for_builds + copies.len() - for_copies;
    lines.extend(copies.into_iter().take(for_copies));
    if left_out > 0 {
        lines.push(format!("  … and {left_out} more"));
    }
    lines.push(totals(progress, now));
    lines
}

fn build_line(name: &str, building: &Building, now: Instant) -> String {
    let time = units::whole_time(now.duration_since(building.since));
    let phase = building.phase.as_ref().map(|phase| format!(" ({phase})"));
    format!("  building {name} on {} for {time}{}", building.machine, phase.unwrap_or_default())
}

fn copy_line(copy: &Copy, now: Instant) -> String {
    let time = units::whole_time(now.duration_since(copy.since));
    let sizes = match copy.bytes {
        0 => units::bytes(copy.done),
        bytes => format!("{} of {}", units::bytes(copy.done), units::bytes(bytes)),
    };
    let (paths, route) = (units::count(copy.paths, "path"), route(&copy.from, copy.to.as_deref()));
    format!("  copying {paths} {route}: {sizes} in {time}")
}

fn fetch_line(fetch: &Fetch, now: Instant) -> String {
    let time = units::whole_time(now.duration_since(fetch.since));
    format!("  fetching {} in {time}", fetch.in_words())
}

/// Returns the last line: `[12/40 built, 3 building, 2 copying, 1.2 MiB/s] b1 2/4 · b2 1/4`.
fn totals(progress: &Progress, now: Instant) -> String {
    let mut parts: Vec<String> = progress.built_of_all().into_iter().collect();
    let fetches = &progress.fetches;
    if progress.to_build.is_none() && fetches.running.is_empty() {
        parts.push(fetches.in_short().unwrap_or_else(|| "finding out what there is to do".into()));
    }
    if !fetches.running.is_empty() {
        parts.push(format!("{} fetched, {} fetching", fetches.fetched, fetches.running.len()));
    }
    if progress.failed > 0 {
        parts.push(format!("{} failed", progress.failed));
    }
    if !progress.building.is_empty() {
        parts.push(format!("{} building", progress.building.len()));
    }
    if !progress.copies.is_empty() {
        parts.push(format!("{} copying", progress.copies.len()));
    }
    if !progress.copies.is_empty() || !fetches.running.is_empty() {
        parts.push(format!("{}/s", units::bytes(progress.rate(now))));
    }
    let mut machines: Vec<String> = progress
        .machines
        .iter()
        .filter(|(_, machine)| machine.state != MachineState::Unused)
        .take(MACHINES)
        .map(|(name, machine)| machine_part(name, machine, progress.building_on(name)))
        .collect();
    let used = progress.machines.values().filter(|one| one.state != MachineState::Unused).count();
    if MACHINES < used {
        machines.push(format!("… {} more", used - MACHINES));
    }
    format!("[{}] {}", parts.join(", "), machines.join(" · ")).trim_end().to_owned()
}

fn machine_part(name: &str, machine: &MachineProgress, building: usize) -> String {
    match machine.state {
        MachineState::Connecting => format!("{name} …"),
        MachineState::Down => format!("{name} down"),
        MachineState::Up | MachineState::Unused => format!("{name} {building}/{}", machine.slots),
    }
}

#[cfg(test)]
mod tests {
    use drover_fleet::{FleetEvent, NodeId};

    use drover_store::FetchEvent;

    use super::super::fetches::tests::started;
    use super::super::lines::tests::NAMES;
    use super::super::names::ListNames;
    use super::*;

    fn building(node: u32, machine: &str) -> FleetEvent {
        FleetEvent::Building { node: NodeId(node), machine: machine.to_owned() }
    }

    fn machines(count: u32) -> Vec<(String, u32)> {
        (1..=count).map(|number| (format!("b{number}"), 4)).collect()
    }

    fn after(events: &[FleetEvent], machines: Vec<(String, u32)>) -> (Progress, Instant) {
        let start = Instant::now();
        let mut progress = Progress::new(machines);
        for event in events {
            progress.apply(event, start);
        }
        (progress, start + Duration::from_secs(12))
    }

    #[test]
    fn says_what_runs_where() {
        let up = |machine: &str| FleetEvent::Connected {
            machine: machine.to_owned(),
            took: Duration::ZERO,
        };
        let events = [
            FleetEvent::Planned { to_build: 40, to_substitute: 0, in_graph: 41 },
            up("b1"),
            up("b2"),
            FleetEvent::Connecting { machine: "b3".to_owned() },
            building(0, "b1"),
            FleetEvent::Phase { node: NodeId(0), phase: "buildPhase".to_owned() },
            building(1, "b2"),
            FleetEvent::CopyStarted {
                transfer: 7,
                from: vec![Some("b1".to_owned())],
                to: Some("b2".to_owned()),
                paths: 2,
                bytes: 4096,
            },
            FleetEvent::CopyProgress { transfer: 7, bytes: 1024 },
        ];
        let (progress, now) = after(&events, machines(3));
        assert_eq!(
            render(&progress, &NAMES, now),
            [
                "  building hello-2.12 on b1 for 12s (buildPhase)",
                "  building glibc-2.40 on b2 for 12s",
                "  copying 2 paths from b1 to b2: 1.0 KiB of 4.0 KiB in 12s",
                "[0/40 built, 2 building, 1 copying, 0 B/s] b1 1/4 · b2 1/4 · b3 …",
            ]
        );
    }

    /// What is found, and what only that needs, is not counted, unless it's built after all.
    #[test]
    fn what_needs_no_build_is_not_counted() {
        let spared = |node| FleetEvent::Unneeded { node: NodeId(node) };
        let found = FleetEvent::Found { node: NodeId(0), machine: "b1".to_owned() };
        let planned = FleetEvent::Planned { to_build: 5, to_substitute: 0, in_graph: 5 };
        let events = [planned, found, spared(1), building(1, "b1")];
        let (progress, now) = after(&events, machines(0));
        let last = render(&progress, &NAMES, now).pop().unwrap();
        assert!(last.starts_with("[0/4 built, 1 building]"), "{last}");
    }

    #[test]
    fn what_is_new_has_no_line_yet() {
        let planned = FleetEvent::Planned { to_build: 1, to_substitute: 0, in_graph: 1 };
        let (progress, _) = after(&[planned, building(0, "b1")], machines(1));
        let lines = render(&progress, &NAMES, Instant::now());
        assert_eq!(lines, ["[0/1 built, 1 building]"]);
    }

    #[test]
    fn says_what_comes_before_the_builds() {
        let (mut progress, now) = after(&[], machines(1));
        assert_eq!(render(&progress, &NAMES, now), ["[finding out what there is to do]"]);
        let asking = FetchEvent::Asking { substituter: "https://c".to_owned() };
        progress.apply_fetch(&asking, now);
        assert_eq!(render(&progress, &NAMES, now), ["[asking https://c what it has]"]);
        progress.apply_fetch(&started(1, "hello"), now);
        let later = now + Duration::from_secs(2);
        progress.apply_fetch(&FetchEvent::Progress { number: 1, done: 3072, size: 4096 }, later);
        assert_eq!(
            render(&progress, &NAMES, later),
            [
                "  fetching hello from https://c: 3.0 KiB of 4.0 KiB in 2s",
                "[0 fetched, 1 fetching, 1.0 KiB/s]"
            ]
        );
    }

    #[test]
    fn has_an_end() {
        const MANY: ListNames = ListNames(&["x"; 50]);
        let mut events: Vec<FleetEvent> = (0..50).map(|node| building(node, "b1")).collect();
        events.extend((0..50).map(|transfer| FleetEvent::CopyStarted {
            transfer,
            from: Vec::new(),
            to: None,
            paths: 1,
            bytes: 0,
        }));
        events.extend((1..=20).map(|number| FleetEvent::MachineDown {
            machine: format!("b{number}"),
            cause: String::new(),
        }));
        let (progress, now) = after(&events, machines(20));
        let lines = render(&progress, &MANY, now);
        assert_eq!(lines.len(), LINES + 2);
        assert_eq!(lines[LINES], "  … and 92 more");
        assert!(lines[LINES + 1].ends_with("· … 12 more"), "{}", lines[LINES + 1]);
    }
}
