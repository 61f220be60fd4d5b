//! Text that holds what builds have written, also where that isn't UTF-8.
//!
//! A byte that isn't part of UTF-8 becomes a character of its own, out of 128 for private use, so that
//! nothing is lost on the way to a log or to a terminal. Where those characters themselves are written, each
//! of their bytes becomes one: then there is one text for any bytes, and it's turned back into the same.

use std::borrow::Cow;

/// The character for the byte 0, if that needed one; those for 128 to 255 are used.
const BASE: u32 = 0x10_FE00;

/// The first bytes of all characters that stand for bytes.
const MARK: [u8; 2] = [0xF4, 0x8F];

/// Returns the text for bytes.
pub fn raw_text(bytes: &[u8]) -> String {
    if !has_mark(bytes)
        && let Ok(text) = std::str::from_utf8(bytes)
    {
        return text.to_owned();
    }
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match byte_of(c) {
                None => text.push(c),
                Some(_) => {
                    let mut encoded = [0; 4];
                    text.extend(c.encode_utf8(&mut encoded).bytes().map(char_of));
                }
            }
        }
        text.extend(chunk.invalid().iter().copied().map(char_of));
    }
    text
}

/// Returns the bytes of a text that [`raw_text`] may have made.
pub fn raw_bytes(text: &str) -> Cow<'_, [u8]> {
    if !has_mark(text.as_bytes()) {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut bytes = Vec::with_capacity(text.len());
    for c in text.chars() {
        match byte_of(c) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Cow::Owned(bytes)
}

/// Returns the same text for who takes nothing but UTF-8: what isn't is replaced, and so are the characters
/// that would stand for it.
pub fn without_raw(text: &str) -> Cow<'_, str> {
    match raw_bytes(text) {
        Cow::Borrowed(_) => Cow::Borrowed(text),
        Cow::Owned(bytes) => {
            let plain = String::from_utf8_lossy(&bytes);
            let shown = |c| if byte_of(c).is_some() { char::REPLACEMENT_CHARACTER } else { c };
            Cow::Owned(plain.chars().map(shown).collect())
        }
    }
}

fn has_mark(bytes: &[u8]) -> bool {
    bytes.windows(MARK.len()).any(|pair| pair == MARK)
}

fn char_of(byte: u8) -> char {
    char::from_u32(BASE + u32::from(byte)).unwrap_or(char::REPLACEMENT_CHARACTER)
}

fn byte_of(c: char) -> Option<u8> {
    let byte = u8::try_from(u32::from(c).checked_sub(BASE)?).ok()?;
    (0x80 <= byte).then_some(byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_text_stays_as_it_is() {
        let text = "plain, ü→ and \u{10FDFF}";
        assert_eq!(raw_text(text.as_bytes()), text);
        assert!(matches!(raw_bytes(text), Cow::Borrowed(_)) || raw_bytes(text) == text.as_bytes());
        assert_eq!(without_raw(text), text);
    }

    #[test]
    fn bytes_come_back_and_people_see_that_something_is_odd() {
        let bytes = b"f\xfcr \xf0\x9f all";
        let text = raw_text(bytes);
        assert_eq!(*raw_bytes(&text), *bytes);
        assert_eq!(without_raw(&text), String::from_utf8_lossy(bytes));
        let own = char_of(0xfc).to_string();
        assert_ne!(raw_text(own.as_bytes()), own);
        assert_eq!(without_raw(&raw_text(own.as_bytes())), "\u{fffd}");
        assert_eq!(*raw_bytes(&raw_text(own.as_bytes())), *own.as_bytes());
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(bytes: Vec<u8>) {
            prop_assert_eq!(raw_bytes(&raw_text(&bytes)).into_owned(), bytes);
        }
    }
}
