//! What is in an archive and where, as the JSON text of `.ls` files.
//!
//! The form is that of `listNar` in `src/libutil/nar-accessor.cc` of Nix, version 1: files with their
//! size and the place of their contents in the archive, directories with their entries.

use std::fmt::Write as _;

use crate::error::NarError;
use crate::parser::{Parser, Progress};
use crate::rules::Limits;
use crate::visitor::{Executable, Visitor};

/// Bytes that a listing may have: some million entries.
const MAX_TEXT: usize = 256 * 1024 * 1024;

/// Why an archive isn't listed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ListError {
    /// It is none.
    #[error(transparent)]
    Nar(NarError),
    /// It goes on behind its end, or ends before.
    #[error("the archive ends too early or too late")]
    End,
    /// A name or a target that JSON can't hold.
    #[error("a name in the archive is not UTF-8")]
    Name,
    /// The listing would be larger than anybody reads.
    #[error("a listing may have {MAX_TEXT} bytes at the most")]
    Size,
}

/// Lists an archive while it passes.
#[derive(Debug)]
pub struct Lister {
    parser: Parser,
    listing: Listing,
    done: bool,
}

impl Default for Lister {
    fn default() -> Lister {
        Lister::new()
    }
}

impl Lister {
    /// Begins.
    pub fn new() -> Lister {
        let listing = Listing {
            text: String::from(r#"{"root":"#),
            offset: word(b"nix-archive-1"),
            first: true,
            size: 0,
            fault: None,
        };
        Lister { parser: Parser::new(Limits::default()), listing, done: false }
    }

    /// Takes the next bytes of the archive.
    ///
    /// # Errors
    ///
    /// What is wrong with it; it is of no use then.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), ListError> {
        if self.done {
            return if bytes.is_empty() { Ok(()) } else { Err(ListError::End) };
        }
        let progress = self.parser.feed(bytes, &mut self.listing).map_err(ListError::Nar)?;
        if let Some(fault) = self.listing.fault.take() {
            return Err(fault);
        }
        if let Progress::Done { consumed } = progress {
            self.done = true;
            if consumed != bytes.len() {
                return Err(ListError::End);
            }
        }
        Ok(())
    }

    /// Returns how many bytes the listing has so far.
    pub fn size(&self) -> usize {
        self.listing.text.len()
    }

    /// Returns the listing as JSON.
    ///
    /// # Errors
    ///
    /// The archive isn't complete.
    pub fn finish(self) -> Result<String, ListError> {
        if !self.done {
            return Err(ListError::End);
        }
        let mut text = self.listing.text;
        text.push_str(r#","version":1}"#);
        Ok(text)
    }
}

#[derive(Debug)]
struct Listing {
    text: String,
    /// Where the parser is in the archive.
    offset: u64,
    /// Whether no entry of the innermost directory has been listed yet.
    first: bool,
    /// Bytes of the open file.
    size: u64,
    fault: Option<ListError>,
}

/// Bytes of a word in an archive: its length, itself, and zeros up to a multiple of eight.
const fn word(word: &[u8]) -> u64 {
    8 + (word.len() as u64).next_multiple_of(8)
}

impl Listing {
    fn words(&mut self, words: &[&[u8]]) {
        for each in words {
            self.offset = self.offset.saturating_add(word(each));
        }
    }

    fn put(&mut self, text: &str) {
        if self.text.len().saturating_add(text.len()) > MAX_TEXT {
            self.fault.get_or_insert(ListError::Size);
        } else {
            self.text.push_str(text);
        }
    }

    fn put_string(&mut self, bytes: &[u8]) {
        let Ok(string) = std::str::from_utf8(bytes) else {
            self.fault.get_or_insert(ListError::Name);
            return;
        };
        let mut quoted = String::with_capacity(string.len() + 2);
        quoted.push('"');
        for character in string.chars() {
            match character {
                '"' | '\\' => {
                    quoted.push('\\');
                    quoted.push(character);
                }
                control if control < ' ' => {
                    // a string takes whatever is written to it
                    write!(quoted, "\\u{:04x}", u32::from(control)).unwrap_or_default();
                }
                other => quoted.push(other),
            }
        }
        quoted.push('"');
        self.put(&quoted);
    }
}

impl Visitor for Listing {
    fn directory(&mut self) {
        self.words(&[b"(", b"type", b"directory"]);
        self.put(r#"{"entries":{"#);
        self.first = true;
    }

    fn entry(&mut self, name: &[u8]) {
        self.words(&[b"entry", b"(", b"name", name, b"node"]);
        if !self.first {
            self.put(",");
        }
        self.first = false;
        self.put_string(name);
        self.put(":");
    }

    fn entry_end(&mut self) {
        self.words(&[b")"]);
        self.first = false;
    }

    fn directory_end(&mut self) {
        self.words(&[b")"]);
        self.put(r#"},"type":"directory"}"#);
    }

    fn regular(&mut self, executable: Executable, size: u64) {
        self.words(&[b"(", b"type", b"regular"]);
        let mut text = String::from("{");
        if executable == Executable::Yes {
            self.words(&[b"executable", b""]);
            text.push_str(r#""executable":true,"#);
        }
        self.words(&[b"contents"]);
        self.offset = self.offset.saturating_add(8);
        self.size = size;
        let offset = self.offset;
        text.push_str(&format!(r#""narOffset":{offset},"size":{size},"type":"regular"}}"#));
        self.put(&text);
    }

    fn regular_end(&mut self) {
        let size = self.size.checked_next_multiple_of(8).unwrap_or(u64::MAX);
        self.offset = self.offset.saturating_add(size);
        self.words(&[b")"]);
    }

    fn symlink(&mut self, target: &[u8]) {
        self.words(&[b"(", b"type", b"symlink", b"target", target, b")"]);
        self.put(r#"{"target":"#);
        self.put_string(target);
        self.put(r#","type":"symlink"}"#);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::single::single_file_nar;

    fn list(nar: &[u8], step: usize) -> Result<String, ListError> {
        let mut lister = Lister::new();
        for piece in nar.chunks(step) {
            lister.feed(piece)?;
        }
        lister.finish()
    }

    #[test]
    fn a_file_is_where_it_is() {
        let nar = single_file_nar(b"hello", Executable::Yes);
        let text = list(&nar, 7).unwrap();
        let at = nar.windows(5).position(|window| window == b"hello").unwrap();
        let expected = format!(
            r#"{{"root":{{"executable":true,"narOffset":{at},"size":5,"type":"regular"}},"version":1}}"#
        );
        assert_eq!(text, expected);
        assert_eq!(list(&nar, 1).unwrap(), text);
    }

    #[test]
    fn what_is_no_archive_is_not_listed() {
        let nar = single_file_nar(b"hello", Executable::No);
        assert_eq!(list(&nar[..nar.len() - 1], 9), Err(ListError::End));
        assert_eq!(list(&[&nar[..], b"x"].concat(), 1000), Err(ListError::End));
        assert_eq!(list(&[&nar[..], b"x"].concat(), 1), Err(ListError::End));
        assert!(matches!(list(b"no archive at all, is it", 3), Err(ListError::Nar(_))));
    }
}
