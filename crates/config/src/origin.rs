//! Where a setting or a machine was written.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Where a setting or a machine was written, for diagnostics.
///
/// Displays as the beginning of a message: `/etc/nix/nix.conf:3`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Origin {
    /// Nobody wrote it.
    Default,
    /// A line of a file.
    File {
        /// The file.
        path: Arc<Path>,
        /// The line, counted from 1.
        line: usize,
    },
    /// A line of an environment variable.
    Environment {
        /// The variable.
        name: &'static str,
        /// The line, counted from 1.
        line: usize,
    },
    /// An argument.
    CommandLine {
        /// The flag, such as `--builders` or `--option cores`.
        flag: Arc<str>,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Environment { name, line } => write!(f, "{name}:{line}"),
            Origin::CommandLine { flag } => f.write_str(flag),
        }
    }
}

/// How much a [`Note`] matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing when something does not work as expected.
    Hint,
    /// Most likely a mistake.
    Warning,
}

/// Something that is accepted, as Nix does, and that the user may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// What it is about.
    pub origin: Origin,
    /// How much it matters.
    pub severity: Severity,
    /// One line: lower case, no full stop, without the origin.
    pub text: String,
    /// What mends it: a command, or what is to be written where. One line, too.
    pub remedy: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.text)
    }
}
