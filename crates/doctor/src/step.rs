//! A step of the examination of a machine, and what came of it.

use std::time::Duration;

/// A step of the examination of a machine, in the order in which they are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StepName {
    /// The host's name resolves.
    Name,
    /// An SSH server answers at the port.
    Port,
    /// The host's key is the one that is known.
    HostKey,
    /// The user is let in without a question.
    Login,
    /// The program is there, and says its version.
    Program,
    /// Nothing is printed before the protocol.
    Quiet,
    /// Both speak one version of the protocol.
    Protocol,
    /// The machine takes inputs at our word.
    Trust,
    /// It has the systems and features that its line says.
    System,
    /// There is room in its store.
    Disk,
    /// Its clock is right.
    Clock,
    /// What it can fetch by itself, and from where.
    Substituters,
    /// A small build goes there, and its output comes back.
    Build,
}

impl StepName {
    /// All steps, in order.
    pub const ALL: [StepName; 13] = [
        StepName::Name,
        StepName::Port,
        StepName::HostKey,
        StepName::Login,
        StepName::Program,
        StepName::Quiet,
        StepName::Protocol,
        StepName::Trust,
        StepName::System,
        StepName::Disk,
        StepName::Clock,
        StepName::Substituters,
        StepName::Build,
    ];

    /// Returns the name as it is printed, also in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            StepName::Name => "name",
            StepName::Port => "port",
            StepName::HostKey => "host-key",
            StepName::Login => "login",
            StepName::Program => "program",
            StepName::Quiet => "quiet",
            StepName::Protocol => "protocol",
            StepName::Trust => "trust",
            StepName::System => "system",
            StepName::Disk => "disk",
            StepName::Clock => "clock",
            StepName::Substituters => "substituters",
            StepName::Build => "build",
        }
    }
}

/// How good something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// As it should be, or of no importance here.
    Good,
    /// It couldn't be found out; that alone says nothing.
    Unknown,
    /// Builds go there, but some will fail, or take longer.
    Odd,
    /// No build can go there.
    Wrong,
    /// A step before this one went wrong.
    NotReached,
}

impl Grade {
    /// Returns the grade as it is printed, also in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Grade::Good => "ok",
            Grade::Unknown => "unknown",
            Grade::Odd => "odd",
            Grade::Wrong => "wrong",
            Grade::NotReached => "not reached",
        }
    }
}

/// What a step has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// How good it is.
    pub grade: Grade,
    /// What was seen, in one line; may be empty.
    pub text: String,
    /// What mends it: a command, or what is to be written where.
    pub remedy: Option<String>,
}

impl Verdict {
    /// All is well.
    pub fn good(text: impl Into<String>) -> Verdict {
        Verdict { grade: Grade::Good, text: text.into(), remedy: None }
    }

    /// It couldn't be found out.
    pub fn unknown(text: impl Into<String>) -> Verdict {
        Verdict { grade: Grade::Unknown, ..Verdict::good(text) }
    }

    /// Some builds will fail, or take longer.
    pub fn odd(text: impl Into<String>, remedy: impl Into<String>) -> Verdict {
        Verdict { grade: Grade::Odd, text: text.into(), remedy: Some(remedy.into()) }
    }

    /// No build can go there.
    pub fn wrong(text: impl Into<String>, remedy: impl Into<String>) -> Verdict {
        Verdict { grade: Grade::Wrong, ..Verdict::odd(text, remedy) }
    }

    /// An earlier step went wrong.
    pub fn not_reached() -> Verdict {
        Verdict { grade: Grade::NotReached, ..Verdict::good("") }
    }
}

/// A step that was taken, or would have been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Which.
    pub name: StepName,
    /// How long it took, where anything was done for it.
    pub took: Option<Duration>,
    /// What it has come to.
    pub verdict: Verdict,
}
