//! Control groups of the second version, by open folders. Those of the first aren't used: they have
//! no way to kill a group at once, and none to start a process in one.

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::{BuildHasher as _, Hasher as _};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use crate::plan::Ids;

/// A group that can hold those of commands.
#[derive(Debug)]
pub struct CgroupFolder {
    path: PathBuf,
    folder: OwnedFd,
}

/// A group for one command. It has to be removed in the end.
#[derive(Debug)]
pub struct CgroupLeaf {
    parent: OwnedFd,
    name: String,
    folder: OwnedFd,
}

/// What all processes of a group have used, those that nobody has waited for too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CgroupUsage {
    /// Processor time in user space.
    pub user: Duration,
    /// Processor time in the kernel.
    pub system: Duration,
    /// The most memory that they have held together, in bytes, if the group counts it.
    pub memory_peak: Option<u64>,
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// How deep commands may have made groups of their own, so that a removal ends.
const MAX_DEPTH: usize = 64;

impl CgroupFolder {
    /// Returns the group that this process is in.
    ///
    /// # Errors
    /// If the second version isn't mounted.
    pub fn of_this_process() -> io::Result<CgroupFolder> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let groups = fs::read_to_string("/proc/self/cgroup")?;
        let (mount, group) = mounted_at(&mounts)
            .zip(groups.lines().find_map(|line| line.strip_prefix("0::/")))
            .ok_or_else(|| io::Error::from(Errno::NOENT))?;
        CgroupFolder::at(&Path::new(&mount).join(group))
    }

    /// Returns the group at a path.
    ///
    /// # Errors
    /// If it can't be opened.
    pub fn at(path: &Path) -> io::Result<CgroupFolder> {
        let folder = rustix::fs::open(path, FOLDER | OFlags::NOFOLLOW, Mode::empty())?;
        Ok(CgroupFolder { path: path.to_owned(), folder })
    }

    /// Returns where it is, for who records it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a group in it. One that is left from before is killed and removed first.
    ///
    /// # Errors
    /// If this user may not, or what was left can't be removed.
    pub fn leaf(&self, name: &str) -> io::Result<CgroupLeaf> {
        let parent = self.folder.try_clone()?;
        let mode = Mode::from_raw_mode(0o755);
        if let Err(errno) = rustix::fs::mkdirat(&parent, name, mode) {
            if errno != Errno::EXIST {
                return Err(errno.into());
            }
            CgroupLeaf::open(parent.try_clone()?, name)?.remove()?;
            rustix::fs::mkdirat(&parent, name, mode)?;
        }
        CgroupLeaf::open(parent, name)
    }

    /// Makes a group and removes it again.
    pub(crate) fn try_out(&self) -> io::Result<()> {
        // processes that try at once may have one number, each in its own namespace
        let chance = RandomState::new().build_hasher().finish();
        self.leaf(&format!("drover-try-{}-{chance:016x}", std::process::id()))?.remove()
    }
}

impl CgroupLeaf {
    fn open(parent: OwnedFd, name: &str) -> io::Result<CgroupLeaf> {
        let flags = FOLDER | OFlags::NOFOLLOW;
        let folder = rustix::fs::openat(&parent, name, flags, Mode::empty())?;
        Ok(CgroupLeaf { parent, name: name.to_owned(), folder })
    }

    /// Returns its folder, for [`Cgroup::Leaf`](crate::Cgroup::Leaf).
    ///
    /// # Errors
    /// If there are too many open files.
    pub fn folder(&self) -> io::Result<OwnedFd> {
        self.folder.try_clone()
    }

    /// Sets one of its limits, such as `pids.max`.
    ///
    /// # Errors
    /// If the group doesn't have the controller, or the value is none.
    pub fn set(&self, file: &str, value: &str) -> io::Result<()> {
        let file = open(&self.folder, file, OFlags::WRONLY)?;
        rustix::io::write(&file, value.as_bytes())?;
        Ok(())
    }

    /// Lets a user make groups in it and move its processes between them.
    ///
    /// # Errors
    /// If this isn't root.
    pub fn give_to(&self, ids: Ids) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(ids.uid), Gid::from_raw(ids.gid));
        rustix::fs::fchown(&self.folder, Some(uid), Some(gid))?;
        for name in ["cgroup.procs", "cgroup.threads"] {
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::chownat(&self.folder, name, Some(uid), Some(gid), flags)?;
        }
        Ok(())
    }

    /// Returns what was used in it.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn usage(&self) -> io::Result<CgroupUsage> {
        let stat = read(&self.folder, "cpu.stat")?;
        let time = |name: &str| {
            let value = stat.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
            Duration::from_micros(value.unwrap_or(0))
        };
        let memory_peak = read(&self.folder, "memory.peak").ok();
        Ok(CgroupUsage {
            user: time("user_usec "),
            system: time("system_usec "),
            memory_peak: memory_peak.and_then(|it| it.trim().parse().ok()),
        })
    }

    /// Kills what is in it and removes it.
    ///
    /// # Errors
    /// If something in it can't be killed, or it isn't this user's.
    pub fn remove(self) -> io::Result<()> {
        kill(&self.folder)?;
        remove_below(&self.folder, MAX_DEPTH)?;
        rustix::fs::unlinkat(&self.parent, self.name.as_str(), AtFlags::REMOVEDIR)?;
        Ok(())
    }
}

/// How long killed processes may take to go: each has to be given time on a processor for that, and many
/// that were killed together share what a busy machine has.
const PATIENCE: Duration = Duration::from_secs(60);

/// Kills all processes in a group and in those below it, and waits until they are gone.
pub(crate) fn kill(folder: impl AsFd) -> Result<(), Errno> {
    let start = Instant::now();
    let events = open(&folder, "cgroup.events", OFlags::RDONLY)?;
    loop {
        if !is_populated(&folder)? {
            return Ok(());
        }
        if PATIENCE < start.elapsed() {
            return Err(Errno::TIMEDOUT);
        }
        match open(&folder, "cgroup.kill", OFlags::WRONLY) {
            Ok(file) => drop(rustix::io::write(&file, b"1")?),
            // Before Linux 5.14.
            Err(Errno::NOENT) => kill_one_by_one(folder.as_fd(), MAX_DEPTH)?,
            Err(errno) => return Err(errno),
        }
        let mut polled = [PollFd::new(&events, PollFlags::PRI)];
        let a_moment = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        rustix::event::poll(&mut polled, Some(&a_moment))?;
    }
}

fn is_populated(folder: impl AsFd) -> Result<bool, Errno> {
    let events = read(folder, "cgroup.events")?;
    Ok(events.lines().any(|line| line == "populated 1"))
}

/// Frozen, none of them can fork meanwhile.
fn kill_one_by_one(folder: impl AsFd, depth: usize) -> Result<(), Errno> {
    let freeze = open(&folder, "cgroup.freeze", OFlags::WRONLY)?;
    rustix::io::write(&freeze, b"1")?;
    let pids = read(&folder, "cgroup.procs")?;
    for pid in pids.lines().filter_map(|line| line.parse().ok()).filter_map(Pid::from_raw) {
        match rustix::process::kill_process(pid, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => return Err(errno),
        }
    }
    rustix::io::write(&freeze, b"0")?;
    if let Some(depth) = depth.checked_sub(1) {
        for name in children(&folder)? {
            let flags = FOLDER | OFlags::NOFOLLOW;
            let child = rustix::fs::openat(&folder, name.as_c_str(), flags, Mode::empty())?;
            kill_one_by_one(&child, depth)?;
        }
    }
    Ok(())
}

fn remove_below(folder: impl AsFd, depth: usize) -> Result<(), Errno> {
    let depth = depth.checked_sub(1).ok_or(Errno::LOOP)?;
    for name in children(&folder)? {
        let flags = FOLDER | OFlags::NOFOLLOW;
        let child = rustix::fs::openat(&folder, name.as_c_str(), flags, Mode::empty())?;
        remove_below(&child, depth)?;
        rustix::fs::unlinkat(&folder, name.as_c_str(), AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

fn children(folder: impl AsFd) -> Result<Vec<std::ffi::CString>, Errno> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(&folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_folder = entry.file_type() == FileType::Directory;
        if is_folder && ![c".", c".."].contains(&name) {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

fn read(folder: impl AsFd, name: &str) -> Result<String, Errno> {
    let file = open(folder, name, OFlags::RDONLY)?;
    io::read_to_string(fs::File::from(file)).map_err(crate::leftovers::errno_of)
}

fn open(folder: impl AsFd, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(folder, name, flags, Mode::empty())
}

/// Returns where the second version's hierarchy is mounted, whole.
fn mounted_at(mounts: &str) -> Option<String> {
    mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let mut fields = place.split(' ').skip(3);
        let (root, at) = (fields.next()?, fields.next()?);
        (kind.starts_with("cgroup2 ") && root == "/").then(|| at.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_version_is_found_among_the_first() {
        let mounts = "30 24 0:26 / /sys/fs/cgroup/pids rw shared:9 - cgroup cgroup rw,pids\n\
                      31 24 0:27 /part /elsewhere rw - cgroup2 cgroup2 rw\n\
                      32 24 0:27 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw\n";
        assert_eq!(mounted_at(mounts).as_deref(), Some("/sys/fs/cgroup/unified"));
        assert_eq!(mounted_at(""), None);
    }
}
