//! Derivations of which all machines say the same, put together.

use std::collections::{BTreeMap, BTreeSet};

use drover_schedule::{Job, Preference};

use crate::answer::{Answer, Unusable, answer};
use crate::model::{Candidate, Expected, Forecast};

/// Derivations that ask for the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// The system that they are built for.
    pub system: String,
    /// The features that they ask for.
    pub features: BTreeSet<String>,
    /// Where they would rather run.
    pub preference: Preference,
    /// The places of the jobs, in order; never empty.
    pub jobs: Vec<usize>,
    /// What each machine says, in the order of the machines.
    pub answers: Vec<Answer>,
    /// How many are expected to run where, by the places of the machines.
    pub runs: BTreeMap<usize, usize>,
    /// How many are not built because of something that they depend on.
    pub blocked: usize,
}

impl Group {
    /// Whether a machine takes them, now or later, that can be used.
    pub fn is_accepted(&self) -> bool {
        self.answers.iter().any(Answer::is_acceptance)
    }

    /// Whether a machine takes them, or will when it's resumed. What they need may be missing
    /// nevertheless.
    pub fn is_buildable(&self) -> bool {
        let waits = |answer: &Answer| matches!(answer, Answer::Unusable(Unusable::Draining));
        self.is_accepted() || self.answers.iter().any(waits)
    }

    /// Whether some machine could take them if it could be used.
    pub fn is_possible(&self) -> bool {
        self.answers.iter().any(|answer| !matches!(answer, Answer::Refuses(_)))
    }
}

/// Returns jobs by what they ask for: what no machine accepts first, then the largest groups.
///
/// The forecast must be of these jobs and candidates; what it says beyond them is passed over.
pub fn groups(jobs: &[Job], candidates: &[Candidate], forecast: &Forecast) -> Vec<Group> {
    let mut groups: BTreeMap<(&str, &BTreeSet<String>, bool), Group> = BTreeMap::new();
    for (at, job) in jobs.iter().enumerate() {
        let prefers_local = job.preference == Preference::PreferLocal;
        let key = (job.system.as_str(), &job.required_features, prefers_local);
        let group = groups.entry(key).or_insert_with(|| Group {
            system: job.system.clone(),
            features: job.required_features.clone(),
            preference: job.preference,
            jobs: Vec::new(),
            answers: candidates
                .iter()
                .map(|candidate| answer(candidate, &job.system, &job.required_features))
                .collect(),
            runs: BTreeMap::new(),
            blocked: 0,
        });
        group.jobs.push(at);
        match forecast.jobs.get(at) {
            Some(Expected::Runs { machine, .. }) => *group.runs.entry(*machine).or_default() += 1,
            Some(Expected::Blocked { .. }) => group.blocked += 1,
            _ => {}
        }
    }
    let mut groups: Vec<Group> = groups.into_values().collect();
    groups.sort_by_key(|group| {
        let lot = (group.is_possible(), group.is_accepted());
        (lot, std::cmp::Reverse(group.jobs.len()))
    });
    groups
}
