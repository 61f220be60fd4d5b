//! The hash of contents that mention their own path.
//!
//! A path that is addressed by contents which hold its own hash part: each occurrence counts as
//! zeros. Nix up to 2.15 or so hashes where they were behind the contents, later ones mean to and
//! don't; paths of both are around. Follows `HashModuloSink` and `RewritingSink`
//! (`src/libstore/references.cc`) of 2.8 and 2.34.

use drover_core::{Hash, HashAlgorithm, Hasher};

use crate::{HashPart, Rewriter};

/// A hash in the making of contents that mention their own path.
pub struct HashModulo {
    hasher: Hasher,
    rewriter: Rewriter,
    rewritten: Vec<u8>,
}

impl HashModulo {
    /// Begins the hash of contents whose path has this hash part.
    pub fn new(algorithm: HashAlgorithm, itself: HashPart) -> HashModulo {
        HashModulo {
            hasher: Hasher::new(algorithm),
            rewriter: Rewriter::new([(itself, HashPart::ZEROS)]),
            rewritten: Vec::new(),
        }
    }

    /// Takes the next piece.
    pub fn update(&mut self, piece: &[u8]) {
        self.rewriter.update(piece, &mut self.rewritten);
        self.hasher.update(&self.rewritten);
        self.rewritten.clear();
    }

    /// Returns the hash without and with the places of the occurrences.
    pub fn finish(mut self) -> [Hash; 2] {
        let places = self.rewriter.finish(&mut self.rewritten);
        self.hasher.update(&self.rewritten);
        let mut with_places = self.hasher.clone();
        for place in places {
            with_places.update(format!("|{place}").as_bytes());
        }
        [self.hasher.finish(), with_places.finish()]
    }
}

#[cfg(test)]
mod tests {
    use drover_core::StorePath;

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
        let path = StorePath::from_base_name(&format!("{PART}-x")).unwrap();
        let itself = HashPart::from(&path);
        for text in [
            String::new(),
            PART.to_owned(),
            format!("a{PART}{PART}b 0123456789abcd {PART}"),
            "0123456789abcdfghijklmnpqrsvwxy".to_owned(),
        ] {
            for size in 1..text.len().max(2) {
                let mut hash = HashModulo::new(HashAlgorithm::Sha256, itself);
                text.as_bytes().chunks(size).for_each(|piece| hash.update(piece));
                assert_eq!(hash.finish(), expected(&text), "{text} in pieces of {size}");
            }
        }
    }
}
