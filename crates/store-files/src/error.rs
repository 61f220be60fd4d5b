//! Why something could not be done with a file tree.

use std::fmt;
use std::io;

use drover_nar::{NameRule, NarError, Quoted, TargetRule};
use rustix::io::Errno;

/// Why something could not be done with a file tree.
///
/// What had been done to the tree before is not undone: a tree that was being made is to be
/// removed, one that was being removed or put in order may be half so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FilesError {
    /// The system refused something.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: TreePath,
        /// What the system said.
        source: io::Error,
    },
    /// The bytes are no archive that may be unpacked.
    #[error(transparent)]
    Nar(#[from] NarError),
    /// Something of that name is there. Within an archive, whose names differ, it takes a file
    /// system that holds different names for the same.
    #[error("{path} exists already")]
    Exists {
        /// What was to be made.
        path: TreePath,
    },
    /// It can't be the name of a file.
    #[error("invalid file name {name}: {rule}")]
    InvalidName {
        /// The name.
        name: Quoted,
        /// The rule that it breaks.
        rule: NameRule,
    },
    /// A link that no archive may hold.
    #[error("{path} points to {target}, which no archive may hold: {rule}")]
    InvalidTarget {
        /// The link.
        path: TreePath,
        /// What it points to.
        target: Quoted,
        /// The rule that it breaks.
        rule: TargetRule,
    },
    /// Neither a regular file, nor a directory, nor a symbolic link.
    #[error("{path} is a {kind}; a store holds regular files, directories and symbolic links")]
    UnsupportedType {
        /// Where it is.
        path: TreePath,
        /// What it is.
        kind: &'static str,
    },
    /// Directories are nested too deep for an archive.
    #[error("what is in {path} is nested deeper than {limit}, as deep as an archive may be")]
    TooDeep {
        /// The first directory whose entries are too deep.
        path: TreePath,
        /// Nodes from the root to any node, both included.
        limit: usize,
    },
    /// The tree has more entries than an archive may have.
    #[error("{path} has more than {limit} entries, as many as an archive may have")]
    TooManyEntries {
        /// The tree.
        path: TreePath,
        /// The greatest number of entries in a tree.
        limit: u64,
    },
    /// Somebody has cut a file while it was read.
    #[error("{path} changed while it was read: it had {announced} bytes, then {found}")]
    Changed {
        /// The file.
        path: TreePath,
        /// Its size when it was opened.
        announced: u64,
        /// Its size later.
        found: u64,
    },
    /// Something belongs to somebody who had no business in the tree.
    #[error("{path} belongs to user {owner}, who may own nothing here")]
    ForeignOwner {
        /// What it is.
        path: TreePath,
        /// Whose it is.
        owner: u32,
    },
    /// A file that would have to change is one that is also elsewhere, under another name.
    #[error(
        "{path} has {links} links, {inside} of them here; to change it would change it elsewhere: \
         copy files from elsewhere instead of linking them"
    )]
    LinkedFromOutside {
        /// The file.
        path: TreePath,
        /// All of its links.
        links: u64,
        /// Those that are in the trees at hand.
        inside: u64,
    },
    /// Somebody keeps making entries in a directory that is being removed.
    #[error("{path} keeps being filled while it is removed")]
    Refilled {
        /// The directory.
        path: TreePath,
    },
    /// The thread that unpacks could not be had, or came to a bad end.
    #[error("cannot unpack on another thread")]
    Thread(#[source] io::Error),
}

impl FilesError {
    /// Whether something wasn't there, or no longer.
    pub fn is_missing(&self) -> bool {
        matches!(self, FilesError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    pub(crate) fn io(action: &'static str, path: TreePath, errno: Errno) -> FilesError {
        FilesError::Io { action, path, source: errno.into() }
    }

    /// An error of what makes something new.
    pub(crate) fn make(action: &'static str, path: TreePath, errno: Errno) -> FilesError {
        match errno {
            Errno::EXIST => FilesError::Exists { path },
            errno => FilesError::io(action, path, errno),
        }
    }
}

/// Where in a tree something is: the names from the tree's root on, joined by slashes.
///
/// For messages: it is displayed quoted, escaped and cut at its front to 1000 bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct TreePath(Box<[u8]>);

impl TreePath {
    const SHOWN: usize = 1000;

    /// Joins names.
    pub(crate) fn of<'a>(names: impl IntoIterator<Item = &'a [u8]>) -> TreePath {
        TreePath(names.into_iter().collect::<Vec<&[u8]>>().join(&b'/').into())
    }

    /// Returns the bytes themselves.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cut = self.0.len().saturating_sub(TreePath::SHOWN);
        let (hidden, shown) = self.0.split_at(cut);
        let dots = if hidden.is_empty() { "" } else { "…" };
        write!(f, "'{dots}{}'", shown.escape_ascii())
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_one_bounded_line() {
        let path = TreePath::of([b"a".as_slice(), b"b\n"]);
        assert_eq!(path.to_string(), r"'a/b\n'");
        let long = TreePath::of(std::iter::repeat_n(b"x".as_slice(), 10_000)).to_string();
        assert!(long.starts_with("'…") && long.len() < 1010, "{long}");
    }
}
