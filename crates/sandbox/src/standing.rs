//! What this process may become.
//!
//! Root of a user namespace with a single user, such as `unshare --map-root-user` makes, has nobody
//! else to become: it is that one user, and whatever it runs is too.

use std::fs;

/// What this process is among the users of its user namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Root, which can become other users.
    Root,
    /// A user that can become no other: not root, or root of a namespace in which it's the only user,
    /// and outside of which it isn't root.
    OneUser,
}

impl Standing {
    /// Returns what this process is. Where the system doesn't say, root counts as root.
    pub fn of_this_process() -> Standing {
        match rustix::process::geteuid().is_root() {
            true => of_root(&fs::read_to_string("/proc/self/uid_map").unwrap_or_default()),
            false => Standing::OneUser,
        }
    }
}

/// Reads the users of root's namespace: lines of the first user inside, what that is outside, and how
/// many there are.
fn of_root(map: &str) -> Standing {
    let mut lines = map.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    match (lines.next().as_deref(), lines.next()) {
        (Some(["0", outside, "1"]), None) if *outside != "0" => Standing::OneUser,
        _ => Standing::Root,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::machine("         0          0 4294967295\n", Standing::Root)]
    #[case::one("         0       1000          1\n", Standing::OneUser)]
    #[case::one_that_is_root("         0          0          1\n", Standing::Root)]
    #[case::with_others("0 1000 1\n1 100000 65536\n", Standing::Root)]
    #[case::unknown("", Standing::Root)]
    fn standings(#[case] map: &str, #[case] expected: Standing) {
        assert_eq!(of_root(map), expected);
    }
}
