//! Why a build came to nothing, and whose fault that is.
//!
//! The words are Nix's where it has some that tools look for (`src/libstore/build/`,
//! `unix/build/derivation-builder.cc`); the end of the log is added by who shows them.

use std::{fmt, io};

use drover_core::{OutputName, StorePath};
use drover_derivation::DerivationError;
use drover_recipe::{RecipeError, Violation};
use drover_sandbox::{Connection, Exit, Failure, Reason, SpawnError, Step, WaitError};
use drover_store::{BuildFailure, FailureCause, StoreError};
use drover_store_files::FilesError;
use rustix::io::Errno;

use crate::contents::ContentsError;
use crate::suitable::Unsupported;

/// Why a build came to nothing.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// It failed.
    Failure(BuildFailure),
    /// The store did.
    Store(StoreError),
    /// Its derivation can't be read, or asks for what there can't be.
    Derivation(String),
    /// Nobody wants it any more.
    Cancelled,
}

impl Trouble {
    /// Has it say which derivation is meant.
    pub(crate) fn with(trouble: Trouble, derivation: &str) -> Trouble {
        match trouble {
            Trouble::Derivation(why) => {
                rejected(format!("derivation '{derivation}' can't be built: {why}")).into()
            }
            other => other,
        }
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Trouble {
        Trouble::Store(error)
    }
}

impl From<BuildFailure> for Trouble {
    fn from(failure: BuildFailure) -> Trouble {
        Trouble::Failure(failure)
    }
}

impl From<DerivationError> for Trouble {
    fn from(error: DerivationError) -> Trouble {
        Trouble::Derivation(error.to_string())
    }
}

impl From<RecipeError> for Trouble {
    fn from(error: RecipeError) -> Trouble {
        Trouble::Derivation(error.to_string())
    }
}

impl From<Unsupported> for Trouble {
    fn from(error: Unsupported) -> Trouble {
        BuildFailure::new(FailureCause::Machine, error.to_string()).into()
    }
}

/// The build itself failed, and would again.
pub(crate) fn failed(message: impl Into<String>) -> BuildFailure {
    BuildFailure::new(FailureCause::Build, message)
}

/// What the build has made can't be taken, nor could it be another time.
pub(crate) fn rejected(message: impl Into<String>) -> BuildFailure {
    BuildFailure::new(FailureCause::Rejected, message)
}

/// Returns what is said where this program itself is at fault: the build may have been a good one, but
/// it would most likely come to the same end again.
pub(crate) fn of_bug(derivation: &str, what: &dyn fmt::Display) -> BuildFailure {
    failed(format!("drover gave up building '{derivation}' because it has a bug: {what}"))
}

/// This machine could not.
pub(crate) fn machine(doing: &str, error: &io::Error) -> BuildFailure {
    let full = [Errno::NOSPC, Errno::DQUOT];
    let cause = match Errno::from_io_error(error) {
        Some(errno) if full.contains(&errno) => FailureCause::NoRoom,
        _ => FailureCause::Machine,
    };
    BuildFailure::new(cause, format!("cannot {doing}: {error}"))
}

/// Returns what is said of files that a build has left and that can't be taken as they are.
pub(crate) fn of_files(derivation: &str, error: impl Into<ContentsError>) -> BuildFailure {
    match error.into() {
        ContentsError::Read(error)
        | ContentsError::Files(FilesError::Io { source: error, .. } | FilesError::Thread(error)) => {
            machine(&format!("take over what '{derivation}' has made"), &error)
        }
        ContentsError::Files(error) => rejected(format!(
            "'{derivation}' has made something that can't be in a store; rejecting this build \
             output: {error}"
        )),
    }
}

/// Returns what is said of a build that could not be started.
pub(crate) fn of_start(derivation: &str, builder: &[u8], error: &SpawnError) -> BuildFailure {
    if let SpawnError::Step(Failure { step: Step::Execute, reason: Reason::Os(code), .. }) = error {
        let builder = String::from_utf8_lossy(builder);
        let why = io::Error::from_raw_os_error(*code);
        return failed(format!(
            "builder for '{derivation}' failed with exit code 1: executing '{builder}': {why}"
        ));
    }
    if let SpawnError::Step(Failure { step: Step::ConnectNetwork, .. }) = error {
        let message = format!(
            "{error}; look at 'pasta-path': without it builds that may use the network have this machine's"
        );
        return BuildFailure { cause: FailureCause::Machine, message };
    }
    if let Some(input) = absent_input(derivation, error) {
        let message = format!(
            "cannot build '{derivation}': its input '{input}' is valid, but its files are not there; bring \
             them back with 'nix-store --repair-path {input}'"
        );
        return BuildFailure { cause: FailureCause::Machine, message };
    }
    let cause = match error {
        SpawnError::Step(Failure { reason: Reason::Os(code), .. })
            if *code == Errno::NOSPC.raw_os_error() =>
        {
            FailureCause::NoRoom
        }
        _ => FailureCause::Machine,
    };
    BuildFailure::new(cause, error.to_string())
}

/// Returns the whole path of the input that could not be shown to a build, if that is what failed.
fn absent_input(derivation: &str, error: &SpawnError) -> Option<String> {
    let SpawnError::Step(Failure { step: Step::FindSource, subject, reason: Reason::Os(code) }) =
        error
    else {
        return None;
    };
    let name = subject.split('/').next()?;
    let is_input = *code == Errno::NOENT.raw_os_error() && StorePath::from_base_name(name).is_ok();
    let (store_dir, _) = derivation.rsplit_once('/')?;
    is_input.then(|| format!("{store_dir}/{name}"))
}

/// Returns what is said of a build over a range of users that isn't to be shut in.
pub(crate) fn of_range(derivation: &str) -> String {
    format!(
        "derivation '{derivation}' requires the feature 'uid-range', which is only supported in sandboxed \
         builds"
    )
}

/// Returns what is said of a build whose end nobody saw.
pub(crate) fn of_wait(error: &WaitError) -> BuildFailure {
    BuildFailure::new(FailureCause::Machine, error.to_string())
}

/// A build whose process is what failed, for messages.
pub(crate) struct Failing<'a> {
    /// The derivation's whole path.
    pub(crate) derivation: &'a str,
    /// The whole paths of its outputs, as far as they are known.
    pub(crate) outputs: Vec<String>,
    /// The end of its log.
    pub(crate) tail: &'a [String],
}

/// Returns what the C library calls a signal, of those that end builds.
fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        1 => "Hangup",
        2 => "Interrupt",
        3 => "Quit",
        4 => "Illegal instruction",
        5 => "Trace/breakpoint trap",
        6 => "Aborted",
        7 => "Bus error",
        8 => "Floating point exception",
        9 => "Killed",
        10 => "User defined signal 1",
        11 => "Segmentation fault",
        12 => "User defined signal 2",
        13 => "Broken pipe",
        14 => "Alarm clock",
        15 => "Terminated",
        24 => "CPU time limit exceeded",
        25 => "File size limit exceeded",
        31 => "Bad system call",
        _ => return None,
    })
}

impl Failing<'_> {
    /// Returns what is said of a build that ended badly by itself; nothing where it went well.
    pub(crate) fn of_exit(&self, exit: Exit) -> Option<BuildFailure> {
        match exit {
            Exit::Code(0) => None,
            Exit::Code(code) => Some(self.of_code(code)),
            Exit::Signal(signal) => {
                let name = signal_name(signal).map(|name| format!(" ({name})"));
                let how = format!("failed due to signal {signal}{}", name.unwrap_or_default());
                Some(failed(self.explain(&how)))
            }
        }
    }

    /// Returns what is said of a build that ended with such a code.
    pub(crate) fn of_code(&self, code: i32) -> BuildFailure {
        failed(self.explain(&format!("failed with exit code {code}")))
    }

    /// The words of Nix since 2.31.
    fn explain(&self, how: &str) -> String {
        let Failing { derivation, outputs, tail } = self;
        let mut text = format!("Cannot build '{derivation}'.\nReason: builder {how}.");
        if !outputs.is_empty() {
            text.push_str("\nOutput paths:");
        }
        for path in outputs {
            text.push_str(&format!("\n  {path}"));
        }
        if !tail.is_empty() {
            text.push_str(&format!("\nLast {} log lines:", tail.len()));
            for line in *tail {
                text.push_str(&format!("\n> {line}"));
            }
            text.push_str(&format!("\nFor full logs, run:\n  nix log {derivation}"));
        }
        text
    }
}

/// Puts a failure down to a full disk.
pub(crate) fn with_full_disk(failure: BuildFailure) -> BuildFailure {
    let BuildFailure { cause: FailureCause::Build, message } = failure else { return failure };
    let note = "note: build failure may have been caused by lack of free disk space";
    BuildFailure::new(FailureCause::NoRoom, format!("{message}\n{note}"))
}

/// Puts a failure down to the build's network, if that went away while it ran.
pub(crate) fn with_lost_network(failure: BuildFailure, connection: Connection) -> BuildFailure {
    match (failure.cause, connection) {
        (FailureCause::Build, Connection::Lost) => BuildFailure::new(
            FailureCause::Machine,
            format!(
                "{}\nnote: 'pasta' ended while it was built, so its network went away; look at \
                 'pasta-path'",
                failure.message
            ),
        ),
        _ => failure,
    }
}

/// Returns what is said of an output that isn't there.
pub(crate) fn not_produced(derivation: &str, output: &OutputName, path: &str) -> BuildFailure {
    rejected(format!(
        "builder for '{derivation}' failed to produce output path for output '{output}' at '{path}'"
    ))
}

/// Returns what is said of a derivation with rules for its outputs that can't be read, or be kept.
pub(crate) fn of_rules(derivation: &str, error: &RecipeError) -> BuildFailure {
    match error {
        RecipeError::Specifier { .. } => rejected(format!("derivation '{derivation}' {error}")),
        _ => failed(error.to_string()),
    }
}

/// Returns what is said of outputs that break a rule of their derivation.
pub(crate) fn of_rule(violation: &Violation) -> BuildFailure {
    rejected(violation.to_string())
}
