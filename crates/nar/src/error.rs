//! Why an archive was refused: one line each, naming the input and the rule.

use std::fmt;

use crate::rules::{CASE_HACK, MAX_NAME_LEN, MAX_TARGET_LEN};

/// Why bytes are not a NAR that drover accepts.
///
/// Whatever the visitor was told before the error describes a tree that does
/// not exist: nothing made from it may be kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NarError {
    /// The first bytes are not those of a NAR: often a banner or an error
    /// message of whatever answered in place of the peer.
    #[error("not a NAR: bad magic (got {got})")]
    BadMagic {
        /// The first bytes, as far as they have arrived (at most 64).
        got: Quoted,
    },
    /// Another word of the grammar, or a value in its place, was due.
    #[error("bad archive: expected {expected}, got {got}")]
    Unexpected {
        /// What may stand here, quoted, as English.
        expected: &'static str,
        /// What stands here.
        got: Quoted,
    },
    /// The bytes that fill a string or a file to a multiple of eight are not zero.
    #[error("bad archive: expected zero padding, got {got}")]
    Padding {
        /// The padding as received.
        got: Quoted,
    },
    /// A string is announced to be longer than its kind may be; it was not read.
    #[error("string length {len} exceeds limit {limit} ({field})")]
    StringTooLong {
        /// Announced length, in bytes.
        len: u64,
        /// Greatest length of this kind of string, in bytes.
        limit: u64,
        /// What the string would have been.
        field: StringField,
    },
    /// A file is announced that cannot fit into the archive; it was not read.
    #[error("file size {size} exceeds declared NAR size of {limit}")]
    FileTooLarge {
        /// Announced size of the file, in bytes.
        size: u64,
        /// [`Limits::max_size`](crate::Limits::max_size), in bytes.
        limit: u64,
    },
    /// The archive does not end within its declared size.
    #[error("NAR exceeds its declared size of {limit}")]
    TooLarge {
        /// [`Limits::max_size`](crate::Limits::max_size), in bytes.
        limit: u64,
    },
    /// Directories are nested too deep.
    #[error("NAR nesting exceeds {limit}")]
    TooDeep {
        /// [`Limits::max_depth`](crate::Limits::max_depth).
        limit: usize,
    },
    /// The archive has too many entries.
    #[error("NAR has more than {limit} entries")]
    TooManyEntries {
        /// [`Limits::max_entries`](crate::Limits::max_entries).
        limit: u64,
    },
    /// The entries of a directory are not in increasing byte order.
    #[error("bad archive: NAR directory is not sorted: {name} after {previous}")]
    NotSorted {
        /// The entry out of order.
        name: Quoted,
        /// The entry before it.
        previous: Quoted,
    },
    /// A directory has two entries of one name.
    #[error("bad archive: NAR directory is not sorted: duplicate entry {name}")]
    Duplicate {
        /// The name.
        name: Quoted,
    },
    /// An entry has a name that no directory may hold.
    #[error("invalid entry name {name}: {rule}")]
    InvalidName {
        /// The name.
        name: Quoted,
        /// The rule it breaks.
        rule: NameRule,
    },
    /// A symbolic link points to something no link may point to.
    #[error("invalid symlink target {target}: {rule}")]
    InvalidTarget {
        /// The target.
        target: Quoted,
        /// The rule it breaks.
        rule: TargetRule,
    },
    /// The input ended before the archive did.
    #[error("unexpected end of NAR after {offset} bytes")]
    Truncated {
        /// Bytes received.
        offset: u64,
    },
    /// The input goes on after the archive has ended.
    #[error("{count} trailing bytes after NAR")]
    Trailing {
        /// Bytes after the closing parenthesis.
        count: u64,
    },
    /// The archive is sound, but a single regular file was asked for.
    #[error("NAR holds a {found}, expected a regular file")]
    NotRegularFile {
        /// What it holds: `directory` or `symlink`.
        found: &'static str,
    },
    /// The parser was fed after it had failed. The first error tells why.
    #[error("NAR parser was fed after a failure")]
    AlreadyFailed,
}

/// Which string of the grammar a length belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StringField {
    /// A fixed word such as `type` or `(`.
    Word,
    /// The name of a directory entry.
    EntryName,
    /// The target of a symbolic link.
    SymlinkTarget,
}

impl fmt::Display for StringField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StringField::Word => "keyword",
            StringField::EntryName => "entry name",
            StringField::SymlinkTarget => "symlink target",
        })
    }
}

/// A rule for entry names that was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NameRule {
    /// Names have at least one byte.
    Empty,
    /// Names have at most [`MAX_NAME_LEN`] bytes.
    TooLong,
    /// `.` and `..` are taken by the file system.
    Dots,
    /// A slash would lead out of the directory.
    Slash,
    /// NUL ends names in system calls.
    Nul,
    /// The suffix by which Nix on macOS tells colliding names apart; in an
    /// archive it could only be there to collide after it is removed.
    CaseHack,
}

impl fmt::Display for NameRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NameRule::Empty => f.write_str("it is empty"),
            NameRule::TooLong => write!(f, "it is longer than {MAX_NAME_LEN} bytes"),
            NameRule::Dots => f.write_str("it is reserved"),
            NameRule::Slash => f.write_str("it contains a slash"),
            NameRule::Nul => f.write_str("it contains a NUL byte"),
            NameRule::CaseHack => write!(f, "it contains {CASE_HACK}"),
        }
    }
}

/// A rule for targets of symbolic links that was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TargetRule {
    /// Targets have at least one byte.
    Empty,
    /// Targets have at most [`MAX_TARGET_LEN`] bytes.
    TooLong,
    /// NUL ends targets in system calls.
    Nul,
}

impl fmt::Display for TargetRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TargetRule::Empty => f.write_str("it is empty"),
            TargetRule::TooLong => write!(f, "it is longer than {MAX_TARGET_LEN} bytes"),
            TargetRule::Nul => f.write_str("it contains a NUL byte"),
        }
    }
}

/// A few bytes of untrusted input, shown quoted, escaped, and on one line.
///
/// Displays at most 128 of the bytes, and says so if there are more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quoted(Box<[u8]>);

impl Quoted {
    const SHOWN: usize = 128;

    /// Returns the bytes themselves.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<&[u8]> for Quoted {
    fn from(bytes: &[u8]) -> Quoted {
        Quoted(bytes.into())
    }
}

impl fmt::Display for Quoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.split_at_checked(Quoted::SHOWN) {
            Some((shown, rest)) if !rest.is_empty() => {
                write!(f, "\"{}…\" ({} bytes)", shown.escape_ascii(), self.0.len())
            }
            _ => write!(f, "\"{}\"", self.0.escape_ascii()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_is_one_bounded_line() {
        assert_eq!(Quoted::from(b"a\n\"\xff".as_slice()).to_string(), r#""a\n\"\xff""#);
        let long = Quoted::from([b'x'; 200].as_slice()).to_string();
        assert!(long.ends_with("…\" (200 bytes)") && long.len() < 160, "{long}");
    }
}
