//! Builds that are held for those who have gone, as they are told outside.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What is to be held.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DetachOrder {
    /// Whole paths of derivations, each with `^*` or `^` and names of outputs behind it.
    pub wanted: Vec<String>,
    /// Go on with what doesn't depend on a failure.
    pub keep_going: bool,
    /// Keep the folders of failed builds.
    pub keep_failed: bool,
    /// Build where substitution fails.
    pub fallback: bool,
    /// Whether substituters are used.
    pub substitute: bool,
    /// Builds at once on the daemon's machine, where 0 means none.
    pub max_jobs: u64,
    /// Cores that a build may use, 0 for all.
    pub cores: u64,
    /// Seconds of silence after which a build is ended, 0 for none.
    pub max_silent_time: u64,
    /// Further settings by name; counts as far as the user may set them.
    pub settings: BTreeMap<String, String>,
}

/// What is held, or was.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DetachedBuild {
    /// Its name, which no other gets.
    pub id: String,
    /// Whose it is.
    pub owner: String,
    /// Whole paths of the derivations; not all where they are many.
    pub derivations: Vec<String>,
    /// How many there are.
    pub derivation_count: usize,
    /// `running`, `succeeded`, `failed`, `cancelled`.
    pub state: String,
    /// How many seconds ago it was handed over.
    pub seconds: f64,
    /// How many seconds ago it ended, if it has.
    pub ended_seconds_ago: Option<f64>,
    /// What the user has asked for and doesn't get, told when it is handed over.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// What a detached build has said, and what became of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FollowedBuild {
    /// The build.
    pub build: DetachedBuild,
    /// How many lines before these are not kept any more that had been asked for.
    pub dropped: u64,
    /// What was said, in its order; not all at once where it is much.
    pub lines: Vec<FollowedLine>,
    /// The number that the next line has.
    pub next: u64,
    /// What became of it, where it is over and all that it said has been told.
    pub outcome: Option<DetachedOutcome>,
}

/// Something that a detached build has said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FollowedLine {
    /// `waiting`, `started`, `line`, `phase`, `note`.
    pub kind: String,
    /// The whole path of the derivation; empty for a note.
    pub derivation: String,
    /// The reason, the machine, the line, the phase, the note.
    pub text: String,
}

/// What became of a detached build.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DetachedOutcome {
    /// With what `drover build` would have ended.
    pub exit_code: u8,
    /// What went wrong as a whole, where something did.
    pub error: Option<String>,
    /// What became of each derivation.
    pub results: Vec<DetachedResult>,
}

/// What became of one derivation that was asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DetachedResult {
    /// Its whole path.
    pub derivation: String,
    /// Whether its outputs are valid.
    pub succeeded: bool,
    /// What went wrong; empty where nothing did.
    pub message: String,
    /// Whole paths of its outputs, by name.
    pub outputs: BTreeMap<String, String>,
}
