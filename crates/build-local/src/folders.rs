//! The folders that a build works in: one that only this process's user can enter, and in it one that
//! is the build's.
//!
//! The outer one keeps everybody off the inner one, whatever the build makes of its rights; both are
//! made and filled by descriptor. Follows `DerivationBuilderImpl` of Nix 2.34
//! (`src/libstore/unix/build/derivation-builder.cc`).

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use drover_recipe::BuildFile;
use drover_sandbox::Ids;
use drover_store_files::{FileName, remove_tree};
use rustix::fs::{CWD, FileType, FlockOperation, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

/// What the build's own folder is called in the outer one, and that for what it takes for `/tmp`.
pub(crate) const BUILD: &str = "build";
pub(crate) const TMP: &str = "tmp";

/// How the names of folders begin in which a build works, and of those that are kept.
const IN_USE: &str = "drover-build-";
const KEPT: &str = "kept-";

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
    /// Nobody but this process's user: the build sees its folder elsewhere.
    Closed,
    /// Who knows the way: the build itself needs it.
    Passable,
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
        let around = match open_safely(parent) {
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
        static COUNT: AtomicU64 = AtomicU64::new(0);
        if !parent.path.exists() {
            std::fs::DirBuilder::new().recursive(true).mode(0o755).create(&parent.path)?;
        }
        let around = open_safely(parent)?;
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{IN_USE}{}-{count}-{derivation}", std::process::id());
        rustix::fs::mkdirat(&around, &name, Mode::RWXU)?;
        let outer = rustix::fs::openat(&around, &name, FOLDER, Mode::empty())?;
        rustix::fs::flock(&outer, FlockOperation::NonBlockingLockExclusive)?;
        let path = parent.path.join(&name);
        let folders = BuildFolders { around, outer, name, path };
        folders.add(BUILD, 0o700, owner)?;
        folders.add(TMP, 0o1777, owner)?;
        if entrance == Entrance::Passable {
            rustix::fs::fchmod(&folders.outer, Mode::from_raw_mode(0o711))?;
        }
        Ok(folders)
    }

    fn add(&self, name: &str, mode: u32, owner: Ids) -> io::Result<()> {
        rustix::fs::mkdirat(&self.outer, name, Mode::RWXU)?;
        let folder = rustix::fs::openat(&self.outer, name, FOLDER, Mode::empty())?;
        give(&folder, owner)?;
        Ok(rustix::fs::fchmod(&folder, Mode::from_raw_mode(mode))?)
    }

    /// Puts files into the build's folder, before anything of it runs.
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
    /// does; what is in it stays its user's. Returns the build's folder. Nothing of the build may run
    /// any more.
    pub(crate) fn keep(mut self) -> io::Result<PathBuf> {
        let build = rustix::fs::openat(&self.outer, BUILD, FOLDER, Mode::empty())?;
        for folder in [&build, &self.outer] {
            rustix::fs::fchmod(folder, Mode::from_raw_mode(0o755))?;
        }
        let kept = self.name.replacen(IN_USE, KEPT, 1);
        rustix::fs::renameat(&self.around, &self.name, &self.around, &kept)?;
        self.path.set_file_name(&kept);
        Ok(self.build())
    }

    /// Removes all of it.
    pub(crate) fn remove(self) -> Result<(), drover_store_files::FilesError> {
        remove_tree(self.around.as_fd(), &FileName::new(self.name.as_bytes())?).map(drop)
    }
}

/// Gives a file or folder to the build's user, where that is another one.
fn give(file: &OwnedFd, Ids { uid, gid }: Ids) -> Result<(), Errno> {
    if uid == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
}

/// Opens a folder where nobody else can exchange what is on the way there, once symlinks are followed:
/// it all belongs to root or to this process's user, and others may write none of it, unless only the
/// owner of each name may take it away and that is enough here.
fn open_safely(Parent { path, sticky }: &Parent) -> io::Result<OwnedFd> {
    let path = path.canonicalize()?;
    let mut folder = rustix::fs::openat(CWD, "/", FOLDER, Mode::empty())?;
    let mut so_far = PathBuf::from("/");
    let own = rustix::process::geteuid().as_raw();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => {
                so_far.push(name);
                folder =
                    rustix::fs::openat(&folder, name, FOLDER, Mode::empty()).map_err(|errno| {
                        let shown = so_far.display();
                        io::Error::new(io::Error::from(errno).kind(), format!("'{shown}': {errno}"))
                    })?;
            }
            Component::ParentDir | Component::Prefix(_) => return Err(Errno::INVAL.into()),
        }
        let stat = rustix::fs::fstat(&folder)?;
        let is_enough = *sticky == Sticky::Allowed && stat.st_mode & 0o1000 != 0;
        let others_write = stat.st_mode & 0o022 != 0 && !is_enough;
        let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let group_only = stat.st_mode & 0o002 == 0;
        let shown = so_far.display();
        let refuse = |what: &str| {
            let text = format!("{what} '{shown}', so builds can't be done below it");
            Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
        };
        // a group's own business, but for root, whose builds everybody's store hangs on
        if !is_folder || others_write && !(group_only && own != 0) {
            return refuse("others may write");
        }
        if ![0, own].contains(&stat.st_uid) {
            return refuse("somebody else owns");
        }
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::*;

    fn at(path: &Path) -> Parent {
        Parent { path: path.to_owned(), sticky: Sticky::Allowed }
    }

    fn me() -> Ids {
        Ids { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
    }

    #[test]
    fn nobody_else_gets_into_a_build() {
        let home = tempfile::tempdir().unwrap();
        let parent = home.path().canonicalize().unwrap().join("builds");
        let folders = BuildFolders::new(&at(&parent), "x.drv", me(), Entrance::Closed).unwrap();
        let files = [BuildFile { name: ".attrs.sh".into(), contents: b"x".to_vec() }];
        folders.write(&files, me()).unwrap();
        let outer = std::fs::metadata(folders.build().parent().unwrap()).unwrap();
        assert_eq!(outer.mode() & 0o7777, 0o700);
        assert_eq!(std::fs::read(folders.build().join(".attrs.sh")).unwrap(), b"x");
        folders.remove().unwrap();
        assert_eq!(std::fs::read_dir(&parent).unwrap().count(), 0);
    }

    /// T23.
    #[test]
    fn a_folder_that_others_may_write_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        let open = home.join("open");
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
        let below = open.join("below");
        std::fs::create_dir(&below).unwrap();
        for parent in [&open, &below] {
            let error = BuildFolders::new(&at(parent), "x", me(), Entrance::Closed).unwrap_err();
            assert!(error.to_string().contains("others may write"), "{error}");
        }
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o1777)).unwrap();
        BuildFolders::new(&at(&below), "x", me(), Entrance::Closed).unwrap().remove().unwrap();
        let strict = Parent { path: below, sticky: Sticky::Refused };
        let error = BuildFolders::new(&strict, "x", me(), Entrance::Closed).unwrap_err();
        assert!(error.to_string().contains("others may write"), "{error}");
    }

    /// As Nix leaves it to who wants to look into it.
    #[test]
    fn a_folder_that_is_kept_can_be_looked_into() {
        let home = tempfile::tempdir().unwrap();
        let parent = at(&home.path().canonicalize().unwrap().join("builds"));
        let folders = BuildFolders::new(&parent, "x", me(), Entrance::Closed).unwrap();
        let kept = folders.keep().unwrap();
        for folder in [kept.as_path(), kept.parent().unwrap()] {
            assert_eq!(std::fs::metadata(folder).unwrap().mode() & 0o7777, 0o755, "{folder:?}");
        }
    }

    #[test]
    fn what_nobody_uses_any_more_is_swept_away() {
        let home = tempfile::tempdir().unwrap();
        let parent = home.path().canonicalize().unwrap().join("builds");
        BuildFolders::sweep(&at(&parent)).unwrap();
        let [used, kept, left] = ["used", "kept", "left"]
            .map(|name| BuildFolders::new(&at(&parent), name, me(), Entrance::Closed).unwrap());
        let folders = [used.build(), kept.keep().unwrap(), left.build()];
        drop(left);
        BuildFolders::sweep(&at(&parent)).unwrap();
        assert_eq!(folders.map(|folder| folder.exists()), [true, true, false]);
        drop(used);
    }

    /// Where a symlink leads is what counts.
    #[test]
    fn a_folder_of_somebody_else_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        let real = home.join("real");
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, home.join("link")).unwrap();
        let link = home.join("link");
        BuildFolders::new(&at(&link), "x", me(), Entrance::Closed).unwrap().remove().unwrap();
        // only root can give it to somebody else
        if me().uid == 0 {
            std::os::unix::fs::chown(&real, Some(65_534), Some(65_534)).unwrap();
            let error = BuildFolders::new(&at(&link), "x", me(), Entrance::Closed).unwrap_err();
            assert!(error.to_string().contains("somebody else owns"), "{error}");
        }
    }
}
