//! Requests and answers, as they stand in their lines.

use serde::{Deserialize, Serialize};

use crate::detached::{DetachOrder, DetachedBuild, FollowedBuild};
use crate::report::{BuildExplanation, BuildList, BuildLog, MachineReport};

/// Bytes of a request, its line end among them.
pub const MAX_REQUEST: usize = 64 * 1024;

/// Bytes of an answer, its line end among them.
pub const MAX_ANSWER: usize = 32 * 1024 * 1024;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum Request {
    /// How are the machines?
    Machines,
    /// What is built, or waits to be?
    Builds,
    /// Why is a build where it is?
    Explain {
        /// Its number, or the base name of its derivation.
        build: String,
    },
    /// What is kept of the log of a build?
    Log {
        /// Its number, or the base name of its derivation.
        build: String,
    },
    /// Hold builds as one who waits for them, after the one who asks has gone.
    Detach(DetachOrder),
    /// What has a detached build said since, and is it over? Waits a while where there is nothing new.
    /// For its owner, and for trusted users.
    Follow {
        /// Its name.
        build: String,
        /// The number of the first line that is wanted: 0, or what the last answer said.
        from: u64,
    },
    /// End a detached build. For its owner, and for trusted users.
    Cancel {
        /// Its name.
        build: String,
    },
    /// Give a machine nothing new. For trusted users only.
    Drain {
        /// Its name.
        machine: String,
    },
    /// Give a machine jobs again. For trusted users only.
    Resume {
        /// Its name.
        machine: String,
    },
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum Answer {
    /// How the machines are.
    Machines(Vec<MachineReport>),
    /// What is built, or waits to be.
    Builds(BuildList),
    /// Why a build is where it is.
    Explanation(BuildExplanation),
    /// What is kept of the log of a build.
    Log(BuildLog),
    /// What is held now.
    Detached(DetachedBuild),
    /// What a detached build has said.
    Followed(FollowedBuild),
    /// It was done.
    Done,
    /// It was not, and this is why.
    Refused(String),
}

impl Request {
    /// Whether this changes something for everybody.
    pub fn is_order(&self) -> bool {
        match self {
            // what somebody does with builds of one's own is decided for each
            Request::Machines
            | Request::Builds
            | Request::Explain { .. }
            | Request::Log { .. }
            | Request::Detach(_)
            | Request::Follow { .. }
            | Request::Cancel { .. } => false,
            Request::Drain { .. } | Request::Resume { .. } => true,
        }
    }
}
