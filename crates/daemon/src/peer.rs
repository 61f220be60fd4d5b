//! Who is at the other end of a unix socket, as the kernel and the system's user database say.
//!
//! A process may run with groups that the database doesn't give its user, such as those of a service
//! or a container. They count as well; the kernel tells them of the process that connected, as long
//! as that one is there.

use std::ffi::CString;

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use tokio::net::unix::UCred;

/// Who is at the other end of a unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The user's name, or its number where it has none.
    pub user: String,
    /// The user's number.
    pub uid: u32,
    /// The names of its groups, the one that the process runs under first; numbers where they have
    /// none.
    pub groups: Vec<String>,
    /// The process, where it is known.
    pub process: Option<i32>,
}

impl Peer {
    /// Looks up the names. May wait for the system's user database.
    pub fn of(credentials: UCred) -> Peer {
        let (uid, gid) = (Uid::from_raw(credentials.uid()), Gid::from_raw(credentials.gid()));
        let user = User::from_uid(uid).ok().flatten();
        let mut gids = vec![gid];
        if let Some(user) = &user
            && let Ok(name) = CString::new(user.name.as_str())
        {
            gids.extend(getgrouplist(&name, user.gid).unwrap_or_default());
        }
        gids.extend(credentials.pid().map(|pid| groups_of(pid, uid)).unwrap_or_default());
        let mut seen = std::collections::BTreeSet::new();
        gids.retain(|gid| seen.insert(gid.as_raw()));
        let groups = gids.into_iter().map(group_name).collect();
        Peer {
            user: user.map_or_else(|| uid.to_string(), |user| user.name),
            uid: credentials.uid(),
            groups,
            process: credentials.pid(),
        }
    }
}

/// Returns the supplementary groups of a process; none where it is gone, or another user's by now.
fn groups_of(pid: i32, uid: Uid) -> Vec<Gid> {
    let status = fs_err::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    groups_in(&status, uid)
}

/// Reads the groups of a process that runs for a user from its `status`.
fn groups_in(status: &str, uid: Uid) -> Vec<Gid> {
    let numbers = |name: &str| -> Vec<u32> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let words = line.unwrap_or_default().split_ascii_whitespace();
        words.filter_map(|word| word.parse().ok()).collect()
    };
    let uids = numbers("Uid:");
    // real, effective, saved and of the file system: one that has taken on another user in any of
    // them is not to be judged by what it has of that
    if uids.len() != 4 || uids.iter().any(|found| *found != uid.as_raw()) {
        return Vec::new();
    }
    numbers("Groups:").into_iter().map(Gid::from_raw).collect()
}

fn group_name(gid: Gid) -> String {
    match Group::from_gid(gid) {
        Ok(Some(group)) => group.name,
        _ => gid.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::plain("Name:\tx\nUid:\t7\t7\t7\t7\nGroups:\t100 2000 \nVmPeak: 1 kB\n", &[100, 2000])]
    #[case::none("Uid:\t7\t7\t7\t7\nGroups:\t\n", &[])]
    #[case::another_user("Uid:\t8\t8\t8\t8\nGroups:\t100\n", &[])]
    #[case::changed_user("Uid:\t7\t0\t7\t7\nGroups:\t100\n", &[])]
    #[case::gone("", &[])]
    fn groups_of_a_process(#[case] status: &str, #[case] expected: &[u32]) {
        let found: Vec<u32> =
            groups_in(status, Uid::from_raw(7)).into_iter().map(Gid::as_raw).collect();
        assert_eq!(found, expected);
    }
}
