//! Throughput of parsing and writing: one large file, and many small ones.

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use drover_nar::{Executable, Limits, Parser, Visitor, Writer};

fn main() {
    divan::main();
}

/// What a socket or a pipe delivers at once, give or take.
const CHUNK: usize = 64 << 10;

/// One archive of `files` files of `size` bytes, 100 to a directory.
fn archive(files: usize, size: usize) -> Vec<u8> {
    write(Vec::new(), files, &vec![0x5a; size]).unwrap_or_default()
}

fn write<W: std::io::Write>(
    out: W,
    files: usize,
    contents: &[u8],
) -> Result<W, drover_nar::WriteError> {
    let mut writer = Writer::new(out)?;
    writer.directory()?;
    for directory in 0..files.div_ceil(100) {
        writer.entry(format!("directory-{directory:06}").as_bytes())?;
        writer.directory()?;
        for file in 0..files.min(100) {
            writer.entry(format!("file-{file:02}.txt").as_bytes())?;
            writer.regular(Executable::No, contents.len() as u64)?;
            contents.chunks(CHUNK).try_for_each(|chunk| writer.contents(chunk))?;
        }
        writer.directory_end()?;
    }
    writer.directory_end()?;
    writer.finish()
}

/// Looks at contents, as a hash or a scanner would.
struct Sum(u64);

impl Visitor for Sum {
    fn contents(&mut self, chunk: &[u8]) {
        self.0 += chunk.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    }
}

fn parse(bencher: Bencher, nar: &[u8], visitor: &mut impl Visitor) {
    bencher.counter(BytesCount::of_slice(nar)).bench_local(|| {
        let mut parser = Parser::new(Limits::of_size(nar.len() as u64));
        for chunk in nar.chunks(CHUNK) {
            assert!(parser.feed(black_box(chunk), visitor).is_ok());
        }
        assert_eq!(parser.finish(), Ok(()));
    });
}

#[divan::bench(args = [(1, 256 << 20), (100_000, 0), (100_000, 1000)])]
fn skip(bencher: Bencher, (files, size): (usize, usize)) {
    parse(bencher, &archive(files, size), &mut ());
}

#[divan::bench(args = [(1, 256 << 20), (100_000, 1000)])]
fn sum(bencher: Bencher, (files, size): (usize, usize)) {
    parse(bencher, &archive(files, size), &mut Sum(0));
}

#[divan::bench(args = [(1, 256 << 20), (100_000, 0), (100_000, 1000)])]
fn write_to_memory(bencher: Bencher, (files, size): (usize, usize)) {
    let contents = vec![0x5a; size];
    let mut out = archive(files, size);
    bencher.counter(BytesCount::of_slice(&out)).bench_local(|| {
        out.clear();
        write(&mut out, files, black_box(&contents)).is_ok()
    });
}
