//! Why the database could not do what it was asked.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use drover_core::StorePath;
use rusqlite::ErrorCode;

/// Why the database could not do what it was asked. Nothing was changed then, unless said.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DbError {
    /// There is no database, and none may be made.
    #[error(
        "database '{}' does not exist, and cannot be created in read-only mode", file.display()
    )]
    Absent {
        /// Where it should be.
        file: PathBuf,
    },
    /// A file next to the database could not be read or written.
    #[error("cannot {doing} '{}'", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file that tells the schema's version holds no number.
    #[error(
        "'{}' is corrupt: it holds '{}' instead of a number; if the database next to it is sound, \
         write {} into it", path.display(), text.escape_default(), crate::SCHEMA_VERSION
    )]
    SchemaFile {
        /// The file.
        path: PathBuf,
        /// What it holds, cut after 40 characters.
        text: String,
    },
    /// The schema is from before 2016.
    #[error(
        "the Nix store's schema is version {found}, too old to be read; let Nix 2 open this store \
         once, which brings it to version {}",
        crate::SCHEMA_VERSION
    )]
    SchemaTooOld {
        /// Its version.
        found: u32,
    },
    /// The schema is newer than this program.
    #[error(
        "current Nix store schema is version {found}, but I only support {}",
        crate::SCHEMA_VERSION
    )]
    SchemaTooNew {
        /// Its version.
        found: u32,
    },
    /// The tables of content-addressed derivations are of a version that isn't known.
    #[error(
        "'{}' says that the tables of realisations are of version {found}; known are 3 and 4",
        path.display()
    )]
    CaSchema {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// Other processes kept the database locked all the time.
    #[error(
        "SQLite database '{}' is busy: another process has held its lock for {} s",
        path.display(), waited.as_secs()
    )]
    Busy {
        /// The database.
        path: PathBuf,
        /// How long it was waited for.
        waited: Duration,
    },
    /// No room.
    #[error("no space left for SQLite database '{}'", path.display())]
    Full {
        /// The database.
        path: PathBuf,
    },
    /// What is in the file is no database, or a damaged one.
    #[error(
        "SQLite database '{}' is corrupt ({detail}); nothing was changed; recover it with \
         `sqlite3 db.sqlite .recover` or from a backup", path.display()
    )]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        detail: String,
    },
    /// A row holds what this store can't have put there.
    #[error("invalid-path entry for '{path}': its {column} is '{value}'")]
    BadRow {
        /// The path of the row as it stands there.
        path: String,
        /// The column.
        column: &'static str,
        /// What it holds, cut after 300 characters.
        value: String,
    },
    /// A path that should be valid isn't.
    #[error("path '{path}' is not valid")]
    NotValid {
        /// The whole path.
        path: String,
    },
    /// A path that is to be registered refers to one that isn't valid. Nothing was registered.
    #[error("cannot register path '{path}' because it refers to '{reference}', which is not valid")]
    UnknownReference {
        /// The whole path.
        path: String,
        /// What it refers to, whole.
        reference: String,
    },
    /// Paths that are to be registered refer to each other in a circle. Nothing was registered.
    #[error("cycle detected in the references of '{path}' from '{parent}'")]
    Cycle {
        /// A path of the circle.
        path: String,
        /// One that refers to it.
        parent: String,
    },
    /// A path that others refer to was to be invalidated. None was.
    #[error("cannot delete path '{path}' because it is in use by {}", quoted(referrers))]
    InUse {
        /// The whole path.
        path: String,
        /// Those who refer to it, whole.
        referrers: Vec<String>,
    },
    /// An output of a derivation is already known to be another path.
    #[error(
        "Trying to register a realisation of '{id}', but we already have another one locally.\n\
         Local:  {local}\nRemote: {remote}"
    )]
    OtherRealisation {
        /// The output.
        id: String,
        /// The path that is known.
        local: StorePath,
        /// The path that was to be registered.
        remote: StorePath,
    },
    /// The graph is larger than a program can number.
    #[error("the database has more than 4294967295 paths or references")]
    TooLarge,
    /// SQLite failed otherwise.
    #[error("SQLite database '{}' failed", path.display())]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
}

fn quoted(paths: &[String]) -> String {
    paths.iter().map(|path| format!("'{path}'")).collect::<Vec<_>>().join(", ")
}

/// What kind of failure SQLite reports.
pub(crate) enum Failure {
    Busy,
    Other(DbError),
}

fn extended(source: &rusqlite::Error) -> Option<std::ffi::c_int> {
    source.sqlite_error().map(|error| error.extended_code)
}

pub(crate) fn classify(path: &std::path::Path, source: rusqlite::Error) -> Failure {
    let path = path.to_owned();
    let other = match source.sqlite_error_code() {
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::FileLockingProtocolFailed,
        ) => return Failure::Busy,
        Some(ErrorCode::DiskFull) => DbError::Full { path },
        // its index of the log is made larger in memory that a full disk has no room for
        _ if extended(&source) == Some(rusqlite::ffi::SQLITE_IOERR_SHMSIZE) => {
            DbError::Full { path }
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            DbError::Corrupt { path, detail: source.to_string() }
        }
        _ => DbError::Sqlite { path, source },
    };
    Failure::Other(other)
}
