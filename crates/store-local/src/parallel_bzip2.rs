//! A `bzip2` that has as many blocks compressed at a time as there are processors.
//!
//! What it writes is one stream for each block, one after another, as `pbzip2` does; whoever reads
//! `bzip2` reads that as one, and it's longer by a few bytes a block.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::thread::JoinHandle;

use bzip2::Compression;
use bzip2::write::BzEncoder;

/// Bytes that one stream is made of: what fits into the largest block, as long as there are no runs in
/// it that grow.
const BLOCK: usize = 899_000;

/// Blocks that are in work at most, each of them with eight megabytes of workspace.
const MOST: usize = 4;

/// A file that is written to with `bzip2`. What is in work when it's dropped is lost.
pub(crate) struct ParallelBzip2 {
    file: File,
    block: Vec<u8>,
    /// Blocks in work, the first first.
    working: VecDeque<JoinHandle<io::Result<Vec<u8>>>>,
    most: usize,
}

impl ParallelBzip2 {
    pub(crate) fn new(file: File) -> ParallelBzip2 {
        let most = std::thread::available_parallelism().map_or(1, |count| count.get().min(MOST));
        ParallelBzip2 { file, block: Vec::new(), working: VecDeque::new(), most }
    }

    /// Writes all that there is.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        if !self.block.is_empty() {
            self.compress_block()?;
        }
        while !self.working.is_empty() {
            self.write_first()?;
        }
        Ok(())
    }

    /// Has a block compressed, as soon as it's the turn of one.
    fn compress_block(&mut self) -> io::Result<()> {
        if self.most <= self.working.len() {
            self.write_first()?;
        }
        let block = std::mem::take(&mut self.block);
        let thread = std::thread::Builder::new().name("log-bzip2".to_owned());
        self.working.push_back(thread.spawn(move || compress(&block))?);
        Ok(())
    }

    /// Waits for the first block in work, and writes it.
    fn write_first(&mut self) -> io::Result<()> {
        let Some(first) = self.working.pop_front() else { return Ok(()) };
        let compressed =
            first.join().map_err(|_| io::Error::other("the compressor panicked"))??;
        self.file.write_all(&compressed)
    }
}

impl Write for ParallelBzip2 {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = BLOCK.saturating_sub(self.block.len());
        let taken = bytes.get(..room).unwrap_or(bytes);
        if self.block.capacity() == 0 {
            self.block.reserve_exact(BLOCK);
        }
        self.block.extend_from_slice(taken);
        if BLOCK <= self.block.len() {
            self.compress_block()?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn compress(block: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = BzEncoder::new(Vec::with_capacity(block.len() / 4), Compression::best());
    encoder.write_all(block)?;
    encoder.finish()
}
