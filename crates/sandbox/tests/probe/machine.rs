//! System calls by number, in both ABIs.
#![allow(unsafe_code, reason = "that is what is to be tried")]

use std::ffi::{CStr, c_long};

/// Makes a call in the machine's own ABI. Returns its result, or minus the error number.
pub(crate) fn native(number: c_long, arguments: [u64; 6]) -> i64 {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the calls in this program's table get numbers and live, large enough buffers.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    match result {
        -1 => -i64::from(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)),
        result => result,
    }
}

/// Takes hold of a process, as debuggers do. Returns 0, or minus the error number.
pub(crate) fn trace(process: i32) -> i64 {
    const ATTACH: u64 = 16;
    native(libc::SYS_ptrace, [ATTACH, u64::from(process.cast_unsigned()), 0, 0, 0, 0])
}

/// Makes a call as a 32-bit program does. Pointers have to be below 4 GiB.
#[cfg(target_arch = "x86_64")]
pub(crate) fn i386(number: u32, arguments: [u32; 6]) -> i64 {
    let [a, b, c, d, e, _] = arguments;
    let mut result = u64::from(number);
    // SAFETY: as above; the compiler keeps rbx for itself, so it's put back.
    unsafe {
        std::arch::asm!(
            "push rbx",
            "mov ebx, {a:e}",
            "int 0x80",
            "pop rbx",
            a = in(reg) a,
            inlateout("rax") result,
            in("rcx") u64::from(b),
            in("rdx") u64::from(c),
            in("rsi") u64::from(d),
            in("rdi") u64::from(e),
            lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _,
        );
    }
    #[allow(clippy::cast_possible_truncation, reason = "a 32-bit result in a 64-bit register")]
    let result = result as u32;
    i64::from(result.cast_signed())
}

/// Memory that both ABIs can point to.
pub(crate) struct LowMemory {
    at: *mut u8,
    used: usize,
}

const SIZE: usize = 64 * 1024;

impl LowMemory {
    pub(crate) fn new() -> LowMemory {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // Elsewhere there is no flag for it, but low addresses are free.
        #[cfg(target_arch = "x86_64")]
        let (wanted, flags) = (std::ptr::null_mut(), flags | libc::MAP_32BIT);
        #[cfg(not(target_arch = "x86_64"))]
        let (wanted, flags) =
            (std::ptr::without_provenance_mut(0x1000_0000), flags | libc::MAP_FIXED_NOREPLACE);
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: asks for fresh memory.
        let at = unsafe { libc::mmap(wanted, SIZE, access, flags, -1, 0) };
        assert!(at != libc::MAP_FAILED, "no memory");
        LowMemory { at: at.cast(), used: 0 }
    }

    /// Puts a string there for the rest of the program and returns its address.
    pub(crate) fn string(&mut self, text: &CStr) -> u32 {
        let bytes = text.to_bytes_with_nul();
        let at = self.space(bytes.len());
        // SAFETY: `space` has returned as many bytes within the mapping, which is never unmapped.
        unsafe {
            let to = self.at.add(self.used - bytes.len().next_multiple_of(16));
            to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
        at
    }

    /// Returns the address of that many zero bytes.
    pub(crate) fn space(&mut self, len: usize) -> u32 {
        let len = len.next_multiple_of(16);
        assert!(self.used + len <= SIZE, "too much for the table");
        let at = self.at.addr() + self.used;
        self.used += len;
        u32::try_from(at).unwrap_or(0)
    }
}

/// Makes a copy of this process; 0 in the copy.
pub(crate) fn fork() -> i32 {
    // SAFETY: this program has one thread.
    unsafe { libc::fork() }
}

/// Ignores a signal.
pub(crate) fn ignore(signal: i32) {
    // SAFETY: no handler runs.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}
