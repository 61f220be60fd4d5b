//! Tokens of `.drv` files: punctuation, strings with and without escapes, lists.

use std::borrow::Cow;

use crate::{ByteString, DerivationProblem};

/// Bytes that a name, path, hash or system may have at the most.
const MAX_PLAIN_SIZE: usize = 4096;

/// A place in the bytes of a `.drv` file.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

type Result<T> = std::result::Result<T, DerivationProblem>;

impl<'a> Reader<'a> {
    /// Returns the start of `bytes`.
    pub(super) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, at: 0 }
    }

    /// Returns the position in bytes.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Returns all that is not read yet.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// Reads `token` if it stands here.
    pub(super) fn accept(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token.as_bytes());
        if found {
            self.at += token.len();
        }
        found
    }

    /// Reads `token`.
    pub(super) fn expect(&mut self, token: &'static str) -> Result<()> {
        if self.accept(token) {
            Ok(())
        } else {
            Err(DerivationProblem::Expected { at: self.at, expected: token })
        }
    }

    /// Reads a list from `[` to `]`, whose items `item` reads.
    pub(super) fn list(&mut self, mut item: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        self.expect("[")?;
        if self.accept("]") {
            return Ok(());
        }
        loop {
            item(self)?;
            if self.accept("]") {
                return Ok(());
            }
            if !self.accept(",") {
                let expected = "',' or ']'";
                return Err(DerivationProblem::Expected { at: self.at, expected });
            }
        }
    }

    /// Reads a string in which quotes, backslashes, line feeds, carriage returns and tabs are
    /// escaped.
    pub(super) fn string(&mut self) -> Result<Cow<'a, [u8]>> {
        let start = self.at;
        self.open_quote()?;
        let plain = self.run(start)?;
        if self.accept("\"") {
            return Ok(Cow::Borrowed(plain));
        }
        let mut unescaped = plain.to_vec();
        while !self.accept("\"") {
            unescaped.push(self.escape()?);
            unescaped.extend_from_slice(self.run(start)?);
        }
        Ok(Cow::Owned(unescaped))
    }

    /// Reads a string that Nix writes without escapes: names, paths, hashes, the system.
    pub(super) fn plain(&mut self) -> Result<&'a str> {
        let start = self.at;
        self.open_quote()?;
        let text = self.run(start)?;
        if !self.accept("\"") {
            return Err(self.bad_escape(self.rest().get(..2)));
        }
        if MAX_PLAIN_SIZE < text.len() {
            let (len, limit) = (text.len(), MAX_PLAIN_SIZE);
            return Err(DerivationProblem::TooLong { at: start, len, limit });
        }
        let not_utf8 =
            || DerivationProblem::NotUtf8 { at: start, found: ByteString::excerpt(text) };
        std::str::from_utf8(text).map_err(|_| not_utf8())
    }

    fn open_quote(&mut self) -> Result<()> {
        if self.accept("\"") {
            return Ok(());
        }
        Err(DerivationProblem::Expected { at: self.at, expected: "a string" })
    }

    /// Reads up to the next quote or escape.
    fn run(&mut self, start: usize) -> Result<&'a [u8]> {
        let rest = self.rest();
        let len = rest
            .iter()
            .position(|byte| matches!(byte, b'"' | b'\\' | b'\n' | b'\r' | b'\t'))
            .ok_or(DerivationProblem::Unterminated { at: start })?;
        let (run, next) = rest.split_at(len);
        self.at += len;
        match next {
            [b'"', ..] | [b'\\', _, ..] => Ok(run),
            [b'\\'] => Err(DerivationProblem::Unterminated { at: start }),
            _ => Err(self.bad_escape(next.get(..1))),
        }
    }

    fn escape(&mut self) -> Result<u8> {
        let escape = self.rest().get(..2);
        let byte = match escape {
            Some(br#"\""#) => b'"',
            Some(br"\\") => b'\\',
            Some(br"\n") => b'\n',
            Some(br"\r") => b'\r',
            Some(br"\t") => b'\t',
            _ => return Err(self.bad_escape(escape)),
        };
        self.at += 2;
        Ok(byte)
    }

    fn bad_escape(&self, found: Option<&[u8]>) -> DerivationProblem {
        DerivationProblem::Escape { at: self.at, found: found.unwrap_or_default().into() }
    }
}
