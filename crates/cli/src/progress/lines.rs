//! Progress as lines of text, for what is not a terminal and for what stays on one.

use std::time::Instant;

use drover_core::plain_text;
use drover_fleet::FleetEvent;
use drover_store::FailureCause;

use super::names::Names;
use super::state::{MachineState, Progress};
use crate::terminal::{BuildLogs, Verbosity};
use crate::units;

/// Builds that are told of one by one when there was nothing else to say.
const TOLD: usize = 4;

/// What is said, and in how many words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taste {
    /// How much is said.
    pub(crate) verbosity: Verbosity,
    /// Whether the logs of builds are printed.
    pub(crate) build_logs: BuildLogs,
}

/// Returns the line for what there is to say where every line stays: starts and ends, too.
pub(crate) fn line(event: &FleetEvent, names: &dyn Names, taste: Taste) -> Option<String> {
    if taste.verbosity < Verbosity::Normal {
        return None;
    }
    match event {
        FleetEvent::Planned { to_build, to_substitute, in_graph } => {
            let fetched = match to_substitute {
                0 => String::new(),
                paths => format!("; {} to fetch from caches", units::count(*paths, "path")),
            };
            Some(format!(
                "{to_build} of {} to build{fetched}",
                units::count(*in_graph, "derivation")
            ))
        }
        FleetEvent::Connected { machine, took } => {
            Some(format!("{machine} is up, after {}", units::time(*took)))
        }
        FleetEvent::Building { node, machine } => {
            Some(format!("building {} on {machine}", names.name(*node)))
        }
        FleetEvent::Found { node, machine } => {
            Some(format!("found {} built on {machine}", names.name(*node)))
        }
        FleetEvent::Built { node, machine, took, .. } => {
            Some(format!("built {} on {machine} in {}", names.name(*node), units::time(*took)))
        }
        _ => lasting_line(event, names, taste),
    }
}

/// Returns the line for what there is to say above lines that are kept up to date.
pub(crate) fn lasting_line(event: &FleetEvent, names: &dyn Names, taste: Taste) -> Option<String> {
    if taste.verbosity < Verbosity::Normal {
        return None;
    }
    match event {
        FleetEvent::LogLine { node, line } if taste.build_logs == BuildLogs::Shown => {
            Some(format!("{}> {}", names.label(*node), plain_text(line)))
        }
        FleetEvent::Phase { node, phase } if taste.verbosity >= Verbosity::Verbose => {
            Some(format!("{} is in {}", names.name(*node), plain_text(phase)))
        }
        FleetEvent::MachineDown { machine, cause } => Some(format!("{machine} is down: {cause}")),
        FleetEvent::Retried { node, machine, cause } => {
            let name = names.name(*node);
            Some(format!("{name} came back from {machine} and is tried again: {cause}"))
        }
        FleetEvent::Failed { node, failure } => {
            let whose = failure.machine.as_ref().map(|name| format!(" on {name}"));
            let verb = match verb(failure.cause)? {
                Verb::OfBuild(verb) => verb,
                Verb::OfNobody => {
                    return Some(format!("{} can be built nowhere", names.name(*node)));
                }
            };
            Some(format!("{} {verb}{}", names.name(*node), whose.unwrap_or_default()))
        }
        FleetEvent::Connecting { machine } if taste.verbosity >= Verbosity::Verbose => {
            Some(format!("connecting to {machine}"))
        }
        FleetEvent::CopyStarted { from, to, paths, bytes, .. }
            if taste.verbosity >= Verbosity::Verbose =>
        {
            Some(format!(
                "copying {} ({}) {}",
                units::count(*paths, "path"),
                units::bytes(*bytes),
                route(from, to.as_deref())
            ))
        }
        FleetEvent::Note(text) => Some(plain_text(text)),
        _ => None,
    }
}

/// What is said of a derivation that failed.
enum Verb {
    OfBuild(&'static str),
    /// No machine took it.
    OfNobody,
}

/// Returns what is said of a failure; nothing where others tell of it.
fn verb(cause: FailureCause) -> Option<Verb> {
    Some(Verb::OfBuild(match cause {
        FailureCause::Build | FailureCause::Passing | FailureCause::Other => "failed",
        FailureCause::Machine | FailureCause::NoRoom => "could not be built",
        FailureCause::Refused => "was refused",
        FailureCause::Rejected => "has outputs that can't be taken",
        FailureCause::TimedOut => "took too long",
        FailureCause::LogLimit => "said too much",
        FailureCause::HashMismatch => "has the wrong hash",
        FailureCause::NotDeterministic => "is not deterministic",
        FailureCause::Hook => "was built, and the hook after it failed",
        FailureCause::NotFetched | FailureCause::NoSubstituters => "could not be fetched",
        FailureCause::NotSent => "could not be sent",
        FailureCause::Unsuited | FailureCause::NoMachine => return Some(Verb::OfNobody),
        // told by what they depend on, or by the user
        FailureCause::Dependency | FailureCause::Cancelled => return None,
    }))
}

/// Returns where a transfer goes.
pub(crate) fn route(from: &[Option<String>], to: Option<&str>) -> String {
    let from: Vec<&str> = from.iter().flatten().map(String::as_str).collect();
    match (from.as_slice(), to) {
        ([], None) => "here".to_owned(),
        ([], Some(to)) => format!("to {to}"),
        (from, None) => format!("from {}", from.join(", ")),
        (from, Some(to)) => format!("from {} to {to}", from.join(", ")),
    }
}

/// Returns what is going on, for when there has been nothing to say for long.
pub(crate) fn reminder(progress: &Progress, names: &dyn Names, now: Instant) -> String {
    let mut longest: Vec<_> = progress.building.iter().collect();
    longest.sort_by_key(|(_, building)| building.since);
    let mut told: Vec<String> = longest
        .iter()
        .take(TOLD)
        .map(|(node, building)| {
            let time = units::whole_time(now.duration_since(building.since));
            format!("{} for {time} on {}", names.name(**node), building.machine)
        })
        .collect();
    if TOLD < longest.len() {
        told.push(format!("and {} more", longest.len() - TOLD));
    }
    let mut parts = Vec::new();
    if !told.is_empty() {
        parts.push(format!("still building: {}", told.join(", ")));
    }
    if !progress.copies.is_empty() {
        let rate = units::bytes(progress.rate(now));
        parts.push(format!(
            "copying: {}, {rate}/s",
            units::count(progress.copies.len(), "transfer")
        ));
    }
    parts.extend(progress.fetches.in_short());
    if parts.is_empty() {
        parts.push(waiting(progress));
    }
    let built = progress.built_of_all().map(|built| format!(" ({built})"));
    format!("{}{}", parts.join("; "), built.unwrap_or_default())
}

/// Returns what is waited for while nothing runs.
fn waiting(progress: &Progress) -> String {
    let in_state = |state: MachineState| -> Vec<&str> {
        let machines = progress.machines.iter().filter(|(_, machine)| machine.state == state);
        machines.map(|(name, _)| name.as_str()).collect()
    };
    let (connecting, down) = (in_state(MachineState::Connecting), in_state(MachineState::Down));
    match (connecting.as_slice(), down.as_slice()) {
        ([], []) if progress.to_build.is_none() => "finding out what there is to do".to_owned(),
        ([], []) => "still at it".to_owned(),
        ([], down) => format!("waiting for {} to come back", down.join(", ")),
        (connecting, _) => format!("connecting to {}", connecting.join(", ")),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use drover_fleet::{JobFailureReport, NodeId};
    use drover_store::FetchEvent;
    use rstest::rstest;

    use super::super::fetches::tests::started;
    use super::super::names::ListNames;
    use super::*;

    pub(crate) const NAMES: ListNames = ListNames(&["hello-2.12", "glibc-2.40"]);

    const LOUD: Taste = Taste { verbosity: Verbosity::Verbose, build_logs: BuildLogs::Shown };
    const PLAIN: Taste = Taste { verbosity: Verbosity::Normal, build_logs: BuildLogs::Hidden };
    const QUIET: Taste = Taste { verbosity: Verbosity::Quiet, build_logs: BuildLogs::Shown };

    fn b1() -> String {
        "b1".to_owned()
    }

    pub(crate) fn failed(cause: FailureCause) -> FleetEvent {
        FleetEvent::Failed {
            node: NodeId(0),
            failure: Box::new(JobFailureReport {
                derivation: drover_core::StorePath::from_base_name(
                    "3880j94arxkya3irs3d8nr2x076sp1m8-hello-2.12.drv",
                )
                .unwrap(),
                cause,
                machine: Some(b1()),
                message: "builder for 'hello' failed with exit code 1".to_owned(),
                log_tail: vec!["oops".to_owned()],
            }),
        }
    }

    #[rstest]
    #[case::planned(
        FleetEvent::Planned { to_build: 3, to_substitute: 1, in_graph: 5 },
        "3 of 5 derivations to build; 1 path to fetch from caches",
    )]
    #[case::up(
        FleetEvent::Connected { machine: b1(), took: Duration::from_millis(320) },
        "b1 is up, after 0.3s",
    )]
    #[case::down(FleetEvent::MachineDown { machine: b1(), cause: "no".into() }, "b1 is down: no")]
    #[case::building(
        FleetEvent::Building { node: NodeId(0), machine: b1() },
        "building hello-2.12 on b1",
    )]
    #[case::built(
        FleetEvent::Built { node: NodeId(0), machine: b1(), took: Duration::from_secs(65), bytes: 1 },
        "built hello-2.12 on b1 in 1m05s",
    )]
    #[case::found(
        FleetEvent::Found { node: NodeId(0), machine: b1() },
        "found hello-2.12 built on b1",
    )]
    #[case::failed(failed(FailureCause::Build), "hello-2.12 failed on b1")]
    #[case::nowhere(failed(FailureCause::NoMachine), "hello-2.12 can be built nowhere")]
    #[case::retried(
        FleetEvent::Retried { node: NodeId(1), machine: b1(), cause: "lost".into() },
        "glibc-2.40 came back from b1 and is tried again: lost",
    )]
    fn what_everybody_is_told(#[case] event: FleetEvent, #[case] expected: &str) {
        assert_eq!(line(&event, &NAMES, PLAIN).as_deref(), Some(expected));
        assert_eq!(line(&event, &NAMES, QUIET), None);
    }

    #[rstest]
    #[case::log(
        FleetEvent::LogLine { node: NodeId(0), line: "\u{1b}[31mred\u{1b}[0m".into() },
        "hello> red",
    )]
    #[case::copying(
        FleetEvent::CopyStarted { transfer: 0, from: vec![None], to: Some(b1()), paths: 2, bytes: 2048 },
        "copying 2 paths (2.0 KiB) to b1",
    )]
    #[case::between(
        FleetEvent::CopyStarted { transfer: 0, from: vec![Some("b2".into())], to: Some(b1()), paths: 1, bytes: 1 },
        "copying 1 path (1 B) from b2 to b1",
    )]
    fn what_some_are_told(#[case] event: FleetEvent, #[case] expected: &str) {
        assert_eq!(line(&event, &NAMES, LOUD).as_deref(), Some(expected));
        assert_eq!(line(&event, &NAMES, PLAIN), None);
    }

    #[rstest]
    #[case::dependency(FailureCause::Dependency)]
    #[case::cancelled(FailureCause::Cancelled)]
    fn consequences_are_not_told(#[case] cause: FailureCause) {
        assert_eq!(line(&failed(cause), &NAMES, PLAIN), None);
    }

    #[test]
    fn reminds_of_what_takes_long() {
        let start = Instant::now();
        let mut progress = Progress::new([(b1(), 4)]);
        assert_eq!(reminder(&progress, &NAMES, start), "finding out what there is to do");
        progress.apply_fetch(&started(1, "hello"), start);
        assert_eq!(reminder(&progress, &NAMES, start), "fetching hello from https://c: 0 B");
        progress.apply_fetch(&FetchEvent::Ended { number: 1 }, start);
        let planned = FleetEvent::Planned { to_build: 2, to_substitute: 1, in_graph: 3 };
        progress.apply(&planned, start);
        progress.apply(&FleetEvent::Connecting { machine: b1() }, start);
        assert_eq!(reminder(&progress, &NAMES, start), "connecting to b1 (0/2 built)");
        progress.apply(&FleetEvent::MachineDown { machine: b1(), cause: String::new() }, start);
        assert_eq!(reminder(&progress, &NAMES, start), "waiting for b1 to come back (0/2 built)");
        progress.apply(&FleetEvent::Building { node: NodeId(1), machine: b1() }, start);
        let later = start + Duration::from_secs(60);
        progress.apply(&FleetEvent::Building { node: NodeId(0), machine: b1() }, later);
        assert_eq!(
            reminder(&progress, &NAMES, start + Duration::from_secs(120)),
            "still building: glibc-2.40 for 2m on b1, hello-2.12 for 1m on b1 (0/2 built)"
        );
    }
}
