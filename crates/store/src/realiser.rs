//! What makes paths valid by building: what a daemon hands its clients' builds to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use drover_core::{BuildMode, BuildStatus, StorePath, Substitute};
use drover_derivation::BasicDerivation;

use crate::build::BuildSettings;
use crate::error::StoreError;
use crate::failure::{BuildFailure, FailureCause};
use crate::fetch::FetchEvent;
use crate::keeper::Keeper;

/// The name of the machine that builds into the client's own store.
pub const THIS_MACHINE: &str = "local";

/// What is to be made valid.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wanted {
    /// A path as it is.
    Path(StorePath),
    /// All outputs of a derivation that is valid.
    AllOutputs(StorePath),
    /// Some outputs of a derivation that is valid.
    Outputs(StorePath, BTreeSet<String>),
}

/// Whether what doesn't depend on a failure goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterFailure {
    /// The rest is cancelled.
    Stop,
    /// It goes on.
    KeepGoing,
}

/// How it is to be done.
#[derive(Clone, Debug)]
pub struct RealiseSettings {
    /// What is to be done.
    pub mode: BuildMode,
    /// What a failure does to the rest.
    pub after_failure: AfterFailure,
    /// Whether substituters may be used.
    pub substitute: Substitute,
    /// Settings that travel with each build.
    pub build: BuildSettings,
    /// Who asks, where that is known: for those who want to know who waits for what.
    pub client: Option<String>,
}

/// How something that was wanted ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RealiseStatus {
    /// It was built.
    Built,
    /// It was fetched from a substituter.
    Substituted,
    /// It was valid already.
    AlreadyValid,
    /// It isn't valid.
    Failed(FailureCause),
}

impl RealiseStatus {
    /// Whether what was wanted is valid now.
    pub fn is_success(self) -> bool {
        self.failure().is_none()
    }

    /// Returns why what was wanted isn't valid; nothing where it is.
    pub fn failure(self) -> Option<FailureCause> {
        match self {
            RealiseStatus::Built | RealiseStatus::Substituted | RealiseStatus::AlreadyValid => None,
            RealiseStatus::Failed(cause) => Some(cause),
        }
    }
}

impl From<RealiseStatus> for BuildStatus {
    fn from(status: RealiseStatus) -> BuildStatus {
        match status {
            RealiseStatus::Built => BuildStatus::Built,
            RealiseStatus::Substituted => BuildStatus::Substituted,
            RealiseStatus::AlreadyValid => BuildStatus::AlreadyValid,
            RealiseStatus::Failed(cause) => cause.status(),
        }
    }
}

impl From<BuildStatus> for RealiseStatus {
    fn from(status: BuildStatus) -> RealiseStatus {
        match (status, FailureCause::of_status(status)) {
            (_, Some(cause)) => RealiseStatus::Failed(cause),
            (BuildStatus::Built, None) => RealiseStatus::Built,
            (BuildStatus::Substituted, None) => RealiseStatus::Substituted,
            (_, None) => RealiseStatus::AlreadyValid,
        }
    }
}

/// What became of something that was wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Realised {
    /// How it ended.
    pub status: RealiseStatus,
    /// What went wrong, as the user is to read it; empty where nothing did.
    pub message: String,
    /// The outputs, by name, where they are known.
    pub outputs: BTreeMap<String, StorePath>,
    /// When the build began and ended, where there was one.
    pub period: Option<(SystemTime, SystemTime)>,
}

impl Realised {
    /// Returns the end of something that went well, as far as that is all that is known.
    pub fn succeeded(status: RealiseStatus) -> Realised {
        Realised { status, message: String::new(), outputs: BTreeMap::new(), period: None }
    }

    /// Returns the end of something that didn't.
    pub fn failed(cause: FailureCause, message: impl Into<String>) -> Realised {
        let status = RealiseStatus::Failed(cause);
        Realised { message: message.into(), ..Realised::succeeded(status) }
    }
}

impl From<BuildFailure> for Realised {
    fn from(failure: BuildFailure) -> Realised {
        Realised::failed(failure.cause, failure.message)
    }
}

/// What happens while something is realised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RealiseEvent {
    /// A derivation waits for a machine.
    Waiting {
        /// The derivation.
        derivation: StorePath,
        /// Why, in a line.
        reason: String,
    },
    /// A derivation is being built.
    Started {
        /// The derivation.
        derivation: StorePath,
        /// The machine; [`THIS_MACHINE`] or empty for the one whose store it is.
        machine: String,
    },
    /// A line of a build's own output.
    Line {
        /// The derivation.
        derivation: StorePath,
        /// The line, without its end.
        line: String,
    },
    /// The phase that a build is in.
    Phase {
        /// The derivation.
        derivation: StorePath,
        /// The phase.
        phase: String,
    },
    /// A derivation is built no longer, be it done, failed or given back.
    Ended {
        /// The derivation.
        derivation: StorePath,
    },
    /// A derivation that is needed has failed itself, not for want of what it depends on. Told once; where
    /// another store does the work it may not be known.
    Failed {
        /// The derivation.
        derivation: StorePath,
        /// Why.
        cause: FailureCause,
    },
    /// Something that the user should know.
    Note(String),
    /// A path that is fetched, where another store does the work.
    Fetch(FetchEvent),
}

/// Follows what is realised. Called from the tasks that do the work: it must never wait.
pub trait RealiseObserver: Send + Sync {
    /// Takes one event.
    fn event(&self, event: RealiseEvent);
}

/// Makes paths valid, for many clients at a time. Dropping a future gives up the client's interest:
/// what nobody else waits for is ended.
#[async_trait]
pub trait Realiser: Send + Sync {
    /// Makes paths valid in `store`, a view of the store that this works for; the answers are in
    /// the order of the question.
    ///
    /// # Errors
    ///
    /// The store itself; builds that fail are in the answers.
    async fn realise(
        &self,
        store: Arc<dyn Keeper>,
        wanted: Vec<Wanted>,
        settings: RealiseSettings,
        observer: Arc<dyn RealiseObserver>,
    ) -> Result<Vec<Realised>, StoreError>;

    /// Builds a derivation that the store needn't have, and whose inputs are valid there.
    ///
    /// # Errors
    ///
    /// The store itself; a build that fails is in the answer.
    async fn build_derivation(
        &self,
        store: Arc<dyn Keeper>,
        derivation: (StorePath, BasicDerivation),
        settings: RealiseSettings,
        observer: Arc<dyn RealiseObserver>,
    ) -> Result<Realised, StoreError>;

    /// Says what would have to be done.
    ///
    /// # Errors
    ///
    /// The store itself.
    async fn missing(
        &self,
        store: Arc<dyn Keeper>,
        wanted: Vec<Wanted>,
        substitute: Substitute,
    ) -> Result<MissingPaths, StoreError>;
}

/// What would have to be done to make something valid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MissingPaths {
    /// Derivations to build.
    pub build: BTreeSet<StorePath>,
    /// Paths that substituters have, with all that they refer to that isn't valid.
    pub substitute: BTreeSet<StorePath>,
    /// Paths that nobody knows how to make.
    pub unknown: BTreeSet<StorePath>,
    /// Bytes to download.
    pub download_size: u64,
    /// Bytes of the NARs to be fetched.
    pub nar_size: u64,
}
