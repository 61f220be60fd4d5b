//! The report for people.

use std::fmt::Write as _;
use std::time::Duration;

use drover_config::Severity;

use crate::finding::Finding;
use crate::report::{LineRead, MachineReport, Presence, Report, Standing};
use crate::step::{Grade, Step};

/// Returns the report for people, without a line break at its end.
pub fn report_as_text(report: &Report) -> String {
    let mut out = String::new();
    configuration(report, &mut out);
    for machine in &report.machines {
        out.push('\n');
        examined(machine, &mut out);
    }
    out.push('\n');
    out.push_str(&summary(report));
    out
}

fn configuration(report: &Report, out: &mut String) {
    out.push_str("Configuration, the last one wins\n");
    for file in &report.files {
        let presence = match &file.presence {
            Presence::Read => "read".to_owned(),
            Presence::Absent => "not there".to_owned(),
            Presence::Unreadable { reason } => format!("can't be read: {reason}"),
        };
        line(out, &format!("  {}: {presence}", file.path.display()));
    }
    for variable in &report.variables {
        let presence = if variable.is_set { "read" } else { "not set" };
        line(out, &format!("  {}: {presence}", variable.name));
    }
    for setting in &report.settings {
        line(out, &format!("  {setting}"));
    }
    let (value, origin) = &report.builders;
    line(out, &format!("  builders = {} ({origin})", value.trim().replace('\n', "; ")));
    for read in &report.lines {
        line(out, &format!("  {}", as_read(read)));
    }
    if report.lines.is_empty() {
        line(out, "  no machines");
    }
    for finding in &report.findings {
        odd(finding, out);
    }
}

fn as_read(read: &LineRead) -> String {
    let LineRead { origin, store, systems, max_jobs, speed_factor, .. } = read;
    let slots = if *max_jobs == 1 { "1 slot".to_owned() } else { format!("{max_jobs} slots") };
    let mut text = format!("{origin}: {store} for {systems}, {slots}, speed {speed_factor}");
    let features =
        [("features", &read.supported_features), ("mandatory", &read.mandatory_features)];
    for (name, features) in features.into_iter().filter(|(_, features)| !features.is_empty()) {
        text.push_str(&format!(", {name} {}", features.join(",")));
    }
    text
}

fn odd(finding: &Finding, out: &mut String) {
    let label = match finding.severity {
        Severity::Warning => "odd: ",
        Severity::Hint => "note: ",
    };
    line(out, &format!("  {label}{}: {}", finding.origin, finding.text));
    if let Some(remedy) = &finding.remedy {
        line(out, &format!("       → {remedy}"));
    }
}

fn examined(machine: &MachineReport, out: &mut String) {
    let standing = match machine.standing() {
        Standing::Usable => "usable".to_owned(),
        Standing::UsableWithOddities(1) => "usable, with 1 thing to look at".to_owned(),
        Standing::UsableWithOddities(count) => format!("usable, with {count} things to look at"),
        Standing::NotUsable => "not usable".to_owned(),
    };
    line(out, &format!("{} ({}): {standing}", machine.store, machine.origin));
    for step in &machine.steps {
        taken(step, out);
    }
}

fn taken(step: &Step, out: &mut String) {
    let Step { name, took, verdict } = step;
    let text = match verdict.grade {
        Grade::NotReached => "not reached",
        _ => verdict.text.as_str(),
    };
    let mark = match verdict.grade {
        Grade::NotReached => "-",
        grade => grade.as_str(),
    };
    let took = took.map(|took| format!(" ({})", shown(took))).unwrap_or_default();
    line(out, &format!("  {mark:<8}{:<13} {text}{took}", name.as_str()));
    if let Some(remedy) = &verdict.remedy {
        line(out, &format!("{:24}→ {remedy}", ""));
    }
}

fn shown(took: Duration) -> String {
    match took.as_millis() {
        millis @ 0..1000 => format!("{millis} ms"),
        _ => format!("{:.1} s", took.as_secs_f64()),
    }
}

fn summary(report: &Report) -> String {
    let machines = match (report.usable(), report.machines.len()) {
        (_, 0) => "no machine was examined: nothing is distributed".to_owned(),
        (1, 1) => "the machine is usable".to_owned(),
        (0, 1) => "the machine is not usable".to_owned(),
        (usable, all) if usable == all => format!("all {all} machines are usable"),
        (usable, all) => format!("{usable} of {all} machines are usable"),
    };
    let unread = |count: usize, what: &str| match count {
        0 => String::new(),
        1 => format!("; 1 line of {what} can't be read"),
        count => format!("; {count} lines of {what} can't be read"),
    };
    let lines = unread(report.rejected, "machines");
    machines + &lines + &unread(report.bad_settings, "settings")
}

fn line(out: &mut String, text: &str) {
    // writing to a string can't fail
    writeln!(out, "{text}").ok();
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;
    use crate::in_force::SettingRead;
    use crate::json::report_as_json;
    use crate::report::{FileRead, VariableRead};
    use crate::step::{StepName, Verdict};

    fn step(name: StepName, took: Option<u64>, verdict: Verdict) -> Step {
        Step { name, took: took.map(Duration::from_millis), verdict }
    }

    fn report() -> Report {
        let file = |path: &str, presence| FileRead { path: path.into(), presence };
        Report {
            files: vec![
                file("/etc/nix/nix.conf", Presence::Read),
                file("/root/.config/nix/nix.conf", Presence::Absent),
            ],
            variables: vec![VariableRead { name: "NIX_CONFIG", is_set: true }],
            settings: vec![SettingRead {
                name: "substituters",
                value: vec!["https://a", "https://b"].into(),
                origins: vec!["/etc/nix/nix.conf:3".to_owned(), "NIX_CONFIG:1".to_owned()],
            }],
            builders: ("@/etc/nix/machines".to_owned(), "default".to_owned()),
            lines: vec![LineRead {
                origin: "/etc/nix/machines:1".to_owned(),
                store: "ssh-ng://b1".to_owned(),
                systems: "x86_64-linux".to_owned(),
                max_jobs: 8,
                speed_factor: 1.0,
                supported_features: vec!["kvm".to_owned()],
                mandatory_features: vec![],
            }],
            rejected: 1,
            bad_settings: 0,
            findings: vec![
                Finding::hint("/etc/nix/machines:1", "i686-linux must be listed"),
                Finding::warning("/etc/nix/machines:1", "key has mode 0644", "chmod 600 /k"),
            ],
            machines: vec![
                MachineReport {
                    store: "ssh-ng://b1".to_owned(),
                    origin: "/etc/nix/machines:1".to_owned(),
                    steps: vec![
                        step(StepName::Name, Some(2), Verdict::good("b1 is 10.0.0.2")),
                        step(StepName::Trust, None, Verdict::odd("not trusted", "trust it")),
                        step(StepName::Build, Some(1250), Verdict::good("there and back")),
                    ],
                },
                MachineReport {
                    store: "ssh://b2".to_owned(),
                    origin: "/etc/nix/machines:2".to_owned(),
                    steps: vec![
                        step(
                            StepName::Port,
                            Some(0),
                            Verdict::wrong("nobody listens", "start sshd"),
                        ),
                        step(StepName::HostKey, None, Verdict::not_reached()),
                    ],
                },
            ],
        }
    }

    #[test]
    fn text() {
        let expected = "\
Configuration, the last one wins
  /etc/nix/nix.conf: read
  /root/.config/nix/nix.conf: not there
  NIX_CONFIG: read
  substituters = https://a https://b (/etc/nix/nix.conf:3, NIX_CONFIG:1)
  builders = @/etc/nix/machines (default)
  /etc/nix/machines:1: ssh-ng://b1 for x86_64-linux, 8 slots, speed 1, features kvm
  note: /etc/nix/machines:1: i686-linux must be listed
  odd: /etc/nix/machines:1: key has mode 0644
       → chmod 600 /k

ssh-ng://b1 (/etc/nix/machines:1): usable, with 1 thing to look at
  ok      name          b1 is 10.0.0.2 (2 ms)
  odd     trust         not trusted
                        → trust it
  ok      build         there and back (1.2 s)

ssh://b2 (/etc/nix/machines:2): not usable
  wrong   port          nobody listens (0 ms)
                        → start sshd
  -       host-key      not reached

1 of 2 machines are usable; 1 line of machines can't be read";
        assert_eq!(report_as_text(&report()), expected);
    }

    #[test]
    fn json_says_the_same() {
        let json = report_as_json(&report());
        assert_eq!(json["usable"], false);
        assert_eq!(json["machines"][0]["usable"], true);
        assert_eq!(json["machines"][0]["steps"][1]["grade"], "odd");
        assert_eq!(json["machines"][0]["steps"][1]["remedy"], "trust it");
        assert_eq!(json["machines"][0]["steps"][0]["seconds"], 0.002);
        assert_eq!(json["machines"][1]["steps"][1]["grade"], "not reached");
        assert_eq!(json["configuration"]["lines"][0]["maxJobs"], 8);
        assert_eq!(json["configuration"]["findings"][1]["severity"], "warning");
        assert_eq!(json["configuration"]["files"][1]["read"], false);
        assert_eq!(json["configuration"]["rejectedLines"], 1);
        assert_eq!(
            json["configuration"]["variables"],
            json!([{ "name": "NIX_CONFIG", "read": true }])
        );
        assert_eq!(
            json["configuration"]["settings"],
            json!([{
                "name": "substituters",
                "value": ["https://a", "https://b"],
                "origins": ["/etc/nix/nix.conf:3", "NIX_CONFIG:1"],
            }])
        );
    }

    /// Stock Nix does nothing at all where a line of nix.conf is wrong.
    #[test]
    fn what_cant_be_read_of_the_settings_is_counted() {
        let report = Report { bad_settings: 2, ..Report::default() };
        assert!(!report.is_well());
        let text = report_as_text(&report);
        assert!(text.ends_with("; 2 lines of settings can't be read"), "{text}");
    }

    /// A line that can't be read keeps stock Nix from all machines, however well they are.
    #[rstest]
    #[case::well(1, 0, true, "the machine is usable")]
    #[case::a_line(1, 1, false, "the machine is usable; 1 line of machines can't be read")]
    #[case::lines(2, 2, false, "all 2 machines are usable; 2 lines of machines can't be read")]
    #[case::none(0, 0, false, "no machine was examined: nothing is distributed")]
    fn well_is_what_is_wholly_well(
        #[case] machines: usize,
        #[case] rejected: usize,
        #[case] is_well: bool,
        #[case] summary: &str,
    ) {
        let machine = MachineReport {
            store: "ssh-ng://b1".to_owned(),
            origin: "/m:1".to_owned(),
            steps: vec![step(StepName::Build, None, Verdict::good("there and back"))],
        };
        let machines = vec![machine; machines];
        let report = Report { machines, rejected, ..Report::default() };
        assert_eq!(report.is_well(), is_well);
        assert_eq!(report_as_json(&report)["usable"], is_well);
        let text = report_as_text(&report);
        assert_eq!(text.lines().last(), Some(summary));
    }
}
