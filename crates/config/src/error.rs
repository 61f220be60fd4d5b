//! Why configuration was refused.

use std::path::PathBuf;

use crate::origin::Origin;

/// Why `nix.conf` and its like could not be understood.
///
/// Nothing of the configuration should be used: what was read so far may be
/// half of what was meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A line is neither a setting nor an include.
    #[error("{origin}: syntax error in '{line}', expected 'name = value' or 'include path'")]
    Syntax {
        /// Where.
        origin: Origin,
        /// The line, without its comment.
        line: String,
    },
    /// An included file does not exist.
    #[error("{origin}: included file '{}' not found ('!include' would not mind)", path.display())]
    IncludeNotFound {
        /// Where the include is.
        origin: Origin,
        /// The file.
        path: PathBuf,
    },
    /// A file includes itself, directly or through others.
    #[error("{origin}: file '{}' includes itself", path.display())]
    IncludeLoop {
        /// Where the include is that closes the loop.
        origin: Origin,
        /// The file.
        path: PathBuf,
    },
    /// Includes are nested too deep.
    #[error("{origin}: includes nested deeper than {limit}")]
    IncludesTooDeep {
        /// Where the include is that goes too deep.
        origin: Origin,
        /// Greatest nesting of files.
        limit: usize,
    },
    /// Too many files are included in all.
    #[error("{origin}: more than {limit} included files")]
    TooManyIncludes {
        /// Where the include is that is one too many.
        origin: Origin,
        /// Greatest number of included files.
        limit: usize,
    },
    /// A setting has a value that it cannot have.
    #[error("{origin}: setting '{setting}' has invalid value '{value}', expected {accepted}")]
    BadValue {
        /// Where.
        origin: Origin,
        /// Name of the setting, not of an alias.
        setting: &'static str,
        /// The value.
        value: String,
        /// What is accepted.
        accepted: String,
    },
}
