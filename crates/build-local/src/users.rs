//! As whom a build runs.
//!
//! The locks are those of Nix (`src/libstore/unix/user-lock.cc`), so that a build of its own never
//! has the same user at the same time.

use std::path::Path;
use std::time::{Duration, Instant};

use drover_sandbox::{Identity, Ids, LockedUsers, Standing, UserPool};
use drover_store::{BuildFailure, FailureCause};
use drover_store_files::Owners;
use tokio_util::sync::CancellationToken;

use crate::failure::Trouble;
use crate::job::Shelter;
use crate::settings::{BuildUsers, OwnGroups};

/// How often a user is looked for where all are taken.
const PAUSE: Duration = Duration::from_millis(50);

/// How long is waited for one without a word.
const UNTOLD: Duration = Duration::from_secs(1);

/// Numbers that one build gets, as in Nix.
pub const PER_RANGE: u32 = 1 << 16;

/// How many users a build needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// One.
    One,
    /// A range, over which it is root (`uid-range`).
    Range,
}

/// As whom a build runs.
#[derive(Debug)]
pub(crate) enum BuildUser {
    /// As this process itself.
    Caller(Ids),
    /// As a user that nobody else has meanwhile.
    One(LockedUsers),
    /// As root over a range of users that nobody else has meanwhile.
    Range(LockedUsers),
}

impl BuildUser {
    /// Waits until there is one that is free.
    pub(crate) async fn lock(
        users: &BuildUsers,
        locks: &Path,
        need: Need,
        cancel: &CancellationToken,
    ) -> Result<BuildUser, Trouble> {
        if Standing::of_this_process() == Standing::OneUser {
            let uid = rustix::process::geteuid().as_raw();
            let gid = rustix::process::getegid().as_raw();
            return match need {
                Need::One => Ok(BuildUser::Caller(Ids { uid, gid })),
                Need::Range => Err(refused("a build with a range of users takes root".to_owned())),
            };
        }
        let pool = pool(users, locks, need)?;
        let began = Instant::now();
        let mut is_told = false;
        loop {
            if !is_told && UNTOLD <= began.elapsed() {
                is_told = true;
                tracing::warn!(target: "drover_build_local::waiting", "waiting for a free build user");
            }
            match pool.lock() {
                Ok(Some(users)) if need == Need::Range => return Ok(BuildUser::Range(users)),
                Ok(Some(users)) => return Ok(BuildUser::One(users)),
                Ok(None) => {}
                Err(error) => return Err(refused(error.to_string())),
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = cancel.cancelled() => return Err(Trouble::Cancelled),
            }
        }
    }

    /// Refuses it where this process's supplementary groups must be left: who has nobody to become can't
    /// leave them. Others have none of them.
    pub(crate) fn leave_groups(&self, own_groups: OwnGroups) -> Result<(), Trouble> {
        match (self, own_groups) {
            (BuildUser::Caller(_), OwnGroups::MustGo) => Err(refused(
                "setgroups failed. Set the require-drop-supplementary-groups option to false to skip \
                 this step."
                    .to_owned(),
            )),
            _ => Ok(()),
        }
    }

    /// Returns what the sandbox calls it.
    pub(crate) fn identity(&self) -> Identity {
        match self {
            BuildUser::Caller(_) => Identity::Caller,
            BuildUser::One(users) => users.as_user(),
            BuildUser::Range(users) => users.as_range(),
        }
    }

    /// Returns what the sandbox calls it where one user is enough.
    pub(crate) fn identity_of_one(&self) -> Identity {
        match self {
            BuildUser::Caller(_) => Identity::Caller,
            BuildUser::One(users) | BuildUser::Range(users) => users.as_user(),
        }
    }

    /// Returns the supplementary groups that a build has: those of its user in the system's list, where it
    /// isn't shut in.
    pub(crate) fn groups(&self, shelter: Shelter, users: &BuildUsers) -> Vec<u32> {
        match (self, shelter, users) {
            (BuildUser::One(user), Shelter::None, BuildUsers::Group(_)) => {
                let read = |file| std::fs::read_to_string(file).unwrap_or_default();
                supplementary(user.first(), &read("/etc/group"), &read("/etc/passwd"))
            }
            _ => Vec::new(),
        }
    }

    /// Returns the user and group as this machine counts, the first of a range.
    pub(crate) fn ids(&self) -> Ids {
        match self {
            BuildUser::Caller(ids) => *ids,
            BuildUser::One(users) | BuildUser::Range(users) => users.first(),
        }
    }

    /// Returns whose the files may be that it leaves.
    pub(crate) fn owners(&self) -> Owners {
        let Ids { uid, .. } = self.ids();
        match self {
            BuildUser::Caller(_) | BuildUser::One(_) => Owners::Users(uid..=uid),
            BuildUser::Range(users) => {
                Owners::Users(uid..=uid.saturating_add(users.count().saturating_sub(1)))
            }
        }
    }

    /// Returns what it's seen as in a user namespace of its own.
    pub(crate) fn inside(&self) -> Ids {
        match self {
            BuildUser::Range(_) => Ids { uid: 0, gid: 0 },
            _ => Ids { uid: 1000, gid: 100 },
        }
    }
}

fn refused(message: String) -> Trouble {
    BuildFailure { cause: FailureCause::Machine, message }.into()
}

/// Says why builds can't run as these users, whichever build it is; nothing where they can.
pub fn refusal_of_users(users: &BuildUsers) -> Option<String> {
    match users {
        BuildUsers::Group(name) => members_of(name).err(),
        BuildUsers::Allocated { .. } => None,
    }
}

fn pool(users: &BuildUsers, locks: &Path, need: Need) -> Result<UserPool, Trouble> {
    match (users, need) {
        (BuildUsers::Allocated { first, count }, _) => Ok(UserPool::Ranges {
            folder: locks.join("userpool2"),
            first: *first,
            total: *count,
            per_range: PER_RANGE,
        }),
        (BuildUsers::Group(name), Need::One) => {
            let users = members_of(name).map_err(refused)?;
            Ok(UserPool::Listed { folder: locks.join("userpool"), users })
        }
        (BuildUsers::Group(_), Need::Range) => Err(refused(
            "a build with a range of users takes 'auto-allocate-uids = true'".to_owned(),
        )),
    }
}

fn members_of(name: &str) -> Result<Vec<Ids>, String> {
    let read = |file| std::fs::read_to_string(file).unwrap_or_default();
    members(name, &read("/etc/group"), &read("/etc/passwd"))
}

/// Returns the members of a group, in the order in which they stand there.
fn members(name: &str, groups: &str, accounts: &str) -> Result<Vec<Ids>, String> {
    let fields = |line: &str| line.split(':').map(str::to_owned).collect::<Vec<String>>();
    let named = |text: &str, name: &str| {
        text.lines().map(fields).find(|fields| fields.first().is_some_and(|first| first == name))
    };
    let group = named(groups, name).ok_or_else(|| {
        format!("the group '{name}' specified in 'build-users-group' does not exist")
    })?;
    let number = |fields: &[String]| fields.get(2).and_then(|field| field.parse().ok());
    let gid = number(&group).ok_or_else(|| format!("the group '{name}' has no number"))?;
    let names = group.get(3).map(String::as_str).unwrap_or_default();
    let mut ids = Vec::new();
    for member in names.split(',').map(str::trim).filter(|member| !member.is_empty()) {
        let account = named(accounts, member)
            .ok_or_else(|| format!("cannot find the user '{member}' in the group '{name}'"))?;
        let uid = number(&account).ok_or_else(|| format!("the user '{member}' has no number"))?;
        ids.push(Ids { uid, gid });
    }
    match ids.is_empty() {
        true => Err(format!("the build users group '{name}' has no members")),
        false => Ok(ids),
    }
}

/// Returns the groups beside its own of which a user is a member, but for root's, as a build must not have
/// anything of that.
fn supplementary(Ids { uid, gid }: Ids, groups: &str, accounts: &str) -> Vec<u32> {
    let field = |line: &str, at: usize| line.split(':').nth(at).map(str::to_owned);
    let number = |line: &str, at| field(line, at)?.parse::<u32>().ok();
    let account = accounts.lines().find(|line| number(line, 2) == Some(uid));
    let Some(name) = account.and_then(|line| field(line, 0)) else { return Vec::new() };
    let is_member = |line: &&str| {
        let members = field(line, 3).unwrap_or_default();
        members.split(',').any(|member| member.trim() == name)
    };
    let found = groups.lines().filter(is_member).filter_map(|line| number(line, 2));
    found.filter(|group| *group != gid && *group != 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCOUNTS: &str =
        "root:x:0:0::/:/bin/sh\nnixbld1:x:30001:30000::/:/x\nb:x:30002:30000::/:/x";

    #[test]
    fn members_come_in_their_order() {
        let groups = "root:x:0:\nnixbld:x:30000:b, nixbld1\n";
        let ids = members("nixbld", groups, ACCOUNTS).unwrap();
        assert_eq!(ids, [30_002, 30_001].map(|uid| Ids { uid, gid: 30_000 }));
    }

    #[test]
    fn supplementary_groups_are_those_of_the_list() {
        let groups =
            "root:x:0:b\nnixbld:x:30000:b,nixbld1\nkvm:x:104: b\nbb:x:105:bb\nx:x:106:nixbld1,b";
        let of = |uid| supplementary(Ids { uid, gid: 30_000 }, groups, ACCOUNTS);
        assert_eq!(of(30_002), [104, 106]);
        assert_eq!(of(30_001), [106]);
        assert_eq!(of(30_003), Vec::<u32>::new());
    }

    #[test]
    fn a_group_without_members_is_refused() {
        for groups in ["nixbld:x:30000:", "nixbld:x:30000:nobody1", "other:x:1:b"] {
            assert!(members("nixbld", groups, ACCOUNTS).is_err(), "{groups}");
        }
    }
}
