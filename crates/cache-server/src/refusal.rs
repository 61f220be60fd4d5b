//! Why a request isn't answered with what was asked for.
//!
//! What a client is told has no path of this machine and no words of the system in it.

use http::StatusCode;

/// Why a request isn't answered with what was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    /// One line.
    pub(crate) says: String,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, says: impl Into<String>) -> Refusal {
        Refusal { status, says: says.into() }
    }

    pub(crate) fn bad(says: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, says)
    }

    pub(crate) fn absent() -> Refusal {
        Refusal::new(StatusCode::NOT_FOUND, "404")
    }

    /// Something that is nobody's business but the keeper's, who finds the reason in the log.
    pub(crate) fn failed(doing: &str, reason: &dyn std::fmt::Display) -> Refusal {
        tracing::error!("{doing} failed: {reason}");
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the store can't answer; see its log")
    }
}
