//! The primitives of both protocols: little-endian 64-bit numbers, and byte strings padded to 8.
//!
//! Follows `src/libutil/serialise.cc` of Nix. A [`Decoder`] reads from bytes that have arrived; when
//! they end too early it says how many more it needs at least ([`DecodeError::Incomplete`]), and the
//! caller starts the message again once it has them. Nothing is allocated on a peer's word.

use std::collections::BTreeSet;

use drover_core::{StoreDir, StorePath, raw_bytes, raw_text};

use crate::DecodeError;

/// Bytes that a store path, a name or another short text may have.
pub const MAX_TEXT: usize = 64 * 1024;
/// Bytes that a log line, an error message or an environment variable may have.
pub const MAX_BYTES: usize = 64 * 1024 * 1024;
/// Elements that a list may have.
pub const MAX_COUNT: usize = 10_000_000;

/// Appends messages to a buffer.
#[derive(Debug, Default)]
pub struct Encoder {
    out: Vec<u8>,
}

impl Encoder {
    /// Returns an encoder of nothing yet.
    pub fn new() -> Encoder {
        Encoder::default()
    }

    /// Returns the bytes of all that was appended.
    pub fn into_bytes(self) -> Vec<u8> {
        self.out
    }

    /// Appends a number.
    pub fn number(&mut self, number: u64) {
        self.out.extend_from_slice(&number.to_le_bytes());
    }

    /// Appends a truth value, 0 or 1.
    pub fn flag(&mut self, flag: bool) {
        self.number(u64::from(flag));
    }

    /// Appends `payload` as length, bytes, and zero padding to 8.
    pub fn bytes(&mut self, payload: &[u8]) {
        self.number(payload.len() as u64);
        self.out.extend_from_slice(payload);
        self.out.resize(self.out.len() + padding(payload.len()), 0);
    }

    /// Appends a text.
    pub fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    /// Appends a message for people, which may hold what isn't UTF-8.
    pub fn message(&mut self, text: &str) {
        self.bytes(&raw_bytes(text));
    }

    /// Appends a store path with its directory.
    pub fn path(&mut self, store_dir: &StoreDir, path: &StorePath) {
        self.text(&store_dir.display(path));
    }

    /// Appends a store path, or the empty text where there is none.
    pub fn optional_path(&mut self, store_dir: &StoreDir, path: Option<&StorePath>) {
        match path {
            Some(path) => self.path(store_dir, path),
            None => self.text(""),
        }
    }

    /// Appends the number of items and each of them.
    pub fn list<I: ExactSizeIterator>(&mut self, items: I, item: impl Fn(&mut Encoder, I::Item)) {
        self.number(items.len() as u64);
        items.for_each(|each| item(self, each));
    }

    /// Appends a set of store paths.
    pub fn paths(&mut self, store_dir: &StoreDir, paths: &BTreeSet<StorePath>) {
        self.list(paths.iter(), |out, path| out.path(store_dir, path));
    }
}

/// Zero bytes behind a string of `len` bytes.
const fn padding(len: usize) -> usize {
    (8 - len % 8) % 8
}

/// Reads messages from bytes that have arrived.
#[derive(Clone, Debug)]
pub struct Decoder<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Decoder<'a> {
    /// Returns a decoder of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Decoder<'a> {
        Decoder { all: bytes, at: 0 }
    }

    /// Returns how many bytes have been read.
    pub fn consumed(&self) -> usize {
        self.at
    }

    /// Returns the next `len` bytes.
    fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let end = self
            .at
            .checked_add(len)
            .ok_or(DecodeError::TooLong { len: u64::MAX, max: MAX_BYTES })?;
        match self.all.get(self.at..end) {
            Some(bytes) => {
                self.at = end;
                Ok(bytes)
            }
            None => Err(DecodeError::Incomplete { missing: end.saturating_sub(self.all.len()) }),
        }
    }

    /// Reads a number.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Incomplete`] only.
    pub fn number(&mut self) -> Result<u64, DecodeError> {
        let bytes = self.take(8)?;
        bytes.try_into().map(u64::from_le_bytes).map_err(|_| DecodeError::Incomplete { missing: 8 })
    }

    /// Reads a number that has to be at most `max`.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Number`] where it is larger.
    pub fn number_up_to(&mut self, what: &'static str, max: u64) -> Result<u64, DecodeError> {
        match self.number()? {
            found if found <= max => Ok(found),
            found => Err(DecodeError::Number { what, found }),
        }
    }

    /// Reads a truth value; as in Nix, any number but 0 is true.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Incomplete`] only.
    pub fn flag(&mut self) -> Result<bool, DecodeError> {
        Ok(self.number()? != 0)
    }

    /// Reads one byte string of at most `max` bytes.
    ///
    /// # Errors
    ///
    /// A longer one, or padding that isn't zero.
    pub fn bytes(&mut self, max: usize) -> Result<&'a [u8], DecodeError> {
        let len = self.number()?;
        let len = usize::try_from(len)
            .ok()
            .filter(|len| *len <= max)
            .ok_or(DecodeError::TooLong { len, max })?;
        let whole = self.take(len + padding(len))?;
        let (payload, rest) =
            whole.split_at_checked(len).ok_or(DecodeError::Incomplete { missing: 1 })?;
        if rest.iter().any(|byte| *byte != 0) {
            return Err(DecodeError::Padding);
        }
        Ok(payload)
    }

    /// Reads a text of at most [`MAX_TEXT`] bytes.
    ///
    /// # Errors
    ///
    /// A longer one, or one that isn't UTF-8.
    pub fn text(&mut self) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.bytes(MAX_TEXT)?).map_err(|_| DecodeError::Utf8)
    }

    /// Reads a message for people of at most [`MAX_BYTES`] bytes; it may hold what isn't UTF-8
    /// ([`raw_text`]).
    ///
    /// # Errors
    ///
    /// A longer one.
    pub fn message(&mut self) -> Result<String, DecodeError> {
        Ok(raw_text(self.bytes(MAX_BYTES)?))
    }

    /// Reads a store path of `store_dir`.
    ///
    /// # Errors
    ///
    /// A text that isn't one.
    pub fn path(&mut self, store_dir: &StoreDir) -> Result<StorePath, DecodeError> {
        let text = self.text()?;
        Ok(store_dir.parse(text)?)
    }

    /// Reads a store path, or nothing where the text is empty.
    ///
    /// # Errors
    ///
    /// A text that isn't a store path.
    pub fn optional_path(
        &mut self,
        store_dir: &StoreDir,
    ) -> Result<Option<StorePath>, DecodeError> {
        match self.text()? {
            "" => Ok(None),
            text => Ok(Some(store_dir.parse(text)?)),
        }
    }

    /// Reads the number of items and each of them.
    ///
    /// # Errors
    ///
    /// More than [`MAX_COUNT`] items, or an error of an item.
    pub fn list<T, C: Default + Extend<T>>(
        &mut self,
        item: impl Fn(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<C, DecodeError> {
        self.list_of(("items of a list", MAX_COUNT), 8, item)
    }

    /// Reads a list of at most `max` items, which are called `what` where they are more.
    ///
    /// # Errors
    ///
    /// More items, or an error of an item.
    pub fn list_up_to<T, C: Default + Extend<T>>(
        &mut self,
        what: &'static str,
        max: usize,
        item: impl Fn(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<C, DecodeError> {
        self.list_of((what, max), 8, item)
    }

    /// Reads a list whose items have `least` bytes each at least. So many bytes have to have arrived
    /// before anything is built from a count; and where an item is cut, the items behind it are
    /// missing too, so that a long list is begun anew a few times and not once for each packet.
    fn list_of<T, C: Default + Extend<T>>(
        &mut self,
        (what, max): (&'static str, usize),
        least: usize,
        item: impl Fn(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<C, DecodeError> {
        let count = self.number()?;
        let count = usize::try_from(count)
            .ok()
            .filter(|count| *count <= max)
            .ok_or(DecodeError::TooMany { what, count, max })?;
        let rest = self.all.len() - self.at;
        if count * least > rest {
            return Err(DecodeError::Incomplete { missing: count * least - rest });
        }
        let mut items = C::default();
        for left in (0..count).rev() {
            match item(self) {
                Ok(value) => items.extend([value]),
                Err(DecodeError::Incomplete { missing }) => {
                    return Err(DecodeError::Incomplete { missing: missing + left * least });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(items)
    }

    /// Reads a set of store paths.
    ///
    /// # Errors
    ///
    /// Too many, or one that isn't a store path.
    pub fn paths(&mut self, store_dir: &StoreDir) -> Result<BTreeSet<StorePath>, DecodeError> {
        self.paths_up_to("store paths", MAX_COUNT, store_dir)
    }

    /// Reads a set of at most `max` store paths, which are called `what` where they are more.
    ///
    /// # Errors
    ///
    /// Too many, or one that isn't a store path.
    pub fn paths_up_to(
        &mut self,
        what: &'static str,
        max: usize,
        store_dir: &StoreDir,
    ) -> Result<BTreeSet<StorePath>, DecodeError> {
        // length, directory, slash, hash part, dash, one character of name
        let text = store_dir.as_str().len() + 35;
        self.list_of((what, max), 8 + text + padding(text), |each| each.path(store_dir))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lengths_are_bounded_before_anything_is_read() {
        for len in [u64::MAX, u64::MAX - 7, 1 << 63, 65 * 1024 * 1024] {
            let mut wire = len.to_le_bytes().to_vec();
            wire.extend([0; 64]);
            assert_eq!(
                Decoder::new(&wire).bytes(MAX_BYTES),
                Err(DecodeError::TooLong { len, max: MAX_BYTES })
            );
            let listed: Result<Vec<u64>, _> = Decoder::new(&wire).list(Decoder::number);
            assert!(listed.is_err());
        }
    }

    #[test]
    fn padding_has_to_be_zero() {
        let mut out = Encoder::new();
        out.text("abc");
        let mut wire = out.into_bytes();
        assert_eq!(Decoder::new(&wire).text(), Ok("abc"));
        if let Some(last) = wire.last_mut() {
            *last = 1;
        }
        assert_eq!(Decoder::new(&wire).text(), Err(DecodeError::Padding));
    }

    proptest! {
        #[test]
        fn strings_round_trip_and_ask_for_what_is_missing(parts: Vec<Vec<u8>>, cut: usize) {
            let mut out = Encoder::new();
            parts.iter().for_each(|part| out.bytes(part));
            let wire = out.into_bytes();
            let mut decoder = Decoder::new(&wire);
            for part in &parts {
                prop_assert_eq!(decoder.bytes(part.len()), Ok(part.as_slice()));
            }
            prop_assert_eq!(decoder.consumed(), wire.len());
            if !wire.is_empty() {
                let cut = cut % wire.len();
                let mut decoder = Decoder::new(&wire[..cut]);
                let all: Result<Vec<&[u8]>, DecodeError> =
                    parts.iter().map(|part| decoder.bytes(part.len())).collect();
                let incomplete = matches!(all, Err(DecodeError::Incomplete { .. }));
                prop_assert!(incomplete);
            }
        }

        #[test]
        fn random_bytes_never_panic(wire: Vec<u8>) {
            let mut decoder = Decoder::new(&wire);
            while decoder.bytes(16).is_ok() {}
            let listed: Result<Vec<u64>, _> = Decoder::new(&wire).list(Decoder::number);
            prop_assert!(listed.is_ok() || listed.is_err());
        }
    }
}
