//! What of a command's surroundings is there before the command is known.
//!
//! Most of what a command is shut in with doesn't depend on it: namespaces, of which the network takes the
//! kernel longest, and the devices, file systems and files that every command of a caller is shown. A
//! [`Forecast`] says what that will be; [`Spare`](crate::spare::Spares) has it made while the command
//! before runs. It serves one command, and only one that wants exactly this.

use std::os::fd::{AsFd, BorrowedFd};

use serde::{Deserialize, Serialize};

use crate::handles::Handles;
use crate::network::Network;
use crate::plan::{
    Cgroup, Content, Identity, Isolation, Mount, Namespaces, Owner, Plan, Root, SyscallFilter,
    UserNamespace,
};

/// The surroundings that a command will have, as far as they're told ahead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Forecast {
    pub(crate) surroundings: Surroundings,
    /// How many open files these mounts are made of: the first that come with the plan.
    pub(crate) handles: usize,
}

/// What is the same for many commands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Surroundings {
    pub(crate) root: Root,
    pub(crate) network: Network,
    pub(crate) hostname: Vec<u8>,
    pub(crate) domainname: Vec<u8>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) filter: SyscallFilter,
}

/// What the launcher is told of what a plan needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Ahead {
    /// This may be there already, and the next one will need the same.
    Surroundings(Forecast),
    /// It has no use for anything that is made ahead.
    Nothing,
}

/// What goes with a plan and its open files: to a spare supervisor, and on to its child.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    Start,
}

/// Bytes that a forecast may have, so that it fits into a request.
const MOST_BYTES: usize = 6 * 1024;

impl Ahead {
    /// Returns what may be there for a plan before it's read.
    pub(crate) fn of(plan: &Plan) -> Ahead {
        match Forecast::of(plan) {
            Some(forecast) if forecast.is_short() => Ahead::Surroundings(forecast),
            _ => Ahead::Nothing,
        }
    }
}

impl Forecast {
    /// Says what the next command will have if it's like this one. `None` where that must wait for its
    /// plan: what belongs to another user than root can't be made, and a control group is joined by who
    /// is made in it.
    fn of(plan: &Plan) -> Option<Forecast> {
        let (Isolation::Namespaces(namespaces), Identity::User(_)) =
            (&plan.isolation, plan.identity)
        else {
            return None;
        };
        let is_alike = namespaces.network == Network::Private
            && plan.cgroup == Cgroup::Inherited
            && plan.groups.is_empty()
            && matches!(namespaces.root, Root::Tmpfs { .. })
            && matches!(namespaces.users, UserNamespace::Private { .. })
            && namespaces.recurring.iter().all(is_roots);
        let last = namespaces.recurring.iter().filter_map(handle_of).max();
        is_alike.then(|| Forecast {
            surroundings: Surroundings::of(namespaces, plan.filter),
            handles: last.map_or(0, |at| at.saturating_add(1)),
        })
    }

    fn is_short(&self) -> bool {
        postcard::to_stdvec(self).is_ok_and(|bytes| bytes.len() <= MOST_BYTES)
    }

    /// Whether what was made of these open files is what would be made of those.
    pub(crate) fn is_of_the_same(&self, made: &Handles, asked: &[impl AsFd]) -> bool {
        let identity = |file: BorrowedFd<'_>| {
            rustix::fs::fstat(file).ok().map(|stat| (stat.st_dev, stat.st_ino))
        };
        made.len() == self.handles
            && asked.len() == self.handles
            && made.all().zip(asked).all(|(made, asked)| {
                let made = identity(made);
                made.is_some() && made == identity(asked.as_fd())
            })
    }
}

impl Surroundings {
    pub(crate) fn of(namespaces: &Namespaces, filter: SyscallFilter) -> Surroundings {
        Surroundings {
            root: namespaces.root,
            network: namespaces.network.clone(),
            hostname: namespaces.hostname.clone(),
            domainname: namespaces.domainname.clone(),
            mounts: namespaces.recurring.clone(),
            filter,
        }
    }
}

fn is_roots(mount: &Mount) -> bool {
    match &mount.what {
        Content::Tmpfs { owner, .. } | Content::Folder { owner, .. } => *owner == Owner::Root,
        _ => true,
    }
}

fn handle_of(mount: &Mount) -> Option<usize> {
    match &mount.what {
        Content::Bind { source, .. } | Content::AsItIs(source) | Content::Device(source) => {
            Some(source.handle().at())
        }
        _ => None,
    }
}
