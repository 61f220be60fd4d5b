//! Finds store paths in bytes that come in pieces, in memory that does not grow with them.

use drover_core::{StoreDir, StorePath};

/// Bytes of the base name of a store path: hash part, dash, name.
const LONGEST: usize = 32 + 1 + 211;

/// Finds whatever looks like a path of one store.
pub(super) struct Scanner {
    /// The store's directory with a slash behind it.
    needle: Vec<u8>,
    /// What came last, as far as it may be the beginning of a path.
    kept: Vec<u8>,
}

impl Scanner {
    pub(super) fn new(store_dir: &StoreDir) -> Scanner {
        Scanner { needle: format!("{store_dir}/").into_bytes(), kept: Vec::new() }
    }

    /// Takes the next piece.
    pub(super) fn feed(&mut self, piece: &[u8], found: &mut impl FnMut(StorePath)) {
        self.kept.extend_from_slice(piece);
        let enough = self.needle.len() + LONGEST + 1;
        let whole = self.kept.len().saturating_sub(enough);
        self.search(whole, found);
        self.kept.drain(..whole);
    }

    /// Takes the end; the next piece is another text's beginning.
    pub(super) fn finish(&mut self, found: &mut impl FnMut(StorePath)) {
        self.search(self.kept.len(), found);
        self.kept.clear();
    }

    /// Looks for paths that begin before `end`.
    fn search(&self, end: usize, found: &mut impl FnMut(StorePath)) {
        let mut at = 0;
        while let Some(rest) = self.kept.get(at..).filter(|_| at < end) {
            let Some(slash) = rest.iter().position(|byte| *byte == b'/') else { return };
            at += slash;
            let rest = rest.get(slash..).unwrap_or_default();
            if at < end
                && let Some(behind) = rest.strip_prefix(&*self.needle)
            {
                let name: &[u8] =
                    behind.split(|byte| !is_name_byte(*byte)).next().unwrap_or_default();
                let name = std::str::from_utf8(name).unwrap_or_default();
                if let Ok(path) = StorePath::from_base_name(name) {
                    found(path);
                }
            }
            at += 1;
        }
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+-._?=".contains(&byte)
}

/// Returns the store path that a file's path is, or is in.
pub(super) fn path_in(store_dir: &StoreDir, text: &[u8]) -> Option<StorePath> {
    let inside = text.strip_prefix(store_dir.as_str().as_bytes())?.strip_prefix(b"/")?;
    let name = inside.split(|byte| *byte == b'/').next()?;
    StorePath::from_base_name(std::str::from_utf8(name).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(text: &str, piece: usize) -> Vec<String> {
        let mut scanner = Scanner::new(&StoreDir::default());
        let mut found = Vec::new();
        let mut take = |path: StorePath| found.push(path.base_name().to_owned());
        for piece in text.as_bytes().chunks(piece) {
            scanner.feed(piece, &mut take);
        }
        scanner.finish(&mut take);
        found
    }

    #[test]
    fn paths_in_text_however_it_comes() {
        let a = format!("{}-a", "a".repeat(32));
        let b = format!("{}-b-1.0_?=+", "b".repeat(32));
        let long = format!("{}-{}", "c".repeat(32), "x".repeat(211));
        let too_long = format!("{}-{}", "d".repeat(32), "x".repeat(212));
        let text = format!(
            "PATH=/nix/store/{a}/bin:/nix/store/{b}/bin\0/nix/store/\0X=//nix/store/{long}\0\
             /nix/store/{too_long}\0/nix/store/nix/store/{a}\0/nix/store/{a}"
        );
        for piece in [1, 2, 7, 64, 250, 100_000] {
            let expected = [&a, &b, &long, &a, &a].map(String::clone);
            assert_eq!(scan(&text, piece), expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn the_path_that_a_file_is_in() {
        let dir = StoreDir::default();
        let a = format!("{}-a", "a".repeat(32));
        let found = |text: String| path_in(&dir, text.as_bytes()).map(|path| path.to_string());
        assert_eq!(found(format!("/nix/store/{a}/bin/sh")), Some(a.clone()));
        assert_eq!(found(format!("/nix/store/{a}")), Some(a.clone()));
        assert_eq!(found(format!("/chroot/nix/store/{a}")), None);
        assert_eq!(found(format!("/nix/store2/{a}")), None);
        assert_eq!(found("/nix/store/.links/x".to_owned()), None);
    }
}
