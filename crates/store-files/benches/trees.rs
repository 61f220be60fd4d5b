//! Restore, dump and hash of one large file, and of many small ones, in `TMPDIR`.
//!
//! That should be in memory (`TMPDIR=/dev/shm`): ext4 searches long for inodes where many files were
//! just removed, as they are here from one run to the next, and that would be all that is measured.

use std::fs::File;
use std::os::fd::AsFd;

use bytes::Bytes;
use divan::Bencher;
use divan::counter::BytesCount;
use drover_nar::{Executable, Limits, WriteError, Writer};
use drover_store_files::{
    FileName, FilesError, Filled, HashingUnpacker, Packer, Unpacker, measure, remove_tree,
};

fn main() {
    divan::main();
}

/// What a socket or a pipe delivers at once, give or take.
const CHUNK: usize = 64 << 10;

/// Files and their size: 256 MiB in one, 80 MB in 20,000.
const TREES: [(usize, usize); 2] = [(1, 256 << 20), (20_000, 4000)];

/// One archive of `files` files of `size` bytes, 100 to a directory.
fn archive((files, size): (usize, usize)) -> Result<Bytes, WriteError> {
    let contents = vec![0x5a; size];
    let mut writer = Writer::new(Vec::new())?;
    writer.directory()?;
    for directory in 0..files.div_ceil(100) {
        writer.entry(format!("directory-{directory:06}").as_bytes())?;
        writer.directory()?;
        for file in 0..files.min(100) {
            writer.entry(format!("file-{file:02}.txt").as_bytes())?;
            writer.regular(Executable::No, size as u64)?;
            writer.contents(&contents)?;
        }
        writer.directory_end()?;
    }
    writer.directory_end()?;
    Ok(writer.finish()?.into())
}

/// Runs `work` on the archive in a directory that holds it, or makes it, under a name.
fn bench(
    bencher: Bencher,
    tree: (usize, usize),
    there: Option<()>,
    work: fn(&File, &FileName, &Bytes) -> Result<(), FilesError>,
) {
    let run = || -> Result<(), Box<dyn std::error::Error>> {
        let nar = archive(tree)?;
        let temporary = tempfile::tempdir()?;
        let dir = File::open(temporary.path())?;
        let name: FileName = "tree".parse()?;
        if there.is_some() {
            restore(&dir, &name, &nar)?;
        }
        let prepare = || there.map_or_else(|| remove_tree(dir.as_fd(), &name).map(drop), Ok);
        bencher
            .counter(BytesCount::of_slice(&nar))
            .with_inputs(prepare)
            .bench_local_values(|ready| ready.and_then(|()| work(&dir, &name, &nar)).is_ok());
        remove_tree(dir.as_fd(), &name)?;
        Ok(())
    };
    assert!(run().is_ok(), "the benchmark cannot run");
}

fn restore(dir: &File, name: &FileName, nar: &Bytes) -> Result<(), FilesError> {
    let mut unpacker = Unpacker::new(dir.as_fd(), name, Limits::default())?;
    for chunk in nar.chunks(CHUNK) {
        unpacker.push(chunk)?;
    }
    unpacker.finish()
}

fn import(dir: &File, name: &FileName, nar: &Bytes) -> Result<(), FilesError> {
    let mut unpacker = HashingUnpacker::new(dir.as_fd(), name, Limits::default())?;
    let mut rest = nar.clone();
    while !rest.is_empty() {
        unpacker.push(&rest.split_to(rest.len().min(CHUNK)))?;
    }
    unpacker.finish().map(drop)
}

fn dump(dir: &File, name: &FileName, _: &Bytes) -> Result<(), FilesError> {
    let mut packer = Packer::new(dir.as_fd(), name)?;
    let mut block = Vec::with_capacity(4 * CHUNK);
    while packer.fill(&mut block)? == Filled::More {}
    Ok(())
}

#[divan::bench(args = TREES, sample_count = 9)]
fn restored(bencher: Bencher, tree: (usize, usize)) {
    bench(bencher, tree, None, restore);
}

#[divan::bench(args = TREES, sample_count = 9)]
fn imported(bencher: Bencher, tree: (usize, usize)) {
    bench(bencher, tree, None, import);
}

#[divan::bench(args = TREES, sample_count = 9)]
fn dumped(bencher: Bencher, tree: (usize, usize)) {
    bench(bencher, tree, Some(()), dump);
}

#[divan::bench(args = TREES, sample_count = 9)]
fn hashed(bencher: Bencher, tree: (usize, usize)) {
    bench(bencher, tree, Some(()), |dir, name, _| measure(dir.as_fd(), name).map(drop));
}
