//! What stands in a derivation for the paths of its own outputs.
//!
//! Follows `rewriteStrings` of Nix (`src/libutil/strings.cc`): one replacement after the other, in
//! the order of what is replaced.

use std::collections::BTreeMap;

use drover_core::{OutputName, StoreDir, StorePath};
use drover_derivation::output_placeholder;

/// Texts and what takes their place.
#[derive(Clone, Debug, Default)]
pub struct Placeholders(BTreeMap<Vec<u8>, Vec<u8>>);

impl Placeholders {
    /// Returns what stands for outputs, with the paths that the build is to write them to.
    ///
    /// Where an output is written elsewhere than to the path that the derivation names, give that
    /// as well with [`Placeholders::redirect`].
    pub fn of_outputs<'a>(
        store_dir: &StoreDir,
        outputs: impl IntoIterator<Item = (&'a OutputName, &'a StorePath)>,
    ) -> Placeholders {
        let outputs = outputs.into_iter();
        let texts = outputs.map(|(name, path)| {
            (output_placeholder(name).into_bytes(), store_dir.display(path).into_bytes())
        });
        Placeholders(texts.collect())
    }

    /// Has the hash part of one path replaced by that of another.
    pub fn redirect(&mut self, from: &StorePath, to: &StorePath) {
        let (from, to) = (from.hash_part(), to.hash_part());
        self.0.insert(from.as_bytes().to_vec(), to.as_bytes().to_vec());
    }

    /// Returns a text with all of it replaced.
    pub fn fill(&self, text: &[u8]) -> Vec<u8> {
        let mut filled = text.to_vec();
        for (from, to) in &self.0 {
            filled = replace(&filled, from, to);
        }
        filled
    }
}

fn replace(text: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = find(rest, from) {
        out.extend_from_slice(rest.get(..at).unwrap_or_default());
        out.extend_from_slice(to);
        rest = rest.get(at + from.len()..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
    out
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    let first = *wanted.first()?;
    let mut from = 0;
    loop {
        from += text.get(from..)?.iter().position(|&byte| byte == first)?;
        if text.get(from..)?.starts_with(wanted) {
            return Some(from);
        }
        from += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_all_of_them() {
        let store_dir: StoreDir = "/nix/store".parse().unwrap();
        let (out, dev) = (OutputName::out(), "dev".parse::<OutputName>().unwrap());
        let path = |seed| StorePath::new([seed; 20], &"x".parse().unwrap());
        let (one, two, scratch) = (path(1), path(2), path(3));
        let mut fillers = Placeholders::of_outputs(&store_dir, [(&out, &one), (&dev, &scratch)]);
        fillers.redirect(&two, &scratch);
        let text =
            |out: &str, dev: &str, again: &str| format!("{out}/bin:{dev} {out} and {again}-x/");
        let filled = fillers.fill(
            text(&output_placeholder(&out), &output_placeholder(&dev), two.hash_part()).as_bytes(),
        );
        let [one, dev] = [&one, &scratch].map(|path| store_dir.display(path));
        assert_eq!(String::from_utf8(filled).unwrap(), text(&one, &dev, scratch.hash_part()));
    }
}
