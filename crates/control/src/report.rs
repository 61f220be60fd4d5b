//! Machines and builds, as they are told outside.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::detached::DetachedBuild;

/// A machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineReport {
    /// What it is called.
    pub name: String,
    /// `unused`, `connecting`, `connected`, `probation`, `down`, `refused`, `draining`, `leaving`;
    /// `unknown` where no daemon was asked.
    pub state: String,
    /// The systems that it builds for.
    pub systems: BTreeSet<String>,
    /// Features that builds may ask for.
    pub supported_features: BTreeSet<String>,
    /// Features that builds must ask for.
    pub mandatory_features: BTreeSet<String>,
    /// How many builds it runs at once.
    pub slots: u32,
    /// Slots in which something runs, where that is known.
    pub busy: Option<u32>,
    /// Builds that were sent there and wait behind others.
    pub queued: Option<u32>,
    /// Its speed factor.
    pub speed_factor: f64,
    /// How many seconds until it is tried again, where it is down.
    pub again_in_seconds: Option<f64>,
    /// Its last failure, also where it works again.
    pub last_failure: Option<FailureReport>,
    /// The list of machines that a client has brought and that this is one of, where it is none of
    /// the daemon's own.
    pub brought_by_clients: Option<String>,
    /// The beginning of the name of the daemon for hooks whose machine it is, where several have one of this name.
    /// Only who asks several of them says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub daemon: Option<String>,
}

/// A machine's failure.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailureReport {
    /// What kind of failure it was, in a few words.
    pub kind: String,
    /// What it said.
    pub cause: String,
    /// How many seconds ago.
    pub seconds_ago: f64,
}

/// Builds without an end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildList {
    /// The builds, those that run first; not all where they are very many.
    pub builds: Vec<BuildReport>,
    /// How many there are in all.
    pub total: usize,
    /// What is held for those who have gone, and what is remembered of it.
    #[serde(default)]
    pub detached: Vec<DetachedBuild>,
}

/// A build.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildReport {
    /// Its number, which no other gets as long as the daemon runs.
    pub id: String,
    /// The whole path of the derivation.
    pub derivation: String,
    /// `building`, `sending`, `queued`, `stopping`, `ready`, `waiting`, `over`.
    pub state: String,
    /// Where it runs, or was sent.
    pub machine: Option<String>,
    /// For how many seconds it has run, or ran.
    pub seconds: Option<f64>,
    /// How one that is over ended: `built`, `failed`, `unneeded`, `cancelled`.
    #[serde(default)]
    pub outcome: Option<String>,
    /// The phase that it is in.
    pub phase: Option<String>,
    /// Whole paths of derivations that it waits for; not all where they are many.
    pub waits_for: Vec<String>,
    /// How many it waits for.
    pub waits_for_count: usize,
    /// Users who wait for it; not all where they are many.
    pub clients: Vec<String>,
    /// How many clients wait for it.
    pub client_count: usize,
    /// Lines of its log so far.
    pub log_lines: usize,
}

/// Why a build is where it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildExplanation {
    /// The build.
    pub build: BuildReport,
    /// What each machine has to say.
    pub machines: Vec<ChoiceReport>,
}

/// What a machine has to say to a build.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChoiceReport {
    /// The machine's name.
    pub machine: String,
    /// `chosen`, `possible`, or the kind of reason against it: `system`, `features`,
    /// `mandatoryFeatures`, `full`, `down`, `refused`, `draining` and others.
    pub code: String,
    /// The same in words.
    pub text: String,
}

/// What is kept of the log of a build that runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildLog {
    /// The build.
    pub build: BuildReport,
    /// How many earlier lines are not kept.
    pub dropped: usize,
    /// The last lines.
    pub lines: Vec<String>,
}
