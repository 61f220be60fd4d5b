//! What of a text is for a terminal to do, and not to show.
//!
//! Follows `filterANSIEscapes` of Nix (`src/libutil/terminal.cc`), which leaves colours on terminals and
//! nothing else.

use std::borrow::Cow;
use std::iter::Peekable;
use std::str::Chars;

use crate::raw_text::{raw_bytes, raw_text, without_raw};

/// What begins and ends sequences.
const ESCAPE: char = '\u{1b}';
const BELL: char = '\u{7}';

/// What becomes of the sequences that colour a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colours {
    /// They stay, as on a terminal.
    Kept,
    /// They go like all other sequences.
    Dropped,
}

/// Returns a text without escape sequences and other control characters, line ends and tabs apart, and
/// with what isn't UTF-8 replaced.
pub fn plain_text(text: &str) -> String {
    // first of all: what is dropped may have kept bytes apart that are a command together
    harmless(&without_raw(text), Colours::Dropped).into_owned()
}

/// Returns a text without escape sequences and other control characters, line ends and tabs apart, and apart
/// from colours where they are kept.
fn harmless(text: &str, colours: Colours) -> Cow<'_, str> {
    if !text.chars().any(is_command) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            ESCAPE => {
                let colour = sequence(&mut rest).filter(|_| colours == Colours::Kept);
                shown.extend(colour);
            }
            c if is_command(c) => {}
            c => shown.push(c),
        }
    }
    Cow::Owned(shown)
}

/// Returns the bytes of a text, harmless in the same way: what is taken out may have kept bytes apart that are
/// a command together. The text may be one of [`raw_text`].
pub fn harmless_bytes(text: &str, colours: Colours) -> Vec<u8> {
    let mut shown = harmless(text, colours).into_owned();
    loop {
        let bytes = match raw_bytes(&shown) {
            Cow::Borrowed(bytes) => return bytes.to_vec(),
            Cow::Owned(bytes) => bytes,
        };
        let together = raw_text(&bytes);
        let filtered = harmless(&together, colours);
        if filtered.len() == together.len() {
            return bytes;
        }
        shown = filtered.into_owned();
    }
}

fn is_command(c: char) -> bool {
    c.is_control() && c != '\n' && c != '\t'
}

/// Goes to the end of a sequence that has begun, and returns it if it's a colour. None goes on beyond its
/// line.
fn sequence(rest: &mut Peekable<Chars<'_>>) -> Option<String> {
    match rest.next_if(|c| !is_command(*c) && *c != '\n')? {
        '[' => {
            let mut colour = format!("{ESCAPE}[");
            while let Some(c) = rest.next_if(|c| (' '..='?').contains(c)) {
                colour.push(c);
            }
            let last = rest.next_if(|c| ('@'..='~').contains(c))?;
            colour.push(last);
            let is_plain = |c: char| c.is_ascii_digit() || c == ';' || c == ':';
            let inner = colour.get(2..colour.len() - 1)?;
            (last == 'm' && inner.chars().all(is_plain)).then_some(colour)
        }
        // titles, clipboards, links and whatever else takes a string
        ']' | 'P' | 'X' | '^' | '_' => {
            while let Some(c) = rest.next_if(|c| *c != '\n') {
                if c == BELL || c == ESCAPE && rest.next_if_eq(&'\\').is_some() {
                    break;
                }
            }
            None
        }
        // which characters are meant, and the like
        ' '..='/' => {
            while rest.next_if(|c| (' '..='/').contains(c)).is_some() {}
            rest.next_if(|c| ('0'..='~').contains(c));
            None
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    /// What is taken out between two bytes makes no command of them.
    #[rstest]
    #[case::bell(b"\xc2\x07\x9b2J")]
    #[case::colour(b"\xc2\x1b]0;x\x07\x9d52;c;")]
    #[case::c1(b"\xc2\x9b2J")]
    #[case::twice(b"\xc2\xc2\x07\x9b\x9b2J")]
    fn bytes_that_were_kept_apart_are_no_command(#[case] bytes: &[u8]) {
        for colours in [Colours::Kept, Colours::Dropped] {
            let shown = raw_text(&harmless_bytes(&raw_text(bytes), colours));
            assert!(!shown.chars().any(is_command), "{shown:?}");
        }
        let plain = plain_text(&raw_text(bytes));
        assert!(!plain.chars().any(is_command), "{plain:?}");
        let kept = b"f\xfcr \xff\n";
        assert_eq!(harmless_bytes(&raw_text(kept), Colours::Dropped), kept);
        assert_eq!(plain_text(&raw_text(kept)), "f\u{fffd}r \u{fffd}\n");
    }

    #[rstest]
    #[case::plain("a\tb\n", "a\tb\n", "a\tb\n")]
    #[case::colour("a\x1b[31;1mred\x1b[0m\n", "a\x1b[31;1mred\x1b[0m\n", "ared\n")]
    #[case::clear("a\x1b[2J\x1b[3;4Hb", "ab", "ab")]
    #[case::looks_like_a_colour("a\x1b[>4mb\x1b[ m", "ab", "ab")]
    #[case::title("a\x1b]0;title\x07b", "ab", "ab")]
    #[case::clipboard("a\x1b]52;c;ZXZpbA==\x1b\\b", "ab", "ab")]
    #[case::string_with_escapes("a\x1b]0;x\x1b[31my\x07b", "ab", "ab")]
    #[case::without_end("a\x1b]0;title\nb\x1b[31\nc\x1b", "a\nb\nc", "a\nb\nc")]
    #[case::characters("a\x1b(0b\x1bc", "ab", "ab")]
    #[case::controls("a\r\x07\x08\x7f\u{9b}2Jb", "a2Jb", "a2Jb")]
    #[case::letters("ü→\x1b[1mü", "ü→\x1b[1mü", "ü→ü")]
    fn only_colours_are_left(
        #[case] text: &str,
        #[case] on_terminals: &str,
        #[case] elsewhere: &str,
    ) {
        assert_eq!(harmless(text, Colours::Kept), on_terminals);
        assert_eq!(harmless(text, Colours::Dropped), elsewhere);
    }
}
