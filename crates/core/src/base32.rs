//! Nix's own base 32: 32 digits without `e`, `o`, `u` and `t`, least significant group last.
//!
//! Follows `src/libutil/base-nix-32.cc` of Nix.

const DIGITS: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

/// Why a text is not base 32 of the expected length.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Base32Error {
    /// A character outside the alphabet.
    #[error("'{found}' at position {at} is not a nix base32 digit")]
    Digit {
        /// The character.
        found: char,
        /// Its position in bytes.
        at: usize,
    },
    /// The number of digits does not fit the number of bytes wanted.
    #[error("{found} base32 digits, expected {expected}")]
    Length {
        /// Digits in the text.
        found: usize,
        /// Digits that the wanted number of bytes takes.
        expected: usize,
    },
    /// The first digit carries bits beyond the last byte.
    #[error("base32 text has bits set beyond its {bytes} bytes")]
    Overflow {
        /// Bytes wanted.
        bytes: usize,
    },
}

/// Digits that `bytes` bytes take.
const fn digits_for(bytes: usize) -> usize {
    if bytes == 0 { 0 } else { (bytes * 8 - 1) / 5 + 1 }
}

/// Returns `bytes` in nix base 32.
pub fn encode_base32(bytes: &[u8]) -> String {
    let byte = |at: usize| u16::from(bytes.get(at).copied().unwrap_or(0));
    (0..digits_for(bytes.len()))
        .rev()
        .map(|digit| {
            let (at, shift) = (digit * 5 / 8, digit * 5 % 8);
            let window = byte(at) | byte(at + 1) << 8;
            let value = usize::from(window >> shift & 0x1f);
            DIGITS.get(value).map_or('0', |&digit| char::from(digit))
        })
        .collect()
}

/// Returns the `N` bytes that `text` stands for.
///
/// # Errors
///
/// A digit outside the alphabet, another number of digits than `N` bytes take, or bits set beyond
/// the last byte.
pub fn decode_base32<const N: usize>(text: &str) -> Result<[u8; N], Base32Error> {
    if text.len() != digits_for(N) {
        return Err(Base32Error::Length { found: text.len(), expected: digits_for(N) });
    }
    let mut bytes = [0u8; N];
    for (digit, (at, found)) in text.char_indices().rev().enumerate() {
        let value = value(found).ok_or(Base32Error::Digit { found, at })?;
        let (at, shift) = (digit * 5 / 8, digit * 5 % 8);
        let [low, high] = (value << shift).to_le_bytes();
        if let Some(byte) = bytes.get_mut(at) {
            *byte |= low;
        }
        match bytes.get_mut(at + 1) {
            Some(byte) => *byte |= high,
            None if high != 0 => return Err(Base32Error::Overflow { bytes: N }),
            None => {}
        }
    }
    Ok(bytes)
}

/// Returns the value of a digit: the inverse of [`DIGITS`].
fn value(digit: char) -> Option<u16> {
    let digit = u8::try_from(digit).ok()?;
    let value = match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'd' => digit - b'a' + 10,
        b'f'..=b'n' => digit - b'f' + 14,
        b'p'..=b's' => digit - b'p' + 23,
        b'v'..=b'z' => digit - b'v' + 27,
        _ => return None,
    };
    Some(value.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn matches_nix_hash() {
        // `nix-hash --type sha1 --to-base32 0000000000000000000000000000000000000001` and its likes
        assert_eq!(encode_base32(&[]), "");
        assert_eq!(encode_base32(&[0x1f]), "0z");
        assert_eq!(decode_base32::<1>("0z"), Ok([0x1f]));
        assert_eq!(decode_base32::<1>("8z"), Err(Base32Error::Overflow { bytes: 1 }));
        assert_eq!(decode_base32::<1>("0e"), Err(Base32Error::Digit { found: 'e', at: 1 }));
        assert_eq!(decode_base32::<1>("000"), Err(Base32Error::Length { found: 3, expected: 2 }));
    }

    #[test]
    fn values_invert_digits() {
        for byte in 0..=u8::MAX {
            let at = DIGITS.iter().position(|&digit| digit == byte);
            assert_eq!(value(char::from(byte)).map(usize::from), at);
        }
    }

    proptest! {
        #[test]
        fn round_trips(bytes: [u8; 32], short: [u8; 20]) {
            prop_assert_eq!(decode_base32::<32>(&encode_base32(&bytes)), Ok(bytes));
            prop_assert_eq!(decode_base32::<20>(&encode_base32(&short)), Ok(short));
        }
    }
}
