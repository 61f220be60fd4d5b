//! What can go wrong, by the step that failed.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

/// A step on the way to the command's first instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Step {
    /// Reading the plan that was sent.
    ReadPlan,
    /// Checking what contradicts itself, or what this user can't do.
    CheckPlan,
    /// Killing what runs as the user that is about to be used.
    KillLeftovers,
    /// Giving the output to the user.
    GiveOutput,
    /// Making the process with its namespaces.
    MakeProcess,
    /// Setting how eagerly the kernel kills it.
    SetOomScore,
    /// Starting a session without a terminal.
    StartSession,
    /// Leaving the caller's supplementary groups.
    LeaveGroups,
    /// Numbering users in the new namespace.
    MapUsers,
    /// Becoming the user.
    BecomeUser,
    /// Cutting the mounts off from the machine's.
    CutMounts,
    /// Finding a file or folder of the machine.
    FindSource,
    /// Making the root.
    MakeRoot,
    /// Making the place where something is to be.
    MakePlace,
    /// Mounting.
    Mount,
    /// Making a file, folder or symlink.
    MakeFile,
    /// Making the root the root.
    EnterRoot,
    /// Setting the host name.
    SetHostName,
    /// Making a network with a way out.
    ConnectNetwork,
    /// Switching the loopback interface on.
    StartLoopback,
    /// Making a control group namespace.
    HideCgroups,
    /// Leaving the caller's keyring.
    LeaveKeyring,
    /// Setting a resource limit.
    SetLimit,
    /// Setting the personality.
    SetPersonality,
    /// Going to the working folder.
    EnterFolder,
    /// Dropping capabilities.
    DropCapabilities,
    /// Asking to die with the supervisor.
    DieWithParent,
    /// Refusing new privileges.
    RefusePrivileges,
    /// Scoping sockets and signals by Landlock.
    Scope,
    /// Filtering system calls.
    FilterSyscalls,
    /// Connecting stdin, stdout and stderr.
    ConnectOutput,
    /// Starting the program.
    Execute,
}

/// A step that failed: nothing of the command has run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Which step.
    pub step: Step,
    /// What it was done to: a path, a name, or empty.
    pub subject: String,
    /// Why.
    pub reason: Reason,
}

/// Why a step failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Reason {
    /// The kernel's error number.
    Os(i32),
    /// A rule of ours.
    Rule(String),
}

/// Why a command could not be started. Nothing of it has run, and nothing is left.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// A step failed.
    #[error("cannot set the build's surroundings up: {0}")]
    Step(Failure),
    /// The plan speaks of a file that wasn't given.
    #[error("the plan names open file {at}, but there are only {len}")]
    NoSuchHandle {
        /// Its place in the table.
        at: usize,
        /// How many there are.
        len: usize,
    },
    /// There are more open files than can be passed.
    #[error("a plan can come with {max} open files, this one has {len}")]
    TooManyHandles {
        /// How many there are.
        len: usize,
        /// How many there may be.
        max: usize,
    },
    /// The plan could not be written down.
    #[error("cannot encode the plan")]
    Encode(#[source] postcard::Error),
    /// The launcher or the supervisor can't be reached.
    #[error("cannot talk to the launcher of builds")]
    Launcher(#[source] io::Error),
    /// The supervisor ended without a word, as if it had been killed.
    #[error("the supervisor of the build ended before it had started it")]
    Vanished,
}

/// Why it isn't known how a command ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// The supervisor ended without a word, as if it had been killed. What it watched was killed
    /// too.
    #[error("the supervisor of the build ended before the build did")]
    Vanished,
    /// Something of it may still run: the supervisor could not kill it.
    #[error("the build has ended, but perhaps not all of it: {0}")]
    Step(Failure),
    /// The supervisor ended before the command did, and killing what it watched failed.
    #[error("the supervisor of the build is gone, and what it watched can't be killed")]
    Rescue(#[source] SpawnError),
    /// The supervisor can't be heard.
    #[error("cannot talk to the supervisor of the build")]
    Supervisor(#[source] io::Error),
}

impl Failure {
    /// How long the texts of a failure are at most, in bytes: they have to fit into a message.
    const MAX_TEXT: usize = 2_000;

    pub(crate) fn rule(step: Step, rule: impl Into<String>) -> Failure {
        let rule = cut(rule.into(), Failure::MAX_TEXT);
        Failure { step, subject: String::new(), reason: Reason::Rule(rule) }
    }
}

/// Cuts a text where a character ends.
fn cut(mut text: String, max: usize) -> String {
    let end = (0..=max).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    if end < text.len() {
        text.truncate(end);
    }
    text
}

/// Names the step at which a system call failed.
pub(crate) trait At<T> {
    /// Names the step.
    fn at(self, step: Step) -> Result<T, Failure>;
    /// Names the step and what it was about.
    fn on(self, step: Step, subject: &dyn fmt::Display) -> Result<T, Failure>;
}

impl<T> At<T> for Result<T, rustix::io::Errno> {
    fn at(self, step: Step) -> Result<T, Failure> {
        self.on(step, &"")
    }

    fn on(self, step: Step, subject: &dyn fmt::Display) -> Result<T, Failure> {
        self.map_err(|errno| Failure {
            step,
            subject: cut(subject.to_string(), Failure::MAX_TEXT),
            reason: Reason::Os(errno.raw_os_error()),
        })
    }
}

impl Step {
    fn words(self) -> &'static str {
        match self {
            Step::ReadPlan => "read the plan",
            Step::CheckPlan => "accept the plan",
            Step::KillLeftovers => "kill what is left of the user's processes",
            Step::GiveOutput => "give the log to the user",
            Step::MakeProcess => "make a process with its namespaces",
            Step::SetOomScore => "set the out-of-memory score",
            Step::StartSession => "start a session",
            Step::LeaveGroups => "leave the supplementary groups",
            Step::MapUsers => "map users into the namespace",
            Step::BecomeUser => "become the user",
            Step::CutMounts => "cut the mounts off from the machine's",
            Step::FindSource => "find what is to be shown",
            Step::MakeRoot => "make the root file system",
            Step::MakePlace => "make the place for a mount",
            Step::Mount => "mount",
            Step::MakeFile => "make a file",
            Step::EnterRoot => "enter the root file system",
            Step::SetHostName => "set the host name",
            Step::ConnectNetwork => "make a network with a way out",
            Step::StartLoopback => "switch the loopback interface on",
            Step::HideCgroups => "make a control group namespace",
            Step::LeaveKeyring => "leave the keyring",
            Step::SetLimit => "set a resource limit",
            Step::SetPersonality => "set the personality",
            Step::EnterFolder => "enter the working folder",
            Step::DropCapabilities => "drop capabilities",
            Step::DieWithParent => "tie the process to its supervisor",
            Step::RefusePrivileges => "refuse new privileges",
            Step::Scope => "scope sockets and signals by Landlock",
            Step::FilterSyscalls => "filter system calls",
            Step::ConnectOutput => "connect the output",
            Step::Execute => "start the program",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.words())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "could not {}", self.step)?;
        if !self.subject.is_empty() {
            write!(out, " '{}'", self.subject)?;
        }
        match &self.reason {
            Reason::Os(code) => write!(out, ": {}", io::Error::from_raw_os_error(*code)),
            Reason::Rule(rule) => write!(out, ": {rule}"),
        }
    }
}
