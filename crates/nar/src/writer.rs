//! The streaming writer: calls in, canonical bytes out.
//!
//! It writes only archives that [`Parser`](crate::Parser) accepts: the order
//! of calls, names, sizes and nesting are checked, and a call that would break
//! the archive is refused before it writes anything.
//!
//! Follows `dumpPath` of C++ Nix (`src/libutil/archive.cc`).

use std::fmt;
use std::io;

use crate::error::{NameRule, NarError, Quoted, TargetRule};
use crate::grammar::check_order;
use crate::rules::{Limits, check_name, check_target};
use crate::token::{self, MAGIC, word};
use crate::visitor::Executable;

/// Why an archive could not be written.
///
/// After [`WriteError::Io`] nothing is known about what has been written; after
/// the others the call has had no effect.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The underlying writer failed.
    #[error("cannot write NAR")]
    Io(#[from] io::Error),
    /// The call does not fit what has been written so far.
    #[error("NAR writer: {call} where {place} is due")]
    OutOfPlace {
        /// The call.
        call: Call,
        /// What may stand there.
        place: &'static str,
    },
    /// The name cannot be that of an entry.
    #[error("invalid entry name {name}: {rule}")]
    InvalidName {
        /// The name.
        name: Quoted,
        /// The rule it breaks.
        rule: NameRule,
    },
    /// The name is not greater than the one before it in the directory.
    #[error(transparent)]
    Order(NarError),
    /// The target cannot be that of a symbolic link.
    #[error("invalid symlink target {target}: {rule}")]
    InvalidTarget {
        /// The target.
        target: Quoted,
        /// The rule it breaks.
        rule: TargetRule,
    },
    /// The node would be nested deeper than any reader follows.
    #[error("NAR nesting exceeds {limit}")]
    TooDeep {
        /// Greatest number of nodes from the root to any node.
        limit: usize,
    },
    /// More contents than the file was announced to have.
    #[error("{excess} bytes more than the announced file size")]
    ContentsTooLong {
        /// How many bytes too many.
        excess: u64,
    },
}

/// A call to [`Writer`], as errors name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Call {
    /// [`Writer::directory`]
    Directory,
    /// [`Writer::entry`]
    Entry,
    /// [`Writer::directory_end`]
    DirectoryEnd,
    /// [`Writer::regular`]
    Regular,
    /// [`Writer::contents`]
    Contents,
    /// [`Writer::symlink`]
    Symlink,
    /// [`Writer::finish`]
    Finish,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Call::Directory => "directory",
            Call::Entry => "entry",
            Call::DirectoryEnd => "end of directory",
            Call::Regular => "regular file",
            Call::Contents => "contents",
            Call::Symlink => "symlink",
            Call::Finish => "end of archive",
        })
    }
}

/// Writes one archive, node by node.
///
/// One node is written first: [`regular`](Writer::regular) followed by
/// [`contents`](Writer::contents), or [`symlink`](Writer::symlink), or
/// [`directory`](Writer::directory), then for every entry
/// [`entry`](Writer::entry) and its node, then
/// [`directory_end`](Writer::directory_end). Then [`finish`](Writer::finish).
///
/// ```
/// use drover_nar::{Executable, Writer};
///
/// let mut writer = Writer::new(Vec::new())?;
/// writer.directory()?;
/// writer.entry(b"hello")?;
/// writer.regular(Executable::No, 6)?;
/// writer.contents(b"hello\n")?;
/// writer.entry(b"link")?;
/// writer.symlink(b"hello")?;
/// writer.directory_end()?;
/// let nar = writer.finish()?;
/// # assert_eq!(nar.len() % 8, 0);
/// # Ok::<(), drover_nar::WriteError>(())
/// ```
///
/// Words are put together before they are written, contents are passed
/// through: give it a buffered writer only if files are written in tiny pieces.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    place: Place,
    /// For every open directory the name of its last entry.
    directories: Vec<Vec<u8>>,
    /// Strings of the call at hand, written at once.
    words: Vec<u8>,
}

/// What may be written next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Node,
    EntryOrEnd,
    Contents { remaining: u64, padding: u8 },
    Done,
}

impl Place {
    fn due(self) -> &'static str {
        match self {
            Place::Node => "a node",
            Place::EntryOrEnd => "an entry or the end of a directory",
            Place::Contents { .. } => "more contents",
            Place::Done => "the end of the archive",
        }
    }
}

impl<W: io::Write> Writer<W> {
    /// Begins an archive.
    ///
    /// # Errors
    ///
    /// Returns an error if `out` does.
    pub fn new(mut out: W) -> io::Result<Writer<W>> {
        out.write_all(MAGIC)?;
        Ok(Writer { out, place: Place::Node, directories: Vec::new(), words: Vec::new() })
    }

    /// Begins a directory.
    ///
    /// # Errors
    ///
    /// Returns an error if no node is due, or it would be nested too deep.
    pub fn directory(&mut self) -> Result<(), WriteError> {
        self.begin_node(Call::Directory)?;
        self.write_words(&[word::OPEN, word::TYPE, word::DIRECTORY])?;
        self.directories.push(Vec::new());
        self.place = Place::EntryOrEnd;
        Ok(())
    }

    /// Begins an entry of the innermost open directory; its node must follow.
    ///
    /// # Errors
    ///
    /// Returns an error if no entry is due, or `name` is not valid, or not
    /// greater than the name before it in byte order.
    pub fn entry(&mut self, name: &[u8]) -> Result<(), WriteError> {
        let out_of_place = self.out_of_place(Call::Entry);
        let previous = match (self.place, self.directories.last_mut()) {
            (Place::EntryOrEnd, Some(previous)) => previous,
            _ => return Err(out_of_place),
        };
        check_name(name).map_err(|rule| WriteError::InvalidName { name: name.into(), rule })?;
        check_order(previous, name).map_err(WriteError::Order)?;
        previous.clear();
        previous.extend_from_slice(name);
        self.write_words(&[word::ENTRY, word::OPEN, word::NAME, name, word::NODE])?;
        self.place = Place::Node;
        Ok(())
    }

    /// Ends the innermost open directory.
    ///
    /// # Errors
    ///
    /// Returns an error if a node or contents are due, or no directory is open.
    pub fn directory_end(&mut self) -> Result<(), WriteError> {
        if self.place != Place::EntryOrEnd {
            return Err(self.out_of_place(Call::DirectoryEnd));
        }
        self.directories.pop();
        self.end_node()
    }

    /// Begins a regular file of exactly `size` bytes.
    ///
    /// # Errors
    ///
    /// Returns an error if no node is due, or it would be nested too deep.
    pub fn regular(&mut self, executable: Executable, size: u64) -> Result<(), WriteError> {
        self.begin_node(Call::Regular)?;
        self.words.clear();
        let words: &[&[u8]] = match executable {
            Executable::No => &[word::OPEN, word::TYPE, word::REGULAR, word::CONTENTS],
            Executable::Yes => {
                &[word::OPEN, word::TYPE, word::REGULAR, word::EXECUTABLE, b"", word::CONTENTS]
            }
        };
        words.iter().for_each(|word| token::append(&mut self.words, word));
        self.words.extend_from_slice(&size.to_le_bytes());
        self.out.write_all(&self.words)?;
        self.place = Place::Contents { remaining: size, padding: token::padding_len(size) };
        self.contents(b"")
    }

    /// Writes the next bytes of the open file. The last of them ends the file,
    /// which is ended at once if its size is zero.
    ///
    /// # Errors
    ///
    /// Returns an error if no contents are due, or not so many.
    pub fn contents(&mut self, chunk: &[u8]) -> Result<(), WriteError> {
        let Place::Contents { remaining, padding } = self.place else {
            // A caller that copies until its input is dry ends with nothing to add.
            return if chunk.is_empty() { Ok(()) } else { Err(self.out_of_place(Call::Contents)) };
        };
        let len = chunk.len() as u64;
        let Some(remaining) = remaining.checked_sub(len) else {
            return Err(WriteError::ContentsTooLong { excess: len - remaining });
        };
        self.out.write_all(chunk)?;
        self.place = Place::Contents { remaining, padding };
        if remaining == 0 {
            let zeros = [0; 8];
            self.out.write_all(zeros.get(..usize::from(padding)).unwrap_or_default())?;
            self.end_node()?;
        }
        Ok(())
    }

    /// Writes a symbolic link.
    ///
    /// # Errors
    ///
    /// Returns an error if no node is due, it would be nested too deep, or
    /// `target` is not valid.
    pub fn symlink(&mut self, target: &[u8]) -> Result<(), WriteError> {
        check_target(target)
            .map_err(|rule| WriteError::InvalidTarget { target: target.into(), rule })?;
        self.begin_node(Call::Symlink)?;
        self.write_words(&[word::OPEN, word::TYPE, word::SYMLINK, word::TARGET, target])?;
        self.end_node()
    }

    /// Returns the underlying writer, which holds a complete archive but has
    /// not been flushed.
    ///
    /// # Errors
    ///
    /// Returns an error if the archive is not complete.
    pub fn finish(self) -> Result<W, WriteError> {
        match self.place {
            Place::Done => Ok(self.out),
            _ => Err(self.out_of_place(Call::Finish)),
        }
    }

    fn begin_node(&self, call: Call) -> Result<(), WriteError> {
        let limit = Limits::default().max_depth;
        match self.place {
            Place::Node if self.directories.len() < limit => Ok(()),
            Place::Node => Err(WriteError::TooDeep { limit }),
            _ => Err(self.out_of_place(call)),
        }
    }

    /// Closes a node and, unless it is the root, the entry around it.
    fn end_node(&mut self) -> Result<(), WriteError> {
        if self.directories.is_empty() {
            self.write_words(&[word::CLOSE])?;
            self.place = Place::Done;
        } else {
            self.write_words(&[word::CLOSE, word::CLOSE])?;
            self.place = Place::EntryOrEnd;
        }
        Ok(())
    }

    fn write_words(&mut self, words: &[&[u8]]) -> io::Result<()> {
        self.words.clear();
        words.iter().for_each(|word| token::append(&mut self.words, word));
        self.out.write_all(&self.words)
    }

    fn out_of_place(&self, call: Call) -> WriteError {
        WriteError::OutOfPlace { call, place: self.place.due() }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    type Out = Writer<Vec<u8>>;

    fn nothing(_: &mut Out) -> Result<(), WriteError> {
        Ok(())
    }

    fn directory(writer: &mut Out) -> Result<(), WriteError> {
        writer.directory()
    }

    fn done(writer: &mut Out) -> Result<(), WriteError> {
        writer.symlink(b"x")
    }

    fn entry(writer: &mut Out) -> Result<(), WriteError> {
        writer.directory()?;
        writer.entry(b"m")
    }

    fn after_entry(writer: &mut Out) -> Result<(), WriteError> {
        entry(writer)?;
        writer.symlink(b"x")
    }

    fn in_file(writer: &mut Out) -> Result<(), WriteError> {
        writer.regular(Executable::No, 4)?;
        writer.contents(b"12")
    }

    #[rstest]
    #[case::entry_at_root(nothing, |w: &mut Out| w.entry(b"x"), "NAR writer: entry where a node is due")]
    #[case::end_at_root(nothing, |w: &mut Out| w.directory_end(), "NAR writer: end of directory where a node is due")]
    #[case::contents_at_root(nothing, |w: &mut Out| w.contents(b"x"), "NAR writer: contents where a node is due")]
    #[case::second_root(done, |w: &mut Out| w.directory(), "NAR writer: directory where the end of the archive is due")]
    #[case::node_without_entry(
        directory,
        |w: &mut Out| w.regular(Executable::No, 1),
        "NAR writer: regular file where an entry or the end of a directory is due"
    )]
    #[case::entry_without_node(entry, |w: &mut Out| w.directory_end(), "NAR writer: end of directory where a node is due")]
    #[case::short_file(in_file, |w: &mut Out| w.symlink(b"x"), "NAR writer: symlink where more contents is due")]
    #[case::long_file(in_file, |w: &mut Out| w.contents(b"345"), "1 bytes more than the announced file size")]
    #[case::unsorted(after_entry, |w: &mut Out| w.entry(b"a"), r#"bad archive: NAR directory is not sorted: "a" after "m""#)]
    #[case::duplicate(after_entry, |w: &mut Out| w.entry(b"m"), r#"bad archive: NAR directory is not sorted: duplicate entry "m""#)]
    #[case::name(directory, |w: &mut Out| w.entry(b"a/b"), r#"invalid entry name "a/b": it contains a slash"#)]
    #[case::target(entry, |w: &mut Out| w.symlink(b""), r#"invalid symlink target "": it is empty"#)]
    fn refuses_what_does_not_fit(
        #[case] before: fn(&mut Out) -> Result<(), WriteError>,
        #[case] call: fn(&mut Out) -> Result<(), WriteError>,
        #[case] message: &str,
    ) {
        let mut writer = Writer::new(Vec::new()).unwrap();
        before(&mut writer).unwrap();
        let written = writer.out.len();
        assert_eq!(call(&mut writer).unwrap_err().to_string(), message);
        assert_eq!(writer.out.len(), written, "nothing was written");
    }

    #[test]
    fn refuses_depth_65_and_an_early_end() {
        let mut writer = Writer::new(Vec::new()).unwrap();
        for _ in 0..64 {
            writer.directory().unwrap();
            writer.entry(b"d").unwrap();
        }
        assert_eq!(writer.symlink(b"x").unwrap_err().to_string(), "NAR nesting exceeds 64");
        assert_eq!(
            writer.finish().unwrap_err().to_string(),
            "NAR writer: end of archive where a node is due"
        );
    }
}
