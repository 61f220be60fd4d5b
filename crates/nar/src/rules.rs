//! The rules that reader and writer share: limits, entry names, link targets.
//!
//! They are those of `parse` in C++ Nix (`src/libutil/archive.cc`), and one of
//! ours: names that carry the case-hack suffix are refused everywhere.

use crate::error::{NameRule, TargetRule};

/// Greatest length of an entry name, in bytes.
pub const MAX_NAME_LEN: usize = 255;

/// Greatest length of the target of a symbolic link, in bytes.
pub const MAX_TARGET_LEN: usize = 4095;

/// What Nix on macOS appends, with a number, to names that differ only in case.
pub(crate) const CASE_HACK: &str = "~nix~case~hack~";

/// How much of an archive the parser puts up with.
///
/// The defaults accept everything that Nix does. Where the size of the archive
/// has been announced, as it is in path info, set `max_size` to it: files that
/// cannot fit are then refused before a byte of them is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Greatest size of the whole archive, in bytes.
    pub max_size: u64,
    /// Greatest number of nodes from the root to any node, both included.
    pub max_depth: usize,
    /// Greatest number of directory entries in the whole archive.
    pub max_entries: u64,
}

impl Limits {
    /// Returns the default limits for an archive announced as `max_size` bytes.
    pub fn of_size(max_size: u64) -> Limits {
        Limits { max_size, ..Limits::default() }
    }
}

impl Default for Limits {
    /// 2^63 − 1 bytes (what path info and a file offset can hold), depth 64 as
    /// in Nix, and 2^22 entries (ten times the largest source trees).
    fn default() -> Limits {
        Limits { max_size: u64::MAX >> 1, max_depth: 64, max_entries: 1 << 22 }
    }
}

/// Checks the name of a directory entry.
///
/// # Errors
///
/// Returns the first rule that `name` breaks.
pub fn check_name(name: &[u8]) -> Result<(), NameRule> {
    match name {
        b"" => Err(NameRule::Empty),
        b"." | b".." => Err(NameRule::Dots),
        _ if MAX_NAME_LEN < name.len() => Err(NameRule::TooLong),
        _ if name.contains(&b'/') => Err(NameRule::Slash),
        _ if name.contains(&0) => Err(NameRule::Nul),
        _ if has_case_hack(name) => Err(NameRule::CaseHack),
        _ => Ok(()),
    }
}

/// Checks the target of a symbolic link.
///
/// # Errors
///
/// Returns the first rule that `target` breaks.
pub fn check_target(target: &[u8]) -> Result<(), TargetRule> {
    match target {
        b"" => Err(TargetRule::Empty),
        _ if MAX_TARGET_LEN < target.len() => Err(TargetRule::TooLong),
        _ if target.contains(&0) => Err(TargetRule::Nul),
        _ => Ok(()),
    }
}

fn has_case_hack(name: &[u8]) -> bool {
    // Almost no name has a tilde, so look for that before looking for the rest.
    name.contains(&b'~') && name.windows(CASE_HACK.len()).any(|part| part == CASE_HACK.as_bytes())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::empty(b"", Err(NameRule::Empty))]
    #[case::dot(b".", Err(NameRule::Dots))]
    #[case::dot_dot(b"..", Err(NameRule::Dots))]
    #[case::three_dots(b"...", Ok(()))]
    #[case::hidden(b".a", Ok(()))]
    #[case::slash(b"a/b", Err(NameRule::Slash))]
    #[case::nul(b"a\0", Err(NameRule::Nul))]
    #[case::not_utf8(b"\xff", Ok(()))]
    #[case::newline(b"a\nb", Ok(()))]
    #[case::longest(&[b'x'; 255], Ok(()))]
    #[case::too_long(&[b'x'; 256], Err(NameRule::TooLong))]
    #[case::tilde(b"a~", Ok(()))]
    #[case::case_hack(b"a~nix~case~hack~1", Err(NameRule::CaseHack))]
    #[case::case_hack_inside(b"~nix~case~hack~.c", Err(NameRule::CaseHack))]
    fn names(#[case] name: &[u8], #[case] expected: Result<(), NameRule>) {
        assert_eq!(check_name(name), expected);
    }

    #[rstest]
    #[case::empty(b"", Err(TargetRule::Empty))]
    #[case::nul(b"/\0", Err(TargetRule::Nul))]
    #[case::longest(&[b'x'; 4095], Ok(()))]
    #[case::too_long(&[b'x'; 4096], Err(TargetRule::TooLong))]
    #[case::parent(b"../../etc", Ok(()))]
    fn targets(#[case] target: &[u8], #[case] expected: Result<(), TargetRule>) {
        assert_eq!(check_target(target), expected);
    }
}
