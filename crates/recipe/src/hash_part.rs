//! The 32 digits with which the base name of a store path begins, as bytes to look for.

use drover_core::StorePath;

/// The hash part of a store path: 32 digits of Nix's base 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HashPart([u8; HashPart::LEN]);

impl HashPart {
    /// Its length in bytes.
    pub const LEN: usize = 32;

    /// What stands for a hash part where contents are hashed that mention themselves.
    pub(crate) const ZEROS: HashPart = HashPart([0; HashPart::LEN]);

    /// Returns the bytes.
    pub fn as_bytes(&self) -> &[u8; HashPart::LEN] {
        &self.0
    }
}

impl From<&StorePath> for HashPart {
    fn from(path: &StorePath) -> HashPart {
        let mut digits = [0; HashPart::LEN];
        for (to, from) in digits.iter_mut().zip(path.hash_part().bytes()) {
            *to = from;
        }
        HashPart(digits)
    }
}

/// For each byte whether it is a digit of Nix's base 32.
#[expect(clippy::indexing_slicing, reason = "evaluated when it is compiled")]
pub(crate) const IS_DIGIT: [bool; 256] = {
    let digits = b"0123456789abcdfghijklmnpqrsvwxyz";
    let mut table = [false; 256];
    let mut at = 0;
    while at < digits.len() {
        table[digits[at] as usize] = true;
        at += 1;
    }
    table
};
