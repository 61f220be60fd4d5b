//! Why something can't be had of a holder.

use std::time::{Duration, SystemTime};

/// Why something can't be had of a holder. Nothing has changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HoldError {
    /// An order for nothing.
    #[error("nothing is asked for: name at least one derivation")]
    Nothing,
    /// An order for too much.
    #[error(
        "{count} derivations are too many for one detached build, which takes {most}; hand over fewer at a time"
    )]
    TooLarge {
        /// How many.
        count: usize,
        /// How many may be.
        most: usize,
    },
    /// A user has too many.
    #[error(
        "user '{user}' has {most} detached builds that run already; wait for one, or end one: drover builds cancel ID"
    )]
    TooManyOfUser {
        /// Who.
        user: String,
        /// How many may be.
        most: usize,
    },
    /// There are too many.
    #[error("the daemon holds {most} detached builds already; try again when one is over")]
    TooMany {
        /// How many may be.
        most: usize,
    },
    /// The holder ends.
    #[error("the daemon is stopping")]
    Stopping,
    /// No name can be made.
    #[error("the system has no random number to give")]
    NoRandomness,
    /// There is none of that name.
    #[error(
        "there is no detached build '{id}', or not any more: one is remembered for {} h after its end, and \
         for as long as the daemon runs, which was started {} ago",
        remembered.as_secs() / 3600, age(*started)
    )]
    Unknown {
        /// What was asked for.
        id: String,
        /// When the holder began.
        started: SystemTime,
        /// For how long one is remembered.
        remembered: Duration,
    },
    /// It is somebody else's.
    #[error(
        "detached build '{id}' is '{owner}''s; only that one and trusted users may follow or end it"
    )]
    NotYours {
        /// Which.
        id: String,
        /// Whose.
        owner: String,
    },
    /// It is over.
    #[error("detached build '{id}' is over already; what became of it: drover builds attach {id}")]
    Over {
        /// Which.
        id: String,
    },
}

/// Returns how long ago something was, in its largest two units.
fn age(then: SystemTime) -> String {
    let seconds = SystemTime::now().duration_since(then).unwrap_or_default().as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} days {} h", seconds / 86400, seconds % 86400 / 3600),
    }
}
