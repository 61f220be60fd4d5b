//! Reads a file tree as a NAR, block by block.
//!
//! The words of the archive are put together here, not by `drover_nar::Writer`, since contents are
//! read from the disk right into the block that is handed out: a writer takes them as slices, which
//! would be another copy. A property test holds the two to the same bytes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bytes::Bytes;
use drover_nar::{Blocks, Limits, check_name, check_target};
use rustix::fs::FileType;
use rustix::io::Errno;

use crate::handle::{self, Entry, Listing};
use crate::{FileName, FilesError, TreePath};

/// Bytes of a block.
pub(crate) const BLOCK: usize = 256 << 10;

/// Bytes of a first block, which most archives fit into.
pub(crate) const FIRST_BLOCK: usize = 32 << 10;

/// Blocks that are kept while no packer needs them.
const KEPT: usize = 8;

/// A block with less room than this is handed out. More than all words between two contents take.
const ROOM: usize = 8 << 10;

/// What comes behind contents until the next ones can be thought of: padding, and two words.
const END: usize = 64;

/// Whether an archive goes on after a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// It does.
    More,
    /// The block ends it.
    Last,
}

/// Packs one tree into a NAR, to be pulled block by block.
///
/// Whoever pulls decides how far it reads ahead; nothing is read in between. Entries are sorted by
/// their bytes. What can't be in an archive is refused: nodes deeper than 64, names of Nix's case
/// hack, devices, fifos and sockets, and files whose size changes while they are read.
///
/// Follows `SourceAccessor::dumpPath` of Nix (`src/libutil/archive.cc`).
#[derive(Debug)]
pub struct Packer {
    root: FileName,
    /// The directories that are open, from the root on.
    open: Vec<OpenDir>,
    due: Due,
    entries: u64,
    blocks: u64,
    /// Where blocks come from; they are made where there is nothing.
    memory: Option<Blocks>,
}

#[derive(Debug)]
struct OpenDir {
    dir: OwnedFd,
    rest: std::vec::IntoIter<Entry>,
    /// The name of its entry that is being packed, for messages.
    entry: Vec<u8>,
}

/// What comes next in the archive.
#[derive(Debug)]
enum Due {
    /// Everything.
    Root(OwnedFd),
    /// More of a file.
    Contents { file: OwnedFd, size: u64, remaining: u64 },
    /// The next entry of the innermost directory, or its end.
    Entry,
    /// Nothing, it is complete or has failed.
    Nothing,
}

impl Packer {
    /// Begins to pack `name` in `dir`.
    ///
    /// # Errors
    ///
    /// The process has no descriptor left.
    pub fn new(dir: BorrowedFd<'_>, name: &FileName) -> Result<Packer, FilesError> {
        let dir = handle::keep(dir, name)?;
        let (root, open) = (name.clone(), Vec::new());
        let due = Due::Root(dir);
        Ok(Packer { root, open, due, entries: 0, blocks: 0, memory: None })
    }

    /// Returns memory for the blocks of any number of packers, some of it kept while none needs it.
    pub fn memory() -> Blocks {
        Blocks::new(BLOCK, KEPT)
    }

    /// Has blocks come from there.
    #[must_use]
    pub fn with_memory(self, memory: Blocks) -> Packer {
        Packer { memory: Some(memory), ..self }
    }

    /// Returns the next bytes of the archive, mostly 256 KiB, never none; `None` at its end.
    ///
    /// # Errors
    ///
    /// What can't be read or can't be in an archive. What was handed out until then is of no use,
    /// nor is the packer.
    pub fn next_block(&mut self) -> Result<Option<Bytes>, FilesError> {
        if matches!(self.due, Due::Nothing) {
            return Ok(None);
        }
        let memory = self.memory.clone().filter(|_| self.blocks > 0);
        let Some(memory) = memory else {
            let capacity = if self.blocks == 0 { FIRST_BLOCK } else { BLOCK };
            let mut block = Vec::with_capacity(capacity);
            self.fill(&mut block)?;
            if block.len() < capacity / 2 {
                // many small paths wait at a time, and what is left of a shrunk block fits no other
                return Ok(Some(Bytes::copy_from_slice(&block)));
            }
            return Ok(Some(block.into()));
        };
        let mut block = memory.take();
        self.fill(&mut block)?;
        Ok(Some(memory.share(block)))
    }

    /// Puts the next bytes of the archive in the place of what is in `block`, as many as it has
    /// capacity for (no fewer than 16 KiB): a way to use one block over and over.
    ///
    /// # Errors
    ///
    /// As [`Packer::next_block`].
    pub fn fill(&mut self, block: &mut Vec<u8>) -> Result<Filled, FilesError> {
        block.clear();
        block.reserve(2 * ROOM);
        self.blocks += 1;
        let outcome = self.go_on(block);
        if outcome.is_err() {
            self.due = Due::Nothing;
        }
        outcome
    }

    fn go_on(&mut self, block: &mut Vec<u8>) -> Result<Filled, FilesError> {
        while ROOM <= block.capacity() - block.len() {
            match std::mem::replace(&mut self.due, Due::Nothing) {
                Due::Root(dir) => {
                    words(block, &[b"nix-archive-1"]);
                    let begun = begin(dir.as_fd(), &self.root, FileType::Unknown, block);
                    self.enter(begun, block)?;
                }
                Due::Contents { file, size, remaining } => {
                    self.read(file, size, remaining, block)?;
                }
                Due::Entry => self.next_entry(block)?,
                Due::Nothing => return Ok(Filled::Last),
            }
        }
        Ok(match self.due {
            Due::Nothing => Filled::Last,
            _ => Filled::More,
        })
    }

    fn next_entry(&mut self, block: &mut Vec<u8>) -> Result<(), FilesError> {
        let Some(around) = self.open.last_mut() else { return Ok(()) };
        let Some(entry) = around.rest.next() else {
            self.open.pop();
            self.end_node(block);
            return Ok(());
        };
        around.entry.clear();
        around.entry.extend_from_slice(entry.name.as_bytes());
        words(block, &[b"entry", b"(", b"name", &around.entry, b"node"]);
        let begun = match check_name(&around.entry) {
            Ok(()) => begin(around.dir.as_fd(), &entry.name, entry.kind, block),
            Err(rule) => {
                let name = around.entry.as_slice().into();
                Err(Trouble::Other(FilesError::InvalidName { name, rule }))
            }
        };
        self.enter(begun, block)
    }

    /// Goes on with a node whose first words are in the block.
    fn enter(
        &mut self,
        begun: Result<Begun, Trouble>,
        block: &mut Vec<u8>,
    ) -> Result<(), FilesError> {
        let begun = begun.map_err(|trouble| trouble.at(self.path()))?;
        match begun {
            Begun::Symlink => self.end_node(block),
            Begun::File { file, size } => {
                self.due = Due::Contents { file, size, remaining: size };
            }
            Begun::Directory(dir) => {
                let entries = self.list(dir.as_fd())?;
                self.open.push(OpenDir { dir, rest: entries.into_iter(), entry: Vec::new() });
                self.due = Due::Entry;
            }
        }
        Ok(())
    }

    /// Returns the sorted entries of a directory at the place that is due.
    fn list(&mut self, dir: BorrowedFd<'_>) -> Result<Vec<Entry>, FilesError> {
        let Limits { max_depth, max_entries, .. } = Limits::default();
        let mut entries = Vec::new();
        let room = max_entries - self.entries;
        handle::for_each_entry(dir, |entry| {
            entries.push(entry);
            if entries.len() as u64 <= room { Listing::More } else { Listing::Enough }
        })
        .map_err(|errno| FilesError::io("list directory", self.path(), errno))?;
        if room < entries.len() as u64 {
            let path = TreePath::of([self.root.as_bytes()]);
            return Err(FilesError::TooManyEntries { path, limit: max_entries });
        }
        // Its entries would be as deep as the directories that are open, itself among them, and one.
        if max_depth <= self.open.len() + 1 && !entries.is_empty() {
            return Err(FilesError::TooDeep { path: self.path(), limit: max_depth });
        }
        self.entries += entries.len() as u64;
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// Reads what fits into the block: as many bytes as the file had when it was opened, also where it
    /// has more by now, as the files of `/proc` have, which are empty by their size. Nix does so, too.
    fn read(
        &mut self,
        file: OwnedFd,
        size: u64,
        remaining: u64,
        block: &mut Vec<u8>,
    ) -> Result<(), FilesError> {
        let room = block.capacity() - block.len();
        let read = match remaining {
            0 => 0,
            _ => rustix::io::retry_on_intr(|| {
                rustix::io::read(&file, rustix::buffer::spare_capacity(block))
            })
            .map_err(|errno| FilesError::io("read", self.path(), errno))?,
        };
        let surplus = (read as u64).saturating_sub(remaining);
        block.truncate(block.len().saturating_sub(usize::try_from(surplus).unwrap_or(read)));
        let rest = remaining - (read as u64 - surplus);
        match rest {
            1.. if read == 0 => {
                let (path, found) = (self.path(), size - rest);
                Err(FilesError::Changed { path, announced: size, found })
            }
            // what comes behind it must fit in
            _ if 0 < rest || room < END + read => {
                self.due = Due::Contents { file, size, remaining: rest };
                Ok(())
            }
            _ => {
                pad(block, size);
                self.end_node(block);
                Ok(())
            }
        }
    }

    /// Closes a node and, unless it is the root, the entry around it.
    fn end_node(&mut self, block: &mut Vec<u8>) {
        if self.open.is_empty() {
            words(block, &[b")"]);
            self.due = Due::Nothing;
        } else {
            words(block, &[b")", b")"]);
            self.due = Due::Entry;
        }
    }

    /// Returns where the node at hand is.
    fn path(&self) -> TreePath {
        let entries = self.open.iter().map(|open| open.entry.as_slice());
        TreePath::of([self.root.as_bytes()].into_iter().chain(entries))
    }
}

/// A node whose first words have been said.
enum Begun {
    Symlink,
    File { file: OwnedFd, size: u64 },
    Directory(OwnedFd),
}

/// An error that doesn't know yet where it happened.
enum Trouble {
    Io(&'static str, Errno),
    Kind(FileType),
    Other(FilesError),
}

impl Trouble {
    fn at(self, path: TreePath) -> FilesError {
        match self {
            Trouble::Io(action, errno) => FilesError::io(action, path, errno),
            Trouble::Kind(kind) => {
                FilesError::UnsupportedType { path, kind: handle::kind_name(kind) }
            }
            Trouble::Other(FilesError::InvalidTarget { target, rule, .. }) => {
                FilesError::InvalidTarget { path, target, rule }
            }
            Trouble::Other(error) => error,
        }
    }
}

/// Opens a node and says its first words.
fn begin(
    dir: BorrowedFd<'_>,
    name: &FileName,
    listed: FileType,
    block: &mut Vec<u8>,
) -> Result<Begun, Trouble> {
    let kind = match listed {
        FileType::Unknown => {
            let stat = handle::status(dir, name.as_c_str());
            handle::kind(&stat.map_err(|errno| Trouble::Io("look at", errno))?)
        }
        kind => kind,
    };
    match kind {
        FileType::RegularFile => begin_file(dir, name, block),
        FileType::Directory => {
            let opened = handle::open_dir(dir, name.as_c_str())
                .map_err(|errno| Trouble::Io("open directory", errno))?;
            words(block, &[b"(", b"type", b"directory"]);
            Ok(Begun::Directory(opened))
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(dir, name.as_c_str(), Vec::new())
                .map_err(|errno| Trouble::Io("read symbolic link", errno))?;
            check_target(target.as_bytes()).map_err(|rule| {
                let target = target.as_bytes().into();
                let path = TreePath::of([]);
                Trouble::Other(FilesError::InvalidTarget { path, target, rule })
            })?;
            words(block, &[b"(", b"type", b"symlink", b"target", target.as_bytes()]);
            Ok(Begun::Symlink)
        }
        kind => Err(Trouble::Kind(kind)),
    }
}

fn begin_file(dir: BorrowedFd<'_>, name: &FileName, block: &mut Vec<u8>) -> Result<Begun, Trouble> {
    let file =
        handle::open_file(dir, name.as_c_str()).map_err(|errno| Trouble::Io("open", errno))?;
    let stat = rustix::fs::fstat(&file).map_err(|errno| Trouble::Io("look at", errno))?;
    if handle::kind(&stat) != FileType::RegularFile {
        return Err(Trouble::Kind(handle::kind(&stat)));
    }
    words(block, &[b"(", b"type", b"regular"]);
    if stat.st_mode & 0o100 != 0 {
        words(block, &[b"executable", b""]);
    }
    words(block, &[b"contents"]);
    let size = handle::size(&stat);
    block.extend_from_slice(&size.to_le_bytes());
    Ok(Begun::File { file, size })
}

/// Appends strings: length, bytes, zeros up to a multiple of eight.
fn words(block: &mut Vec<u8>, words: &[&[u8]]) {
    for word in words {
        let len = word.len() as u64;
        block.extend_from_slice(&len.to_le_bytes());
        block.extend_from_slice(word);
        pad(block, len);
    }
}

/// Appends zeros after `len` bytes.
fn pad(block: &mut Vec<u8>, len: u64) {
    let zeros = match len % 8 {
        0 => &[][..],
        1 => &[0; 7],
        2 => &[0; 6],
        3 => &[0; 5],
        4 => &[0; 4],
        5 => &[0; 3],
        6 => &[0; 2],
        _ => &[0; 1],
    };
    block.extend_from_slice(zeros);
}
