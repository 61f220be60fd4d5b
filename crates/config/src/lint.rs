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
        let origin = &machine.origin;
        let mut note = |severity, text: String| {
            notes.push(Note { origin: origin.clone(), severity, text });
        };
        let store = machine.store_uri.to_string();
        if let Some(first) = seen.get(&store) {
            note(
                Severity::Warning,
                format!("'{store}' is also at {first}: Nix lets both share one pool of slots"),
            );
        } else {
            seen.insert(store, origin);
        }
        store_notes(machine, &mut note);
        capability_notes(machine, &mut note);
    }
    notes
}

/// Notes about where a machine is and how to get there.
fn store_notes(machine: &Machine, note: &mut impl FnMut(Severity, String)) {
    let store = &machine.store_uri;
    if let Some(Host::Name(name)) = store.authority().map(|authority| &authority.host)
        && name.bytes().all(|byte| byte.is_ascii_digit())
    {
        let text = format!("'{name}' is taken for a host; a number of jobs is set by max-jobs");
        note(Severity::Warning, text);
    }
    if *store.scheme() == Scheme::Unix {
        let text = format!("builds on '{store}' succeed, but Nix cannot fetch their outputs");
        note(Severity::Warning, text);
    }
    if machine.public_host_key.as_ref().is_some_and(|key| key.line().is_none()) {
        let text = "the host key is not base64 of a line such as 'ssh-ed25519 AAAA…'; \
                    use the output of base64 -w0 /etc/ssh/ssh_host_ed25519_key.pub";
        note(Severity::Warning, text.to_owned());
    }
    if !store.scheme().is_ssh() && (machine.ssh_key.is_some() || machine.public_host_key.is_some())
    {
        note(Severity::Warning, format!("'{store}' is not reached by SSH: its keys go unused"));
    }
    if let Some(first) = machine.extra_columns.first() {
        let text = format!("columns after the eighth are ignored, from '{first}' on");
        note(Severity::Warning, text);
    }
}

/// Notes about what a machine builds.
fn capability_notes(machine: &Machine, note: &mut impl FnMut(Severity, String)) {
    if machine.max_jobs == 0 {
        let text = "max jobs is 0: Nix postpones for ever what only this machine can build";
        note(Severity::Warning, text.to_owned());
    }
    if machine.systems.contains("x86_64-linux") && !machine.systems.contains("i686-linux") {
        let text = "i686-linux does not follow from x86_64-linux here and must be listed, too";
        note(Severity::Hint, text.to_owned());
    }
    if machine.systems.is_empty() {
        note(Severity::Warning, "no systems are listed: nothing is built here".to_owned());
    }
    if !machine.mandatory_features.is_empty() {
        let features: Vec<&str> = machine.mandatory_features.iter().map(String::as_str).collect();
        let text = format!(
            "only derivations whose requiredSystemFeatures include {} are built here",
            features.join(" and "),
        );
        note(Severity::Hint, text);
    }
    let features = machine.supported_features.iter().chain(&machine.mandatory_features);
    for feature in features.filter(|feature| feature.ends_with("-linux")) {
        note(
            Severity::Warning,
            format!("'{feature}' looks like a system, but is in a feature column"),
        );
    }
}
