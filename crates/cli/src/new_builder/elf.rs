//! Which processor a program is for.

use std::io::Read as _;
use std::path::Path;

/// Bytes of a file's head that are looked at.
const HEAD: usize = 20;

/// Processors by their numbers in a program's head, with the names that `uname -m` has of machines
/// that run such programs.
const PROCESSORS: [(u16, &[&str]); 7] = [
    (3, &["i386", "i486", "i586", "i686", "x86_64"]),
    (21, &["ppc64", "ppc64le"]),
    (22, &["s390x"]),
    (62, &["x86_64", "amd64"]),
    (183, &["aarch64", "arm64"]),
    (243, &["riscv64"]),
    (258, &["loongarch64"]),
];

/// What a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// No program of Linux.
    Other,
    /// A program for a processor by this number.
    Program(u16),
}

impl Kind {
    /// Looks at a file.
    ///
    /// # Errors
    ///
    /// It can't be read.
    pub(super) fn of(file: &Path) -> std::io::Result<Kind> {
        let mut head = Vec::new();
        fs_err::File::open(file)?.take(HEAD as u64).read_to_end(&mut head)?;
        Ok(of_head(&head))
    }

    /// Returns the names of machines that run it, as `uname -m` prints them, where they are known.
    pub(super) fn machines(&self) -> Option<&'static [&'static str]> {
        let Kind::Program(number) = self else { return None };
        PROCESSORS.iter().find(|(known, _)| known == number).map(|(_, names)| *names)
    }
}

fn of_head(head: &[u8]) -> Kind {
    let number = match head {
        [0x7f, b'E', b'L', b'F', _, order, .., low, high] if head.len() == HEAD => match order {
            2 => u16::from_be_bytes([*low, *high]),
            _ => u16::from_le_bytes([*low, *high]),
        },
        _ => return Kind::Other,
    };
    Kind::Program(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_says_which_processor_it_is_for() {
        let own = Kind::of(&std::env::current_exe().unwrap()).unwrap();
        assert!(own.machines().unwrap().contains(&std::env::consts::ARCH), "{own:?}");
        assert_eq!(Kind::of(Path::new("/etc/passwd")).unwrap(), Kind::Other);
        let mut head = [0; HEAD];
        head[..6].copy_from_slice(b"\x7fELF\x02\x02");
        head[18..].copy_from_slice(&[0, 22]);
        assert_eq!(of_head(&head).machines(), Some(["s390x"].as_slice()));
        assert_eq!(of_head(&head[..19]), Kind::Other);
    }
}
