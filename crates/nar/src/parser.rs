//! The push parser: bytes in, visitor calls out, one pass, no look-ahead.
//!
//! The grammar (`grammar.rs`) is walked one string at a time. A string
//! that lies whole in the input is used where it is; only one that is cut by
//! the end of the input is gathered, as its bytes arrive, in a buffer that
//! never holds more than the longest string allowed at that place.
//!
//! Follows `parseDump` of C++ Nix (`src/libutil/archive.cc`), which accepts
//! the same archives (2.36), but for case-hack names and the number of entries.

use crate::error::NarError;
use crate::grammar::{Expect, Grammar, Stage};
use crate::rules::Limits;
use crate::token::{self, HEADER_LEN, MAGIC};
use crate::visitor::{Executable, Visitor};

/// How many bytes of a stream that is no NAR an error shows.
const SHOWN_INSTEAD_OF_MAGIC: usize = 64;

/// Where a parser stands after it was fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The archive goes on; all bytes were used.
    More,
    /// The archive is complete and sound.
    Done {
        /// How many of the bytes just fed belong to the archive. The rest
        /// belongs to the caller.
        consumed: usize,
    },
}

/// Parses one archive, fed in pieces of any size.
///
/// Memory in use is bounded by the nesting (a name per open directory) and one
/// string, whatever the input says. Contents of files are neither copied nor
/// looked at: a piece that lies within a file costs the same whatever its size.
#[derive(Clone, Debug)]
pub struct Parser {
    limits: Limits,
    stage: Stage,
    /// Bytes of the archive accounted for: those used, and those of the file
    /// being read that are still to come.
    offset: u64,
    /// Bytes fed and used.
    received: u64,
    grammar: Grammar,
    /// The beginning of a string that the input has cut.
    gathered: Vec<u8>,
}

impl Parser {
    /// Returns a parser at the beginning of an archive.
    pub fn new(limits: Limits) -> Parser {
        Parser {
            limits,
            stage: Stage::Magic { matched: 0 },
            offset: 0,
            received: 0,
            grammar: Grammar::new(limits),
            gathered: Vec::new(),
        }
    }

    /// Parses the next bytes of the archive and reports what they complete.
    ///
    /// The sequence of calls does not depend on how the archive is cut, except
    /// that contents of files are reported in the pieces they are fed in.
    /// After the end it uses no more bytes and returns `Done { consumed: 0 }`.
    ///
    /// # Errors
    ///
    /// Returns the first rule broken, as soon as the bytes at hand show it. The
    /// parser is unusable from then on.
    pub fn feed(
        &mut self,
        bytes: &[u8],
        visitor: &mut (impl Visitor + ?Sized),
    ) -> Result<Progress, NarError> {
        let mut rest = bytes;
        let outcome = self.run(&mut rest, visitor);
        let consumed = bytes.len() - rest.len();
        self.received = self.received.saturating_add(consumed as u64);
        match outcome {
            Ok(()) if self.stage == Stage::Done => Ok(Progress::Done { consumed }),
            Ok(()) => Ok(Progress::More),
            Err(error) => {
                self.stage = Stage::Failed;
                Err(error)
            }
        }
    }

    /// Tells the parser that no more bytes will come.
    ///
    /// # Errors
    ///
    /// Returns [`NarError::Truncated`] if the archive is not complete.
    pub fn finish(&self) -> Result<(), NarError> {
        match self.stage {
            Stage::Done => Ok(()),
            Stage::Failed => Err(NarError::AlreadyFailed),
            _ => Err(NarError::Truncated { offset: self.received }),
        }
    }

    /// Returns how many bytes of the archive have been used, in all.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Uses up `rest`, or stops at the end of the archive.
    fn run(
        &mut self,
        rest: &mut &[u8],
        visitor: &mut (impl Visitor + ?Sized),
    ) -> Result<(), NarError> {
        loop {
            let advanced = match self.stage {
                Stage::Magic { matched } => self.magic(matched, rest)?,
                Stage::Text(expect) => self.text(expect, rest, visitor)?,
                Stage::Size { executable } => self.size(executable, rest, visitor)?,
                Stage::Contents { remaining, padding } => {
                    self.contents(remaining, padding, rest, visitor)?
                }
                Stage::Done => return Ok(()),
                Stage::Failed => return Err(NarError::AlreadyFailed),
            };
            if !advanced {
                return Ok(());
            }
        }
    }

    /// Compares with the magic byte by byte, so that a stream that is no NAR is
    /// refused at its first byte instead of after a length made of text.
    fn magic(&mut self, matched: usize, rest: &mut &[u8]) -> Result<bool, NarError> {
        let (seen, due) = MAGIC.split_at(matched);
        let (head, tail) = rest.split_at(due.len().min(rest.len()));
        if !due.starts_with(head) {
            let shown = rest.get(..SHOWN_INSTEAD_OF_MAGIC).unwrap_or(rest);
            return Err(NarError::BadMagic { got: [seen, shown].concat().as_slice().into() });
        }
        *rest = tail;
        if head.len() < due.len() {
            self.stage = Stage::Magic { matched: matched + head.len() };
            return Ok(false);
        }
        self.offset = self.after(MAGIC.len() as u64)?;
        self.stage = Stage::Text(Expect::NodeOpen);
        Ok(true)
    }

    /// Takes one string from the input, or begins or goes on to gather it.
    fn text(
        &mut self,
        expect: Expect,
        rest: &mut &[u8],
        visitor: &mut (impl Visitor + ?Sized),
    ) -> Result<bool, NarError> {
        if self.gathered.is_empty()
            && let Some(len) = self.announced(expect, rest)?
            && let Some((text, tail)) = token::split(rest, len)?
        {
            *rest = tail;
            self.accept(expect, text, visitor)?;
            return Ok(true);
        }
        self.gather(HEADER_LEN, rest);
        let Some(len) = self.announced(expect, &self.gathered)? else { return Ok(false) };
        self.gather(token::encoded_len(len), rest);
        let mut gathered = std::mem::take(&mut self.gathered);
        let complete = match token::split(&gathered, len)? {
            Some((text, _)) => {
                self.accept(expect, text, visitor)?;
                gathered.clear();
                true
            }
            None => false,
        };
        self.gathered = gathered;
        Ok(complete)
    }

    /// Counts one string and lets the grammar have it.
    fn accept(
        &mut self,
        expect: Expect,
        text: &[u8],
        visitor: &mut (impl Visitor + ?Sized),
    ) -> Result<(), NarError> {
        self.offset = self.after(token::encoded_len(text.len()) as u64)?;
        self.stage = self.grammar.accept(expect, text, visitor)?;
        Ok(())
    }

    /// Returns the length of the string that begins `bytes`, if it is there and
    /// a string of that length may stand here.
    fn announced(&self, expect: Expect, bytes: &[u8]) -> Result<Option<usize>, NarError> {
        let Some(announced) = token::header(bytes) else { return Ok(None) };
        let (field, limit) = expect.field();
        let len = usize::try_from(announced)
            .ok()
            .filter(|len| *len <= limit)
            .ok_or(NarError::StringTooLong { len: announced, limit: limit as u64, field })?;
        self.after(token::encoded_len(len) as u64)?;
        Ok(Some(len))
    }

    /// Moves bytes from the input to the buffer until that holds `len`.
    fn gather(&mut self, len: usize, rest: &mut &[u8]) {
        let missing = len.saturating_sub(self.gathered.len()).min(rest.len());
        let (head, tail) = rest.split_at(missing);
        self.gathered.extend_from_slice(head);
        *rest = tail;
    }

    /// Returns the offset `len` bytes on, if the archive may be that long.
    fn after(&self, len: u64) -> Result<u64, NarError> {
        let limit = self.limits.max_size;
        let after = self.offset.checked_add(len).filter(|after| *after <= limit);
        after.ok_or(NarError::TooLarge { limit })
    }

    /// Takes the size of a file, and checks it against what is left.
    fn size(
        &mut self,
        executable: Executable,
        rest: &mut &[u8],
        visitor: &mut (impl Visitor + ?Sized),
    ) -> Result<bool, NarError> {
        self.gather(HEADER_LEN, rest);
        let Some(size) = token::header(&self.gathered) else { return Ok(false) };
        self.gathered.clear();
        self.offset = self.after(HEADER_LEN as u64)?;
        let padding = token::padding_len(size);
        self.offset = size
            .checked_add(u64::from(padding))
            .and_then(|padded| self.after(padded).ok())
            .ok_or(NarError::FileTooLarge { size, limit: self.limits.max_size })?;
        visitor.regular(executable, size);
        self.stage = Stage::Contents { remaining: size, padding };
        Ok(true)
    }

    /// Hands on contents, then checks the padding after them.
    fn contents(
        &mut self,
        remaining: u64,
        padding: u8,
        rest: &mut &[u8],
        visitor: &mut (impl Visitor + ?Sized),
    ) -> Result<bool, NarError> {
        let (chunk, tail) = split_at_most(rest, remaining);
        let remaining = remaining - chunk.len() as u64;
        if !chunk.is_empty() {
            visitor.contents(chunk);
        }
        let due = if remaining == 0 { padding } else { 0 };
        let (zeros, tail) = split_at_most(tail, u64::from(due));
        token::check_padding(zeros)?;
        *rest = tail;
        // At most `padding` bytes were taken, so their number fits.
        let padding = padding - u8::try_from(zeros.len()).unwrap_or(padding);
        let complete = remaining == 0 && padding == 0;
        self.stage = match complete {
            true => Stage::Text(Expect::NodeClose),
            false => Stage::Contents { remaining, padding },
        };
        if complete {
            visitor.regular_end();
        }
        Ok(complete)
    }
}

/// Parses a whole archive that is in memory.
///
/// # Errors
///
/// Returns the first rule broken; [`NarError::Truncated`] and
/// [`NarError::Trailing`] if `nar` is less or more than one archive.
///
/// ```
/// let nar = drover_nar::single_file_nar(b"", drover_nar::Executable::No);
/// drover_nar::parse(&nar, drover_nar::Limits::default(), &mut ())?;
/// # Ok::<(), drover_nar::NarError>(())
/// ```
pub fn parse(
    nar: &[u8],
    limits: Limits,
    visitor: &mut (impl Visitor + ?Sized),
) -> Result<(), NarError> {
    let mut parser = Parser::new(limits);
    let progress = parser.feed(nar, visitor)?;
    parser.finish()?;
    match progress {
        Progress::Done { consumed } if consumed < nar.len() => {
            Err(NarError::Trailing { count: (nar.len() - consumed) as u64 })
        }
        _ => Ok(()),
    }
}

/// Splits `bytes` after `max` bytes, or at its end.
fn split_at_most(bytes: &[u8], max: u64) -> (&[u8], &[u8]) {
    bytes.split_at(usize::try_from(max).map_or(bytes.len(), |max| max.min(bytes.len())))
}
