//! The grammar of an archive: which string may follow which, and what a
//! directory may hold.
//!
//! ```text
//! archive   = "nix-archive-1" node
//! node      = "(" "type" (regular | directory | symlink) ")"
//! regular   = "regular" ["executable" ""] "contents" contents
//! directory = "directory" ("entry" "(" "name" name "node" node ")")*
//! symlink   = "symlink" "target" target
//! ```
//!
//! Follows `parse` of C++ Nix (`src/libutil/archive.cc`).

use std::cmp::Ordering;

use crate::error::{NarError, StringField};
use crate::rules::{Limits, MAX_NAME_LEN, MAX_TARGET_LEN, check_name, check_target};
use crate::token::word;
use crate::visitor::{Executable, Visitor};

/// Longest string accepted where a fixed word is due, in bytes. More than any
/// word has, so that an error can show what came instead.
const MAX_WORD_LEN: usize = 32;

/// What is due next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The first `matched` bytes of the magic have been seen.
    Magic { matched: usize },
    /// A string is due.
    Text(Expect),
    /// The size of a file is due.
    Size { executable: Executable },
    /// Contents, then padding, are due.
    Contents { remaining: u64, padding: u8 },
    /// The archive is complete.
    Done,
    /// An error has been returned.
    Failed,
}

/// Which string of the grammar is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    NodeOpen,
    NodeType,
    Kind,
    ExecutableOrContents,
    ExecutableValue,
    Contents,
    Target,
    TargetValue,
    NodeClose,
    EntryOrClose,
    EntryOpen,
    Name,
    NameValue,
    Node,
    EntryClose,
}

impl Expect {
    pub(crate) fn field(self) -> (StringField, usize) {
        match self {
            Expect::NameValue => (StringField::EntryName, MAX_NAME_LEN),
            Expect::TargetValue => (StringField::SymlinkTarget, MAX_TARGET_LEN),
            _ => (StringField::Word, MAX_WORD_LEN),
        }
    }

    /// What may stand here, as an error says it.
    fn alternatives(self) -> &'static str {
        match self {
            Expect::NodeOpen | Expect::EntryOpen => "\"(\"",
            Expect::NodeType => "\"type\"",
            Expect::Kind => "\"regular\", \"directory\" or \"symlink\"",
            Expect::ExecutableOrContents => "\"executable\" or \"contents\"",
            Expect::ExecutableValue => "\"\"",
            Expect::Contents => "\"contents\"",
            Expect::Target => "\"target\"",
            Expect::TargetValue => "a symlink target",
            Expect::NodeClose | Expect::EntryClose => "\")\"",
            Expect::EntryOrClose => "\"entry\" or \")\"",
            Expect::Name => "\"name\"",
            Expect::NameValue => "an entry name",
            Expect::Node => "\"node\"",
        }
    }
}

/// Where in the tree an archive has got to.
#[derive(Clone, Debug)]
pub(crate) struct Grammar {
    limits: Limits,
    entries: u64,
    /// For every open directory the name of its entry reported last.
    directories: Vec<Vec<u8>>,
}

impl Grammar {
    pub(crate) fn new(limits: Limits) -> Grammar {
        Grammar { limits, entries: 0, directories: Vec::new() }
    }

    /// Takes one string as what is due, reports it, and says what is due next.
    pub(crate) fn accept(
        &mut self,
        expect: Expect,
        text: &[u8],
        visitor: &mut (impl Visitor + ?Sized),
    ) -> Result<Stage, NarError> {
        Ok(match (expect, text) {
            (Expect::NodeOpen, word::OPEN) => {
                self.check_depth()?;
                Stage::Text(Expect::NodeType)
            }
            (Expect::NodeType, word::TYPE) => Stage::Text(Expect::Kind),
            (Expect::Kind, word::REGULAR) => Stage::Text(Expect::ExecutableOrContents),
            (Expect::Kind, word::SYMLINK) => Stage::Text(Expect::Target),
            (Expect::Kind, word::DIRECTORY) => {
                self.directories.push(Vec::new());
                visitor.directory();
                Stage::Text(Expect::EntryOrClose)
            }
            (Expect::ExecutableOrContents, word::EXECUTABLE) => {
                Stage::Text(Expect::ExecutableValue)
            }
            (Expect::ExecutableOrContents, word::CONTENTS) => {
                Stage::Size { executable: Executable::No }
            }
            (Expect::ExecutableValue, b"") => Stage::Text(Expect::Contents),
            (Expect::Contents, word::CONTENTS) => Stage::Size { executable: Executable::Yes },
            (Expect::Target, word::TARGET) => Stage::Text(Expect::TargetValue),
            (Expect::TargetValue, target) => {
                check_target(target)
                    .map_err(|rule| NarError::InvalidTarget { target: target.into(), rule })?;
                visitor.symlink(target);
                Stage::Text(Expect::NodeClose)
            }
            (Expect::NodeClose, word::CLOSE) => self.after_node(),
            (Expect::EntryOrClose, word::CLOSE) => {
                self.directories.pop();
                visitor.directory_end();
                self.after_node()
            }
            (expect, text) => Stage::Text(self.accept_entry(expect, text, visitor)?),
        })
    }

    /// The part of [`Grammar::accept`] that is between the entries of a directory.
    fn accept_entry(
        &mut self,
        expect: Expect,
        text: &[u8],
        visitor: &mut (impl Visitor + ?Sized),
    ) -> Result<Expect, NarError> {
        Ok(match (expect, text) {
            (Expect::EntryOrClose, word::ENTRY) => Expect::EntryOpen,
            (Expect::EntryOpen, word::OPEN) => Expect::Name,
            (Expect::Name, word::NAME) => Expect::NameValue,
            (Expect::NameValue, name) => {
                self.check_entry(name)?;
                visitor.entry(name);
                Expect::Node
            }
            (Expect::Node, word::NODE) => Expect::NodeOpen,
            (Expect::EntryClose, word::CLOSE) => {
                visitor.entry_end();
                Expect::EntryOrClose
            }
            (expect, text) => {
                return Err(NarError::Unexpected {
                    expected: expect.alternatives(),
                    got: text.into(),
                });
            }
        })
    }

    /// Says what is due after a node: the end, or the end of its entry.
    fn after_node(&self) -> Stage {
        match self.directories.is_empty() {
            true => Stage::Done,
            false => Stage::Text(Expect::EntryClose),
        }
    }

    fn check_depth(&self) -> Result<(), NarError> {
        let limit = self.limits.max_depth;
        if limit <= self.directories.len() {
            return Err(NarError::TooDeep { limit });
        }
        Ok(())
    }

    /// Checks a name by itself and against the one before it, and keeps it.
    fn check_entry(&mut self, name: &[u8]) -> Result<(), NarError> {
        check_name(name).map_err(|rule| NarError::InvalidName { name: name.into(), rule })?;
        let limit = self.limits.max_entries;
        if limit <= self.entries {
            return Err(NarError::TooManyEntries { limit });
        }
        self.entries += 1;
        let Some(previous) = self.directories.last_mut() else { return Ok(()) };
        check_order(previous, name)?;
        previous.clear();
        previous.extend_from_slice(name);
        Ok(())
    }
}

/// Checks that `name` may follow `previous`, which is empty before the first.
pub(crate) fn check_order(previous: &[u8], name: &[u8]) -> Result<(), NarError> {
    match previous.cmp(name) {
        Ordering::Less => Ok(()),
        Ordering::Equal => Err(NarError::Duplicate { name: name.into() }),
        Ordering::Greater => {
            Err(NarError::NotSorted { name: name.into(), previous: previous.into() })
        }
    }
}
