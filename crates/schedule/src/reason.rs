//! Why a machine does not run a job, in numbers for programs and in words for people.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use crate::description::MachineKind;
use crate::event::MachineFault;
use crate::id::Moment;

/// Why a machine does not run a job; `Display` is for the user.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Reason {
    /// It does not build for the job's system.
    LacksSystem {
        /// What the job is built for.
        wanted: String,
        /// What the machine builds for.
        offered: BTreeSet<String>,
    },
    /// It lacks features that the job requires.
    LacksFeatures {
        /// Those it lacks.
        features: BTreeSet<String>,
    },
    /// It is reserved for jobs that require features which this one does not.
    MandatoryFeatures {
        /// Those the job does not ask for.
        features: BTreeSet<String>,
    },
    /// Whoever waits for the job wants no builds on such machines.
    OutOfScope {
        /// Whether it shares the caller's store.
        kind: MachineKind,
    },
    /// It has no slots at all.
    ZeroSlots,
    /// All of its lanes are taken.
    Full {
        /// Lanes that are taken.
        busy: u32,
        /// Lanes there are.
        slots: u32,
    },
    /// The connection is not up yet.
    Connecting,
    /// Nobody has needed it, so it was not connected to.
    NotConnected,
    /// It failed and is left alone for a while.
    Down {
        /// What kind of failure it was.
        fault: MachineFault,
        /// What it said.
        cause: String,
        /// When it failed.
        since: Moment,
        /// When it is tried again at the earliest.
        again: Moment,
    },
    /// It does not let us in, or is not what the configuration says.
    Refused {
        /// What it said.
        cause: String,
    },
    /// It came back after a failure and gets one job at a time until one succeeds.
    OnProbation {
        /// What kind of failure it was, and what the machine said.
        trouble: Option<(MachineFault, String)>,
    },
    /// It was told to take no further jobs.
    Draining,
    /// It is in the configuration no more.
    Removed,
    /// The job was tried there already and could not be run.
    FailedThere {
        /// What happened.
        cause: String,
    },
    /// Another machine is estimated to finish the job sooner.
    Later {
        /// How long until the job were done here.
        here: Duration,
        /// The other machine's name.
        than: String,
        /// How long until it is done there.
        there: Duration,
        /// What decided where both take as long.
        edge: Edge,
    },
    /// Another machine was chosen, and this one was not among the best.
    NotAmongBest {
        /// The chosen machine's name.
        than: String,
    },
}

/// In what one machine is before another that would be done with a job as soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// It is done sooner, be it by little.
    Sooner,
    /// Less has to be brought there.
    LessToBring,
    /// It has less to do.
    LessToDo,
    /// It stands before the other among the machines.
    Listed,
}

impl Reason {
    /// Returns a name for programs, which stays the same.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Reason::LacksSystem { .. } => "system",
            Reason::LacksFeatures { .. } => "features",
            Reason::MandatoryFeatures { .. } => "mandatoryFeatures",
            Reason::OutOfScope { .. } => "scope",
            Reason::ZeroSlots => "zeroSlots",
            Reason::Full { .. } => "full",
            Reason::Connecting => "connecting",
            Reason::NotConnected => "notConnected",
            Reason::Down { .. } => "down",
            Reason::Refused { .. } => "refused",
            Reason::OnProbation { .. } => "onProbation",
            Reason::Draining => "draining",
            Reason::Removed => "removed",
            Reason::FailedThere { .. } => "failedThere",
            Reason::Later { .. } => "later",
            Reason::NotAmongBest { .. } => "notAmongBest",
        }
    }

    /// Returns the words for people where nothing is tried again.
    #[must_use]
    pub fn when_over(&self) -> String {
        match self {
            Reason::Down { fault, cause, since, .. } => {
                format!("it is down since {since} into the run ({fault}: {cause})")
            }
            _ => self.to_string(),
        }
    }

    /// Returns the words for people at a moment: times are told from then on.
    #[must_use]
    pub fn at(&self, now: Moment) -> String {
        let Reason::Down { fault, cause, since, again } = self else { return self.to_string() };
        let ago = now.since(*since).as_secs();
        let then = match again.since(now) {
            Duration::ZERO => "it is being tried again".to_owned(),
            wait => format!("it is tried again in {} s at the earliest", wait.as_secs().max(1)),
        };
        format!("it is down since {ago} s ago ({fault}: {cause}); {then}")
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::LacksSystem { wanted, offered } => {
                write!(f, "it does not build for {wanted} (only for {})", list(offered))
            }
            Reason::LacksFeatures { features } => write!(f, "it lacks {}", named(features)),
            Reason::MandatoryFeatures { features } => {
                write!(f, "it takes only jobs that ask for {}", named(features))
            }
            Reason::OutOfScope { kind: MachineKind::Local } => {
                f.write_str("whoever asked wants no builds here (max-jobs is 0)")
            }
            Reason::OutOfScope { kind: MachineKind::Remote } => {
                f.write_str("whoever asked wants no builds on other machines (builders is empty)")
            }
            Reason::ZeroSlots => f.write_str("it has zero slots (max-jobs is 0)"),
            Reason::Full { busy, slots } => write!(f, "its slots are full ({busy}/{slots})"),
            Reason::Connecting => f.write_str("the connection is not up yet"),
            Reason::NotConnected => f.write_str("it was not connected to, as no job needed it"),
            Reason::Down { fault, cause, since, again } => write!(
                f,
                "it is down since {since} into the run ({fault}: {cause}) \
                 and is tried again at {again}"
            ),
            Reason::Refused { cause } => write!(f, "it refuses us and is not tried again: {cause}"),
            Reason::OnProbation { trouble } => {
                f.write_str("it failed before and gets one job at a time until one succeeds")?;
                match trouble {
                    Some((fault, cause)) => write!(f, " ({fault}: {cause})"),
                    None => Ok(()),
                }
            }
            Reason::Draining => f.write_str("it is draining and takes no further jobs"),
            Reason::Removed => f.write_str("it was removed from the configuration"),
            Reason::FailedThere { cause } => write!(f, "the job was tried there already: {cause}"),
            Reason::Later { here, than, there, edge } => later(f, (*here, *there), than, *edge),
            Reason::NotAmongBest { than } => {
                write!(f, "{than} was chosen, and this one was not among the next best")
            }
        }
    }
}

/// Says that a job would be done here later than there, or what decided where that is the same time.
fn later(
    f: &mut fmt::Formatter<'_>,
    (here, there): (Duration, Duration),
    than: &str,
    edge: Edge,
) -> fmt::Result {
    let [shown, other] = [here, there].map(|time| format!("{:.1} s", time.as_secs_f64()));
    if shown != other {
        return write!(f, "it would be done there in {shown}, on {than} in {other}");
    }
    let what = match edge {
        Edge::Sooner => "was a little sooner",
        Edge::LessToBring => "had more of its inputs",
        Edge::LessToDo => "had less to do",
        Edge::Listed => "comes first in the list of machines",
    };
    write!(f, "it would be done in {shown} there as on {than}, which {what}")
}

impl fmt::Display for MachineFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MachineFault::Unreachable => "cannot be reached",
            MachineFault::Unready => "not ready yet",
            MachineFault::Lost => "connection lost",
            MachineFault::DiskFull => "disk full",
            MachineFault::Refused => "refused",
            MachineFault::Misbehaved => "misbehaved",
        })
    }
}

fn list(words: &BTreeSet<String>) -> String {
    match words.is_empty() {
        true => "nothing".to_owned(),
        false => words.iter().map(String::as_str).collect::<Vec<_>>().join(", "),
    }
}

fn named(features: &BTreeSet<String>) -> String {
    match features.len() {
        1 => format!("feature {}", list(features)),
        _ => format!("features {}", list(features)),
    }
}
