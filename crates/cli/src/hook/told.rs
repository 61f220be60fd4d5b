//! What Nix hears while it waits for a build: the output of the build at one descriptor, messages and
//! activities at another, as from its own hook.

use std::io::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use drover_core::{Activity, ActivityId, json_message, json_phase, json_stop, raw_bytes};
use drover_store::{BuildLog, LogEvent};
use fs_err::File;

/// Where the output of the build is to go (`log-fd` of Nix's own hook).
const LOG: &str = "/proc/self/fd/4";

/// How important it is what is told (`lvlInfo`).
const INFO: u64 = 3;

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
    build: Option<ActivityId>,
}

impl Activities {
    /// Returns a number that no other activity has.
    fn number(&mut self) -> ActivityId {
        self.last += 1;
        ActivityId((u64::from(std::process::id()) << 32) + self.last)
    }
}

/// Paths that are being copied here, until this is dropped.
pub(super) struct Copying(Vec<ActivityId>);

impl Drop for Copying {
    fn drop(&mut self) {
        self.0.iter().for_each(|id| say(&json_stop(*id)));
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
    pub(super) fn message(&self, level: u64, text: &str) {
        say(&json_message(level, text));
    }

    /// Says that the build runs no more, if it was said that it runs.
    pub(super) fn ended(&self) {
        if let Some(id) = self.activities().build.take() {
            say(&json_stop(id));
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
            say(&Activity::CopyPaths { text: &text }.json_start(id, ActivityId::NONE));
            ids.push(id);
        }
        for path in paths {
            let id = activities.number();
            let copy = Activity::CopyPath { path: &path, from: &from };
            say(&copy.json_start(id, ActivityId::NONE));
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
            say(&json_stop(before));
        }
        let id = activities.number();
        let build = Activity::Build { derivation: &self.derivation, machine: &machine };
        say(&build.json_start(id, ActivityId::NONE));
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
            LogEvent::Phase(phase) => self.line(&json_phase(&phase)),
            LogEvent::Message(text) => self.message(INFO, &text),
            LogEvent::On(machine) => self.given_to(machine),
            LogEvent::Started | LogEvent::Ended | LogEvent::Heard(_) => {}
        }
    }
}

fn say(line: &str) {
    let line = format!("{line}\n");
    // that nobody hears it any more ends this process
    drop(std::io::stderr().lock().write_all(line.as_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_of_this_process_alone() {
        let mut activities = Activities::default();
        let process = u64::from(std::process::id());
        assert_eq!(activities.number(), ActivityId((process << 32) + 1));
        assert_eq!(activities.number(), ActivityId((process << 32) + 2));
    }
}
