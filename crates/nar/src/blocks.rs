//! Blocks of memory that NARs travel in, used over and over.
//!
//! A large block that is allocated anew is new to the process: each of its pages must be found and
//! cleared by the system, which takes as long as to copy the bytes that go there.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// Blocks of one size. Cheap to clone; clones share what is free.
#[derive(Clone, Debug)]
pub struct Blocks {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    size: usize,
    /// Blocks that are kept while nobody uses them.
    most: usize,
    free: Mutex<Vec<Vec<u8>>>,
}

impl Shared {
    fn free(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self, block: Vec<u8>) {
        let mut free = self.free();
        if free.len() < self.most && block.capacity() >= self.size {
            free.push(block);
        }
    }
}

impl Blocks {
    /// Begins with none. Of those that nobody uses, `most` are kept.
    pub fn new(size: usize, most: usize) -> Blocks {
        Blocks { shared: Arc::new(Shared { size, most, free: Mutex::default() }) }
    }

    /// Returns a block with room for as many bytes as blocks have. What is in it is of no meaning.
    pub fn take(&self) -> Vec<u8> {
        let free = self.shared.free().pop();
        free.unwrap_or_else(|| Vec::with_capacity(self.shared.size))
    }

    /// Returns what is in a block, which is used again when nobody holds any part of that.
    ///
    /// What is far smaller than a block is copied, and the block is free at once.
    pub fn share(&self, block: Vec<u8>) -> Bytes {
        if block.len() < self.shared.size / 4 {
            let bytes = Bytes::copy_from_slice(&block);
            self.shared.give_back(block);
            return bytes;
        }
        Bytes::from_owner(Lent { block, shared: Arc::clone(&self.shared) })
    }
}

/// A block that somebody reads.
struct Lent {
    block: Vec<u8>,
    shared: Arc<Shared>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.block
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.shared.give_back(std::mem::take(&mut self.block));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_used_again_when_nobody_reads_them() {
        let blocks = Blocks::new(1000, 2);
        let filled = |byte: u8, len: usize| {
            let mut block = blocks.take();
            block.clear();
            block.resize(len, byte);
            blocks.share(block)
        };
        let free = || blocks.shared.free().len();
        let first = filled(1, 1000);
        let part = first.slice(10..20);
        drop(first);
        assert_eq!(free(), 0, "part of it is held");
        assert_eq!(part, [1; 10].as_slice());
        drop(part);
        assert_eq!(free(), 1);
        let (small, large) = (filled(2, 10), filled(3, 250));
        assert_eq!((&small[..], &large[..]), (&[2; 10][..], &[3; 250][..]));
        let more: Vec<Bytes> = (0..5).map(|byte| filled(byte, 999)).collect();
        drop((small, large, more));
        assert_eq!(free(), 2, "no more are kept");
    }
}
