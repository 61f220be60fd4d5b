//! The files and folders of the machine that are shown inside.
//!
//! A mount can only be taken from the mount namespace that one is in, and a descriptor keeps to the
//! one where it was opened. So each handle is opened again, by the path that the kernel has for it,
//! and compared: what was moved or exchanged since is refused. That path begins at the root of the other
//! namespace, which isn't this process's where that is in a `chroot`. All else is found from there, by
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
    root: &'a OldRoot,
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
    pub(crate) fn new(handles: &'a Handles, root: &'a OldRoot) -> Sources<'a> {
        Sources { handles, root, here: (0..handles.len()).map(|_| None).collect() }
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
            None => Ok(here.insert(open_again(file, self.root)?)),
        }
    }
}

/// The root of this process in the mount namespace where it was before.
pub(crate) struct OldRoot(OwnedFd);

impl OldRoot {
    /// Opens it, in a process that is still there.
    pub(crate) fn open() -> Result<OldRoot, Failure> {
        let flags = LOOK | OFlags::DIRECTORY;
        rustix::fs::openat(CWD, "/", flags, Mode::empty()).map(OldRoot).on(Step::MakeProcess, &"/")
    }
}

/// Returns the path that the kernel has for what is open.
fn path_of(file: impl AsFd) -> Result<Vec<u8>, Failure> {
    let link = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    let path = rustix::fs::readlink(&link, Vec::new()).on(Step::FindSource, &link)?;
    Ok(path.into_bytes())
}

/// Returns a path as it's seen from a root. What isn't below that is left as it is, and won't be found.
fn seen_from(root: &[u8], path: Vec<u8>) -> Vec<u8> {
    match path.strip_prefix(root) {
        Some(b"") => b"/".to_vec(),
        Some(rest) if rest.starts_with(b"/") => rest.to_vec(),
        _ => path,
    }
}

/// Opens the same file in this mount namespace.
fn open_again(file: impl AsFd, root: &OldRoot) -> Result<OwnedFd, Failure> {
    let step = Step::FindSource;
    let path = seen_from(&path_of(&root.0)?, path_of(&file)?);
    let shown = String::from_utf8_lossy(&path).into_owned();
    let again = rustix::fs::openat2(CWD, path.as_slice(), LOOK, Mode::empty(), FOLLOW_NOTHING)
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

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::usual("/", "/nix/store", "/nix/store")]
    #[case::itself("/", "/", "/")]
    #[case::within("/cr", "/cr/nix/store", "/nix/store")]
    #[case::within_itself("/cr", "/cr", "/")]
    #[case::beside("/cr", "/crx/nix", "/crx/nix")]
    #[case::outside("/cr", "/nix", "/nix")]
    fn paths_are_seen_from_the_root(#[case] root: &str, #[case] path: &str, #[case] seen: &str) {
        assert_eq!(seen_from(root.as_bytes(), path.into()), seen.as_bytes());
    }
}
