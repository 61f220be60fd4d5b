//! The calls that are tried, in both ABIs. None does harm where it's let through.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::AsRawFd as _;

use crate::machine::{self, LowMemory};

/// One call: its name, its numbers on x86_64, aarch64 and i386 (-1: not there), and its arguments.
struct Call(&'static str, i64, i64, i64, [u32; 6]);

/// Makes all calls on a file in the working folder. Returns name → result, "ok" or an error's name.
pub(crate) fn results() -> BTreeMap<String, String> {
    let mut results = BTreeMap::new();
    for_each(|Call(title, x86_64, aarch64, i386, arguments)| {
        let native = if cfg!(target_arch = "aarch64") { aarch64 } else { x86_64 };
        if native >= 0 {
            let wide = arguments.map(signed);
            results.insert(format!("native {title}"), shown(machine::native(native, wide)));
        }
        #[cfg(target_arch = "x86_64")]
        if let Ok(number) = u32::try_from(i386) {
            results.insert(format!("i386 {title}"), shown(machine::i386(number, arguments)));
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _unused = i386;
    });
    results
}

/// Makes those that change modes and attributes, or that do so out of a filter's sight, as a program of the
/// third ABI does that x86_64 has: by the same numbers with a bit more.
#[cfg(target_arch = "x86_64")]
pub(crate) fn results_x32() -> BTreeMap<String, String> {
    const X32: i64 = 0x4000_0000;
    let mut results = BTreeMap::new();
    for_each(|Call(title, x86_64, _, _, arguments)| {
        let matters = ["chmod", "xattr", "io_uring"].iter().any(|part| title.contains(part));
        if matters && x86_64 >= 0 {
            let result = machine::native(x86_64 | X32, arguments.map(signed));
            results.insert(title.to_owned(), shown(result));
        }
    });
    results
}

fn for_each(mut make: impl FnMut(Call)) {
    let path = CString::new("probe-file").unwrap_or_default();
    let file = std::fs::File::create("probe-file");
    let file = file.unwrap_or_else(|error| panic!("cannot make a file: {error}"));
    let fd = u32::try_from(file.as_raw_fd()).unwrap_or(0);
    let mut memory = LowMemory::new();
    let path = memory.string(&path);
    let name = memory.string(c"user.probe");
    let value = memory.string(c"v");
    let space = memory.space(4096);
    table(path, fd, name, value, space).into_iter().for_each(&mut make);
}

/// -1 is meant where a 32-bit argument is all ones.
fn signed(argument: u32) -> u64 {
    if argument == u32::MAX { u64::MAX } else { argument.into() }
}

const HERE: u32 = libc::AT_FDCWD.cast_unsigned();
const SET_UID: u32 = 0o4755;
const SET_GID: u32 = 0o2755;
const PLAIN: u32 = 0o644;
const NOT_AN_FD: u32 = 9999;

fn table(path: u32, fd: u32, name: u32, value: u32, space: u32) -> Vec<Call> {
    let mut calls = modes(path, fd);
    calls.extend(attributes(path, fd, name, value, space));
    calls.extend(escapes(space));
    calls.extend(privileges(path, space));
    calls
}

fn modes(path: u32, fd: u32) -> Vec<Call> {
    let mut calls = Vec::new();
    for (what, mode) in [("644", PLAIN), ("4755", SET_UID), ("2755", SET_GID)] {
        let title = |call: &str| -> &'static str { Box::leak(format!("{call} {what}").into()) };
        calls.extend([
            Call(title("chmod"), 90, -1, 15, [path, mode, 0, 0, 0, 0]),
            Call(title("fchmod"), 91, 52, 94, [fd, mode, 0, 0, 0, 0]),
            Call(title("fchmodat"), 268, 53, 306, [HERE, path, mode, 0, 0, 0]),
            Call(title("fchmodat2"), 452, 452, 452, [HERE, path, mode, 0, 0, 0]),
        ]);
    }
    calls
}

fn attributes(path: u32, fd: u32, name: u32, value: u32, space: u32) -> Vec<Call> {
    vec![
        Call("setxattr", 188, 5, 226, [path, name, value, 1, 0, 0]),
        Call("lsetxattr", 189, 6, 227, [path, name, value, 1, 0, 0]),
        Call("fsetxattr", 190, 7, 228, [fd, name, value, 1, 0, 0]),
        Call("getxattr", 191, 8, 229, [path, name, space, 16, 0, 0]),
        Call("lgetxattr", 192, 9, 230, [path, name, space, 16, 0, 0]),
        Call("fgetxattr", 193, 10, 231, [fd, name, space, 16, 0, 0]),
        Call("listxattr", 194, 11, 232, [path, space, 256, 0, 0, 0]),
        Call("llistxattr", 195, 12, 233, [path, space, 256, 0, 0, 0]),
        Call("flistxattr", 196, 13, 234, [fd, space, 256, 0, 0, 0]),
        Call("setxattrat", 463, 463, 463, [HERE, path, 0, name, space, 16]),
        Call("getxattrat", 464, 464, 464, [HERE, path, 0, name, space, 16]),
        Call("listxattrat", 465, 465, 465, [HERE, path, 0, space, 256, 0]),
        Call("removexattrat", 466, 466, 466, [HERE, path, 0, name, 0, 0]),
    ]
}

fn escapes(space: u32) -> Vec<Call> {
    vec![
        Call("io_uring_setup", 425, 425, 425, [1, space, 0, 0, 0, 0]),
        Call("io_uring_enter", 426, 426, 426, [NOT_AN_FD, 0, 0, 0, 0, 0]),
        Call("io_uring_register", 427, 427, 427, [NOT_AN_FD, 0, 0, 0, 0, 0]),
        Call("socket unix", 41, 198, 359, [1, 1, 0, 0, 0, 0]),
        Call("socketpair unix", 53, 199, 360, [1, 1, 0, space, 0, 0]),
        Call("socketcall", -1, -1, 102, [1, 0, 0, 0, 0, 0]),
        Call("unshare nothing", 272, 97, 310, [0, 0, 0, 0, 0, 0]),
        Call("setns", 308, 268, 346, [NOT_AN_FD, 0, 0, 0, 0, 0]),
        Call("mount", 165, 40, 21, [0, 0, 0, 0, 0, 0]),
        Call("umount2", 166, 39, 52, [space, 0, 0, 0, 0, 0]),
        Call("pivot_root", 155, 41, 217, [space, space, 0, 0, 0, 0]),
        Call("chroot", 161, 51, 61, [space, 0, 0, 0, 0, 0]),
        Call("open_by_handle_at", 304, 265, 342, [NOT_AN_FD, space, 0, 0, 0, 0]),
        Call("ptrace of 1", 101, 117, 26, [16, 1, 0, 0, 0, 0]),
        Call("pidfd_open of 1", 434, 434, 434, [1, 0, 0, 0, 0, 0]),
    ]
}

fn privileges(path: u32, space: u32) -> Vec<Call> {
    const CHARACTER_DEVICE: u32 = libc::S_IFCHR | 0o600;
    const NONE: u32 = u32::MAX;
    vec![
        Call("setuid 0", 105, 146, 213, [0, 0, 0, 0, 0, 0]),
        Call("setgid 0", 106, 144, 214, [0, 0, 0, 0, 0, 0]),
        Call("setgroups none", 116, 159, 206, [0, 0, 0, 0, 0, 0]),
        Call("chown to root", 92, -1, 212, [path, 0, 0, 0, 0, 0]),
        Call("mknod device", 133, -1, 14, [space, CHARACTER_DEVICE, 0, 0, 0, 0]),
        Call("sethostname", 170, 161, 74, [space, 0, 0, 0, 0, 0]),
        Call("setdomainname", 171, 162, 121, [space, 0, 0, 0, 0, 0]),
        Call("iopl 3", 172, -1, 110, [3, 0, 0, 0, 0, 0]),
        Call("reboot without magic", 169, 142, 88, [0, 0, 0, 0, 0, 0]),
        Call("kexec_load", 246, 104, 283, [0, 0, 0, 0xffff, 0, 0]),
        Call("init_module", 175, 105, 128, [0, 0, 0, 0, 0, 0]),
        Call("delete_module", 176, 106, 129, [space, 0, 0, 0, 0, 0]),
        Call("swapon", 167, 224, 87, [space, 0, 0, 0, 0, 0]),
        Call("syslog read", 103, 116, 103, [3, space, 16, 0, 0, 0]),
        Call("settimeofday", 164, 170, 79, [space, 0, 0, 0, 0, 0]),
        Call("bpf", 321, 280, 357, [0, space, 48, 0, 0, 0]),
        Call("perf_event_open", 298, 241, 336, [space, 0, NONE, NONE, 0, 0]),
        Call("vhangup", 153, 58, 111, [0, 0, 0, 0, 0, 0]),
        Call("acct", 163, 89, 51, [space, 0, 0, 0, 0, 0]),
        Call("setpriority -5", 141, 140, 97, [0, 0, NONE - 4, 0, 0, 0]),
        Call("personality query", 135, 92, 136, [NONE, 0, 0, 0, 0, 0]),
        Call("getpid", 39, 172, 20, [0, 0, 0, 0, 0, 0]),
    ]
}

fn shown(result: i64) -> String {
    match result {
        0.. => "ok".to_owned(),
        error => i32::try_from(-error).map_or_else(|_| error.to_string(), error_name),
    }
}

fn error_name(error: i32) -> String {
    let known = [
        (libc::EPERM, "EPERM"),
        (libc::ENOENT, "ENOENT"),
        (libc::ESRCH, "ESRCH"),
        (libc::EIO, "EIO"),
        (libc::EBADF, "EBADF"),
        (libc::EACCES, "EACCES"),
        (libc::EFAULT, "EFAULT"),
        (libc::EEXIST, "EEXIST"),
        (libc::EINVAL, "EINVAL"),
        (libc::ENOSYS, "ENOSYS"),
        (libc::ENODATA, "ENODATA"),
        (libc::ENOTSUP, "ENOTSUP"),
        (libc::EAFNOSUPPORT, "EAFNOSUPPORT"),
        (libc::EROFS, "EROFS"),
        (libc::E2BIG, "E2BIG"),
    ];
    let name = known.iter().find(|(number, _)| *number == error);
    name.map_or_else(|| format!("error {error}"), |(_, name)| (*name).to_owned())
}
