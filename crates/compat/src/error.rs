//! Why a command ended without success, in Nix's words.

use std::io;
use std::path::PathBuf;

use drover_core::{HashError, KeyError, StorePathError, with_causes};
use drover_derivation::DerivationError;
use drover_nar::NarError;
use drover_store::StoreError;
use drover_store_files::FilesError;

use crate::exit::ExitStatus;

/// Why a command ended without success.
///
/// The texts are those of Nix 2.34 where scripts look for them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompatError {
    /// The command was called in a way that it doesn't know; nothing was done.
    #[error("{message}")]
    Usage {
        /// What is wrong, in Nix's words.
        message: String,
    },
    /// The command could not do what it was asked.
    #[error("{message}")]
    Failed {
        /// What went wrong, in Nix's words.
        message: String,
    },
    /// Builds failed.
    #[error("{message}")]
    Build {
        /// What failed.
        message: String,
        /// The exit status that tells how, 100 to 111, or 1.
        status: ExitStatus,
    },
    /// The store could not do what it was asked.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file could not be read or written.
    #[error("{action} '{}': {}", path.display(), plain(source))]
    File {
        /// What was tried, such as `opening file`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Standard input, output or error failed.
    #[error("{action}: {}", plain(source))]
    Stream {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Standard input ended too early.
    #[error("unexpected end-of-file")]
    EndOfFile,
    /// A NAR that is none.
    #[error(transparent)]
    Nar(#[from] NarError),
    /// A file tree that can't become a NAR.
    #[error("cannot archive '{}'", path.display())]
    Files {
        /// The tree.
        path: PathBuf,
        /// What is wrong with it.
        source: FilesError,
    },
    /// A text that is no store path.
    #[error(transparent)]
    StorePath(#[from] StorePathError),
    /// A text that is no hash.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// A text that is no key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A derivation that can't be read or shown.
    #[error(transparent)]
    Derivation(#[from] DerivationError),
    /// The program around the commands could not do its part: settings, stores, other programs.
    #[error("{message}")]
    Host {
        /// What went wrong.
        message: String,
    },
}

impl CompatError {
    /// Returns the error of a call with wrong arguments.
    pub fn usage(message: impl Into<String>) -> CompatError {
        CompatError::Usage { message: message.into() }
    }

    /// Returns the error of a command that can't do what it was asked.
    pub fn failed(message: impl Into<String>) -> CompatError {
        CompatError::Failed { message: message.into() }
    }

    /// Returns the status to exit with.
    pub fn status(&self) -> ExitStatus {
        match self {
            CompatError::Build { status, .. } => *status,
            _ => ExitStatus::FAILURE,
        }
    }

    /// Returns the message with all that led to it.
    pub(crate) fn words(&self) -> String {
        match self {
            // in Nix's words the cause is in the message
            CompatError::File { .. } | CompatError::Stream { .. } => self.to_string(),
            error => with_causes(error),
        }
    }

    /// Returns what Nix would print on standard error, line feed included: further lines are
    /// indented under the first, and a wrong call points to the help.
    pub fn report(&self, program: &str) -> String {
        let mut lines = told(&self.words());
        if matches!(self, CompatError::Usage { .. }) {
            lines.push_str(&format!("Try '{program} --help' for more information.\n"));
        }
        lines
    }
}

/// Returns an error as Nix prints it: further lines are indented under the first.
pub(crate) fn told(words: &str) -> String {
    let mut lines = String::from("error: ");
    for (number, line) in words.lines().enumerate() {
        if number > 0 && !line.is_empty() {
            lines.push_str("       ");
        }
        lines.push_str(line);
        lines.push('\n');
    }
    lines
}

/// Returns what the C library says of an error, without the number that Rust adds.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error ") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn further_lines_are_indented() {
        let error = CompatError::failed("one\n\ntwo");
        assert_eq!(error.report("nix-store"), "error: one\n\n       two\n");
    }

    #[test]
    fn wrong_calls_point_to_the_help() {
        assert_eq!(
            CompatError::usage("no operation specified").report("nix-store"),
            "error: no operation specified\nTry 'nix-store --help' for more information.\n"
        );
    }

    #[test]
    fn system_errors_read_as_those_of_nix() {
        let error = CompatError::File {
            action: "opening file",
            path: "/nonexistent".into(),
            source: io::Error::from_raw_os_error(2),
        };
        assert_eq!(error.to_string(), "opening file '/nonexistent': No such file or directory");
    }
}
