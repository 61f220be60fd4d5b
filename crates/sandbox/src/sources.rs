//! The files and folders of the machine that are shown inside.
//!
//! A mount can only be taken from the mount namespace that one is in, and a descriptor keeps to the
//! one where it was opened. So each handle is opened again, by the path that the kernel has for it,
//! and compared: what was moved or exchanged since is refused. All else is found from there, by
//! descriptor, following nothing.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;

use crate::error::{At, Failure, Step};
use crate::handles::{Handle, Handles};
use crate::plan::Source;

impl Source {
    /// Returns the open file from which it's found.
    pub(crate) fn handle(&self) -> Handle {
        match self {
            Source::Open(handle) | Source::In { folder: handle, .. } => *handle,
        }
    }
}

/// The handles of a plan, in this mount namespace.
pub(crate) struct Sources<'a> {
    handles: &'a Handles,
    here: Vec<Option<OwnedFd>>,
}

/// Something of the machine, found.
pub(crate) enum Found {
    /// A mount of it that is nowhere yet, and what kind of place it needs.
    Tree(OwnedFd, PlaceKind),
    /// A symlink with this target.
    Symlink(Vec<u8>),
}

/// What a mount is put on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PlaceKind {
    Folder,
    File,
}

const FOLLOW_NOTHING: ResolveFlags = ResolveFlags::NO_SYMLINKS.union(ResolveFlags::NO_MAGICLINKS);
const LOOK: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl<'a> Sources<'a> {
    pub(crate) fn new(handles: &'a Handles) -> Sources<'a> {
        Sources { handles, here: (0..handles.len()).map(|_| None).collect() }
    }

    /// Finds what a mount is to show.
    pub(crate) fn find(&mut self, source: &Source) -> Result<Found, Failure> {
        match source {
            Source::Open(handle) => {
                let file = self.here(*handle)?;
                found(file, &format_args!("/proc/self/fd/{}", file.as_fd().as_raw_fd()))
            }
            Source::In { folder, path } if !path.as_bytes().contains(&b'/') => {
                // One name in an open folder: nothing on the way can be a symlink.
                let folder = self.here(*folder)?;
                let flags = CLONE | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
                let tree = rustix::mount::open_tree(folder, path.as_bytes(), flags);
                of_kind(tree.on(Step::FindSource, path)?, path)
            }
            Source::In { folder, path } => {
                let folder = self.here(*folder)?;
                let how = FOLLOW_NOTHING | ResolveFlags::BENEATH;
                let file = rustix::fs::openat2(folder, path.as_bytes(), LOOK, Mode::empty(), how)
                    .on(Step::FindSource, path)?;
                found(&file, path)
            }
        }
    }

    /// Returns a mount of a folder, and of what is mounted below, that is nowhere yet.
    pub(crate) fn tree(&mut self, handle: Handle) -> Result<OwnedFd, Failure> {
        let file = self.here(handle)?;
        clone_tree(file).at(Step::MakeRoot)
    }

    fn here(&mut self, handle: Handle) -> Result<&OwnedFd, Failure> {
        let unknown = || Failure::rule(Step::CheckPlan, "the plan names a file that wasn't sent");
        let file = self.handles.get(handle).ok_or_else(unknown)?;
        let here = self.here.get_mut(handle.at()).ok_or_else(unknown)?;
        match here {
            Some(here) => Ok(here),
            None => Ok(here.insert(open_again(file)?)),
        }
    }
}

/// Opens the same file in this mount namespace.
fn open_again(file: impl AsFd) -> Result<OwnedFd, Failure> {
    let step = Step::FindSource;
    let link = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    let path = rustix::fs::readlink(&link, Vec::new()).on(step, &link)?;
    let shown = String::from_utf8_lossy(path.as_bytes()).into_owned();
    let again = rustix::fs::openat2(CWD, path.as_c_str(), LOOK, Mode::empty(), FOLLOW_NOTHING)
        .on(step, &shown)?;
    let was = rustix::fs::fstat(&file).on(step, &shown)?;
    let is = rustix::fs::fstat(&again).on(step, &shown)?;
    match (was.st_dev, was.st_ino) == (is.st_dev, is.st_ino) {
        true => Ok(again),
        false => {
            let rule = format!("'{shown}' is not what it was when the plan was made");
            Err(Failure::rule(step, rule))
        }
    }
}

fn found(file: impl AsFd, name: &dyn fmt::Display) -> Result<Found, Failure> {
    of_kind(clone_tree(file).on(Step::FindSource, name)?, name)
}

fn of_kind(tree: OwnedFd, name: &dyn fmt::Display) -> Result<Found, Failure> {
    let step = Step::FindSource;
    let mode = rustix::fs::fstat(&tree).on(step, name)?.st_mode;
    Ok(match FileType::from_raw_mode(mode) {
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(&tree, "", Vec::new()).on(step, name)?;
            Found::Symlink(target.into_bytes())
        }
        FileType::Directory => Found::Tree(tree, PlaceKind::Folder),
        _ => Found::Tree(tree, PlaceKind::File),
    })
}

const CLONE: OpenTreeFlags = OpenTreeFlags::OPEN_TREE_CLONE
    .union(OpenTreeFlags::OPEN_TREE_CLOEXEC)
    .union(OpenTreeFlags::AT_RECURSIVE);

fn clone_tree(file: impl AsFd) -> Result<OwnedFd, Errno> {
    rustix::mount::open_tree(file, "", CLONE | OpenTreeFlags::AT_EMPTY_PATH)
}
