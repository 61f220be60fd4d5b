//! Strings as they lie in an archive: length (u64, little-endian), bytes, zero
//! padding to a multiple of eight.
//!
//! Follows `readString` and `operator <<` of C++ Nix (`src/libutil/serialise.cc`).

use crate::error::NarError;

/// Length of a length, in bytes.
pub(crate) const HEADER_LEN: usize = 8;

/// The whole first string of every archive, `nix-archive-1`.
pub(crate) const MAGIC: &[u8; 24] = b"\x0d\0\0\0\0\0\0\0nix-archive-1\0\0\0";

/// The fixed words of the grammar.
pub(crate) mod word {
    pub(crate) const OPEN: &[u8] = b"(";
    pub(crate) const CLOSE: &[u8] = b")";
    pub(crate) const TYPE: &[u8] = b"type";
    pub(crate) const REGULAR: &[u8] = b"regular";
    pub(crate) const EXECUTABLE: &[u8] = b"executable";
    pub(crate) const CONTENTS: &[u8] = b"contents";
    pub(crate) const DIRECTORY: &[u8] = b"directory";
    pub(crate) const ENTRY: &[u8] = b"entry";
    pub(crate) const NAME: &[u8] = b"name";
    pub(crate) const NODE: &[u8] = b"node";
    pub(crate) const SYMLINK: &[u8] = b"symlink";
    pub(crate) const TARGET: &[u8] = b"target";
}

/// Returns how many zero bytes follow `len` bytes: 0 to 7.
pub(crate) fn padding_len(len: u64) -> u8 {
    // The remainder is below eight, so nothing is lost.
    (len.wrapping_neg() % 8) as u8
}

/// Returns a string of `len` bytes with its length and padding, in bytes.
pub(crate) fn encoded_len(len: usize) -> usize {
    HEADER_LEN.saturating_add(len).saturating_add(usize::from(padding_len(len as u64)))
}

/// Returns the length that `bytes` begin with, if it is all there.
pub(crate) fn header(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().map(|header| u64::from_le_bytes(*header))
}

/// A string and what follows it.
pub(crate) type Split<'a> = (&'a [u8], &'a [u8]);

/// Splits one encoded string of `len` bytes, or nothing if it is not all there.
///
/// # Errors
///
/// Returns [`NarError::Padding`] if it is all there and its padding is not zero.
pub(crate) fn split(bytes: &[u8], len: usize) -> Result<Option<Split<'_>>, NarError> {
    let Some((encoded, rest)) = bytes.split_at_checked(encoded_len(len)) else {
        return Ok(None);
    };
    let (_, body) = encoded.split_at(HEADER_LEN);
    let (text, padding) = body.split_at(len);
    check_padding(padding)?;
    Ok(Some((text, rest)))
}

/// Checks that bytes between strings are zero.
pub(crate) fn check_padding(padding: &[u8]) -> Result<(), NarError> {
    if padding.iter().any(|byte| *byte != 0) {
        return Err(NarError::Padding { got: padding.into() });
    }
    Ok(())
}

/// Appends one string.
pub(crate) fn append(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text);
    out.resize(out.len() + usize::from(padding_len(text.len() as u64)), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn magic_is_its_own_encoding() {
        let mut encoded = Vec::new();
        append(&mut encoded, b"nix-archive-1");
        assert_eq!(encoded, MAGIC);
    }

    #[test]
    fn padding_fills_to_eight() {
        assert_eq!([0, 1, 7, 8, 9, u64::MAX].map(padding_len), [0, 7, 1, 0, 7, 1]);
        assert_eq!([0, 1, 8, 9].map(encoded_len), [8, 16, 16, 24]);
    }
}
