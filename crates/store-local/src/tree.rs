//! What this store does with file trees: in a temporary folder beside the paths, and in their place.

mod place;
mod unpack;

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use drover_core::{Hash, HashAlgorithm, NarHash, NarSize, StorePath};
use drover_store::TreeStamp;
use drover_store_files::{FileName, Packer, Stamp, measure, stamp};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::error::LocalError;
use crate::view::View;

pub(crate) use place::{
    abandon, exchange, links, optimise, optimise_new, place, remove, remove_link, remove_path,
    sync, sync_new,
};
pub(crate) use unpack::{FileWriter, Unpack};

/// Bytes that are read at once.
const BLOCK: usize = 256 * 1024;

/// Bytes that a file may have which is read whole.
const WHOLE: u64 = 64 * 1024 * 1024;

fn fail(doing: &'static str, name: &str, errno: Errno) -> LocalError {
    LocalError::Io { doing, path: Path::new(name).to_owned(), source: errno.into() }
}

/// Packs a valid path.
pub(crate) fn path_pack(view: &View, path: &StorePath) -> Result<Packer, LocalError> {
    Ok(Packer::new(view.opened.real_store.as_fd(), &FileName::try_from(path)?)?)
}

/// Looks at the files of a path.
pub(crate) fn path_stamp(view: &View, path: &StorePath) -> Result<TreeStamp, LocalError> {
    let Stamp { digest, changed } =
        stamp(view.opened.real_store.as_fd(), &FileName::try_from(path)?)?;
    Ok(TreeStamp { digest, changed })
}

/// Packs what is unpacked, handing on the NAR's bytes.
pub(crate) fn pack(
    folder: &impl AsFd,
    entry: &str,
    mut take: impl FnMut(&[u8]),
) -> Result<(), LocalError> {
    let mut pack = Packer::new(folder.as_fd(), &entry.parse()?)?;
    while let Some(block) = pack.next_block()? {
        take(&block);
    }
    Ok(())
}

/// Returns hash and size of the NAR of what is unpacked.
pub(crate) fn nar_hash(folder: &impl AsFd, entry: &str) -> Result<(NarHash, NarSize), LocalError> {
    let measured = measure(folder.as_fd(), &entry.parse()?)?;
    Ok((measured.hash, measured.size))
}

/// Returns hash and size of a path's NAR.
pub(crate) fn path_nar_hash(
    view: &View,
    path: &StorePath,
) -> Result<(NarHash, NarSize), LocalError> {
    nar_hash(&view.opened.real_store, path.base_name())
}

/// Returns the hash that git gives what is unpacked.
pub(crate) fn git_hash(
    folder: &impl AsFd,
    entry: &str,
    algorithm: HashAlgorithm,
) -> Result<Hash, LocalError> {
    Ok(drover_store_files::git_hash(folder.as_fd(), &entry.parse()?, algorithm)?)
}

/// Reads a flat file that is unpacked.
///
/// # Errors
///
/// One that is larger than 64 MiB, or something else; `known_as` is what it's called in that.
pub(crate) fn read_file(
    folder: &impl AsFd,
    entry: &str,
    known_as: &str,
) -> Result<Vec<u8>, LocalError> {
    let not_a_file = || LocalError::NotAFile { path: Path::new(known_as).to_owned(), limit: WHOLE };
    let found = rustix::fs::statat(folder, entry, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| fail("look at", entry, e))?;
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
        return Err(not_a_file());
    }
    let mut text = Vec::new();
    let mut size = 0;
    read_blocks(folder, entry, |block| {
        size += block.len() as u64;
        if size <= WHOLE {
            text.extend_from_slice(block);
        }
    })?;
    match size <= WHOLE {
        true => Ok(text),
        false => Err(not_a_file()),
    }
}

/// Reads a flat file that is unpacked, block by block.
pub(crate) fn read_blocks(
    folder: &impl AsFd,
    entry: &str,
    mut take: impl FnMut(&[u8]),
) -> Result<(), LocalError> {
    let file = open_file(folder, entry)?;
    let mut block = vec![0; BLOCK];
    loop {
        let read = rustix::io::read(&file, &mut block).map_err(|e| fail("read", entry, e))?;
        match block.get(..read) {
            Some(bytes) if !bytes.is_empty() => take(bytes),
            _ => return Ok(()),
        }
    }
}

fn open_file(folder: &impl AsFd, entry: &str) -> Result<OwnedFd, LocalError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = rustix::fs::openat(folder, entry, flags, Mode::empty())
        .map_err(|errno| fail("open", entry, errno))?;
    let stat = rustix::fs::fstat(&file).map_err(|errno| fail("look at", entry, errno))?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
        return Err(LocalError::NotAFile { path: Path::new(entry).to_owned(), limit: WHOLE });
    }
    Ok(file)
}
