//! `builtin:unpack-channel`: the one folder of an archive, under the channel's name.

use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use tar::{Archive, Entry, EntryType};

use crate::archive::MAX_SIZE;
use crate::attributes::{Attributes, path};
use crate::tree::{Executable, Tree};
use crate::{BuiltinError, archive};

/// Members that an archive may have: a hundred times nixpkgs.
const MAX_MEMBERS: usize = 1 << 22;

/// The bit that makes a program of a file.
const BY_OWNER: u32 = 0o100;

/// Unpacks the channel that the attributes say.
pub(crate) fn unpack(attributes: Attributes<'_>, out: &[u8]) -> Result<(), BuiltinError> {
    let name = path(attributes.bytes("channelName")?);
    let (out, source) = (path(out), path(attributes.bytes("src")?));
    if !is_file_name(&name) {
        return Err(BuiltinError::ChannelName { name: name.display().to_string() });
    }
    fs::create_dir(&out).map_err(BuiltinError::io("create", &out))?;
    unpack_archive(&source, &out)?;
    let only = only_entry(&source, &out)?;
    let to = out.join(name);
    fs::rename(only, &to).map_err(BuiltinError::io("rename what is unpacked to", to))
}

fn is_file_name(name: &Path) -> bool {
    let bytes = name.as_os_str().as_bytes();
    !bytes.contains(&b'/') && !matches!(bytes, b"" | b"." | b"..")
}

fn only_entry(archive: &Path, out: &Path) -> Result<PathBuf, BuiltinError> {
    let reading = || BuiltinError::io("read", out);
    let mut entries = fs::read_dir(out).map_err(reading())?;
    let first = entries.next().transpose().map_err(reading())?;
    match (first, entries.count()) {
        (Some(entry), 0) => Ok(entry.path()),
        (first, more) => Err(BuiltinError::ChannelFiles {
            archive: archive.to_owned(),
            count: more + usize::from(first.is_some()),
        }),
    }
}

/// Unpacks an archive to a folder.
fn unpack_archive(source: &Path, out: &Path) -> Result<(), BuiltinError> {
    let of_archive = |source_error| BuiltinError::Archive {
        archive: source.into(),
        member: None,
        source: source_error,
    };
    let mut archive = Archive::new(archive::open(source).map_err(of_archive)?);
    let tree = Tree::open(out).map_err(BuiltinError::io("open", out))?;
    for (at, entry) in archive.entries().map_err(of_archive)?.enumerate() {
        if MAX_MEMBERS <= at {
            let text = "there are more files in it than an archive may have";
            return Err(of_archive(io::Error::new(io::ErrorKind::FileTooLarge, text)));
        }
        let mut entry = entry.map_err(of_archive)?;
        let member = entry.path_bytes().into_owned();
        add(&tree, &member, &mut entry).map_err(|error| BuiltinError::Archive {
            archive: source.into(),
            member: Some(path(&member)),
            source: error,
        })?;
    }
    // what is compressed has its sum at its end
    io::copy(&mut archive.into_inner(), &mut io::sink()).map(drop).map_err(of_archive)
}

fn add(tree: &Tree, member: &[u8], entry: &mut Entry<'_, impl Read>) -> io::Result<()> {
    let target = |entry: &Entry<'_, _>| match entry.link_name_bytes() {
        Some(target) => Ok(target.into_owned()),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "it's a link to nothing")),
    };
    match entry.header().entry_type() {
        // git's archives say in it which commit they are of
        EntryType::XGlobalHeader => Ok(()),
        EntryType::Directory => tree.folder(member),
        // as tar had it before there were types
        EntryType::Regular if member.ends_with(b"/") => tree.folder(member),
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            // one with holes is as large as it says, whatever the archive's own size
            if entry.size() > MAX_SIZE {
                let text = format!("it has {} bytes, and {MAX_SIZE} are the most", entry.size());
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            let executable = match entry.header().mode()? & BY_OWNER {
                0 => Executable::No,
                _ => Executable::Yes,
            };
            tree.file(member, executable, entry)
        }
        EntryType::Symlink => tree.link(member, &target(entry)?),
        EntryType::Link => tree.same(member, &target(entry)?),
        _ => {
            let text = "it's neither a file nor a folder nor a link";
            Err(io::Error::new(io::ErrorKind::InvalidData, text))
        }
    }
}

#[cfg(test)]
mod tests;
