//! The report for programs.

use drover_config::Severity;
use serde_json::{Value, json};

use crate::finding::Finding;
use crate::in_force::SettingRead;
use crate::report::{FileRead, LineRead, MachineReport, Presence, Report, Standing, VariableRead};
use crate::step::Step;

/// Returns the report for programs: `usable` for all machines together and all lines,
/// `configuration` and `machines`.
pub fn report_as_json(report: &Report) -> Value {
    let (builders, origin) = &report.builders;
    json!({
        "usable": report.is_well(),
        "configuration": {
            "files": report.files.iter().map(file).collect::<Value>(),
            "variables": report.variables.iter().map(variable).collect::<Value>(),
            "settings": report.settings.iter().map(setting).collect::<Value>(),
            "builders": { "value": builders, "origin": origin },
            "lines": report.lines.iter().map(line).collect::<Value>(),
            "rejectedLines": report.rejected,
            "rejectedSettings": report.bad_settings,
            "findings": report.findings.iter().map(finding).collect::<Value>(),
        },
        "machines": report.machines.iter().map(machine).collect::<Value>(),
    })
}

fn file(file: &FileRead) -> Value {
    let error = match &file.presence {
        Presence::Unreadable { reason } => Some(reason),
        Presence::Read | Presence::Absent => None,
    };
    json!({
        "path": file.path.display().to_string(),
        "read": file.presence == Presence::Read,
        "error": error,
    })
}

fn variable(variable: &VariableRead) -> Value {
    json!({ "name": variable.name, "read": variable.is_set })
}

fn setting(setting: &SettingRead) -> Value {
    json!({ "name": setting.name, "value": setting.value, "origins": setting.origins })
}

fn line(line: &LineRead) -> Value {
    json!({
        "origin": line.origin,
        "store": line.store,
        "systems": line.systems.split(',').collect::<Vec<_>>(),
        "maxJobs": line.max_jobs,
        "speedFactor": line.speed_factor,
        "supportedFeatures": line.supported_features,
        "mandatoryFeatures": line.mandatory_features,
    })
}

fn finding(finding: &Finding) -> Value {
    let severity = match finding.severity {
        Severity::Warning => "warning",
        Severity::Hint => "hint",
    };
    json!({
        "origin": finding.origin,
        "severity": severity,
        "text": finding.text,
        "remedy": finding.remedy,
    })
}

fn machine(machine: &MachineReport) -> Value {
    json!({
        "store": machine.store,
        "origin": machine.origin,
        "usable": machine.standing() != Standing::NotUsable,
        "steps": machine.steps.iter().map(step).collect::<Value>(),
    })
}

fn step(step: &Step) -> Value {
    json!({
        "name": step.name.as_str(),
        "grade": step.verdict.grade.as_str(),
        "seconds": step.took.map(|took| took.as_secs_f64()),
        "text": step.verdict.text,
        "remedy": step.verdict.remedy,
    })
}
