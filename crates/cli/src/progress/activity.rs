//! Progress as Nix's activities: `@nix {json}` lines, which nix-output-monitor and others read.
//!
//! Follows `JSONLogger` (`src/libutil/logging.cc`) of Nix.

use std::collections::{BTreeMap, BTreeSet};

use drover_core::{Activity, ActivityId, ActivityResult, json_message, json_stop};
use drover_fleet::{FleetEvent, NodeId};
use drover_store::FetchEvent;

use super::lines::{Taste, lasting_line, route};
use super::names::Names;
use crate::builders::LOCAL;
use crate::units;

/// How important a message is, in Nix's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// Something went wrong.
    Error = 0,
    /// Something may be wrong.
    Warning = 1,
    /// What people want to know.
    Info = 3,
}

/// Returns a message as a line.
pub(crate) fn message(level: Level, text: &str) -> String {
    json_message(level as u64, text)
}

/// Turns events into activities.
#[derive(Debug)]
pub(crate) struct Activities {
    next: u64,
    builds: Option<ActivityId>,
    running: BTreeMap<NodeId, ActivityId>,
    copies: BTreeMap<u64, (ActivityId, usize)>,
    fetches: BTreeMap<u64, ActivityId>,
    expected: usize,
    /// Derivations that need no build after all.
    spared: BTreeSet<NodeId>,
    done: BTreeSet<NodeId>,
    failed: usize,
}

impl Activities {
    /// Returns the activities of a process, whose number keeps them apart from the evaluator's.
    pub(crate) fn new(process: u32) -> Activities {
        Activities {
            next: u64::from(process) << 32,
            builds: None,
            running: BTreeMap::new(),
            copies: BTreeMap::new(),
            fetches: BTreeMap::new(),
            expected: 0,
            spared: BTreeSet::new(),
            done: BTreeSet::new(),
            failed: 0,
        }
    }

    /// Returns the lines for an event.
    pub(crate) fn lines(
        &mut self,
        event: &FleetEvent,
        names: &dyn Names,
        taste: Taste,
    ) -> Vec<String> {
        match event {
            FleetEvent::Planned { to_build, .. } => self.planned(*to_build),
            FleetEvent::Building { node, machine } => self.build_started(*node, machine, names),
            FleetEvent::Found { node, .. } | FleetEvent::Unneeded { node } => {
                self.spared.insert(*node);
                self.totals().into_iter().collect()
            }
            FleetEvent::LogLine { node, line } => {
                self.result(*node, &ActivityResult::LogLine(line))
            }
            FleetEvent::Phase { node, phase } => self.result(*node, &ActivityResult::Phase(phase)),
            FleetEvent::Built { node, machine, .. } => {
                let mut lines = match self.running.contains_key(node) {
                    true => Vec::new(),
                    false => self.build_started(*node, machine, names),
                };
                self.done.insert(*node);
                lines.extend(self.build_ended(*node));
                lines
            }
            FleetEvent::Failed { node, .. } | FleetEvent::Retried { node, .. } => {
                self.failed += usize::from(matches!(event, FleetEvent::Failed { .. }));
                let mut lines = self.build_ended(*node);
                let told = lasting_line(event, names, taste);
                lines.extend(told.map(|text| message(Level::Warning, &text)));
                lines
            }
            FleetEvent::CopyStarted { transfer, from, to, paths, .. } => {
                self.copy_started(*transfer, from, to.as_deref(), *paths)
            }
            FleetEvent::CopyEnded { transfer } => self.copy_ended(*transfer),
            FleetEvent::MachineDown { .. } | FleetEvent::Note(_) => {
                let told = lasting_line(event, names, taste);
                told.map(|text| message(Level::Warning, &text)).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }

    /// Returns the lines for what the local store fetches.
    pub(crate) fn fetch_lines(&mut self, event: &FetchEvent, names: &dyn Names) -> Vec<String> {
        let told = match event {
            FetchEvent::Started { number, path, substituter } => {
                let (ours, path) = (self.number(), names.whole(path));
                self.fetches.insert(*number, ours);
                Some(begins(ours, &Activity::CopyPath { path: &path, from: substituter }))
            }
            FetchEvent::Progress { number, done, size } => {
                let ours = self.fetches.get(number);
                ours.map(|ours| progress([*done, *size, 0, 0]).json(*ours))
            }
            FetchEvent::Ended { number } => self.fetches.remove(number).map(json_stop),
            FetchEvent::Asking { .. } | FetchEvent::Note(_) => None,
        };
        told.into_iter().collect()
    }

    fn number(&mut self) -> ActivityId {
        self.next += 1;
        ActivityId(self.next)
    }

    fn planned(&mut self, to_build: usize) -> Vec<String> {
        self.expected = to_build;
        let builds = self.number();
        self.builds = Some(builds);
        let mut lines = vec![begins(builds, &Activity::Builds)];
        lines.extend(self.totals());
        lines
    }

    fn build_started(&mut self, node: NodeId, machine: &str, names: &dyn Names) -> Vec<String> {
        self.spared.remove(&node);
        let path = names.path(node);
        let machine = if machine == LOCAL { "" } else { machine };
        let number = self.number();
        let mut lines = Vec::new();
        if let Some(before) = self.running.insert(node, number) {
            lines.push(json_stop(before));
        }
        lines.push(begins(number, &Activity::Build { derivation: &path, machine }));
        lines.extend(self.totals());
        lines
    }

    fn build_ended(&mut self, node: NodeId) -> Vec<String> {
        let ended = self.running.remove(&node).map(json_stop);
        ended.into_iter().chain(self.totals()).collect()
    }

    fn result(&self, node: NodeId, result: &ActivityResult<'_>) -> Vec<String> {
        let number = self.running.get(&node);
        number.map(|number| result.json(*number)).into_iter().collect()
    }

    fn copy_started(
        &mut self,
        transfer: u64,
        from: &[Option<String>],
        to: Option<&str>,
        paths: usize,
    ) -> Vec<String> {
        let number = self.number();
        self.copies.insert(transfer, (number, paths));
        let text = format!("copying {} {}", units::count(paths, "path"), route(from, to));
        let progress = progress([0, paths as u64, 1, 0]).json(number);
        vec![begins(number, &Activity::CopyPaths { text: &text }), progress]
    }

    fn copy_ended(&mut self, transfer: u64) -> Vec<String> {
        let Some((number, paths)) = self.copies.remove(&transfer) else { return Vec::new() };
        vec![progress([paths as u64, paths as u64, 0, 0]).json(number), json_stop(number)]
    }

    fn totals(&self) -> Option<String> {
        let expected = self.expected.saturating_sub(self.spared.len());
        let counts = [self.done.len(), expected, self.running.len(), self.failed];
        Some(progress(counts.map(|count| count as u64)).json(self.builds?))
    }
}

fn begins(id: ActivityId, activity: &Activity<'_>) -> String {
    activity.json_start(id, ActivityId::NONE)
}

fn progress([done, expected, running, failed]: [u64; 4]) -> ActivityResult<'static> {
    ActivityResult::Progress { done, expected, running, failed }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use drover_store::FailureCause;
    use serde_json::{Value, json};

    use super::super::fetches::tests::started;
    use super::super::lines::tests::{NAMES, failed};
    use super::*;
    use crate::terminal::{BuildLogs, Verbosity};

    const TASTE: Taste = Taste { verbosity: Verbosity::Normal, build_logs: BuildLogs::Hidden };

    fn values(events: &[FleetEvent]) -> Vec<Value> {
        let mut activities = Activities::new(1);
        let lines = events.iter().flat_map(|event| activities.lines(event, &NAMES, TASTE));
        lines
            .map(|line| serde_json::from_str(line.strip_prefix("@nix ").unwrap()).unwrap())
            .collect()
    }

    const HELLO: &str = "/nix/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-hello-2.12.drv";

    #[test]
    fn builds_are_activities() {
        let first = 1_u64 << 32;
        let events = [
            FleetEvent::Planned { to_build: 2, to_substitute: 0, in_graph: 2 },
            FleetEvent::Building { node: NodeId(0), machine: "b1".to_owned() },
            FleetEvent::Phase { node: NodeId(0), phase: "buildPhase".to_owned() },
            FleetEvent::LogLine { node: NodeId(0), line: "a \"b\"".to_owned() },
            FleetEvent::Built {
                node: NodeId(0),
                machine: "b1".to_owned(),
                took: Duration::ZERO,
                bytes: 0,
            },
        ];
        let totals = |fields: Value| json!({ "action": "result", "id": first + 1, "type": 105, "fields": fields });
        let expected = [
            json!({ "action": "start", "id": first + 1, "level": 3, "type": 104, "text": "",
                    "parent": 0 }),
            totals(json!([0, 2, 0, 0])),
            json!({ "action": "start", "id": first + 2, "level": 3, "type": 105,
                    "text": format!("building '{HELLO}' on 'b1'"),
                    "fields": [HELLO, "b1", 1, 1], "parent": 0 }),
            totals(json!([0, 2, 1, 0])),
            json!({ "action": "result", "id": first + 2, "type": 104, "fields": ["buildPhase"] }),
            json!({ "action": "result", "id": first + 2, "type": 101, "fields": ["a \"b\""] }),
            json!({ "action": "stop", "id": first + 2 }),
            totals(json!([1, 2, 0, 0])),
        ];
        assert_eq!(values(&events), expected);
    }

    #[test]
    fn local_builds_have_no_machine() {
        let building = FleetEvent::Building { node: NodeId(0), machine: LOCAL.to_owned() };
        let told = values(&[building]);
        assert_eq!(told[0]["fields"], json!([HELLO, "", 1, 1]));
        assert_eq!(told[0]["text"], json!(format!("building '{HELLO}'")));
    }

    #[test]
    fn what_is_fetched_is_told_as_nix_does() {
        let mut activities = Activities::new(0);
        let mut told = |event: &FetchEvent| -> Vec<Value> {
            let lines = activities.fetch_lines(event, &NAMES);
            lines.iter().map(|line| serde_json::from_str(line.get(5..).unwrap()).unwrap()).collect()
        };
        const PATH: &str = "/nix/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-hello";
        assert_eq!(
            told(&started(7, "hello")),
            [json!({ "action": "start", "id": 1, "level": 3, "type": 100, "parent": 0,
                     "text": format!("copying path '{PATH}' from 'https://c'"),
                     "fields": [PATH, "https://c", "local"] })]
        );
        assert_eq!(
            told(&FetchEvent::Progress { number: 7, done: 5, size: 9 }),
            [json!({ "action": "result", "id": 1, "type": 105, "fields": [5, 9, 0, 0] })]
        );
        assert_eq!(told(&FetchEvent::Ended { number: 7 }), [json!({ "action": "stop", "id": 1 })]);
        assert!(told(&FetchEvent::Ended { number: 7 }).is_empty());
    }

    #[test]
    fn transfers_and_failures_are_told() {
        let copy = FleetEvent::CopyStarted {
            transfer: 9,
            from: vec![None],
            to: Some("b1".to_owned()),
            paths: 2,
            bytes: 5,
        };
        let events = [copy, FleetEvent::CopyEnded { transfer: 9 }, failed(FailureCause::Build)];
        let told = values(&events);
        let actions: Vec<&str> = told.iter().map(|one| one["action"].as_str().unwrap()).collect();
        assert_eq!(actions, ["start", "result", "result", "stop", "msg"]);
        assert_eq!(told[0]["text"], json!("copying 2 paths to b1"));
        assert_eq!(told[4]["msg"], json!("hello-2.12 failed on b1"));
    }
}
