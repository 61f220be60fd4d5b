//! The hash and size of a tree's NAR, which is never whole in memory.

use std::os::fd::BorrowedFd;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use drover_core::{Hash, HashAlgorithm, Hasher, NarHash, NarSize};

use crate::pack::{BLOCK, FIRST_BLOCK, Filled};
use crate::{FileName, FilesError, Packer};

/// Trees whose archive is longer than this are read and hashed at the same time. A thread costs more
/// than it saves for less.
const WORTH_A_THREAD: usize = 1 << 20;

/// Blocks that are read ahead of the hash.
const AHEAD: usize = 4;

/// What is known of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// The SHA-256 of its bytes.
    pub hash: NarHash,
    /// Their number.
    pub size: NarSize,
}

/// Returns the hash and the size of the NAR of `name` in `dir`.
///
/// # Errors
///
/// As [`Packer::next_block`].
pub fn measure(dir: BorrowedFd<'_>, name: &FileName) -> Result<Measured, FilesError> {
    let (hash, size) = hash_tree(dir, name, HashAlgorithm::Sha256)?;
    Ok(Measured { hash: sha256(&hash), size })
}

/// Returns the hash, by any algorithm, and the size of the NAR of `name` in `dir`.
///
/// # Errors
///
/// As [`Packer::next_block`].
pub fn hash_tree(
    dir: BorrowedFd<'_>,
    name: &FileName,
    algorithm: HashAlgorithm,
) -> Result<(Hash, NarSize), FilesError> {
    let mut packer = Packer::new(dir, name)?;
    let mut hasher = Hasher::new(algorithm);
    let mut block = Vec::with_capacity(FIRST_BLOCK);
    let mut size = 0;
    let mut filled = Filled::More;
    while filled == Filled::More && size < WORTH_A_THREAD as u64 {
        filled = packer.fill(&mut block)?;
        hasher.update(&block);
        size += block.len() as u64;
        block.clear();
        block.reserve(if filled == Filled::More { BLOCK } else { 0 });
    }
    if filled == Filled::More {
        size += hash_ahead(&mut packer, &mut hasher)?;
    }
    Ok((hasher.finish(), NarSize(size)))
}

/// Hashes what is left while another thread reads on; returns its size.
fn hash_ahead(packer: &mut Packer, hasher: &mut Hasher) -> Result<u64, FilesError> {
    let (full, to_hash) = sync_channel(AHEAD);
    let (empty, to_fill) = sync_channel(AHEAD + 2);
    thread::scope(|scope| {
        let reader = thread::Builder::new()
            .name("nar-read".to_owned())
            .spawn_scoped(scope, move || read_ahead(packer, &full, &to_fill))
            .map_err(FilesError::Thread)?;
        let mut size = 0;
        while let Ok(block) = to_hash.recv() {
            hasher.update(&block);
            size += block.len() as u64;
            // The reader may be done and want no more of them.
            empty.try_send(block).ok();
        }
        match reader.join() {
            Ok(outcome) => outcome.map(|()| size),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn read_ahead(
    packer: &mut Packer,
    full: &SyncSender<Vec<u8>>,
    to_fill: &Receiver<Vec<u8>>,
) -> Result<(), FilesError> {
    loop {
        let mut block = to_fill.try_recv().unwrap_or_else(|_| Vec::with_capacity(BLOCK));
        let filled = packer.fill(&mut block)?;
        if full.send(block).is_err() || filled == Filled::Last {
            return Ok(());
        }
    }
}

/// Returns a hash that is a SHA-256.
pub(crate) fn sha256(hash: &Hash) -> NarHash {
    let mut digest = [0; 32];
    for (to, from) in digest.iter_mut().zip(hash.digest()) {
        *to = *from;
    }
    NarHash(digest)
}
