//! What to change where nobody can build something.

use std::collections::BTreeSet;

use drover_schedule::Reason;

use crate::answer::Answer;
use crate::grouping::Group;

/// What would let a machine build it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// A machine is given the features that it lacks, if it can do that.
    AddFeatures {
        /// The place of the machine.
        machine: usize,
        /// The features.
        features: BTreeSet<String>,
    },
    /// A machine takes less only if it must, or the derivation asks for what that one is kept for.
    FreeMachine {
        /// The place of the machine.
        machine: usize,
        /// The features that it is kept for.
        features: BTreeSet<String>,
    },
    /// A machine is given slots.
    AddSlots {
        /// The place of the machine.
        machine: usize,
    },
    /// A machine for the system is needed.
    AddMachine {
        /// The system.
        system: String,
    },
}

/// Returns what would let machines build what is in a group, the least first; nothing where one
/// could take it.
pub fn remedies(group: &Group) -> Vec<Remedy> {
    if group.is_possible() {
        return Vec::new();
    }
    let mut remedies = Vec::new();
    let fewest = group.answers.iter().filter_map(lacking).map(BTreeSet::len).min();
    for (machine, answer) in group.answers.iter().enumerate() {
        match answer {
            Answer::Refuses(Reason::ZeroSlots) => remedies.push(Remedy::AddSlots { machine }),
            Answer::Refuses(Reason::MandatoryFeatures { features }) => {
                let features = features.clone();
                remedies.push(Remedy::FreeMachine { machine, features });
            }
            Answer::Refuses(Reason::LacksFeatures { features })
                if Some(features.len()) == fewest =>
            {
                let features = features.clone();
                remedies.push(Remedy::AddFeatures { machine, features });
            }
            _ => {}
        }
    }
    if remedies.is_empty() {
        remedies.push(Remedy::AddMachine { system: group.system.clone() });
    }
    remedies
}

fn lacking(answer: &Answer) -> Option<&BTreeSet<String>> {
    match answer {
        Answer::Refuses(Reason::LacksFeatures { features }) => Some(features),
        _ => None,
    }
}
