//! Becoming somebody else: users, groups, capabilities.

use rustix::io::Errno;
use rustix::process::{Gid, Pid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::error::{At, Failure, Step};
use crate::plan::{Identity, Ids, Isolation, Namespaces, Plan, UserNamespace};
use crate::standing::Standing;
use crate::sys;

/// When a user namespace is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UserNamespaceOrder {
    /// Never.
    Never,
    /// With the others, which then belong to it: all that one can do without root, and what a command
    /// needs that is root inside.
    First,
    /// When all else is set up, as root: what is in the root file system belongs to the machine's
    /// root, and all namespaces too.
    Last,
}

/// The users that are seen inside and what they are outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) inside: Ids,
    pub(crate) outside: Ids,
    pub(crate) count: u32,
}

/// What is done with capabilities before the command starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Capabilities {
    /// All are dropped, for good.
    Dropped,
    /// Those over its own user namespace are kept.
    OverOwnNamespace,
}

/// As whom a plan's command runs, worked out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Who {
    pub(crate) order: UserNamespaceOrder,
    /// What is written into the user namespace's maps, if there is one.
    pub(crate) mapping: Option<Mapping>,
    /// What the command is seen as from inside; `None` if nothing has to be changed.
    pub(crate) become_ids: Option<Ids>,
    /// What the command is outside.
    pub(crate) outside: Ids,
    pub(crate) capabilities: Capabilities,
}

/// Root, of whichever user namespace.
pub(crate) const ROOT: Ids = Ids { uid: 0, gid: 0 };

/// Who starts a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Starter {
    /// Its user and group.
    pub(crate) ids: Ids,
    /// What it may become.
    pub(crate) standing: Standing,
}

/// Returns who this process is.
pub(crate) fn starter() -> Starter {
    let uid = rustix::process::geteuid().as_raw();
    let ids = Ids { uid, gid: rustix::process::getegid().as_raw() };
    Starter { ids, standing: Standing::of_this_process() }
}

/// Works out as whom the command of `plan` runs when `starter` starts it.
pub(crate) fn who(plan: &Plan, starter: Starter) -> Result<Who, Failure> {
    let refuse = |rule: &str| Err(Failure::rule(Step::CheckPlan, rule));
    let namespaces = match &plan.isolation {
        Isolation::None => None,
        Isolation::Namespaces(namespaces) => Some(namespaces.as_ref()),
    };
    let is_root = starter.standing == Standing::Root;
    let keeps_groups = namespaces.is_none_or(|it| it.users == UserNamespace::Host);
    if !(plan.groups.is_empty() || is_root && keeps_groups) {
        return refuse("supplementary groups take root, and no user namespace");
    }
    match plan.identity {
        Identity::Caller if is_root => refuse("root can't run it as itself: name a build user"),
        Identity::Caller => caller_as(starter.ids, namespaces),
        Identity::User(_) | Identity::Range { .. } if !is_root => {
            refuse("only root can run it as another user")
        }
        Identity::User(ids) if ids.uid == 0 || ids.gid == 0 => {
            refuse("a build user must not be root, nor in root's group")
        }
        Identity::User(ids) => Ok(user_as(ids, namespaces)),
        Identity::Range { first, .. } if first.uid == 0 || first.gid == 0 => {
            refuse("a range of build users must not begin with root")
        }
        Identity::Range { first, count } => range_as(first, count, namespaces),
    }
}

fn caller_as(caller: Ids, namespaces: Option<&Namespaces>) -> Result<Who, Failure> {
    let who = Who {
        order: UserNamespaceOrder::Never,
        mapping: None,
        become_ids: None,
        outside: caller,
        capabilities: Capabilities::Dropped,
    };
    match namespaces.map(|it| it.users) {
        None => Ok(who),
        Some(UserNamespace::Host) => {
            let rule = "without root there are no namespaces but in a user namespace";
            Err(Failure::rule(Step::CheckPlan, rule))
        }
        Some(UserNamespace::Private { appears_as }) => Ok(Who {
            order: UserNamespaceOrder::First,
            mapping: Some(Mapping { inside: appears_as, outside: caller, count: 1 }),
            ..who
        }),
    }
}

fn user_as(ids: Ids, namespaces: Option<&Namespaces>) -> Who {
    let who = Who {
        order: UserNamespaceOrder::Never,
        mapping: None,
        become_ids: Some(ids),
        outside: ids,
        capabilities: Capabilities::Dropped,
    };
    match namespaces.map(|it| it.users) {
        None | Some(UserNamespace::Host) => who,
        Some(UserNamespace::Private { appears_as }) => Who {
            order: UserNamespaceOrder::Last,
            mapping: Some(Mapping { inside: appears_as, outside: ids, count: 1 }),
            become_ids: Some(appears_as),
            ..who
        },
    }
}

fn range_as(first: Ids, count: u32, namespaces: Option<&Namespaces>) -> Result<Who, Failure> {
    if namespaces.is_none() {
        let rule = "a range of users takes namespaces";
        return Err(Failure::rule(Step::CheckPlan, rule));
    }
    Ok(Who {
        order: UserNamespaceOrder::First,
        mapping: Some(Mapping { inside: ROOT, outside: first, count }),
        become_ids: Some(ROOT),
        outside: first,
        capabilities: Capabilities::OverOwnNamespace,
    })
}

/// Numbers the users of a process' new user namespace. Called by its parent.
pub(crate) fn write_maps(pid: Pid, mapping: Mapping) -> Result<(), Failure> {
    let Mapping { inside, outside, count } = mapping;
    let write = |name: &str, content: &str| {
        let path = format!("/proc/{}/{name}", pid.as_raw_nonzero());
        std::fs::write(&path, content)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
            .on(Step::MapUsers, &path)
    };
    write("uid_map", &format!("{} {} {count}", inside.uid, outside.uid))?;
    if count == 1 {
        // Groups can't be mapped without root but by one who gives up changing them.
        write("setgroups", "deny")?;
    }
    write("gid_map", &format!("{} {} {count}", inside.gid, outside.gid))
}

/// Leaves all supplementary groups but these. Takes root.
pub(crate) fn leave_groups_but(groups: &[u32]) -> Result<(), Failure> {
    let groups: Vec<Gid> = groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    rustix::thread::set_thread_groups(&groups).at(Step::LeaveGroups)
}

/// Becomes a user and a group, for good.
pub(crate) fn become_ids(ids: Ids) -> Result<(), Failure> {
    let gid = Gid::from_raw(ids.gid);
    let uid = Uid::from_raw(ids.uid);
    rustix::thread::set_thread_res_gid(gid, gid, gid).at(Step::BecomeUser)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).at(Step::BecomeUser)
}

/// Gives all capabilities up that a program could be given, as far as this process may: it can't any
/// more when it has become another user.
pub(crate) fn drop_bounding_set() -> Result<(), Failure> {
    let step = Step::DropCapabilities;
    let held = rustix::thread::capabilities(None).at(step)?;
    let is_full = rustix::thread::capability_is_in_bounding_set(CapabilitySet::CHOWN).at(step)?;
    if !is_full || !held.effective.contains(CapabilitySet::SETPCAP) {
        return Ok(());
    }
    for bit in 0..64 {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        match rustix::thread::remove_capability_from_bounding_set(one) {
            Ok(()) => {}
            // There are no more in this kernel.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(errno).at(step),
        }
    }
    Ok(())
}

/// Acts as a user for as long as `act` runs: signals reach only its processes. Takes root.
pub(crate) fn acting_as<T>(uid: u32, act: impl FnOnce() -> T) -> Result<T, Failure> {
    let step = Step::KillLeftovers;
    let (root, user) = (Uid::ROOT, Uid::from_raw(uid));
    // Kept in reserve, root is the way back, and with it capabilities; in force are none.
    rustix::thread::set_thread_res_uid(user, user, root).at(step)?;
    let is_user = [rustix::process::getuid(), rustix::process::geteuid()] == [user; 2];
    let held = rustix::thread::capabilities(None).at(step)?;
    if !is_user || user.is_root() || !held.effective.is_empty() {
        // Whatever it is, root must never act here.
        sys::exit_now(1);
    }
    let done = act();
    rustix::thread::set_thread_res_uid(root, root, root).at(step)?;
    Ok(done)
}

/// Drops all capabilities, and the means of getting them back.
pub(crate) fn drop_capabilities() -> Result<(), Failure> {
    let step = Step::DropCapabilities;
    rustix::thread::clear_ambient_capability_set().at(step)?;
    drop_bounding_set()?;
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, none).at(step)
}
