//! The folders that a build works in: one that only this process's user can enter, and in it one that
//! is the build's.
//!
//! The outer one keeps everybody off the inner one, whatever the build makes of its rights; both are
//! made and filled by descriptor. Follows `DerivationBuilderImpl` of Nix 2.34
//! (`src/libstore/unix/build/derivation-builder.cc`).

mod kept;
mod way;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use drover_recipe::BuildFile;
use drover_sandbox::Ids;
use drover_store_files::{FileName, FilesError, remove_tree, rename_into};
use rustix::fs::{FlockOperation, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use self::way::{Missing, Way};

/// What the build's own folder is called in the outer one, and that for what it takes for `/tmp`.
pub(crate) const BUILD: &str = "build";
pub(crate) const TMP: &str = "tmp";

/// How the names of folders begin in which a build works, and of those that are kept.
const IN_USE: &str = "drover-build-";
const KEPT: &str = "kept-";

/// Names that are tried before it's given up: others may have taken some, as processes of the same number
/// do in containers that share a folder.
const MOST_NAMES: u32 = 10_000;

/// Whether builds may be done below a folder that everybody may write, as long as only the owner of
/// each name may take it away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sticky {
    /// They may: whose builds nobody else's user runs, or who has his whole store below such a folder.
    Allowed,
    /// They may not, as in Nix.
    Refused,
}

/// Who may go through the outer folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entrance {
    /// Nobody but this process's user: the build sees its folder elsewhere, or is that user.
    Closed,
    /// The build's group as well: the build itself takes this way.
    OfItsGroup,
}

/// Where the folders of builds are made.
#[derive(Clone, Debug)]
pub(crate) struct Parent {
    pub(crate) path: PathBuf,
    pub(crate) sticky: Sticky,
}

/// The folders of one build.
#[derive(Debug)]
pub(crate) struct BuildFolders {
    around: OwnedFd,
    outer: OwnedFd,
    name: String,
    path: PathBuf,
}

const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

impl BuildFolders {
    /// Removes what builds have left whose process was killed; what is in use or kept stays.
    pub(crate) fn sweep(parent: &Parent) -> io::Result<()> {
        let Way { folder: around, .. } = match Way::to(parent, Missing::Refused) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened?,
        };
        for entry in rustix::fs::Dir::read_from(&around)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if !name.starts_with(IN_USE.as_bytes()) {
                continue;
            }
            // whoever uses it has it locked; nobody else gets into it
            let Ok(folder) = rustix::fs::openat(&around, name, FOLDER, Mode::empty()) else {
                continue;
            };
            let free = FlockOperation::NonBlockingLockExclusive;
            if rustix::fs::flock(&folder, free).is_ok() {
                let name = FileName::new(name).map_err(io::Error::other)?;
                remove_tree(around.as_fd(), &name).map_err(io::Error::other)?;
            }
        }
        Ok(())
    }

    /// Makes the folders of a build, and the files in them that it begins with.
    pub(crate) fn new(
        parent: &Parent,
        derivation: &str,
        owner: Ids,
        entrance: Entrance,
    ) -> io::Result<BuildFolders> {
        let Way { folder: around, path } = Way::to(parent, Missing::Made)?;
        let (name, outer) = make_outer(&around, derivation)?;
        let path = path.join(&name);
        let folders = BuildFolders { around, outer, name, path };
        folders.add(BUILD, 0o700, owner)?;
        if entrance == Entrance::OfItsGroup {
            let_through(&folders.outer, owner)?;
        }
        Ok(folders)
    }

    /// Makes what the build takes for `/tmp`. In there everybody may write who gets that far.
    pub(crate) fn add_tmp(&self, owner: Ids) -> io::Result<()> {
        self.add(TMP, 0o1777, owner)
    }

    fn add(&self, name: &str, mode: u32, owner: Ids) -> io::Result<()> {
        rustix::fs::mkdirat(&self.outer, name, Mode::RWXU)?;
        let folder = rustix::fs::openat(&self.outer, name, FOLDER, Mode::empty())?;
        give(&folder, owner)?;
        Ok(rustix::fs::fchmod(&folder, Mode::from_raw_mode(mode))?)
    }

    /// Puts files into the build's folder, before anything of it runs. Whatever runs for it may read
    /// them, whoever that is inside.
    pub(crate) fn write(&self, files: &[BuildFile], owner: Ids) -> io::Result<()> {
        let folder = rustix::fs::openat(&self.outer, BUILD, FOLDER, Mode::empty())?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        for BuildFile { name, contents } in files {
            let mode = Mode::RUSR | Mode::WUSR;
            let file = rustix::fs::openat(&folder, name.as_str(), flags | OFlags::CLOEXEC, mode)?;
            let mut rest = contents.as_slice();
            while !rest.is_empty() {
                let len = rustix::io::retry_on_intr(|| rustix::io::write(&file, rest))?;
                rest = rest.get(len..).unwrap_or_default();
            }
            give(&file, owner)?;
            rustix::fs::fchmod(&file, Mode::from_raw_mode(0o644))?;
        }
        Ok(())
    }

    /// Returns the outer folder.
    pub(crate) fn outer(&self) -> io::Result<OwnedFd> {
        self.outer.try_clone()
    }

    /// Returns the path of the outer folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path of the build's folder, for builds that aren't shut in and for messages.
    pub(crate) fn build(&self) -> PathBuf {
        self.path.join(BUILD)
    }

    /// Keeps it, under a name that is never swept away, and where everybody can look into it, as Nix
    /// does; what is in it stays its user's, who gives nobody his rights by it. What the build had for
    /// `/tmp` goes. Returns the build's folder. Nothing of the build may run any more.
    pub(crate) fn keep(mut self) -> io::Result<PathBuf> {
        let tmp = FileName::new(TMP.as_bytes()).map_err(io::Error::other)?;
        remove_tree(self.outer.as_fd(), &tmp).map_err(io::Error::other)?;
        let build = rustix::fs::openat(&self.outer, BUILD, FOLDER, Mode::empty())?;
        let mode = match kept::lend_nobody_rights(&build) {
            Ok(()) => 0o755,
            Err(error) => {
                let shown = self.path.display();
                tracing::warn!("'{shown}' is kept, and only its owner can look into it: {error}");
                0o700
            }
        };
        for folder in [&build, &self.outer] {
            rustix::fs::fchmod(folder, Mode::from_raw_mode(mode))?;
        }
        let kept = self.rename_to_keep()?;
        self.path.set_file_name(&kept);
        Ok(self.build())
    }

    /// Gives it a name that none of those has that were kept before.
    fn rename_to_keep(&self) -> io::Result<String> {
        let usual = self.name.replacen(IN_USE, KEPT, 1);
        let more = (2..MOST_NAMES).map(|count| format!("{usual}-{count}"));
        let (around, name) = (self.around.as_fd(), FileName::new(self.name.as_bytes()));
        let name = name.map_err(io::Error::other)?;
        for kept in std::iter::once(usual.clone()).chain(more) {
            let to = FileName::new(kept.as_bytes()).map_err(io::Error::other)?;
            match rename_into(around, &name, around, &to) {
                Ok(()) => return Ok(kept),
                Err(FilesError::Exists { .. }) => {}
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Err(Errno::EXIST.into())
    }

    /// Removes all of it.
    pub(crate) fn remove(self) -> Result<(), drover_store_files::FilesError> {
        remove_tree(self.around.as_fd(), &FileName::new(self.name.as_bytes())?).map(drop)
    }
}

/// Makes a folder that nobody has used, and locks it.
fn make_outer(around: &OwnedFd, derivation: &str) -> io::Result<(String, OwnedFd)> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    for _ in 0..MOST_NAMES {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{IN_USE}{}-{count}-{derivation}", std::process::id());
        match rustix::fs::mkdirat(around, &name, Mode::RWXU) {
            Err(Errno::EXIST) => continue,
            made => made?,
        }
        // somebody else may be sweeping, and take it for one that was left
        let opened = match rustix::fs::openat(around, &name, FOLDER, Mode::empty()) {
            Err(Errno::NOENT) => continue,
            opened => opened?,
        };
        match rustix::fs::flock(&opened, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => continue,
            locked => locked?,
        }
        if rustix::fs::fstat(&opened)?.st_nlink > 0 {
            return Ok((name, opened));
        }
    }
    Err(Errno::EXIST.into())
}

/// Lets a build's group go through a folder of this process's user, and nobody else. A range of users has a
/// group that is nobody else's.
pub(crate) fn let_through(folder: impl AsFd, Ids { gid, .. }: Ids) -> io::Result<()> {
    rustix::fs::fchown(&folder, None, Some(Gid::from_raw(gid)))?;
    Ok(rustix::fs::fchmod(folder, Mode::from_raw_mode(0o710))?)
}

/// Gives a file or folder to the build's user, where that is another one.
fn give(file: &OwnedFd, Ids { uid, gid }: Ids) -> Result<(), Errno> {
    if uid == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
}

#[cfg(test)]
mod tests;
