//! From NARs and flat files to files in canonical form.

use std::os::fd::{AsFd, OwnedFd};

use bytes::Bytes;
use drover_core::{NarHash, NarSize};
use drover_nar::{Limits, Progress};
use drover_store_files::HashingUnpacker;
use rustix::fs::{Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::fail;
use crate::error::LocalError;

/// The time of all files in a store: one second after 1970 began.
const TIME: Timestamps = Timestamps {
    last_access: Timespec { tv_sec: 1, tv_nsec: 0 },
    last_modification: Timespec { tv_sec: 1, tv_nsec: 0 },
};

/// A NAR that is unpacked and hashed while it arrives; a large one is hashed and written at the same
/// time.
pub(crate) struct Unpack {
    unpacker: HashingUnpacker,
    /// Bytes behind its end.
    trailing: u64,
}

impl Unpack {
    /// Begins to unpack a NAR of at most `size` bytes into a new entry of a folder.
    pub(crate) fn begin(
        folder: &impl AsFd,
        entry: &str,
        size: NarSize,
    ) -> Result<Unpack, LocalError> {
        let limits = Limits::of_size(size.0);
        let unpacker = HashingUnpacker::new(folder.as_fd(), &entry.parse()?, limits)?;
        Ok(Unpack { unpacker, trailing: 0 })
    }

    pub(crate) fn push(&mut self, bytes: &Bytes) -> Result<(), LocalError> {
        if let Progress::Done { consumed } = self.unpacker.push(bytes)? {
            self.trailing += (bytes.len() - consumed) as u64;
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<(NarHash, NarSize), LocalError> {
        let measured = self.unpacker.finish()?;
        match self.trailing {
            0 => Ok((measured.hash, measured.size)),
            bytes => Err(LocalError::Trailing { bytes }),
        }
    }
}

fn write_all(file: &OwnedFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(file, bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// A flat file that is written while it arrives.
pub(crate) struct FileWriter {
    file: OwnedFd,
    entry: String,
}

impl FileWriter {
    pub(crate) fn begin(folder: &impl AsFd, entry: &str) -> Result<FileWriter, LocalError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(folder, entry, flags, Mode::RUSR)
            .map_err(|errno| fail("create", entry, errno))?;
        Ok(FileWriter { file, entry: entry.to_owned() })
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), LocalError> {
        write_all(&self.file, bytes).map_err(|errno| fail("write", &self.entry, errno))
    }

    pub(crate) fn finish(self) -> Result<(), LocalError> {
        rustix::fs::fchmod(&self.file, Mode::from_raw_mode(0o444))
            .and_then(|()| rustix::fs::futimens(&self.file, &TIME))
            .map_err(|errno| fail("finish", &self.entry, errno))
    }
}
