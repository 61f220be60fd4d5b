//! Which of some store paths contents mention, by their hash parts.
//!
//! A path is mentioned where the 32 digits of its hash part are, whatever is around them, as in
//! Nix (`RefScanSink`, `src/libutil/references.cc`). Nothing that Nix finds may be missed, or a
//! garbage collector takes away what is needed; nothing else may be found, or closures differ.

use std::collections::{BTreeSet, HashMap};

use drover_core::StorePath;

use crate::hash_part::{HashPart, IS_DIGIT};

/// Bytes of an occurrence that may be in the piece before.
const OVERLAP: usize = HashPart::LEN - 1;

/// A search in contents that come in pieces.
#[derive(Clone, Debug)]
pub struct ReferenceScan {
    /// What isn't found yet.
    wanted: HashMap<HashPart, StorePath>,
    found: BTreeSet<StorePath>,
    /// The end of what was seen, at most [`OVERLAP`] bytes.
    tail: Vec<u8>,
}

impl ReferenceScan {
    /// Begins a search for some paths.
    ///
    /// Of two paths with the same hash part, which no store has, the last is found.
    pub fn new<'a>(paths: impl IntoIterator<Item = &'a StorePath>) -> ReferenceScan {
        ReferenceScan {
            wanted: paths.into_iter().map(|path| (path.into(), path.clone())).collect(),
            found: BTreeSet::new(),
            tail: Vec::with_capacity(2 * OVERLAP),
        }
    }

    /// Searches the next piece.
    pub fn update(&mut self, piece: &[u8]) {
        if !self.tail.is_empty() {
            let begin = piece.get(..OVERLAP).unwrap_or(piece);
            self.tail.extend_from_slice(begin);
            let seam = std::mem::take(&mut self.tail);
            self.search(&seam);
            self.tail = seam;
        }
        self.search(piece);
        match piece.len().checked_sub(OVERLAP) {
            Some(from) => {
                self.tail.clear();
                self.tail.extend_from_slice(piece.get(from..).unwrap_or_default());
            }
            None if self.tail.is_empty() => self.tail.extend_from_slice(piece),
            // the seam holds all of the piece already
            None => {
                let surplus = self.tail.len().saturating_sub(OVERLAP);
                self.tail.drain(..surplus);
            }
        }
    }

    /// Returns one of the paths that were found until now, the first by name.
    pub fn first(&self) -> Option<&StorePath> {
        self.found.first()
    }

    /// Returns what was found.
    pub fn finish(self) -> BTreeSet<StorePath> {
        self.found
    }

    /// Looks at each run of 32 digits. Wherever one begins, a whole [`Block`] of it is digits, and few
    /// blocks are.
    fn search(&mut self, bytes: &[u8]) {
        if self.wanted.is_empty() {
            return;
        }
        let mut begin = 0;
        while let Some(block) = next_block_of_digits(bytes, begin) {
            begin = self.search_around(bytes, begin.max(block.saturating_sub(BLOCK)), block);
        }
    }

    /// Looks at each run of 32 digits that begins at `begin` or later, until one is behind where this
    /// block is and the bytes there are no such run. Returns where that is. A window is read from its
    /// end, so that where its last byte is no digit the next 32 windows are passed over.
    fn search_around(&mut self, bytes: &[u8], mut begin: usize, block: usize) -> usize {
        // up to here from `begin` all bytes are known to be digits
        let mut digits = 0;
        while let Some(window) = bytes.get(begin..begin + HashPart::LEN) {
            let unknown = window.get(digits..).unwrap_or_default();
            match unknown.iter().rposition(|&byte| !is_digit(byte)) {
                Some(position) => {
                    begin += digits + position + 1;
                    digits = HashPart::LEN - digits - position - 1;
                    if block < begin {
                        return begin;
                    }
                }
                None => {
                    self.look_up(window);
                    begin += 1;
                    digits = OVERLAP;
                }
            }
        }
        bytes.len()
    }

    fn look_up(&mut self, window: &[u8]) {
        if let Some(path) = self.wanted.remove(window) {
            self.found.insert(path);
        }
    }
}

/// Half as many bytes as a hash part has, and as many as processors compare at once.
const BLOCK: usize = HashPart::LEN / 2;

/// Bytes at a multiple of their number.
type Block = [u8; BLOCK];

/// Returns where the first block begins from `begin` on that is all digits.
fn next_block_of_digits(bytes: &[u8], begin: usize) -> Option<usize> {
    let first = begin.div_ceil(BLOCK);
    let (blocks, _) = bytes.get(first * BLOCK..)?.as_chunks::<BLOCK>();
    let at = blocks.iter().position(is_all_digits)?;
    Some((first + at) * BLOCK)
}

/// Written so that the compiler does it for all bytes at once; it equals [`is_digit`].
fn is_all_digits(block: &Block) -> bool {
    let digits = block.iter().fold(0_u8, |digits, byte| {
        let is_number = byte.wrapping_sub(b'0') < 10;
        let is_letter = byte.wrapping_sub(b'a') < 26;
        let is_left_out = (*byte == b'e') | (*byte == b'o') | (*byte == b't') | (*byte == b'u');
        digits + u8::from(is_number | (is_letter & !is_left_out))
    });
    usize::from(digits) == BLOCK
}

fn is_digit(byte: u8) -> bool {
    IS_DIGIT.get(usize::from(byte)).copied().unwrap_or_default()
}

impl std::borrow::Borrow<[u8]> for HashPart {
    fn borrow(&self) -> &[u8] {
        self.as_bytes()
    }
}

/// Returns the paths of `candidates` that `text` mentions, looking at each position for each of
/// them: what [`ReferenceScan`] is held to.
#[cfg(test)]
fn naive(candidates: &[StorePath], text: &[u8]) -> BTreeSet<StorePath> {
    let windows: std::collections::HashSet<&[u8]> = text.windows(HashPart::LEN).collect();
    let mentioned = |path: &&StorePath| windows.contains(path.hash_part().as_bytes());
    candidates.iter().filter(mentioned).cloned().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(seed: u8) -> StorePath {
        StorePath::new([seed; 20], &"some".parse().unwrap())
    }

    fn scan(candidates: &[StorePath], text: &[u8], size: usize) -> BTreeSet<StorePath> {
        let mut scan = ReferenceScan::new(candidates);
        text.chunks(size).for_each(|piece| scan.update(piece));
        scan.finish()
    }

    #[test]
    fn finds_what_is_there_wherever_the_pieces_end() {
        let candidates = [path(1), path(2), path(3)];
        let [one, two, _] = candidates.each_ref().map(StorePath::hash_part);
        for text in [
            String::new(),
            one.to_owned(),
            format!("x{one}"),
            // digits around it don't hide it
            format!("0123{one}4567"),
            format!("{one}{two}"),
            format!("/nix/store/{one}-some and then e {two}"),
            one.to_uppercase(),
            one[1..].to_owned(),
        ] {
            for size in 1..=text.len().max(1) {
                let found = scan(&candidates, text.as_bytes(), size);
                assert_eq!(found, naive(&candidates, text.as_bytes()), "{text} by {size}");
            }
        }
    }

    #[test]
    fn a_block_is_all_digits_if_each_byte_is_one() {
        for byte in 0..=u8::MAX {
            let mut block = [b'0'; BLOCK];
            block[usize::from(byte) % BLOCK] = byte;
            assert_eq!(is_all_digits(&block), is_digit(byte), "{byte}");
        }
    }

    proptest! {
        #[test]
        fn equals_the_naive_search(
            parts in proptest::collection::vec(prop_oneof![
                (0u8..6).prop_map(|seed| path(seed).hash_part().as_bytes().to_vec()),
                (0u8..6, 0usize..32).prop_map(|(seed, cut)| {
                    path(seed).hash_part().as_bytes().split_at(cut).1.to_vec()
                }),
                proptest::collection::vec(any::<u8>(), 0..40),
                "[0-9a-df-np-sv-z]{0,40}".prop_map(String::into_bytes),
            ], 0..12),
            sizes in proptest::collection::vec(1usize..50, 1..8),
        ) {
            let candidates: Vec<StorePath> = (0..4).map(path).collect();
            let text = parts.concat();
            let mut scan = ReferenceScan::new(&candidates);
            let (mut rest, mut sizes) = (text.as_slice(), sizes.into_iter().cycle());
            while !rest.is_empty() {
                let size = sizes.next().unwrap_or(1).min(rest.len());
                let (piece, behind) = rest.split_at(size);
                scan.update(piece);
                rest = behind;
            }
            prop_assert_eq!(scan.finish(), naive(&candidates, &text));
        }
    }
}
