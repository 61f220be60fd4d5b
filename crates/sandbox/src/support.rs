//! What this machine can do of what plans ask for.

use std::fs;

use crate::cgroup::CgroupFolder;
use crate::child::SCOPES;
use crate::plan::Scope;
use crate::standing::Standing;
use crate::sys::{self, Fork, Patience};

/// What there is here, for this user.
///
/// Namespaces are tried by the launcher, as what files in `/proc` say isn't the whole truth; see
/// [`Launcher::support`](crate::Launcher::support).
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Support {
    /// Whether commands can have namespaces of their own: made as root, or else in a user namespace.
    pub namespaces: Availability,
    /// Whether users can be renumbered.
    pub user_namespaces: Availability,
    /// The version of Landlock; 0 is none, and 6 the first that [`Scope`](crate::Scope) can use.
    pub landlock: u32,
    /// Whether system calls can be filtered.
    pub filter: Availability,
    /// Whether commands can have control groups of their own.
    pub cgroups: Availability,
}

/// Whether something can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Availability {
    /// It can.
    Available,
    /// It can't, with this error number.
    Unavailable(i32),
}

impl Scope {
    /// Says whether this kernel can keep commands from the abstract sockets of others.
    pub fn is_supported() -> bool {
        SCOPES <= sys::landlock_version()
    }
}

/// Tries it out. In a process with one thread.
pub(crate) fn detect() -> Support {
    let new = libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWNET;
    let as_root = Standing::of_this_process() == Standing::Root;
    let user_namespaces = try_namespaces(libc::CLONE_NEWUSER);
    let namespaces = try_namespaces(if as_root { new } else { new | libc::CLONE_NEWUSER });
    let filter = match fs::exists("/proc/sys/kernel/seccomp") {
        Ok(true) => Availability::Available,
        _ => Availability::Unavailable(libc::ENOSYS),
    };
    let cgroups = match CgroupFolder::of_this_process().and_then(|it| it.try_out()) {
        Ok(()) => Availability::Available,
        Err(error) => Availability::Unavailable(error.raw_os_error().unwrap_or(libc::EIO)),
    };
    Support { namespaces, user_namespaces, landlock: sys::landlock_version(), filter, cgroups }
}

fn try_namespaces(namespaces: libc::c_int) -> Availability {
    match sys::clone3(namespaces, None) {
        Ok(Fork::Child) => sys::exit_now(0),
        Ok(Fork::Parent(process)) => {
            let ended = sys::wait_for(Some(process.pid), Patience::Wait);
            match ended {
                Ok(_) => Availability::Available,
                Err(errno) => Availability::Unavailable(errno.raw_os_error()),
            }
        }
        Err(errno) => Availability::Unavailable(errno.raw_os_error()),
    }
}
