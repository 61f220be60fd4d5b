//! The way to the folder in which builds' folders are made.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path, PathBuf};

use drover_sandbox::Standing;
use rustix::fs::{CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::{FOLDER, Parent, Sticky};

/// What becomes of folders on the way that aren't there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// They are made, where all before them is safe.
    Made,
    /// There's no way then.
    Refused,
}

/// A folder that was come to where nobody else can exchange what is on the way there.
pub(super) struct Way {
    pub(super) folder: OwnedFd,
    /// The whole path, on which there is no symlink.
    pub(super) path: PathBuf,
}

/// Links on one way, as the kernel has it.
const MOST_LINKS: u32 = 40;

const LOOK: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Way {
    /// Goes to a folder name by name, and follows each symlink only when it's seen to be safe: folders and
    /// links all belong to root or to this process's user ([`is_trusted`]), and others may write none of the
    /// folders, unless only the owner of each name may take it away and that is enough here.
    pub(super) fn to(parent: &Parent, missing: Missing) -> io::Result<Way> {
        let mut rest = names(&std::path::absolute(&parent.path)?);
        let mut way = Way::root(parent.sticky)?;
        let mut links = 0;
        while let Some(name) = rest.pop() {
            match &*name {
                name if name == "/" => way = Way::root(parent.sticky)?,
                name if name == ".." => {
                    way.folder = rustix::fs::openat(&way.folder, "..", LOOK, Mode::empty())?;
                    way.path.pop();
                }
                name => {
                    if let Some(target) = way.go(name.as_ref(), parent.sticky, missing)? {
                        links += 1;
                        if MOST_LINKS < links {
                            return Err(Errno::LOOP.into());
                        }
                        rest.extend(names(&target));
                    }
                }
            }
        }
        way.folder = rustix::fs::openat(&way.folder, ".", FOLDER, Mode::empty())?;
        Ok(way)
    }

    fn root(sticky: Sticky) -> io::Result<Way> {
        let folder = rustix::fs::openat(CWD, "/", LOOK, Mode::empty())?;
        let path = PathBuf::from("/");
        check(&path, &rustix::fs::fstat(&folder)?, sticky)?;
        Ok(Way { folder, path })
    }

    /// Goes on to what has this name in the folder, or returns where that leads if it's a symlink.
    fn go(&mut self, name: &Path, sticky: Sticky, missing: Missing) -> io::Result<Option<PathBuf>> {
        let shown = self.path.join(name);
        let open = || rustix::fs::openat(&self.folder, name, LOOK, Mode::empty());
        let opened = match open() {
            Err(Errno::NOENT) if missing == Missing::Made => {
                match rustix::fs::mkdirat(&self.folder, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => open(),
                    Err(errno) => Err(errno),
                }
            }
            opened => opened,
        };
        let opened = opened.map_err(|errno| {
            let kind = io::Error::from(errno).kind();
            io::Error::new(kind, format!("'{}': {errno}", shown.display()))
        })?;
        let stat = rustix::fs::fstat(&opened)?;
        check(&shown, &stat, sticky)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            let target = rustix::fs::readlinkat(&opened, "", Vec::new())?;
            return Ok(Some(OsString::from_vec(target.into_bytes()).into()));
        }
        (self.folder, self.path) = (opened, shown);
        Ok(None)
    }
}

/// Returns the names of a path, the first of them last.
fn names(path: &Path) -> Vec<OsString> {
    let names = path.components().filter(|it| *it != Component::CurDir);
    names.map(|it| it.as_os_str().to_owned()).rev().collect()
}

/// Checks that nobody else can exchange what is in a folder, or where a link leads.
fn check(path: &Path, stat: &Stat, sticky: Sticky) -> io::Result<()> {
    let own = rustix::process::geteuid().as_raw();
    let kind = FileType::from_raw_mode(stat.st_mode);
    let is_enough = sticky == Sticky::Allowed && stat.st_mode & 0o1000 != 0;
    let others_write = stat.st_mode & 0o022 != 0 && !is_enough;
    // a group's own business, but for root, whose builds everybody's store hangs on
    let group_only = stat.st_mode & 0o002 == 0 && own != 0;
    let refuse = |what: &str| {
        let text = format!("{what} '{}', so builds can't be done below it", path.display());
        Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
    };
    match kind {
        FileType::Directory if others_write && !group_only => refuse("others may write"),
        FileType::Directory | FileType::Symlink if !is_trusted(stat.st_uid, own) => {
            refuse("somebody else owns")
        }
        FileType::Directory | FileType::Symlink => Ok(()),
        _ => Err(io::Error::new(
            io::ErrorKind::NotADirectory,
            format!("'{}': {}", path.display(), Errno::NOTDIR),
        )),
    }
}

/// Whether what a user owns on the way to builds' folders is safe from everybody else. Root of a user
/// namespace with no other user can't tell the machine's root from the rest of those who have no number
/// there, and what nobody can be told to own is taken for root's.
fn is_trusted(owner: u32, own: u32) -> bool {
    owner == 0
        || owner == own
        || own == 0 && Standing::of_this_process() == Standing::OneUser && owner == without_number()
}

/// Returns what users are shown as that have no number in this process's user namespace.
fn without_number() -> u32 {
    const USUAL: u32 = 65_534;
    let text = std::fs::read_to_string("/proc/sys/kernel/overflowuid").unwrap_or_default();
    text.trim().parse().unwrap_or(USUAL)
}
