//! The system call filter: one BPF program for all ABIs of the machine.
//!
//! Nix refuses the same calls (`setupSeccomp` in its Linux builder) but for what is newer than its
//! list: `*xattrat` and `io_uring`, by which its list can be got around. An ABI that isn't known here
//! ends the process.

use crate::plan::SyscallFilter;

/// What is done about a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// Fails with this error number.
    Fail(i32),
    /// Fails with `EPERM` if this argument has a set-user or set-group bit.
    FailIfSetId(Argument),
    /// Fails with this error number if this argument is that number.
    FailIf(Argument, u32, i32),
}

/// One of a call's arguments, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Argument(u32);

/// One ABI: the kernel's name of it, and the numbers of the calls that rules speak of.
struct Abi {
    /// `AUDIT_ARCH_*`.
    arch: u32,
    /// Whether numbers come with a bit that stands for a variant with the same numbers (x32).
    variant: Option<u32>,
    rules: Vec<(u32, Rule)>,
}

const SET_ID: u32 = libc::S_ISUID | libc::S_ISGID;

/// Returns the program, or `None` if nothing is filtered.
pub(crate) fn program(filter: SyscallFilter) -> Option<Vec<libc::sock_filter>> {
    match filter {
        SyscallFilter::Off => None,
        SyscallFilter::Builds => Some(assemble(&abis(UnixSockets::Allowed))),
        SyscallFilter::BuildsWithoutUnixSockets => Some(assemble(&abis(UnixSockets::Refused))),
    }
}

#[derive(Clone, Copy)]
enum UnixSockets {
    Allowed,
    Refused,
}

/// The numbers of the calls in one ABI. `None` where it doesn't have the call.
struct Numbers {
    chmod: Option<u32>,
    fchmod: u32,
    fchmodat: u32,
    /// The nine calls that read, list and set extended attributes.
    xattr: [u32; 9],
    socket: u32,
    socketcall: Option<u32>,
}

const X86_64: Numbers = Numbers {
    chmod: Some(90),
    fchmod: 91,
    fchmodat: 268,
    xattr: [188, 189, 190, 191, 192, 193, 194, 195, 196],
    socket: 41,
    socketcall: None,
};

/// i386 and 32-bit ARM differ in few of these.
const I386: Numbers = Numbers {
    chmod: Some(15),
    fchmod: 94,
    fchmodat: 306,
    xattr: [226, 227, 228, 229, 230, 231, 232, 233, 234],
    socket: 359,
    socketcall: Some(102),
};

const AARCH64: Numbers = Numbers {
    chmod: None,
    fchmod: 52,
    fchmodat: 53,
    xattr: [5, 6, 7, 8, 9, 10, 11, 12, 13],
    socket: 198,
    socketcall: None,
};

const ARM: Numbers = Numbers { fchmodat: 333, socket: 281, ..I386 };

/// Since Linux 5.1, new calls have the same number everywhere.
mod everywhere {
    pub(super) const IO_URING: [u32; 3] = [425, 426, 427];
    pub(super) const FCHMODAT2: u32 = 452;
    pub(super) const XATTRAT: [u32; 4] = [463, 464, 465, 466];
}

const AUDIT_X86_64: u32 = 0xc000_003e;
const AUDIT_I386: u32 = 0x4000_0003;
const AUDIT_AARCH64: u32 = 0xc000_00b7;
const AUDIT_ARM: u32 = 0x4000_0028;
const X32: u32 = 0x4000_0000;

fn abis(unix: UnixSockets) -> [Abi; 2] {
    let abi = |arch, variant, numbers| Abi { arch, variant, rules: rules(numbers, unix) };
    if cfg!(target_arch = "aarch64") {
        [abi(AUDIT_AARCH64, None, &AARCH64), abi(AUDIT_ARM, None, &ARM)]
    } else {
        [abi(AUDIT_X86_64, Some(X32), &X86_64), abi(AUDIT_I386, None, &I386)]
    }
}

fn rules(numbers: &Numbers, unix: UnixSockets) -> Vec<(u32, Rule)> {
    let mut rules = vec![
        (numbers.fchmod, Rule::FailIfSetId(Argument(1))),
        (numbers.fchmodat, Rule::FailIfSetId(Argument(2))),
        (everywhere::FCHMODAT2, Rule::FailIfSetId(Argument(2))),
    ];
    rules.extend(numbers.chmod.map(|chmod| (chmod, Rule::FailIfSetId(Argument(1)))));
    rules.extend(numbers.xattr.map(|number| (number, Rule::Fail(libc::ENOTSUP))));
    rules.extend(everywhere::XATTRAT.map(|number| (number, Rule::Fail(libc::ENOSYS))));
    rules.extend(everywhere::IO_URING.map(|number| (number, Rule::Fail(libc::ENOSYS))));
    if let UnixSockets::Refused = unix {
        const AF_UNIX: u32 = 1;
        const SYS_SOCKET: u32 = 1;
        let refused = libc::EAFNOSUPPORT;
        rules.push((numbers.socket, Rule::FailIf(Argument(0), AF_UNIX, refused)));
        // What it's a socket of stands in memory, where a filter can't look: none at all by this.
        let call = |number| (number, Rule::FailIf(Argument(0), SYS_SOCKET, libc::ENOSYS));
        rules.extend(numbers.socketcall.map(call));
    }
    rules
}

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;

/// Returns where the lower half of an argument is. The upper one doesn't count for any of ours, as
/// the kernel takes them as 32 bits.
fn place_of(argument: Argument) -> u32 {
    let half = if cfg!(target_endian = "big") { 4 } else { 0 };
    16 + 8 * argument.0 + half
}

/// Writes one block per ABI, which returns for every number, so that jumps stay short.
fn assemble(abis: &[Abi]) -> Vec<libc::sock_filter> {
    let mut program = vec![load(ARCH)];
    for abi in abis {
        let block = block(abi);
        let over = u32::try_from(block.len()).unwrap_or(u32::MAX);
        program.push(jump_if_equal(abi.arch, 1, 0));
        program.push(jump(over));
        program.extend(block);
    }
    program.push(give(libc::SECCOMP_RET_KILL_PROCESS));
    program
}

fn block(abi: &Abi) -> Vec<libc::sock_filter> {
    let mut block = vec![load(NUMBER)];
    block.extend(abi.variant.map(|bit| and(!bit)));
    for (number, rule) in &abi.rules {
        let body = body(*rule);
        let over = u8::try_from(body.len()).unwrap_or(u8::MAX);
        block.push(jump_if_equal(*number, 0, over));
        block.extend(body);
    }
    block.push(give(libc::SECCOMP_RET_ALLOW));
    block
}

/// What is done about a call whose number matched; ends in a return on every way.
fn body(rule: Rule) -> Vec<libc::sock_filter> {
    match rule {
        Rule::Fail(errno) => vec![fail(errno)],
        Rule::FailIfSetId(argument) => vec![
            load(place_of(argument)),
            jump_if_any(SET_ID, 0, 1),
            fail(libc::EPERM),
            give(libc::SECCOMP_RET_ALLOW),
        ],
        Rule::FailIf(argument, value, errno) => vec![
            load(place_of(argument)),
            jump_if_equal(value, 0, 1),
            fail(errno),
            give(libc::SECCOMP_RET_ALLOW),
        ],
    }
}

const BPF_LD_W_ABS: u16 = 0x20;
const BPF_ALU_AND_K: u16 = 0x54;
const BPF_JMP_JA: u16 = 0x05;
const BPF_JMP_JEQ_K: u16 = 0x15;
const BPF_JMP_JSET_K: u16 = 0x45;
const BPF_RET_K: u16 = 0x06;

fn load(at: u32) -> libc::sock_filter {
    libc::sock_filter { code: BPF_LD_W_ABS, jt: 0, jf: 0, k: at }
}

fn and(mask: u32) -> libc::sock_filter {
    libc::sock_filter { code: BPF_ALU_AND_K, jt: 0, jf: 0, k: mask }
}

fn jump(over: u32) -> libc::sock_filter {
    libc::sock_filter { code: BPF_JMP_JA, jt: 0, jf: 0, k: over }
}

fn jump_if_equal(value: u32, then: u8, otherwise: u8) -> libc::sock_filter {
    libc::sock_filter { code: BPF_JMP_JEQ_K, jt: then, jf: otherwise, k: value }
}

fn jump_if_any(bits: u32, then: u8, otherwise: u8) -> libc::sock_filter {
    libc::sock_filter { code: BPF_JMP_JSET_K, jt: then, jf: otherwise, k: bits }
}

fn give(action: u32) -> libc::sock_filter {
    libc::sock_filter { code: BPF_RET_K, jt: 0, jf: 0, k: action }
}

fn fail(errno: i32) -> libc::sock_filter {
    give(libc::SECCOMP_RET_ERRNO | errno.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    /// What the kernel shows a filter of a call.
    #[derive(Clone, Copy, Debug)]
    struct Seen {
        number: u32,
        arch: u32,
        arguments: [u64; 6],
    }

    impl Seen {
        fn word(&self, at: u32) -> u32 {
            let half = |value: u64, upper: bool| {
                u32::try_from(if upper { value >> 32 } else { value & 0xffff_ffff }).unwrap()
            };
            match at {
                0 => self.number,
                4 => self.arch,
                16..64 => half(
                    self.arguments[usize::try_from((at - 16) / 8).unwrap()],
                    (at % 8 == 4) != cfg!(target_endian = "big"),
                ),
                _ => panic!("nothing of ours is at {at}"),
            }
        }
    }

    /// Runs a program as the kernel does.
    fn run(program: &[libc::sock_filter], seen: Seen) -> u32 {
        let (mut at, mut register) = (0, 0);
        loop {
            let libc::sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            match code {
                BPF_LD_W_ABS => register = seen.word(k),
                BPF_ALU_AND_K => register &= k,
                BPF_JMP_JA => at += usize::try_from(k).unwrap(),
                BPF_JMP_JEQ_K => at += usize::from(if register == k { jt } else { jf }),
                BPF_JMP_JSET_K => at += usize::from(if register & k != 0 { jt } else { jf }),
                BPF_RET_K => return k,
                code => panic!("no such instruction: {code:#x}"),
            }
        }
    }

    const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    const ENOTSUP: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOTSUP as u32;
    const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    const EAFNOSUPPORT: u32 = libc::SECCOMP_RET_ERRNO | libc::EAFNOSUPPORT as u32;
    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

    fn programs() -> [Vec<libc::sock_filter>; 2] {
        let x86 = [(AUDIT_X86_64, Some(X32), &X86_64), (AUDIT_I386, None, &I386)];
        let arm = [(AUDIT_AARCH64, None, &AARCH64), (AUDIT_ARM, None, &ARM)];
        [x86, arm].map(|abis| {
            let abi = |(arch, variant, numbers)| {
                let rules = rules(numbers, UnixSockets::Refused);
                Abi { arch, variant, rules }
            };
            assemble(&abis.map(abi))
        })
    }

    fn mode(at: usize, mode: u64) -> [u64; 6] {
        let mut arguments = [0x7fff_ffff_ffff; 6];
        arguments[at] = mode;
        arguments
    }

    /// Numbers from the tables of the kernel (`arch/*/entry/syscalls`), written down once more.
    #[rstest]
    #[case::chmod(AUDIT_X86_64, 90, mode(1, 0o4755), EPERM)]
    #[case::chmod_plain(AUDIT_X86_64, 90, mode(1, 0o1777), ALLOW)]
    #[case::chmod_with_upper_bits(AUDIT_X86_64, 90, mode(1, 0xf_0000_0dff), EPERM)]
    #[case::chmod_x32(AUDIT_X86_64, 90 | X32, mode(1, 0o2755), EPERM)]
    #[case::chmod_i386(AUDIT_I386, 15, mode(1, 0o2755), EPERM)]
    #[case::chmod_arm(AUDIT_ARM, 15, mode(1, 0o2755), EPERM)]
    #[case::fchmod(AUDIT_X86_64, 91, mode(1, 0o6000), EPERM)]
    #[case::fchmod_i386(AUDIT_I386, 94, mode(1, 0o6000), EPERM)]
    #[case::fchmod_aarch64(AUDIT_AARCH64, 52, mode(1, 0o6000), EPERM)]
    #[case::fchmod_arm(AUDIT_ARM, 94, mode(1, 0o6000), EPERM)]
    #[case::fchmodat(AUDIT_X86_64, 268, mode(2, 0o4000), EPERM)]
    #[case::fchmodat_x32(AUDIT_X86_64, 268 | X32, mode(2, 0o4000), EPERM)]
    #[case::fchmodat_i386(AUDIT_I386, 306, mode(2, 0o4000), EPERM)]
    #[case::fchmodat_aarch64(AUDIT_AARCH64, 53, mode(2, 0o4000), EPERM)]
    #[case::fchmodat_arm(AUDIT_ARM, 333, mode(2, 0o4000), EPERM)]
    #[case::fchmodat2(AUDIT_X86_64, 452, mode(2, 0o4000), EPERM)]
    #[case::fchmodat2_i386(AUDIT_I386, 452, mode(2, 0o4000), EPERM)]
    #[case::fchmodat2_aarch64(AUDIT_AARCH64, 452, mode(2, 0o2000), EPERM)]
    #[case::fchmodat2_plain(AUDIT_AARCH64, 452, mode(2, 0o777), ALLOW)]
    #[case::setxattr(AUDIT_X86_64, 188, [0; 6], ENOTSUP)]
    #[case::setxattr_x32(AUDIT_X86_64, 188 | X32, [0; 6], ENOTSUP)]
    #[case::flistxattr(AUDIT_X86_64, 196, [0; 6], ENOTSUP)]
    #[case::setxattr_i386(AUDIT_I386, 226, [0; 6], ENOTSUP)]
    #[case::flistxattr_i386(AUDIT_I386, 234, [0; 6], ENOTSUP)]
    #[case::setxattr_aarch64(AUDIT_AARCH64, 5, [0; 6], ENOTSUP)]
    #[case::flistxattr_aarch64(AUDIT_AARCH64, 13, [0; 6], ENOTSUP)]
    #[case::setxattr_arm(AUDIT_ARM, 226, [0; 6], ENOTSUP)]
    #[case::setxattrat(AUDIT_X86_64, 463, [0; 6], ENOSYS)]
    #[case::removexattrat_i386(AUDIT_I386, 466, [0; 6], ENOSYS)]
    #[case::io_uring_setup(AUDIT_X86_64, 425, [0; 6], ENOSYS)]
    #[case::io_uring_register_x32(AUDIT_X86_64, 427 | X32, [0; 6], ENOSYS)]
    #[case::io_uring_enter_aarch64(AUDIT_AARCH64, 426, [0; 6], ENOSYS)]
    #[case::unix_socket(AUDIT_X86_64, 41, mode(0, 1), EAFNOSUPPORT)]
    #[case::unix_socket_aarch64(AUDIT_AARCH64, 198, mode(0, 1), EAFNOSUPPORT)]
    #[case::internet_socket(AUDIT_X86_64, 41, mode(0, 2), ALLOW)]
    #[case::unix_socket_pair(AUDIT_X86_64, 53, mode(0, 1), ALLOW)]
    #[case::unix_socket_i386(AUDIT_I386, 359, mode(0, 1), EAFNOSUPPORT)]
    #[case::any_socketcall_socket(AUDIT_I386, 102, mode(0, 1), ENOSYS)]
    #[case::other_socketcall(AUDIT_I386, 102, mode(0, 3), ALLOW)]
    #[case::read(AUDIT_X86_64, 0, [0; 6], ALLOW)]
    #[case::read_aarch64(AUDIT_AARCH64, 63, [0; 6], ALLOW)]
    fn calls_are_refused_in_each_abi(
        #[case] arch: u32,
        #[case] number: u32,
        #[case] arguments: [u64; 6],
        #[case] expected: u32,
    ) {
        let seen = Seen { number, arch, arguments };
        let given: Vec<u32> = programs().iter().map(|program| run(program, seen)).collect();
        // The machine's other kind doesn't know the ABI.
        assert!(given.contains(&expected), "{given:x?}");
        assert!(given.contains(&libc::SECCOMP_RET_KILL_PROCESS), "{given:x?}");
    }

    proptest! {
        /// Whatever is called, each program comes to an end within its bounds, what has a set-id bit
        /// where no call has a mode is let through, and an unknown ABI ends the process.
        #[test]
        fn programs_say_the_same_as_their_rules(
            number: u32,
            known in 0_usize..40,
            pick_known: bool,
            arguments: [u64; 6],
            unknown_arch: u32,
        ) {
            let (arch, numbers) = (AUDIT_X86_64, &X86_64);
            let rules = rules(numbers, UnixSockets::Refused);
            let number = if pick_known { rules[known % rules.len()].0 } else { number };
            let rule = rules.iter().find(|(it, _)| *it == number & !X32).map(|(_, rule)| *rule);
            let lower = |at: Argument| {
                u32::try_from(arguments[usize::try_from(at.0).unwrap()] & 0xffff_ffff).unwrap()
            };
            let errno = |errno: i32| libc::SECCOMP_RET_ERRNO | errno.unsigned_abs();
            let expected = match rule {
                None => ALLOW,
                Some(Rule::Fail(code)) => errno(code),
                Some(Rule::FailIfSetId(at)) if lower(at) & 0o6000 != 0 => EPERM,
                Some(Rule::FailIf(at, value, code)) if lower(at) == value => errno(code),
                Some(_) => ALLOW,
            };
            let [x86, arm] = programs();
            prop_assert_eq!(run(&x86, Seen { number, arch, arguments }), expected);
            let known = [AUDIT_X86_64, AUDIT_I386, AUDIT_AARCH64, AUDIT_ARM];
            prop_assume!(!known.contains(&unknown_arch));
            for program in [x86, arm] {
                let seen = Seen { number, arch: unknown_arch, arguments };
                prop_assert_eq!(run(&program, seen), libc::SECCOMP_RET_KILL_PROCESS);
            }
        }
    }

    #[test]
    fn programs_are_short_enough_for_the_kernel() {
        assert!(programs().iter().all(|program| program.len() < 4096));
        assert!(program(SyscallFilter::Off).is_none());
    }
}
