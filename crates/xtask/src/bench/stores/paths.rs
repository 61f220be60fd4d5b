//! Paths made up for the measurements: the same on both sides, whenever they are made.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use drover_core::{Hash, HashAlgorithm, NarHash, NarSize, PathInfo, StorePath};
use drover_nar::{Executable, Writer, single_file_nar};

/// Paths with their NARs, references first.
pub(super) type Paths = Vec<(PathInfo, Vec<u8>)>;

/// Numbers that look random and are the same every time (xorshift).
#[derive(Clone, Debug)]
pub(super) struct Numbers(u64);

impl Numbers {
    pub(super) fn new(seed: u64) -> Numbers {
        Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Returns a number less than `limit`.
    pub(super) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() >> 16).unwrap_or_default() % limit.max(1)
    }

    /// Returns bytes that no compression makes shorter.
    pub(super) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend(self.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

/// Returns a path and what is known of it.
fn known(
    label: &str,
    nar: Vec<u8>,
    references: BTreeSet<StorePath>,
) -> Result<(PathInfo, Vec<u8>)> {
    let digest = Hash::of(HashAlgorithm::Sha256, &nar);
    let nar_hash = NarHash(digest.digest().try_into()?);
    let mut part = [0; 20];
    let of_label = Hash::of(HashAlgorithm::Sha256, label.as_bytes());
    part.iter_mut().zip(of_label.digest()).for_each(|(to, from)| *to = *from);
    let info = PathInfo {
        path: StorePath::new(part, &label.parse()?),
        deriver: None,
        nar_hash,
        nar_size: NarSize(nar.len() as u64),
        references,
        registration_time: 0,
        ultimate: false,
        signatures: BTreeSet::new(),
        content_address: None,
    };
    Ok((info, nar))
}

/// Returns a path with one file.
pub(super) fn one_file(label: &str, size: usize) -> Result<(PathInfo, Vec<u8>)> {
    let contents = Numbers::new(size as u64).bytes(size);
    known(label, single_file_nar(&contents, Executable::No), BTreeSet::new())
}

/// Returns `count` paths of 2.5 KB in four layers, each path referring to three of the layer below,
/// and one that refers to all.
pub(super) fn small_closure(label: &str, count: usize) -> Result<Paths> {
    let mut numbers = Numbers::new(1);
    let mut paths: Paths = Vec::with_capacity(count + 1);
    let layer = count.div_ceil(4).max(1);
    for index in 0..count {
        let below = (index / layer).checked_sub(1).map(|below| below * layer);
        let references = below.map(|first| {
            let some = (0..3).map(|_| first + numbers.below(layer));
            some.filter_map(|at| Some(paths.get(at)?.0.path.clone())).collect()
        });
        let nar = single_file_nar(&numbers.bytes(2300), Executable::No);
        paths.push(known(&format!("{label}-{index}"), nar, references.unwrap_or_default())?);
    }
    paths.push(top(label, &paths)?);
    Ok(paths)
}

/// Returns 120 paths of 192 MB together, files of about 110 KB in folders, and one that refers to
/// all; sizes as they are in closures of programs: few paths hold most of the bytes. The contents are
/// pieces of this very program, which compress as programs do.
pub(super) fn real_closure(label: &str) -> Result<Paths> {
    const SIZES: [(usize, usize); 3] = [(8, 12_000_000), (24, 3_000_000), (88, 272_000)];
    let mut numbers = Numbers::new(2);
    let program = std::fs::read(std::env::current_exe()?)?;
    let mut paths: Paths = Vec::new();
    let sizes = SIZES.iter().flat_map(|(count, size)| std::iter::repeat_n(*size, *count));
    for (index, size) in sizes.enumerate() {
        let nar = folder(&mut numbers, &program, size)?;
        let some: BTreeSet<usize> = (0..4).map(|_| numbers.below(index)).collect();
        let references = some.iter().filter_map(|at| Some(paths.get(*at)?.0.path.clone()));
        let references = references.collect();
        paths.push(known(&format!("{label}-{index}"), nar, references)?);
    }
    paths.push(top(label, &paths)?);
    Ok(paths)
}

fn top(label: &str, paths: &Paths) -> Result<(PathInfo, Vec<u8>)> {
    let all = paths.iter().map(|(info, _)| info.path.clone()).collect();
    known(&format!("{label}-top"), single_file_nar(b"all of them", Executable::No), all)
}

fn folder(numbers: &mut Numbers, program: &[u8], size: usize) -> Result<Vec<u8>> {
    const FILE: usize = 110_000;
    let mut writer = Writer::new(Vec::with_capacity(size + size / 100))?;
    writer.directory()?;
    let mut left = size;
    for index in 0.. {
        let len = left.min(FILE);
        writer.entry(format!("file-{index:05}").as_bytes())?;
        writer.regular(Executable::No, len as u64)?;
        let begin = numbers.below(program.len().saturating_sub(len));
        writer.contents(program.get(begin..begin + len).context("a program too small")?)?;
        left -= len;
        if left == 0 {
            break;
        }
    }
    writer.directory_end()?;
    Ok(writer.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closures_are_what_their_rows_say() {
        let small = small_closure("small", 2000).unwrap();
        assert_eq!(small.len(), 2001);
        let bytes: usize = small.iter().map(|(_, nar)| nar.len()).sum();
        assert!((4_500_000..5_500_000).contains(&bytes), "{bytes}");
        let again = small_closure("small", 2000).unwrap();
        assert_eq!(small, again);
        let mut before = BTreeSet::new();
        for (info, _) in &small {
            assert!(info.references.is_subset(&before));
            before.insert(info.path.clone());
        }
        let sizes: usize = real_closure("real").unwrap().iter().map(|(_, nar)| nar.len()).sum();
        assert!((190_000_000..195_000_000).contains(&sizes), "{sizes}");
    }
}
