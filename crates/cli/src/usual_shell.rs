//! The shell that builds find at `/bin/sh` where nothing else is configured.
//!
//! Each distribution of Nix brings one along and has its path in `sandbox-paths` when it is compiled.
//! A shell serves if it needs nothing else: then it can be shown alone.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// Where distributions have one, the most usual first.
const PLACES: [&str; 5] = [
    "/usr/bin/bash-static",
    "/usr/bin/busybox",
    "/bin/busybox",
    "/usr/bin/dash-static",
    "/usr/lib/initcpio/busybox",
];

/// Returns a shell that needs nothing else, if there is one.
pub(crate) fn find() -> Option<PathBuf> {
    PLACES.into_iter().map(PathBuf::from).find(|path| stands_alone(path))
}

/// Whether a program is of 64 bits in the byte order of this machine, and loaded without a linker.
pub(crate) fn stands_alone(path: &Path) -> bool {
    /// The type of the program header that names the linker.
    const INTERPRETER: u32 = 3;
    let Ok(file) = File::open(path) else { return false };
    let read = |at: u64, len: usize| {
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, at).is_ok().then_some(bytes)
    };
    let number = |bytes: &[u8], at: usize, len: usize| {
        let bytes = bytes.get(at..at + len)?;
        Some(bytes.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)))
    };
    let headers = || {
        let head = read(0, 64)?;
        if !head.starts_with(&[0x7f, b'E', b'L', b'F', 2, 1]) {
            return None;
        }
        let begin = number(&head, 32, 8)?;
        let (size, count) = (number(&head, 54, 2)?, number(&head, 56, 2)?);
        let kind = |index: u64| {
            let at = begin.checked_add(index.checked_mul(size)?)?;
            number(&read(at, 4)?, 0, 4)
        };
        (0..count).map(kind).collect::<Option<Vec<u64>>>()
    };
    headers().is_some_and(|kinds| !kinds.contains(&u64::from(INTERPRETER)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_a_linker_does_not_stand_alone() {
        assert!(stands_alone(Path::new("/usr/bin/busybox")), "apt install busybox-static");
        for path in ["/bin/sh", "/etc/passwd", "/no/such/file"] {
            assert!(!stands_alone(Path::new(path)), "{path}");
        }
    }
}
