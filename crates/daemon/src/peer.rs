//! Who is at the other end of a unix socket, as the kernel and the system's user database say.

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
        gids.dedup();
        let groups = gids.into_iter().map(group_name).collect();
        Peer {
            user: user.map_or_else(|| uid.to_string(), |user| user.name),
            uid: credentials.uid(),
            groups,
            process: credentials.pid(),
        }
    }
}

fn group_name(gid: Gid) -> String {
    match Group::from_gid(gid) {
        Ok(Some(group)) => group.name,
        _ => gid.to_string(),
    }
}
