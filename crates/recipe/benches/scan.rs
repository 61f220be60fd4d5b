//! Throughput of the search for references and of replacements, in binary and in text.

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use drover_core::StorePath;
use drover_recipe::{ReferenceScan, Rewriter};

fn main() {
    divan::main();
}

const SIZE: usize = 64 << 20;

/// What is read from a disk at once.
const PIECE: usize = 256 << 10;

/// What programs are like, or texts.
#[derive(Clone, Copy, Debug)]
enum Contents {
    Binary,
    Digits,
}

fn contents(kind: Contents) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    let digits = b"0123456789abcdfghijklmnpqrsvwxyz";
    let one = |byte: u8| match kind {
        Contents::Binary => byte,
        Contents::Digits => digits.get(usize::from(byte % 32)).copied().unwrap_or_default(),
    };
    (0..SIZE).map(|_| one(byte())).collect()
}

fn paths(count: u8) -> Vec<StorePath> {
    let name = "some".parse().ok();
    (0..count).filter_map(|seed| Some(StorePath::new([seed; 20], name.as_ref()?))).collect()
}

#[divan::bench(args = [Contents::Binary, Contents::Digits])]
fn scan(bencher: Bencher<'_, '_>, kind: Contents) {
    let (contents, paths) = (contents(kind), paths(200));
    bencher.counter(BytesCount::new(SIZE)).bench(|| {
        let mut scan = ReferenceScan::new(&paths);
        contents.chunks(PIECE).for_each(|piece| scan.update(piece));
        black_box(scan.finish())
    });
}

#[divan::bench(args = [Contents::Binary, Contents::Digits])]
fn rewrite(bencher: Bencher<'_, '_>, kind: Contents) {
    let (contents, paths) = (contents(kind), paths(4));
    let pairs = || paths.iter().zip(paths.iter().skip(1));
    bencher.counter(BytesCount::new(SIZE)).bench(|| {
        let mut rewriter = Rewriter::of_paths(pairs());
        let mut out = Vec::new();
        for piece in contents.chunks(PIECE) {
            rewriter.update(piece, &mut out);
            out.clear();
        }
        black_box(rewriter.finish(&mut out))
    });
}
