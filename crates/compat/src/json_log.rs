//! Messages for programs (`--log-format internal-json`): a line each, as `JSONLogger` of Nix writes them
//! (`src/libutil/logging.cc`).

use std::collections::HashMap;

use drover_core::{Activity, ActivityId, ActivityResult, StoreDir, StorePath, json_stop};
use drover_store::{FetchEvent, RealiseEvent, THIS_MACHINE};

use crate::options::Verbosity;

/// Builds that run and paths that come, as activities.
pub(crate) struct Activities {
    last: u64,
    open: HashMap<StorePath, ActivityId>,
    /// By the number of the transfer: the whole of it, and the copying.
    fetches: HashMap<u64, (ActivityId, ActivityId)>,
}

impl Activities {
    /// `process` tells the numbers of this process's activities from those of others.
    pub(crate) fn new(process: u32) -> Activities {
        let last = u64::from(process) << 32;
        Activities { last, open: HashMap::new(), fetches: HashMap::new() }
    }

    /// Returns what an event is to programs; nothing where it is a message.
    pub(crate) fn line(&mut self, event: &RealiseEvent, store_dir: &StoreDir) -> Option<String> {
        match event {
            RealiseEvent::Started { derivation, machine } => {
                let id = self.number();
                self.open.insert(derivation.clone(), id);
                let path = store_dir.display(derivation);
                let machine = if machine == THIS_MACHINE { "" } else { machine };
                let build = Activity::Build { derivation: &path, machine };
                Some(build.json_start(id, ActivityId::NONE))
            }
            RealiseEvent::Line { derivation, line } => {
                self.result(derivation, &ActivityResult::LogLine(line))
            }
            RealiseEvent::Phase { derivation, phase } => {
                self.result(derivation, &ActivityResult::Phase(phase))
            }
            RealiseEvent::Ended { derivation } | RealiseEvent::Failed { derivation, .. } => {
                self.open.remove(derivation).map(json_stop)
            }
            RealiseEvent::Fetch(event) => self.fetch(event, store_dir),
            RealiseEvent::Note(_) | RealiseEvent::Waiting { .. } => None,
        }
    }

    fn fetch(&mut self, event: &FetchEvent, store_dir: &StoreDir) -> Option<String> {
        Some(match event {
            FetchEvent::Started { number, path, substituter } => {
                let (whole, copy) = (self.number(), self.number());
                self.fetches.insert(*number, (whole, copy));
                let path = store_dir.display(path);
                let (path, from) = (path.as_str(), substituter.as_str());
                let begun = Activity::Substitute { path, from }.json_start(whole, ActivityId::NONE);
                let copies = Activity::CopyPath { path, from }.json_start(copy, whole);
                format!("{begun}\n{copies}")
            }
            FetchEvent::Progress { number, done, size } => {
                let (_, copy) = self.fetches.get(number)?;
                let (done, expected) = (*done, *size);
                ActivityResult::Progress { done, expected, running: 0, failed: 0 }.json(*copy)
            }
            FetchEvent::Ended { number } => {
                let (whole, copy) = self.fetches.remove(number)?;
                format!("{}\n{}", json_stop(copy), json_stop(whole))
            }
            FetchEvent::Asking { .. } | FetchEvent::Note(_) => return None,
        })
    }

    fn number(&mut self) -> ActivityId {
        self.last += 1;
        ActivityId(self.last)
    }

    fn result(&self, derivation: &StorePath, result: &ActivityResult<'_>) -> Option<String> {
        Some(result.json(*self.open.get(derivation)?))
    }
}

/// Returns a message.
pub(crate) fn message(level: Verbosity, text: &str) -> String {
    drover_core::json_message(level.0.into(), text)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_build_is_an_activity() {
        let derivation =
            StorePath::from_base_name("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-x.drv").expect("a name");
        let (mut activities, dir) = (Activities::new(1), StoreDir::default());
        let machine = "b1".to_owned();
        let events = [
            RealiseEvent::Line { derivation: derivation.clone(), line: "before".to_owned() },
            RealiseEvent::Started { derivation: derivation.clone(), machine },
            RealiseEvent::Line {
                derivation: derivation.clone(),
                line: "a \"b\"\u{1b}[1m".to_owned(),
            },
            RealiseEvent::Ended { derivation: derivation.clone() },
            RealiseEvent::Ended { derivation },
        ];
        let lines = events.iter().filter_map(|event| activities.line(event, &dir));
        let told: Vec<Value> = lines
            .map(|line| serde_json::from_str(line.strip_prefix("@nix ").expect("Nix's")))
            .collect::<Result<_, _>>()
            .expect("JSON");
        let (id, path) = ((1_u64 << 32) + 1, "/nix/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-x.drv");
        let expected = [
            json!({ "action": "start", "id": id, "level": 3, "type": 105, "parent": 0,
                    "text": format!("building '{path}' on 'b1'"), "fields": [path, "b1", 1, 1] }),
            json!({ "action": "result", "id": id, "type": 101, "fields": ["a \"b\"\u{1b}[1m"] }),
            json!({ "action": "stop", "id": id }),
        ];
        assert_eq!(told, expected);
    }
}
