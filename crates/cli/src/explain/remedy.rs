//! What to change where nobody can build something, in words.

use std::collections::BTreeSet;

use drover_forecast::{Candidate, Group, Remedy, remedies};
use drover_schedule::MachineKind;

/// More remedies than this help nobody.
const MOST: usize = 4;

/// Returns what to change so that somebody can build what is in a group; `idle_here` are systems that this machine
/// would build for, if it weren't told not to.
pub(super) fn of(
    group: &Group,
    candidates: &[Candidate],
    idle_here: &BTreeSet<String>,
) -> Vec<String> {
    let remedies = remedies(group);
    let in_words = |remedy| in_words(remedy, candidates, idle_here);
    remedies.iter().take(MOST).filter_map(in_words).collect()
}

fn in_words(
    remedy: &Remedy,
    candidates: &[Candidate],
    idle_here: &BTreeSet<String>,
) -> Option<String> {
    let named = |machine: &usize| {
        let candidate = candidates.get(*machine)?;
        Some((candidate.description.name.as_str(), candidate.description.kind))
    };
    Some(match remedy {
        Remedy::AddFeatures { machine, features } => match named(machine)? {
            (_, MachineKind::Local) => {
                let setting = format!("extra-system-features = {}", list(features));
                format!("if this machine can do that, set '{setting}' in its nix.conf")
            }
            (name, MachineKind::Remote) => format!(
                "if {name} can do that, add {} to its supported features: the 6th column of its \
                 line in the machines file, supportedFeatures in nix.buildMachines",
                list(features)
            ),
        },
        Remedy::FreeMachine { machine, features } => {
            let (name, _) = named(machine)?;
            format!(
                "{name} could do it, but is kept for what asks for {features}: take that out of \
                 its mandatory features (the 7th column of its line), or have the derivation ask \
                 for it (requiredSystemFeatures)",
                features = list(features)
            )
        }
        Remedy::AddSlots { machine } => {
            let (name, _) = named(machine)?;
            format!(
                "{name} could do it, but has no slots: give it some in the 4th column of its line"
            )
        }
        Remedy::AddMachine { system } if idle_here.contains(system) => format!(
            "let this machine build, too (max-jobs, -j), or add a machine for {system} to 'builders' or \
             /etc/nix/machines"
        ),
        Remedy::AddMachine { system } => format!(
            "add a machine for {system} to 'builders' or /etc/nix/machines; if one that is there \
             can build for {system}, add that to the 2nd column of its line, or for this machine \
             set 'extra-platforms = {system}' in nix.conf"
        ),
    })
}

fn list(words: &BTreeSet<String>) -> String {
    words.iter().map(String::as_str).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_this_machine_was_told_not_to_build_that_is_the_way() {
        let remedy = Remedy::AddMachine { system: "x86_64-linux".to_owned() };
        let told = |idle: &[&str]| {
            let idle_here = idle.iter().map(|&system| system.to_owned()).collect();
            in_words(&remedy, &[], &idle_here).unwrap()
        };
        assert!(told(&["x86_64-linux"]).starts_with("let this machine build, too (max-jobs, -j)"));
        assert!(!told(&["x86_64-linux"]).contains("extra-platforms"));
        assert!(told(&[]).contains("extra-platforms = x86_64-linux"));
    }
}
