//! How a lane's job ended.

use std::time::Duration;

use drover_store::{BuildFailure, Built, StoreError};

use crate::check::Lie;
use crate::merge::Origin;

/// Something that a lane tells the driver.
pub(crate) enum JobEnd {
    /// All outputs are valid on the machine.
    Built { built: Built, took: Took },
    /// The build failed.
    Failed { failure: BuildFailure, tail: Vec<String>, took: Took },
    /// It went beyond what is asked of it. It still runs there: the lane has to be ended.
    Exceeded { failure: BuildFailure, tail: Vec<String>, took: Took },
    /// It couldn't be tried: it's not to blame, nor is this machine.
    Input { cause: String },
    /// The derivation itself can't be built.
    Derivation { cause: String },
    /// The machine's answer can't be right.
    Lie { lie: Lie },
    /// A connection broke: the machine's, unless it was that of a source of its inputs.
    Broken { error: StoreError, source: Option<Origin> },
}

/// How long a build took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Took {
    /// As seen from here.
    pub(crate) seen: Duration,
    /// Since the machine has said that it begins; none where it hasn't.
    pub(crate) told: Option<Duration>,
}
