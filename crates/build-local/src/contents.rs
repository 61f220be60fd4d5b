//! What is done with the contents of outputs: copying, searching, hashing, rewriting.
//!
//! All of it goes through descriptors and names in one folder, and never has a whole output in
//! memory.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use drover_core::{Hash, HashAlgorithm, Hasher, IngestionMethod, NarHash, NarSize, StorePath};
use drover_nar::Limits;
use drover_recipe::{HashModulo, HashPart, ReferenceScan, Rewriter};
use drover_store_files::{FileName, FilesError, Filled, Packer, Unpacker, git_hash, remove_tree};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

/// Bytes that are read at once.
const BLOCK: usize = 256 * 1024;

/// Blocks that may wait to be hashed.
const AHEAD: usize = 4;

/// Bytes that an archive may have which was just made here: no disk holds more.
const ANY_SIZE: u64 = 1 << 62;

/// Why something could not be done with an output.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContentsError {
    /// It can't be in a store, or the system refused.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// It can't be read or moved.
    #[error("cannot read or move an output: {0}")]
    Read(#[from] io::Error),
}

/// What was found of an output.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// The paths that it mentions, of those that were looked for.
    pub(crate) references: BTreeSet<StorePath>,
    pub(crate) hash: NarHash,
    pub(crate) size: NarSize,
}

/// Where outputs lie, and what they are called there.
#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
    pub(crate) folder: BorrowedFd<'a>,
    pub(crate) name: &'a FileName,
}

impl At<'_> {
    fn packer(&self) -> Result<Packer, FilesError> {
        Packer::new(self.folder, self.name)
    }

    fn for_each_block(&self, mut take: impl FnMut(&[u8])) -> Result<(), FilesError> {
        let mut packer = self.packer()?;
        let mut block = Vec::with_capacity(BLOCK);
        loop {
            let filled = packer.fill(&mut block)?;
            take(&block);
            if filled == Filled::Last {
                return Ok(());
            }
        }
    }

    pub(crate) fn remove(&self) -> Result<(), FilesError> {
        remove_tree(self.folder, self.name).map(drop)
    }

    /// Searches an output for these paths, and hashes it on the way; large ones by two threads.
    pub(crate) fn find(&self, paths: &BTreeSet<StorePath>) -> Result<Found, FilesError> {
        let mut scan = ReferenceScan::new(paths);
        let (full, to_hash) = sync_channel(AHEAD);
        let (empty, to_fill) = sync_channel(AHEAD + 2);
        let (hash, size) = std::thread::scope(|scope| {
            let mut packer = self.packer()?;
            let mut first = Vec::with_capacity(BLOCK);
            let filled = packer.fill(&mut first)?;
            scan.update(&first);
            if filled == Filled::Last {
                let mut hasher = Hasher::new(HashAlgorithm::Sha256);
                hasher.update(&first);
                return Ok((hasher.finish(), first.len() as u64));
            }
            let hashing = std::thread::Builder::new()
                .name("output-hash".to_owned())
                .spawn_scoped(scope, move || hash_blocks(&to_hash, &empty))
                .map_err(FilesError::Thread)?;
            let read = read_on(first, &mut packer, &mut scan, &full, &to_fill);
            drop(full);
            let hashed = match hashing.join() {
                Ok(hashed) => hashed,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            read.map(|()| hashed)
        })?;
        let digest = hash.digest().try_into().unwrap_or_default();
        Ok(Found { references: scan.finish(), hash: NarHash(digest), size: NarSize(size) })
    }

    /// Makes the same anew at another name, with fresh inodes and this process's user's: whoever has
    /// a way to what was there has none to this.
    pub(crate) fn copy_to(&self, name: &FileName) -> Result<(), FilesError> {
        self.rewrite_to(name, Rewriter::new([]))
    }

    /// Makes the same anew at another name, with other hash parts in it.
    pub(crate) fn rewrite_to(
        &self,
        name: &FileName,
        mut rewriter: Rewriter,
    ) -> Result<(), FilesError> {
        let limits = Limits::of_size(ANY_SIZE);
        let mut unpacker = Unpacker::new(self.folder, name, limits)?;
        let mut packer = self.packer()?;
        let mut out = Vec::with_capacity(BLOCK);
        let mut block = Vec::with_capacity(BLOCK);
        loop {
            let filled = packer.fill(&mut block)?;
            if rewriter.is_idle() {
                unpacker.push(&block)?;
            } else {
                rewriter.update(&block, &mut out);
                unpacker.push(&out)?;
                out.clear();
            }
            if filled == Filled::Last {
                break;
            }
        }
        rewriter.finish(&mut out);
        if !out.is_empty() {
            unpacker.push(&out)?;
        }
        unpacker.finish()
    }

    /// Hashes an output as its address has it. Where it mentions `itself`, that counts as zeros.
    pub(crate) fn address(
        &self,
        method: IngestionMethod,
        algorithm: HashAlgorithm,
        itself: &StorePath,
    ) -> Result<Hash, ContentsError> {
        let mut hash = HashModulo::new(algorithm, HashPart::from(itself));
        match method {
            IngestionMethod::Nar => self.for_each_block(|block| hash.update(block))?,
            IngestionMethod::Flat | IngestionMethod::Text => {
                self.read_file(|block| hash.update(block)).map_err(io::Error::from)?;
            }
            IngestionMethod::Git => return Ok(git_hash(self.folder, self.name, algorithm)?),
        }
        // as Nix has it today: where they are doesn't count
        let [hash, _] = hash.finish();
        Ok(hash)
    }

    fn read_file(&self, mut take: impl FnMut(&[u8])) -> Result<(), Errno> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = rustix::fs::openat(self.folder, self.name.as_bytes(), flags, Mode::empty())?;
        let mut block = vec![0; BLOCK];
        loop {
            let len = rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut *block))?;
            match block.get(..len) {
                Some(bytes) if !bytes.is_empty() => take(bytes),
                _ => return Ok(()),
            }
        }
    }

    /// Whether it's a regular file that isn't executable, as all are that are hashed by their bytes.
    pub(crate) fn is_plain_file(&self) -> Result<bool, Errno> {
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        let stat = rustix::fs::statat(self.folder, self.name.as_bytes(), flags)?;
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        Ok(is_file && stat.st_mode & 0o100 == 0)
    }
}

fn hash_blocks(blocks: &Receiver<Vec<u8>>, empty: &SyncSender<Vec<u8>>) -> (Hash, u64) {
    let mut hasher = Hasher::new(HashAlgorithm::Sha256);
    let mut size = 0;
    while let Ok(block) = blocks.recv() {
        hasher.update(&block);
        size += block.len() as u64;
        // the reader may be done and want no more of them
        empty.try_send(block).ok();
    }
    (hasher.finish(), size)
}

fn read_on(
    mut block: Vec<u8>,
    packer: &mut Packer,
    scan: &mut ReferenceScan,
    full: &SyncSender<Vec<u8>>,
    empty: &Receiver<Vec<u8>>,
) -> Result<(), FilesError> {
    loop {
        // what hashes goes on until this ends
        full.send(block).ok();
        block = empty.try_recv().unwrap_or_else(|_| Vec::with_capacity(BLOCK));
        let filled = packer.fill(&mut block)?;
        scan.update(&block);
        if filled == Filled::Last {
            full.send(block).ok();
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    fn path(seed: u8) -> StorePath {
        StorePath::new([seed; 20], &"x".parse().unwrap())
    }

    #[test]
    fn a_large_output_is_searched_and_hashed_as_a_small_one() {
        let home = tempfile::tempdir().unwrap();
        let wanted = BTreeSet::from([path(1), path(2)]);
        let folder = std::fs::File::open(home.path()).unwrap();
        for size in [10, BLOCK, 5 * BLOCK + 17] {
            let mut text = vec![b'a'; size];
            text.extend_from_slice(path(2).hash_part().as_bytes());
            std::fs::write(home.path().join("file"), &text).unwrap();
            let name: FileName = "file".parse().unwrap();
            let at = At { folder: folder.as_fd(), name: &name };
            let found = at.find(&wanted).unwrap();
            assert_eq!(found.references, BTreeSet::from([path(2)]), "{size}");
            let expected = drover_store_files::measure(folder.as_fd(), &name).unwrap();
            assert_eq!((found.hash, found.size), (expected.hash, expected.size), "{size}");
        }
    }

    #[test]
    fn a_copy_is_the_same_and_another_file() {
        use std::os::unix::fs::MetadataExt as _;

        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("from")).unwrap();
        std::fs::write(home.path().join("from/a"), path(1).hash_part()).unwrap();
        let folder = std::fs::File::open(home.path()).unwrap();
        let [from, to, other] = ["from", "to", "other"].map(|it| it.parse::<FileName>().unwrap());
        let at = At { folder: folder.as_fd(), name: &from };
        at.copy_to(&to).unwrap();
        at.rewrite_to(&other, Rewriter::of_paths([(&path(1), &path(2))])).unwrap();
        let read = |name: &str| std::fs::read_to_string(home.path().join(name)).unwrap();
        assert_eq!((read("to/a"), read("other/a")), (read("from/a"), path(2).hash_part().into()));
        let inode = |name: &str| std::fs::metadata(home.path().join(name)).unwrap().ino();
        assert_ne!(inode("to/a"), inode("from/a"));
    }
}
