//! The machines file and the value of `builders`, which have one syntax.
//!
//! Follows `expandBuilderLines` of C++ Nix (`src/libstore/machines.cc`): a `#`
//! begins a comment wherever it stands, so nothing can contain one; `;` ends an
//! entry; an entry `@path` stands for the entries of that file. Nix has no
//! guard against files that include themselves; there is one here.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::files::Files;
use crate::machine::{Column, Machine};
use crate::origin::{Note, Origin, Severity};
use crate::paths::absolute;
use crate::store_reference::StoreReferenceError;
use crate::words::{trim, without_comment};

/// Greatest nesting of `@` files.
const MAX_DEPTH: usize = 32;

/// Greatest number of `@` files in all, however often the same.
const MAX_INCLUDES: usize = 1024;

/// Why a machines file could not be understood.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MachinesError {
    /// The first column is missing.
    #[error("{origin}: the store is missing in '{line}'")]
    NoStore {
        /// Where.
        origin: Origin,
        /// The line.
        line: String,
    },
    /// The first column is not a store.
    #[error("{origin}: column 1 (store)")]
    Store {
        /// Where.
        origin: Origin,
        /// Why not.
        source: StoreReferenceError,
    },
    /// Another column has a value that it cannot have.
    #[error("{origin}: {column} is '{value}', expected {}", column.accepts())]
    Column {
        /// Where.
        origin: Origin,
        /// The column.
        column: Column,
        /// The value.
        value: String,
    },
    /// A file exists but cannot be read.
    #[error("{origin}: cannot read machines file '{}'", path.display())]
    Read {
        /// Where it is included.
        origin: Origin,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file includes itself, directly or through others.
    #[error("{origin}: machines file '{}' includes itself", path.display())]
    IncludeLoop {
        /// Where the include is that closes the loop.
        origin: Origin,
        /// The file.
        path: PathBuf,
    },
    /// Files are nested too deep.
    #[error("{origin}: machines files nested deeper than {limit}")]
    IncludesTooDeep {
        /// Where the include is that goes too deep.
        origin: Origin,
        /// Greatest nesting.
        limit: usize,
    },
    /// There are too many files.
    #[error("{origin}: more than {limit} machines files")]
    TooManyIncludes {
        /// Where the include is that is one too many.
        origin: Origin,
        /// Greatest number.
        limit: usize,
    },
}

/// The value of the `builders` setting, and how it is to be understood.
#[derive(Clone, Copy, Debug)]
pub struct Builders<'a> {
    /// The value.
    pub text: &'a str,
    /// Where it was written.
    pub origin: &'a Origin,
    /// What machines without systems build for.
    pub default_system: &'a str,
    /// Where relative `@` paths in the value start from. Those in files start
    /// from the root, because that is where the build hook of Nix runs.
    pub dir: &'a Path,
}

/// What the value of `builders` has come to.
#[derive(Debug, Default)]
pub struct Machines {
    /// The machines, in order.
    pub machines: Vec<Machine>,
    /// Lines of files that are wrong, and files in files that cannot be read.
    pub rejected: Vec<MachinesError>,
    /// Files that do not exist, as Nix does not mind.
    pub notes: Vec<Note>,
}

/// Parses the value of the `builders` setting.
///
/// Nix uses no machine at all if one line is wrong. A machines file has many
/// lines, written by many hands, so here those that are wrong are set aside in
/// [`Machines::rejected`]; what the value itself says must be right.
///
/// # Errors
///
/// Returns an error for the first entry of the value that is wrong. Files that
/// do not exist are no error, but a note.
pub fn parse_machines(
    builders: &Builders<'_>,
    files: &(impl Files + ?Sized),
) -> Result<Machines, MachinesError> {
    let mut reader = Reader {
        files,
        default_system: builders.default_system,
        dir: builders.dir,
        result: Machines::default(),
        open: Vec::new(),
        includes: 0,
    };
    reader.text(builders.text, |_| builders.origin.clone())?;
    Ok(reader.result)
}

struct Reader<'a, F: ?Sized> {
    files: &'a F,
    default_system: &'a str,
    /// Where relative paths in the value start from.
    dir: &'a Path,
    result: Machines,
    /// The files being read, each included by the one before it.
    open: Vec<PathBuf>,
    includes: usize,
}

impl<F: Files + ?Sized> Reader<'_, F> {
    fn text(&mut self, text: &str, origin: impl Fn(usize) -> Origin) -> Result<(), MachinesError> {
        for (index, line) in text.split('\n').enumerate() {
            for entry in without_comment(line).split(';').map(trim) {
                if !entry.is_empty() {
                    self.entry(entry, &origin(index + 1))?;
                }
            }
        }
        Ok(())
    }

    /// Takes an entry, or sets it aside if it is wrong and in a file.
    fn entry(&mut self, entry: &str, origin: &Origin) -> Result<(), MachinesError> {
        let outcome = match entry.strip_prefix('@') {
            Some(path) => self.include(trim(path), origin),
            None => Machine::parse(entry, origin, self.default_system)
                .map(|machine| self.result.machines.push(machine)),
        };
        match outcome {
            Err(error) if !self.open.is_empty() => {
                self.result.rejected.push(error);
                Ok(())
            }
            outcome => outcome,
        }
    }

    fn include(&mut self, written: &str, origin: &Origin) -> Result<(), MachinesError> {
        let origin = origin.clone();
        let dir = if self.open.is_empty() { self.dir } else { Path::new("/") };
        let path = absolute(Path::new(written), dir);
        if self.open.contains(&path) {
            return Err(MachinesError::IncludeLoop { origin, path });
        }
        if MAX_DEPTH <= self.open.len() {
            return Err(MachinesError::IncludesTooDeep { origin, limit: MAX_DEPTH });
        }
        if MAX_INCLUDES <= self.includes {
            return Err(MachinesError::TooManyIncludes { origin, limit: MAX_INCLUDES });
        }
        self.includes += 1;
        let text = match self.files.read(&path) {
            _ if written.is_empty() => None,
            Ok(text) => text,
            Err(source) => return Err(MachinesError::Read { origin, path, source }),
        };
        let Some(text) = text else {
            let text = format!("machines file '{}' does not exist", path.display());
            let (severity, remedy) = match origin {
                Origin::Default => {
                    (Severity::Hint, "drover builder add HOST writes a machine into it".to_owned())
                }
                _ => (
                    Severity::Warning,
                    format!("list machines in it, a line each, or take '@{written}' away"),
                ),
            };
            self.result.notes.push(Note { origin, severity, text, remedy });
            return Ok(());
        };
        let shared: Arc<Path> = path.as_path().into();
        self.open.push(path);
        let read = self.text(&text, |line| Origin::File { path: shared.clone(), line });
        self.open.pop();
        read
    }
}
