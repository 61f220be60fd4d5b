//! Replaces hash parts by others while contents pass through.
//!
//! All occurrences are replaced in one pass, from the left, so that what was put in is never looked
//! at again. Follows `RewritingSink` of Nix (`src/libutil/references.cc`), which does one after the
//! other; the results differ only where one replacement makes another's occurrence, which takes hash
//! parts that overlap.

use std::collections::HashMap;

use drover_core::StorePath;

use crate::hash_part::{HashPart, IS_DIGIT};

/// Replacements in contents that come in pieces.
#[derive(Clone, Debug)]
pub struct Rewriter {
    replacements: HashMap<HashPart, HashPart>,
    /// Bytes that may be the beginning of an occurrence, not handed on yet.
    held: Vec<u8>,
    /// How many bytes were handed on.
    done: u64,
    /// Where something was replaced.
    places: Vec<u64>,
}

impl Rewriter {
    /// Returns one that puts the second hash part of each pair in the place of the first.
    pub fn new(replacements: impl IntoIterator<Item = (HashPart, HashPart)>) -> Rewriter {
        let replacements = replacements.into_iter().filter(|(from, to)| from != to).collect();
        Rewriter { replacements, held: Vec::new(), done: 0, places: Vec::new() }
    }

    /// Returns one that puts the hash parts of the second path of each pair in the place of those
    /// of the first.
    pub fn of_paths<'a>(
        pairs: impl IntoIterator<Item = (&'a StorePath, &'a StorePath)>,
    ) -> Rewriter {
        Rewriter::new(pairs.into_iter().map(|(from, to)| (from.into(), to.into())))
    }

    /// Whether nothing is replaced at all.
    pub fn is_idle(&self) -> bool {
        self.replacements.is_empty()
    }

    /// Takes the next piece, and appends to `out` what is settled.
    pub fn update(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        self.held.extend_from_slice(piece);
        let from = self.replace_held();
        let keep = (HashPart::LEN - 1).min(self.held.len().saturating_sub(from));
        let settled = self.held.len() - keep;
        self.hand_on(settled, out);
    }

    /// Appends the rest to `out`, and returns where replacements were made.
    pub fn finish(mut self, out: &mut Vec<u8>) -> Vec<u64> {
        self.hand_on(self.held.len(), out);
        self.places
    }

    /// Replaces what is whole, and returns the position behind the last replacement.
    fn replace_held(&mut self) -> usize {
        let (mut begin, mut digits, mut behind) = (0, 0, 0);
        while !self.replacements.is_empty()
            && let Some(window) = self.held.get_mut(begin..begin + HashPart::LEN)
        {
            let unknown = window.get(digits..).unwrap_or_default();
            let odd = unknown
                .iter()
                .rposition(|&byte| !IS_DIGIT.get(usize::from(byte)).copied().unwrap_or_default());
            if let Some(position) = odd {
                begin += digits + position + 1;
                digits = HashPart::LEN - digits - position - 1;
                continue;
            }
            match self.replacements.get::<[u8]>(window) {
                Some(new) => {
                    window.copy_from_slice(new.as_bytes());
                    self.places.push(self.done + begin as u64);
                    begin += HashPart::LEN;
                    (behind, digits) = (begin, 0);
                }
                None => {
                    begin += 1;
                    digits = HashPart::LEN - 1;
                }
            }
        }
        behind
    }

    fn hand_on(&mut self, settled: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(self.held.get(..settled).unwrap_or_default());
        self.held.drain(..settled);
        self.done += settled as u64;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(seed: u8) -> StorePath {
        StorePath::new([seed; 20], &"some".parse().unwrap())
    }

    fn rewrite(text: &[u8], size: usize) -> (Vec<u8>, Vec<u64>) {
        let (one, two, three, four) = (path(1), path(2), path(3), path(4));
        let mut rewriter = Rewriter::of_paths([(&one, &two), (&three, &four)]);
        let mut out = Vec::new();
        text.chunks(size).for_each(|piece| rewriter.update(piece, &mut out));
        let places = rewriter.finish(&mut out);
        (out, places)
    }

    #[test]
    fn replaces_all_wherever_the_pieces_end() {
        let part = |seed| path(seed).hash_part().to_owned();
        let text = format!("a{}{}b/nix/store/{}-x {}", part(1), part(3), part(2), part(1));
        let wanted = format!("a{}{}b/nix/store/{}-x {}", part(2), part(4), part(2), part(2));
        let last = text.len() as u64 - 32;
        for size in 1..=text.len() {
            let (out, places) = rewrite(text.as_bytes(), size);
            assert_eq!(String::from_utf8_lossy(&out), wanted, "by {size}");
            assert_eq!(places, [1, 33, last]);
        }
    }

    proptest! {
        #[test]
        fn leaves_the_rest_as_it_is(text in proptest::collection::vec(any::<u8>(), 0..300), size in 1usize..64) {
            prop_assert_eq!(rewrite(&text, size), (text, Vec::new()));
        }
    }
}
