//! The system calls that neither the standard library nor rustix has in a safe form.
//!
//! This is the only module of the workspace with `unsafe` code, apart from the probe that attacks it.
//! What makes or changes processes is called in the launcher and its children, which have one thread
//! each.
#![allow(unsafe_code, reason = "the one place where system calls are made by hand")]

use std::ffi::{CString, c_char, c_int, c_long, c_uint, c_ulong, c_void};
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The result of a call that makes a process: it returns twice.
pub(crate) enum Fork<T> {
    /// In the new process.
    Child,
    /// In the old one.
    Parent(T),
}

/// A process just made.
pub(crate) struct NewProcess {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
}

/// Makes a copy of this process.
///
/// Only for processes with one thread, where whatever holds a lock comes along.
pub(crate) fn fork() -> Result<Fork<Pid>, Errno> {
    // SAFETY: this process has one thread (see the module), so the copy is as consistent as it is.
    let pid = check(unsafe { libc::fork() }.into())?;
    Ok(match Pid::from_raw(narrow(pid)) {
        Some(pid) => Fork::Parent(pid),
        None => Fork::Child,
    })
}

/// Makes a copy of this process in new namespaces (`CLONE_NEW*` flags), and in a control group.
///
/// Only for processes with one thread, as [`fork`].
pub(crate) fn clone3(
    namespaces: c_int,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Fork<NewProcess>, Errno> {
    let mut pidfd: RawFd = -1;
    // SAFETY: all-zero is a valid value of this struct of integers.
    let mut args: libc::clone_args = unsafe { zeroed() };
    args.flags = widen(namespaces) | widen(libc::CLONE_PIDFD);
    args.pidfd = (&raw mut pidfd).expose_provenance() as u64;
    args.exit_signal = widen(libc::SIGCHLD);
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = widen(cgroup.as_raw_fd());
    }
    // SAFETY: without CLONE_VM and a stack this is a fork, for which the above holds; the kernel
    // writes the descriptor where `pidfd` lives, which outlasts the call.
    let pid =
        unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    Ok(match Pid::from_raw(narrow(check(pid)?)) {
        // SAFETY: the kernel has just made this descriptor for us alone.
        Some(pid) => {
            Fork::Parent(NewProcess { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
        }
        None => Fork::Child,
    })
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Moves this process into new namespaces (`CLONE_NEW*` flags).
pub(crate) fn unshare(namespaces: c_int) -> Result<(), Errno> {
    // SAFETY: none of the namespaces changes memory or descriptors.
    check(unsafe { libc::unshare(namespaces) }.into()).map(drop)
}

/// How far a change to a mount reaches.
#[derive(Clone, Copy)]
pub(crate) enum Reach {
    /// Only to it.
    Itself,
    /// To all mounts below it, too.
    Below,
}

/// Adds attributes to a mount.
pub(crate) fn add_mount_attributes(
    mount: BorrowedFd<'_>,
    attributes: u64,
    reach: Reach,
) -> Result<(), Errno> {
    let attr = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = match reach {
        Reach::Itself => libc::AT_EMPTY_PATH,
        Reach::Below => libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
    };
    let empty = c"";
    // SAFETY: the pointers are to live values of the sizes that are given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            empty.as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    check(result).map(drop)
}

/// Puts a system call filter in force for this process and all that come from it.
pub(crate) fn install_filter(program: &[libc::sock_filter]) -> Result<(), Errno> {
    let len = u16::try_from(program.len()).map_err(|_| Errno::INVAL)?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel reads `len` instructions from where the slice is, and writes nothing.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program)
    };
    check(result).map(drop)
}

/// What `landlock_create_ruleset` reads, up to its sixth version.
#[repr(C)]
struct Ruleset {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

/// Returns the version of Landlock that this kernel has in force; 0 if none.
pub(crate) fn landlock_version() -> u32 {
    const VERSION: c_int = 1;
    // SAFETY: with this flag, the kernel wants no attributes.
    let result = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, ptr::null::<c_void>(), 0_usize, VERSION)
    };
    u32::try_from(result).unwrap_or(0)
}

/// Shuts this process, and all that come from it, out of abstract sockets and of signals outside.
pub(crate) fn scope_self() -> Result<(), Errno> {
    const ABSTRACT_UNIX_SOCKET: u64 = 1;
    const SIGNAL: u64 = 2;
    let ruleset = Ruleset {
        handled_access_fs: 0,
        handled_access_net: 0,
        scoped: ABSTRACT_UNIX_SOCKET | SIGNAL,
    };
    // SAFETY: the kernel reads as many bytes as the struct has.
    let fd = check(unsafe {
        let size = size_of::<Ruleset>();
        libc::syscall(libc::SYS_landlock_create_ruleset, &raw const ruleset, size, 0)
    })?;
    // SAFETY: the kernel has just made this descriptor for us alone.
    let fd = unsafe { OwnedFd::from_raw_fd(narrow(fd)) };
    // SAFETY: nothing but a live descriptor goes in.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, fd.as_raw_fd(), 0) }).map(drop)
}

/// Leaves the caller's keyring for an empty one of its own.
pub(crate) fn leave_keyring() -> Result<(), Errno> {
    let join: c_int = libc::KEYCTL_JOIN_SESSION_KEYRING.cast_signed();
    // SAFETY: a null name asks for an anonymous keyring.
    check(unsafe { libc::syscall(libc::SYS_keyctl, join, ptr::null::<c_char>()) }).map(drop)
}

/// Sets the execution domain and its flags.
pub(crate) fn set_personality(persona: c_ulong) -> Result<(), Errno> {
    // SAFETY: what it changes holds for programs started later and for `uname`.
    check(unsafe { libc::personality(persona) }.into()).map(drop)
}

/// Has all descriptors from `first` on closed when a program is started.
pub(crate) fn close_on_exec_from(first: c_uint) -> Result<(), Errno> {
    const CLOEXEC: c_uint = 1 << 2;
    // SAFETY: nothing is closed now, so no owner loses its descriptor.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, c_uint::MAX, CLOEXEC) };
    check(result).map(drop)
}

/// Closes all descriptors from `first` on, whoever owns them. For a process that goes on with
/// something that knows of none of them, and never returns to what does.
pub(crate) fn close_from(first: c_uint) -> Result<(), Errno> {
    // SAFETY: no owner of one of them is used or dropped from here on, as the caller promises.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, c_uint::MAX, 0) };
    check(result).map(drop)
}

/// Gives all signals their default action and blocks those that can be blocked. For the launcher,
/// which nobody may end but by closing its socket; all that comes from it starts like this.
pub(crate) fn shut_signals_out() {
    (1..=64).for_each(|signal| set_action(signal, libc::SIG_DFL));
    set_blocked(!0);
}

/// Has writing to what nobody reads fail, as Rust's programs expect, and not kill.
pub(crate) fn ignore_broken_pipes() {
    set_action(libc::SIGPIPE, libc::SIG_IGN);
}

/// Lets all signals through again.
pub(crate) fn let_signals_in() {
    set_blocked(0);
}

/// Whether children that have ended wait to be asked for.
#[derive(Clone, Copy)]
pub(crate) enum Ended {
    /// They do, as by default.
    Wait,
    /// They vanish.
    Vanish,
}

/// Sets what becomes of children that have ended.
pub(crate) fn set_ended_children(ended: Ended) {
    match ended {
        Ended::Wait => set_action(libc::SIGCHLD, libc::SIG_DFL),
        Ended::Vanish => set_action(libc::SIGCHLD, libc::SIG_IGN),
    }
}

/// What the kernel reads for `rt_sigaction`: all-zero is the default action.
#[repr(C)]
struct Action {
    handler: usize,
    flags: c_ulong,
    restorer: usize,
    mask: u64,
}

/// Sets a signal's action: the default, or ignoring.
fn set_action(signal: c_int, handler: usize) {
    let action = Action { handler, flags: 0, restorer: 0, mask: 0 };
    let no_old = ptr::null_mut::<c_void>();
    let size = size_of::<u64>();
    // SAFETY: default and ignoring run no code. The C library would leave out the two signals that
    // it keeps for itself, so it isn't asked. The call fails only for the two signals that can't be
    // changed, and needn't be.
    unsafe {
        libc::syscall(libc::SYS_rt_sigaction, signal, &raw const action, no_old, size);
    }
}

fn set_blocked(blocked: u64) {
    let no_old = ptr::null_mut::<c_void>();
    let mask = &raw const blocked;
    let size = size_of::<u64>();
    // SAFETY: the kernel reads one u64 that lives on.
    unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, mask, no_old, size);
    }
}

/// How a child ended and what it used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waited {
    /// As `wait` gives it.
    pub(crate) status: c_int,
    pub(crate) user: Duration,
    pub(crate) system: Duration,
    pub(crate) max_rss: u64,
}

/// Whether to wait until there's something to tell.
#[derive(Clone, Copy)]
pub(crate) enum Patience {
    Wait,
    DontWait,
}

/// Collects a child that has ended: `pid`, or any. `None` if none has yet; `ECHILD` if there is none.
pub(crate) fn wait_for(pid: Option<Pid>, patience: Patience) -> Result<Option<Waited>, Errno> {
    let options = match patience {
        Patience::Wait => libc::__WALL,
        Patience::DontWait => libc::__WALL | libc::WNOHANG,
    };
    let which = pid.map_or(-1, |pid| pid.as_raw_nonzero().get());
    loop {
        let mut status = 0;
        // SAFETY: all-zero is a valid value of this struct of integers.
        let mut usage: libc::rusage = unsafe { zeroed() };
        // SAFETY: both places live on while the kernel fills them.
        let result = unsafe { libc::wait4(which, &raw mut status, options, &raw mut usage) };
        match check(result.into()) {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
            Ok(pid) => {
                return Ok((pid != 0).then(|| Waited {
                    status,
                    user: duration(usage.ru_utime),
                    system: duration(usage.ru_stime),
                    max_rss: usage.ru_maxrss.unsigned_abs().saturating_mul(1024),
                }));
            }
        }
    }
}

/// Kills every process that this one may signal, except itself.
pub(crate) fn kill_all_others() -> Result<(), Errno> {
    // SAFETY: sends signals, nothing else.
    check(unsafe { libc::kill(-1, libc::SIGKILL) }.into()).map(drop)
}

/// Has this process' orphaned grandchildren become its children.
pub(crate) fn become_subreaper() -> Result<(), Errno> {
    // SAFETY: takes integers only.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }.into()).map(drop)
}

/// Switches the loopback interface of this network namespace on.
pub(crate) fn switch_loopback_on(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: all-zero is a valid value of this struct of integers.
    let mut request: libc::ifreq = unsafe { zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed() as c_char;
    }
    let flags = libc::IFF_UP | libc::IFF_LOOPBACK | libc::IFF_RUNNING;
    request.ifr_ifru.ifru_flags = i16::try_from(flags).unwrap_or(i16::MAX);
    // SAFETY: the kernel reads a request that lives on; this one reads name and flags.
    let result =
        unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    check(result.into()).map(drop)
}

/// Replaces this process' program. Returns only if that fails.
pub(crate) fn exec(program: &CString, arguments: &[CString], environment: &[CString]) -> Errno {
    let pointers = |strings: &[CString]| -> Vec<*const c_char> {
        strings.iter().map(|it| it.as_ptr()).chain([ptr::null()]).collect()
    };
    let arguments = pointers(arguments);
    let environment = pointers(environment);
    // SAFETY: both lists end with a null pointer, and the strings live as long as the call.
    unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    last_error()
}

/// Ends this process at once, running nothing.
pub(crate) fn exit_now(status: c_int) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(status) }
}

/// Has the runtime watch a socket.
pub(crate) fn watch(socket: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is the same open file for as long as it lives, and it lives in there
    // until it's no longer watched.
    let watched = unsafe { AsyncFd::register_with_interest(socket, interest) };
    watched.map_err(|error| error.into())
}

fn check(result: c_long) -> Result<c_long, Errno> {
    match result {
        -1 => Err(last_error()),
        result => Ok(result),
    }
}

fn last_error() -> Errno {
    let code = std::io::Error::last_os_error().raw_os_error();
    Errno::from_raw_os_error(code.unwrap_or(libc::EIO))
}

/// Process numbers and descriptors, which the kernel gives as 32 bits.
fn narrow(number: c_long) -> c_int {
    c_int::try_from(number).unwrap_or(-1)
}

/// Flags and descriptors, which are never negative.
fn widen(number: c_int) -> u64 {
    u64::from(number.cast_unsigned())
}

fn duration(time: libc::timeval) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_micros(u64::try_from(time.tv_usec).unwrap_or(0))
}
