//! Reading `nix.conf`: lines, comments and includes, in the order of the text.
//!
//! Follows `parseConfigFiles` of C++ Nix (`src/libutil/configuration.cc`). Nix
//! has no guard against files that include themselves; there is one here.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::ConfigError;
use crate::files::Files;
use crate::origin::{Note, Origin, Severity};
use crate::paths::absolute;
use crate::words::{without_comment, words};

/// Greatest nesting of included files.
const MAX_DEPTH: usize = 32;

/// Greatest number of files included in all, however often the same.
const MAX_INCLUDES: usize = 1024;

/// One line that sets something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) origin: Origin,
}

/// Whether an included file may be absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Absence {
    Allowed,
    Refused,
}

/// Collects the lines of files and of what they include.
pub(crate) struct Reader<'f, F: ?Sized> {
    files: &'f F,
    pub(crate) lines: Vec<Line>,
    pub(crate) notes: Vec<Note>,
    /// What is wrong with lines, which were passed over.
    pub(crate) errors: Vec<ConfigError>,
    /// The files being read, each included by the one before it.
    open: Vec<PathBuf>,
    includes: usize,
}

impl<'f, F: Files + ?Sized> Reader<'f, F> {
    pub(crate) fn new(files: &'f F) -> Reader<'f, F> {
        let (lines, notes, errors) = (Vec::new(), Vec::new(), Vec::new());
        Reader { files, lines, notes, errors, open: Vec::new(), includes: 0 }
    }

    /// Reads a file that need not exist. One that cannot be read is skipped, as
    /// Nix does, with a note.
    pub(crate) fn file(&mut self, path: &Path) {
        match self.files.read(path) {
            Ok(None) => {}
            Ok(Some(text)) => self.open_file(path, &text),
            Err(error) => {
                self.unreadable(Origin::File { path: path.into(), line: 1 }, path, &error);
            }
        }
    }

    /// Reads the value of an environment variable; includes start from `base`.
    pub(crate) fn variable(&mut self, name: &'static str, text: &str, base: &Path) {
        self.text(text, base, |line| Origin::Environment { name, line });
    }

    fn open_file(&mut self, path: &Path, text: &str) {
        self.open.push(path.to_owned());
        let shared: Arc<Path> = path.into();
        let base = path.parent().unwrap_or(path);
        self.text(text, base, |line| Origin::File { path: shared.clone(), line });
        self.open.pop();
    }

    fn text(&mut self, text: &str, base: &Path, origin: impl Fn(usize) -> Origin) {
        for (index, line) in text.split('\n').enumerate() {
            let read = self.line(without_comment(line), base, origin(index + 1));
            self.errors.extend(read.err());
        }
    }

    fn line(&mut self, line: &str, base: &Path, origin: Origin) -> Result<(), ConfigError> {
        let mut rest = words(line);
        let syntax = |origin| Err(ConfigError::Syntax { origin, line: line.trim().to_owned() });
        let Some(name) = rest.next() else { return Ok(()) };
        match (name, rest.next()) {
            ("include" | "!include", Some(path)) => {
                if rest.next().is_some() {
                    return syntax(origin);
                }
                let path = absolute(Path::new(path), base);
                let absence = match name {
                    "include" => Absence::Refused,
                    _ => Absence::Allowed,
                };
                self.include(&path, absence, origin)
            }
            (_, Some("=")) => {
                let value = rest.collect::<Vec<_>>().join(" ");
                self.lines.push(Line { name: name.to_owned(), value, origin });
                Ok(())
            }
            _ => syntax(origin),
        }
    }

    fn include(
        &mut self,
        path: &Path,
        absence: Absence,
        origin: Origin,
    ) -> Result<(), ConfigError> {
        if self.open.iter().any(|open| open == path) {
            return Err(ConfigError::IncludeLoop { origin, path: path.to_owned() });
        }
        if MAX_DEPTH <= self.open.len() {
            return Err(ConfigError::IncludesTooDeep { origin, limit: MAX_DEPTH });
        }
        if MAX_INCLUDES <= self.includes {
            return Err(ConfigError::TooManyIncludes { origin, limit: MAX_INCLUDES });
        }
        self.includes += 1;
        match self.files.read(path) {
            Ok(Some(text)) => {
                self.open_file(path, &text);
                Ok(())
            }
            Ok(None) => match absence {
                Absence::Refused => {
                    Err(ConfigError::IncludeNotFound { origin, path: path.to_owned() })
                }
                Absence::Allowed => Ok(()),
            },
            Err(error) => {
                self.unreadable(origin, path, &error);
                Ok(())
            }
        }
    }

    fn unreadable(&mut self, origin: Origin, path: &Path, error: &io::Error) {
        let text = format!("skipped '{}', which cannot be read: {error}", path.display());
        let remedy = format!(
            "make it a text file that this user may read: ls -lL '{}' shows who may",
            path.display()
        );
        self.notes.push(Note { origin, severity: Severity::Warning, text, remedy });
    }
}
