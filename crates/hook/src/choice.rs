//! Whether machines could build a derivation, by what is written of them.
//!
//! Follows the choice in `src/nix/build-remote/build-remote.cc` of Nix, but for the slots: where all
//! are taken the build is accepted all the same, and waits for its turn where all clients' builds wait.

use std::collections::BTreeSet;

use drover_config::Machine;

use crate::message::Question;

/// What the machine that Nix runs on builds for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalMachine {
    /// Its own system and those that it can run as well.
    pub systems: BTreeSet<String>,
    /// Its features.
    pub features: BTreeSet<String>,
}

impl LocalMachine {
    /// Whether Nix could build it here, and has a slot for it now.
    pub fn can_build_now(&self, question: &Question) -> bool {
        let fits = self.systems.contains(&question.system) || question.system == "builtin";
        question.is_willing && fits && question.features.is_subset(&self.features)
    }
}

/// What machines are there for a derivation.
#[derive(Clone, Debug, PartialEq)]
pub enum Choice<'a> {
    /// No machine is listed at all.
    NoMachines,
    /// None of them takes it.
    NoneFits,
    /// These do.
    Fitting(Vec<&'a Machine>),
}

/// Says what machines are there for a derivation. Those without slots are as good as absent.
pub fn choose<'a>(machines: &'a [Machine], question: &Question) -> Choice<'a> {
    if machines.is_empty() {
        return Choice::NoMachines;
    }
    let fits = |machine: &&Machine| {
        0 < machine.max_jobs
            && machine.supports_system(&question.system)
            && machine.accepts_features(&question.features)
    };
    let fitting: Vec<&Machine> = machines.iter().filter(fits).collect();
    match fitting.is_empty() {
        true => Choice::NoneFits,
        false => Choice::Fitting(fitting),
    }
}

/// Says why no machine takes a derivation, a line for each.
pub fn refusal(machines: &[Machine], question: &Question, derivation: &str) -> String {
    let mut text = format!(
        "no machine can build '{derivation}' ({}), which needs {}:",
        question.system,
        listed(&question.features)
    );
    for machine in machines {
        text.push_str(&format!("\n  {}: {}", machine.store_uri, reason(machine, question)));
    }
    text
}

fn reason(machine: &Machine, question: &Question) -> String {
    if machine.max_jobs == 0 {
        return "has no slots (column 4 is 0)".to_owned();
    }
    if !machine.supports_system(&question.system) {
        let systems: Vec<&str> = machine.systems.iter().map(String::as_str).collect();
        return format!("builds for {}", systems.join(", "));
    }
    let has = machine.supported_features.union(&machine.mandatory_features).cloned().collect();
    let missing: BTreeSet<String> = question.features.difference(&has).cloned().collect();
    if !missing.is_empty() {
        return format!("lacks {} (column 6)", listed(&missing));
    }
    let unasked = machine.mandatory_features.difference(&question.features).cloned().collect();
    format!("builds only what asks for {} (column 7)", listed(&unasked))
}

fn listed(features: &BTreeSet<String>) -> String {
    match features.is_empty() {
        true => "no features".to_owned(),
        false => features.iter().map(String::as_str).collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::{Path, PathBuf};

    use drover_config::{Builders, Origin, parse_machines};
    use drover_core::StorePath;
    use rstest::rstest;

    use super::*;

    fn machines(text: &str) -> Vec<Machine> {
        let builders = Builders {
            text,
            origin: &Origin::Default,
            default_system: "x86_64-linux",
            dir: Path::new("/"),
        };
        parse_machines(&builders, &BTreeMap::<PathBuf, String>::new()).unwrap().machines
    }

    fn question(system: &str, features: &[&str]) -> Question {
        Question {
            is_willing: true,
            system: system.to_owned(),
            derivation: StorePath::from_base_name("0c1s2b3z4v5k6d7f8a9lmnpqrwxyhjgi-x.drv")
                .unwrap(),
            features: features.iter().map(|&feature| feature.to_owned()).collect(),
        }
    }

    #[rstest]
    #[case::plain("x86_64-linux", &[], &["ssh://a", "ssh://f"])]
    #[case::kvm("x86_64-linux", &["kvm"], &["ssh://a", "ssh://d"])]
    #[case::arm("aarch64-linux", &[], &["ssh://b"])]
    #[case::builtin("builtin", &[], &["ssh://a", "ssh://b", "ssh://f"])]
    fn who_takes_it(#[case] system: &str, #[case] features: &[&str], #[case] expected: &[&str]) {
        let machines = machines(
            "ssh://a x86_64-linux - 1 1 kvm; ssh://b aarch64-linux; ssh://c x86_64-linux - 0; \
             ssh://d x86_64-linux - 1 1 kvm kvm; ssh://e x86_64-linux - 1 1 big big; ssh://f",
        );
        let Choice::Fitting(fitting) = choose(&machines, &question(system, features)) else {
            panic!("none")
        };
        let names: Vec<String> = fitting.iter().map(|each| each.store_uri.to_string()).collect();
        assert_eq!(names, expected);
    }

    #[test]
    fn says_why_not() {
        let machines = machines(
            "ssh://a x86_64-linux - 1 1 kvm; ssh://b aarch64-linux; ssh://c x86_64-linux - 0; \
             ssh://e x86_64-linux - 1 1 big big",
        );
        let question = question("x86_64-linux", &["benchmark", "big"]);
        assert_eq!(choose(&machines[..3], &question), Choice::NoneFits);
        let text = refusal(&machines, &question, "/nix/store/x.drv");
        assert_eq!(
            text,
            "no machine can build '/nix/store/x.drv' (x86_64-linux), which needs benchmark, big:\n  \
             ssh://a: lacks benchmark, big (column 6)\n  \
             ssh://b: builds for aarch64-linux\n  \
             ssh://c: has no slots (column 4 is 0)\n  \
             ssh://e: lacks benchmark (column 6)"
        );
        let plain = Question { features: BTreeSet::new(), ..question };
        let text = refusal(&machines[3..], &plain, "x");
        assert!(text.ends_with("builds only what asks for big (column 7)"), "{text}");
    }

    #[test]
    fn this_machine() {
        let local = LocalMachine {
            systems: ["x86_64-linux".to_owned()].into(),
            features: ["kvm".to_owned()].into(),
        };
        assert!(local.can_build_now(&question("x86_64-linux", &["kvm"])));
        assert!(!local.can_build_now(&question("aarch64-linux", &[])));
        let unwilling = Question { is_willing: false, ..question("x86_64-linux", &[]) };
        assert!(!local.can_build_now(&unwilling));
    }
}
