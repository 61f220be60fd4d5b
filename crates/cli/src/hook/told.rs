//! What Nix hears while it waits for a build: the output of the build at one descriptor, messages and
//! activities at another, as from its own hook.

use std::io::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use drover_core::{raw_bytes, without_raw};
use drover_daemon::activity;
use drover_store::{BuildLog, LogEvent};
use fs_err::File;
use serde_json::{Value, json};

/// Where the output of the build is to go (`log-fd` of Nix's own hook).
const LOG: &str = "/proc/self/fd/4";

/// How important it is what is told (`lvlInfo`).
const INFO: u8 = 3;

/// Tells Nix of a build.
pub(super) struct Told {
    /// The whole path of the derivation.
    derivation: String,
    log: Mutex<File>,
    activities: Mutex<Activities>,
}

/// The activities of this process.
#[derive(Debug, Default)]
struct Activities {
    last: u64,
    /// Where the build was given to last.
    machine: String,
    /// The build, while it runs.
    build: Option<u64>,
}

impl Activities {
    /// Returns a number that no other activity has.
    fn number(&mut self) -> u64 {
        self.last += 1;
        (u64::from(std::process::id()) << 32) + self.last
    }
}

/// Paths that are being copied here, until this is dropped.
pub(super) struct Copying(Vec<u64>);

impl Drop for Copying {
    fn drop(&mut self) {
        self.0.iter().for_each(|id| say(&stop(*id)));
    }
}

impl Told {
    /// Returns what tells Nix of the build of a derivation.
    ///
    /// # Errors
    ///
    /// Nix has given no descriptor for it.
    pub(super) fn open(derivation: String) -> anyhow::Result<Told> {
        let log = fs_err::OpenOptions::new().write(true).open(LOG);
        let log =
            log.context("Nix has given this hook no descriptor for the output of the build")?;
        Ok(Told { derivation, log: Mutex::new(log), activities: Mutex::default() })
    }

    /// Says something of a level.
    pub(super) fn message(&self, level: u8, text: &str) {
        say(&json!({ "action": "msg", "level": level, "msg": without_raw(text) }));
    }

    /// Says that the build runs no more, if it was said that it runs.
    pub(super) fn ended(&self) {
        if let Some(id) = self.activities().build.take() {
            say(&stop(id));
        }
    }

    /// Says that paths are copied here.
    pub(super) fn copying(&self, paths: Vec<String>) -> Copying {
        let mut activities = self.activities();
        let from = match activities.machine.as_str() {
            // it was there already
            "" => "drover".to_owned(),
            machine => machine.to_owned(),
        };
        let mut ids = Vec::new();
        if !paths.is_empty() {
            let id = activities.number();
            let count = paths.len();
            let text = format!("copying {count} paths");
            say(&start(id, activity::COPY_PATHS, &text, json!([])));
            ids.push(id);
        }
        for path in paths {
            let id = activities.number();
            let text = format!("copying path '{path}' from '{from}'");
            say(&start(id, activity::COPY_PATH, &text, json!([path, from, "local"])));
            ids.push(id);
        }
        // the whole ends last
        ids.reverse();
        Copying(ids)
    }

    fn activities(&self) -> MutexGuard<'_, Activities> {
        self.activities.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn given_to(&self, machine: String) {
        let mut activities = self.activities();
        if let Some(before) = activities.build.take() {
            say(&stop(before));
        }
        let id = activities.number();
        say(&build_on(id, &self.derivation, &machine));
        (activities.build, activities.machine) = (Some(id), machine);
    }

    /// With nobody to hear it there is nobody to tell; that the build goes on then is seen to by
    /// whoever ends this process.
    fn line(&self, line: &str) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        drop(log.write_all(&raw_bytes(&format!("{line}\n"))));
    }
}

impl BuildLog for Told {
    fn event(&self, event: LogEvent) {
        match event {
            LogEvent::Line(line) => self.line(&line),
            LogEvent::Phase(phase) => {
                let phase = json!({ "action": "setPhase", "phase": phase });
                self.line(&format!("@nix {phase}"));
            }
            LogEvent::Message(text) => self.message(INFO, &text),
            LogEvent::On(machine) => self.given_to(machine),
            LogEvent::Started | LogEvent::Ended | LogEvent::Heard(_) => {}
        }
    }
}

fn build_on(id: u64, derivation: &str, machine: &str) -> Value {
    let text = format!("building '{derivation}' on '{machine}'");
    start(id, activity::BUILD, &text, json!([derivation, machine, 1, 1]))
}

fn start(id: u64, kind: u64, text: &str, fields: Value) -> Value {
    json!({
        "action": "start", "id": id, "level": INFO, "type": kind, "text": text, "fields": fields, "parent": 0,
    })
}

fn stop(id: u64) -> Value {
    json!({ "action": "stop", "id": id })
}

fn say(value: &Value) {
    let line = format!("@nix {value}\n");
    // that nobody hears it any more ends this process
    drop(std::io::stderr().lock().write_all(line.as_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_is_told_with_its_machine_as_nix_does() {
        let expected = json!({
            "action": "start", "id": 7, "level": 3, "type": 105, "parent": 0,
            "text": "building '/nix/store/a.drv' on 'b1'", "fields": ["/nix/store/a.drv", "b1", 1, 1],
        });
        assert_eq!(build_on(7, "/nix/store/a.drv", "b1"), expected);
    }

    #[test]
    fn numbers_are_of_this_process_alone() {
        let mut activities = Activities::default();
        let process = u64::from(std::process::id());
        assert_eq!(activities.number(), (process << 32) + 1);
        assert_eq!(activities.number(), (process << 32) + 2);
    }
}
