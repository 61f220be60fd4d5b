//! The same for programs.

use drover_forecast::{Answer, Availability, Candidate, Expected, Group};
use drover_schedule::MachineKind;
use serde_json::{Value, json};

use super::{Told, remedy};

/// Returns all that is told.
pub(super) fn told(told: &Told) -> Value {
    let derivations = told.derivations.iter().zip(&told.forecast.jobs).map(|(path, expected)| {
        let (fate, machine, begins, ends) = match expected {
            Expected::Runs { machine, begins, ends } => {
                let builds = |time: &std::time::Duration| {
                    time.as_secs_f64() / told.forecast.usual.as_secs_f64()
                };
                ("runs", name(told, *machine), Some(builds(begins)), Some(builds(ends)))
            }
            Expected::Waits => ("waits", None, None, None),
            Expected::Impossible => ("impossible", None, None, None),
            Expected::NoMachine => ("noMachine", None, None, None),
            Expected::Blocked { .. } => ("blocked", None, None, None),
        };
        let because = match expected {
            Expected::Blocked { because } => told.derivations.get(*because),
            _ => None,
        };
        json!({
            "derivation": path,
            "expected": fate,
            "machine": machine,
            "beginsAfterBuilds": begins,
            "endsAfterBuilds": ends,
            "because": because,
        })
    });
    json!({
        "distributing": super::text::Counts::of(told).elsewhere > 0,
        "toFetch": told.fetched,
        "machines": told.candidates.iter().map(machine).collect::<Vec<_>>(),
        "absent": told.absent,
        "unasked": told.unasked,
        "groups": told.groups.iter().map(|one| group(told, one)).collect::<Vec<_>>(),
        "derivations": derivations.collect::<Vec<_>>(),
    })
}

fn machine(candidate: &Candidate) -> Value {
    let description = &candidate.description;
    let (busy, unusable) = match &candidate.availability {
        Availability::Usable { busy } => (*busy, None),
        Availability::Unusable(why) => (0, Some(why.to_string())),
    };
    json!({
        "name": description.name,
        "local": description.kind == MachineKind::Local,
        "slots": description.all_slots(),
        "busy": busy,
        "unusable": unusable,
    })
}

fn name(told: &Told, machine: usize) -> Option<&str> {
    told.candidates.get(machine).map(|candidate| candidate.description.name.as_str())
}

fn group(told: &Told, group: &Group) -> Value {
    let answers = group.answers.iter().enumerate().map(|(machine, answer)| {
        json!({
            "machine": name(told, machine),
            "code": answer.code(),
            "accepted": answer.is_acceptance(),
            "text": match answer {
                Answer::Accepts => None,
                other => Some(other.to_string()),
            },
        })
    });
    let paths = group.jobs.iter().filter_map(|job| told.derivations.get(*job));
    json!({
        "system": group.system,
        "features": group.features,
        "prefersLocal": group.preference == drover_schedule::Preference::PreferLocal,
        "derivations": paths.collect::<Vec<_>>(),
        "answers": answers.collect::<Vec<_>>(),
        "remedies": remedy::of(group, &told.candidates, &told.idle_here),
    })
}
