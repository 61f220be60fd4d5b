//! The machine has the systems and features that its line says.

use std::collections::BTreeSet;

use drover_config::Machine;

use crate::settings::MachineSettings;
use crate::step::{Grade, Verdict};

/// Judges a machine's own settings against its line.
pub fn judge(machine: &Machine, own: Option<&MachineSettings>) -> Verdict {
    let Some(own) = own else {
        return Verdict::unknown("its own settings could not be asked for (nix show-config)");
    };
    let listed = |words: &BTreeSet<String>| words.iter().cloned().collect::<Vec<_>>().join(",");
    let minus = |these: &BTreeSet<String>, those: &BTreeSet<String>| -> BTreeSet<String> {
        these.difference(those).cloned().collect()
    };
    let features = &machine.supported_features | &machine.mandatory_features;
    let no_system = minus(&machine.systems, &own.systems);
    let no_feature = minus(&features, &own.features);
    if !no_system.is_empty() {
        let text =
            format!("its Nix builds for {}, not for {}", listed(&own.systems), listed(&no_system));
        let remedy = format!(
            "take {0} out of column 2, or there: extra-platforms = {0} in nix.conf",
            listed(&no_system)
        );
        // what it has of the list is built
        let grade = if no_system == machine.systems { Grade::Wrong } else { Grade::Odd };
        return Verdict { grade, ..Verdict::odd(text, remedy) };
    }
    if !no_feature.is_empty() {
        return Verdict::odd(
            format!(
                "its line says {0}, but its Nix refuses what asks for {0}",
                listed(&no_feature)
            ),
            format!(
                "take {0} out of its line, or there: extra-system-features = {0} in nix.conf",
                listed(&no_feature)
            ),
        );
    }
    let spare: BTreeSet<String> = minus(&own.features, &features)
        .into_iter()
        .filter(|feature| {
            feature != "uid-range" && feature != "recursive-nix" && !feature.starts_with("gccarch-")
        })
        .collect();
    let spare = match spare.is_empty() {
        true => String::new(),
        false => format!("; it also has {}, which its line doesn't say", listed(&spare)),
    };
    Verdict::good(format!("builds for {}{spare}", listed(&own.systems)))
}
