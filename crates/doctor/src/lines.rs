//! The lines of machines, all together: what Nix takes in silence and its writer didn't mean.

use std::collections::{BTreeMap, BTreeSet};

use drover_config::{Machine, Scheme, lint};

use crate::finding::Finding;

/// What a derivation needs of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The derivation, as it is shown.
    pub derivation: String,
    /// Its system.
    pub system: String,
    /// Its `requiredSystemFeatures`.
    pub features: BTreeSet<String>,
}

/// Says what is odd about lines; `asked` are the derivations that the user wants to build, or nothing
/// where none were given.
pub fn judge_lines(machines: &[Machine], asked: Option<&[Requirement]>) -> Vec<Finding> {
    let mut findings: Vec<Finding> = lint(machines).iter().map(Finding::from).collect();
    for machine in machines {
        wrong_columns(machine, &mut findings);
    }
    two_protocols(machines, &mut findings);
    if let Some(asked) = asked {
        nobody_asks(machines, asked, &mut findings);
        nobody_has(machines, asked, &mut findings);
    }
    findings
}

/// Values that stand in a column that they don't belong in: one column too early or late, mostly.
fn wrong_columns(machine: &Machine, findings: &mut Vec<Finding>) {
    let mut note = |text: String| {
        findings.push(Finding::warning(
            &machine.origin,
            text,
            "the columns are: URI SYSTEMS SSH-KEY MAX-JOBS SPEED FEATURES MANDATORY HOST-KEY; '-' for one that is left out",
        ));
    };
    for system in machine.systems.iter().filter(|system| !looks_like_system(system)) {
        note(format!("'{system}' stands in column 2 (systems), but looks like no system"));
    }
    if let Some(key) = machine.ssh_key.as_ref().and_then(|key| key.to_str()) {
        if is_number(key) {
            note(format!(
                "'{key}' stands in column 3 (SSH key), but is a number: column 4 is max jobs"
            ));
        } else if !key.contains('/') {
            note(format!("'{key}' stands in column 3 (SSH key), but is no path of a file"));
        }
    }
    let features = [(6, &machine.supported_features), (7, &machine.mandatory_features)];
    for (column, features) in features {
        for feature in features {
            if is_number(feature) {
                note(format!("'{feature}' stands in column {column} (features), but is a number"));
            } else if feature.len() > 64 {
                note(format!(
                    "column {column} (features) has a word of {} bytes: a host key stands in column 8",
                    feature.len()
                ));
            }
        }
    }
}

fn looks_like_system(text: &str) -> bool {
    text == "builtin"
        || (text.contains('-') && !text.contains(['/', '=']) && !text.starts_with('-'))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

/// One host by `ssh://` and by `ssh-ng://`: two pools of slots for Nix.
fn two_protocols(machines: &[Machine], findings: &mut Vec<Finding>) {
    let mut seen: BTreeMap<String, (&Scheme, &Machine)> = BTreeMap::new();
    for machine in machines.iter().filter(|machine| machine.store_uri.scheme().is_ssh()) {
        let Some(authority) = machine.store_uri.authority() else { continue };
        let scheme = machine.store_uri.scheme();
        match seen.get(&authority.to_string()) {
            Some((first, other)) if *first != scheme => findings.push(Finding::warning(
                &machine.origin,
                format!(
                    "'{authority}' is also at {} by {}://: Nix takes them for two machines, each with its own slots",
                    other.origin,
                    first.as_str(),
                ),
                "use ssh-ng:// in all lines of one machine",
            )),
            Some(_) => {}
            None => {
                seen.insert(authority.to_string(), (scheme, machine));
            }
        }
    }
}

/// Features that machines have, or insist on, and none of the derivations asks for.
fn nobody_asks(machines: &[Machine], asked: &[Requirement], findings: &mut Vec<Finding>) {
    let is_asked = |feature: &String| asked.iter().any(|asked| asked.features.contains(feature));
    for machine in machines {
        for feature in machine.mandatory_features.iter().filter(|feature| !is_asked(feature)) {
            findings.push(Finding::warning(
                &machine.origin,
                format!("no derivation asks for '{feature}', which this machine insists on: it builds none of them"),
                format!("take '{feature}' out of column 7 (mandatory features)"),
            ));
        }
        let spare = machine.supported_features.difference(&machine.mandatory_features);
        let spare: Vec<&str> = spare.filter(|it| !is_asked(it)).map(String::as_str).collect();
        if !spare.is_empty() {
            let text = format!("no derivation asks for {}", spare.join(", "));
            findings.push(Finding::hint(&machine.origin, text));
        }
    }
}

/// Derivations that no line takes.
fn nobody_has(machines: &[Machine], asked: &[Requirement], findings: &mut Vec<Finding>) {
    for Requirement { derivation, system, features } in asked {
        let of_system: Vec<&Machine> =
            machines.iter().filter(|machine| machine.supports_system(system)).collect();
        if of_system
            .iter()
            .any(|machine| machine.max_jobs > 0 && machine.accepts_features(features))
        {
            continue;
        }
        let has = |feature: &String, machine: &&&Machine| {
            machine.supported_features.contains(feature)
                || machine.mandatory_features.contains(feature)
        };
        let lacking: Vec<&str> = features
            .iter()
            .filter(|feature| !of_system.iter().any(|machine| has(feature, &machine)))
            .map(String::as_str)
            .collect();
        let (text, remedy) = match (of_system.is_empty(), lacking.is_empty()) {
            (true, _) => (
                format!("no machine builds for {system}"),
                format!("add {system} to column 2 of a machine that can"),
            ),
            (false, false) => {
                let lacking = lacking.join(",");
                let remedy = format!("add {lacking} to column 6 of a machine that can");
                (format!("no machine for {system} has {lacking}"), remedy)
            }
            (false, true) => (
                format!(
                    "no single machine for {system} has all of [{}] without insisting on more, and slots",
                    features.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
                ),
                "look at columns 4, 6 and 7 of the machines".to_owned(),
            ),
        };
        findings.push(Finding::warning(derivation, text, remedy));
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use drover_config::{Builders, Origin, Severity, parse_machines};
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

    fn texts(findings: &[Finding]) -> Vec<&str> {
        findings.iter().map(|finding| finding.text.as_str()).collect()
    }

    #[rstest]
    #[case::fine("ssh://a aarch64-linux - 4 1 kvm -", &[])]
    #[case::jobs_for_a_key(
        "ssh://a aarch64-linux 4",
        &["'4' stands in column 3 (SSH key), but is a number: column 4 is max jobs"],
    )]
    #[case::feature_for_a_key(
        "ssh://a aarch64-linux kvm",
        &["'kvm' stands in column 3 (SSH key), but is no path of a file"],
    )]
    #[case::key_for_a_system(
        "ssh://a /root/key",
        &["'/root/key' stands in column 2 (systems), but looks like no system"],
    )]
    #[case::speed_for_a_feature(
        "ssh://a aarch64-linux - 4 1 2",
        &["'2' stands in column 6 (features), but is a number"],
    )]
    #[case::two_protocols(
        "ssh://a aarch64-linux - 4; ssh-ng://a armv7l-linux - 4",
        &["'a' is also at default by ssh://: Nix takes them for two machines, each with its own slots"],
    )]
    fn columns(#[case] text: &str, #[case] expected: &[&str]) {
        assert_eq!(texts(&judge_lines(&machines(text), None)), expected);
    }

    /// Every trap that a line can have at once, and what is said of it: whoever adds one adds it here.
    #[test]
    fn each_oddity_says_what_mends_it() {
        let host_key = "AAAAC3NzaC1lZDI1NTE5AAAAIA";
        let with_host_key = format!("ssh://a aarch64-linux - 1 1 - - {host_key} more");
        let lines: [&str; 7] = [
            "5 aarch64-linux",
            "unix:///s aarch64-linux",
            &with_host_key,
            "ssh://a x86_64-linux - 0 1 i686-linux gpu",
            "ssh-ng://a /root/key 4 1 1 2",
            "ssh://b , kvm",
            "/x aarch64-linux /k",
        ];
        let asked = [asked("sparc-linux", &[]), asked("x86_64-linux", &["quantum"])];
        let findings = judge_lines(&machines(&lines.join(";")), Some(&asked));
        for said in [
            "taken for a host",
            "Nix cannot fetch their outputs",
            "host key is not base64",
            "columns after the eighth",
            "share one pool of slots",
            "max jobs is 0",
            "i686-linux does not follow",
            "only derivations whose",
            "looks like a system",
            "column 2 (systems)",
            "column 3 (SSH key), but is a number",
            "column 3 (SSH key), but is no path",
            "column 6 (features), but is a number",
            "for two machines",
            "no systems are listed",
            "its keys go unused",
            "no derivation asks for 'gpu'",
            "no machine builds for sparc-linux",
            "no machine for x86_64-linux has quantum",
        ] {
            assert!(findings.iter().any(|it| it.text.contains(said)), "{said}: {findings:#?}");
        }
        for finding in &findings {
            // features that a machine has beyond those that are asked for are nothing to be mended
            let is_spare = finding.severity == Severity::Hint
                && finding.text.starts_with("no derivation asks for ");
            let remedy = finding.remedy.as_deref().unwrap_or_default();
            assert!(is_spare || !remedy.trim().is_empty(), "{finding:?}");
        }
    }

    fn asked(system: &str, features: &[&str]) -> Requirement {
        let features = features.iter().map(|&feature| feature.to_owned()).collect();
        Requirement { derivation: "x.drv".to_owned(), system: system.to_owned(), features }
    }

    #[rstest]
    #[case::taken("ssh://a a-linux - 1 1 kvm", asked("a-linux", &["kvm"]), &[])]
    #[case::system("ssh://a a-linux", asked("b-linux", &[]), &["no machine builds for b-linux"])]
    #[case::feature(
        "ssh://a a-linux; ssh://b b-linux - 1 1 kvm",
        asked("a-linux", &["kvm"]),
        &["no derivation asks for", "no machine for a-linux has kvm"],
    )]
    #[case::mandatory(
        "ssh://a a-linux - 1 1 kvm gpu",
        asked("a-linux", &["kvm"]),
        &[
            "only derivations whose requiredSystemFeatures include gpu are built here",
            "no derivation asks for 'gpu', which this machine insists on: it builds none of them",
            "no single machine for a-linux has all of [kvm] without insisting on more, and slots",
        ],
    )]
    fn derivations(#[case] text: &str, #[case] asked: Requirement, #[case] expected: &[&str]) {
        let findings = judge_lines(&machines(text), Some(&[asked]));
        let texts = texts(&findings);
        let expected: Vec<&str> =
            expected.iter().copied().filter(|text| *text != "no derivation asks for").collect();
        assert_eq!(texts, expected);
    }
}
