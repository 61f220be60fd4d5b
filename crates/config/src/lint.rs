//! The traps of the machines file: what Nix accepts in silence.

use std::collections::BTreeMap;

use crate::authority::Host;
use crate::machine::Machine;
use crate::origin::{Note, Origin, Severity};
use crate::store_reference::Scheme;

/// Returns what the writer of `machines` may want to know, machine by machine.
pub fn lint(machines: &[Machine]) -> Vec<Note> {
    let mut notes = Vec::new();
    let mut seen: BTreeMap<String, &Origin> = BTreeMap::new();
    for machine in machines {
        let mut of_machine = Notes { origin: &machine.origin, notes: &mut notes };
        let store = machine.store_uri.to_string();
        if let Some(first) = seen.get(&store) {
            of_machine.warning(
                format!("'{store}' is also at {first}: Nix lets both share one pool of slots"),
                "make one line of both: systems and features with commas between, and in column 4 the slots of both",
            );
        } else {
            seen.insert(store, &machine.origin);
        }
        store_notes(machine, &mut of_machine);
        capability_notes(machine, &mut of_machine);
    }
    notes
}

/// The notes, as one machine adds to them.
struct Notes<'n> {
    origin: &'n Origin,
    notes: &'n mut Vec<Note>,
}

impl Notes<'_> {
    fn warning(&mut self, text: impl Into<String>, remedy: impl Into<String>) {
        self.add(Severity::Warning, text.into(), remedy.into());
    }

    fn hint(&mut self, text: impl Into<String>, remedy: impl Into<String>) {
        self.add(Severity::Hint, text.into(), remedy.into());
    }

    fn add(&mut self, severity: Severity, text: String, remedy: String) {
        self.notes.push(Note { origin: self.origin.clone(), severity, text, remedy });
    }
}

/// Notes about where a machine is and how to get there.
fn store_notes(machine: &Machine, notes: &mut Notes<'_>) {
    let store = &machine.store_uri;
    if let Some(Host::Name(name)) = store.authority().map(|authority| &authority.host)
        && name.bytes().all(|byte| byte.is_ascii_digit())
    {
        notes.warning(
            format!("'{name}' is taken for a host; a number of jobs is set by max-jobs"),
            format!("take '{name}' away here, and write max-jobs = {name} into nix.conf"),
        );
    }
    for name in store.unknown_params() {
        notes.warning(
            format!("'{store}': unknown setting '{name}'"),
            format!("take '{name}' away, or write it as Nix does"),
        );
    }
    if *store.scheme() == Scheme::Unix {
        notes.warning(
            format!("builds on '{store}' succeed, but Nix cannot fetch their outputs"),
            "name the machine by ssh-ng://HOST in column 1",
        );
    }
    if machine.public_host_key.as_ref().is_some_and(|key| key.line().is_none()) {
        notes.warning(
            "the host key is not base64 of a line such as 'ssh-ed25519 AAAA…'; \
             use the output of base64 -w0 /etc/ssh/ssh_host_ed25519_key.pub",
            "run that on the machine, and put what it prints into column 8",
        );
    }
    if !store.scheme().is_ssh() && (machine.ssh_key.is_some() || machine.public_host_key.is_some())
    {
        notes.warning(
            format!("'{store}' is not reached by SSH: its keys go unused"),
            "write '-' into columns 3 and 8, or ssh-ng://HOST into column 1",
        );
    }
    if let Some(first) = machine.extra_columns.first() {
        notes.warning(
            format!("columns after the eighth are ignored, from '{first}' on"),
            "take them away; a host key is one word in column 8, as base64 -w0 prints it",
        );
    }
}

/// Notes about what a machine builds.
fn capability_notes(machine: &Machine, notes: &mut Notes<'_>) {
    if machine.max_jobs == 0 {
        notes.warning(
            "max jobs is 0: Nix postpones for ever what only this machine can build",
            "write into column 4 how many builds it does at once, or take the line away",
        );
    }
    if machine.systems.contains("x86_64-linux") && !machine.systems.contains("i686-linux") {
        notes.hint(
            "i686-linux does not follow from x86_64-linux here and must be listed, too",
            "write x86_64-linux,i686-linux into column 2 if it is to build for both",
        );
    }
    if machine.systems.is_empty() {
        notes.warning(
            "no systems are listed: nothing is built here",
            "write into column 2 what it builds for, or '-' for what this machine builds for",
        );
    }
    if !machine.mandatory_features.is_empty() {
        let features: Vec<&str> = machine.mandatory_features.iter().map(String::as_str).collect();
        notes.hint(
            format!(
                "only derivations whose requiredSystemFeatures include {} are built here",
                features.join(" and "),
            ),
            "move features from column 7 to column 6 if others are to be built here, too",
        );
    }
    let features = machine.supported_features.iter().chain(&machine.mandatory_features);
    for feature in features.filter(|feature| feature.ends_with("-linux")) {
        notes.warning(
            format!("'{feature}' looks like a system, but is in a feature column"),
            format!("move '{feature}' to column 2"),
        );
    }
}
