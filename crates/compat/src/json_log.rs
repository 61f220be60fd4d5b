//! Messages for programs (`--log-format internal-json`): a line each, as `JSONLogger` of Nix writes them
//! (`src/libutil/logging.cc`).

use std::collections::HashMap;

use drover_core::{StoreDir, StorePath, without_raw};
use drover_store::{FetchEvent, RealiseEvent, THIS_MACHINE};
use serde_json::{Value, json};

use crate::options::Verbosity;

/// `actBuild` and the results of activities.
const BUILD: u64 = 105;
const COPY_PATH: u64 = 100;
const SUBSTITUTE: u64 = 108;
const PROGRESS: u64 = 105;
const LOG_LINE: u64 = 101;
const PHASE: u64 = 104;

/// Builds that run and paths that come, as activities.
pub(crate) struct Activities {
    last: u64,
    open: HashMap<StorePath, u64>,
    /// By the number of the transfer: the whole of it, and the copying.
    fetches: HashMap<u64, (u64, u64)>,
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
                self.last += 1;
                self.open.insert(derivation.clone(), self.last);
                let path = store_dir.display(derivation);
                let (machine, place) = match machine.as_str() {
                    "" | THIS_MACHINE => ("", String::new()),
                    machine => (machine, format!(" on '{machine}'")),
                };
                let text = format!("building '{path}'{place}");
                Some(line(&json!({
                    "action": "start", "id": self.last, "level": Verbosity::INFO.0, "type": BUILD,
                    "text": text, "fields": [path, machine, 1, 1], "parent": 0,
                })))
            }
            RealiseEvent::Line { derivation, line } => self.result(derivation, LOG_LINE, line),
            RealiseEvent::Phase { derivation, phase } => self.result(derivation, PHASE, phase),
            RealiseEvent::Ended { derivation } | RealiseEvent::Failed { derivation, .. } => {
                let id = self.open.remove(derivation)?;
                Some(line(&json!({ "action": "stop", "id": id })))
            }
            RealiseEvent::Fetch(event) => self.fetch(event, store_dir),
            RealiseEvent::Note(_) | RealiseEvent::Waiting { .. } => None,
        }
    }

    fn fetch(&mut self, event: &FetchEvent, store_dir: &StoreDir) -> Option<String> {
        Some(match event {
            FetchEvent::Started { number, path, substituter } => {
                let (whole, copy) = (self.last + 1, self.last + 2);
                self.last = copy;
                self.fetches.insert(*number, (whole, copy));
                let path = store_dir.display(path);
                let begun = json!({
                    "action": "start", "id": whole, "level": Verbosity::ERROR.0, "type": SUBSTITUTE,
                    "text": "", "fields": [path, substituter], "parent": 0,
                });
                let text = format!("copying path '{path}' from '{substituter}'");
                let copies = json!({
                    "action": "start", "id": copy, "level": Verbosity::INFO.0, "type": COPY_PATH,
                    "text": text, "fields": [path, substituter, "local"], "parent": whole,
                });
                format!("{}\n{}", line(&begun), line(&copies))
            }
            FetchEvent::Progress { number, done, size } => {
                let (_, copy) = self.fetches.get(number)?;
                line(&json!({
                    "action": "result", "id": copy, "type": PROGRESS, "fields": [done, size, 0, 0],
                }))
            }
            FetchEvent::Ended { number } => {
                let (whole, copy) = self.fetches.remove(number)?;
                let stop = |id: u64| line(&json!({ "action": "stop", "id": id }));
                format!("{}\n{}", stop(copy), stop(whole))
            }
            FetchEvent::Asking { .. } | FetchEvent::Note(_) => return None,
        })
    }

    fn result(&self, derivation: &StorePath, kind: u64, text: &str) -> Option<String> {
        let id = self.open.get(derivation)?;
        Some(line(
            &json!({ "action": "result", "id": id, "type": kind, "fields": [without_raw(text)] }),
        ))
    }
}

/// Returns a message.
pub(crate) fn message(level: Verbosity, text: &str) -> String {
    line(&json!({ "action": "msg", "level": level.0, "msg": without_raw(text) }))
}

fn line(value: &Value) -> String {
    format!("@nix {value}")
}

#[cfg(test)]
mod tests {
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
