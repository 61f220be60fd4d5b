//! The hash of contents that mention their own path.
//!
//! A path that is addressed by contents which hold its own hash part: each occurrence counts as
//! zeros. Nix up to 2.15 or so hashes where they were behind the contents, later ones mean to and
//! don't; paths of both are around. Follows `HashModuloSink` and `RewritingSink`
//! (`src/libstore/references.cc`) of 2.8 and 2.34.

use drover_core::{Hash, HashAlgorithm, Hasher};

/// A hash in the making of contents that mention their own path.
pub(crate) struct HashModulo {
    hasher: Hasher,
    hash_part: Vec<u8>,
    /// Bytes that may be the beginning of an occurrence.
    tail: Vec<u8>,
    /// Where `tail` begins.
    at: u64,
    found: Vec<u64>,
}

impl HashModulo {
    pub(crate) fn new(algorithm: HashAlgorithm, hash_part: &str) -> HashModulo {
        HashModulo {
            hasher: Hasher::new(algorithm),
            hash_part: hash_part.as_bytes().to_owned(),
            tail: Vec::new(),
            at: 0,
            found: Vec::new(),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        let length = self.hash_part.len();
        let mut from = 0;
        while let Some(rest) = self.tail.get(from..)
            && let Some(position) = rest.windows(length).position(|window| window == self.hash_part)
        {
            let begin = from + position;
            if let Some(slots) = self.tail.get_mut(begin..begin + length) {
                slots.fill(0);
            }
            self.found.push(self.at + begin as u64);
            from = begin + length;
        }
        let keep = (length - 1).min(self.tail.len() - from.min(self.tail.len()));
        let done = self.tail.len() - keep;
        self.hasher.update(self.tail.get(..done).unwrap_or_default());
        self.tail.drain(..done);
        self.at += done as u64;
    }

    /// Returns the hash without and with the places of the occurrences.
    pub(crate) fn finish(mut self) -> [Hash; 2] {
        self.hasher.update(&self.tail);
        let mut with_places = self.hasher.clone();
        for position in &self.found {
            with_places.update(format!("|{position}").as_bytes());
        }
        [self.hasher.finish(), with_places.finish()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PART: &str = "0123456789abcdfghijklmnpqrsvwxyz";

    fn expected(text: &str) -> [Hash; 2] {
        let zeros = "\0".repeat(PART.len());
        let places: String =
            text.match_indices(PART).map(|(position, _)| format!("|{position}")).collect();
        let without = text.replace(PART, &zeros);
        let with = without.clone() + &places;
        [without, with].map(|text| Hash::of(HashAlgorithm::Sha256, text.as_bytes()))
    }

    #[test]
    fn finds_itself_wherever_the_pieces_end() {
        for text in [
            String::new(),
            PART.to_owned(),
            format!("a{PART}{PART}b 0123456789abcd {PART}"),
            "0123456789abcdfghijklmnpqrsvwxy".to_owned(),
        ] {
            for size in 1..text.len().max(2) {
                let mut hash = HashModulo::new(HashAlgorithm::Sha256, PART);
                text.as_bytes().chunks(size).for_each(|piece| hash.update(piece));
                assert_eq!(hash.finish(), expected(&text), "{text} in pieces of {size}");
            }
        }
    }
}
